"""The students' policy."""

from __future__ import annotations

import pytest
from conftest import Room


def policies(room: Room) -> list[str]:
    listed = room.aws("iam").list_policies(Scope="Local")["Policies"]
    return [policy["PolicyName"] for policy in listed]


@pytest.mark.present
def test_policy_is_there(room: Room) -> None:
    assert "mlflow-role" in policies(room)


@pytest.mark.absent
def test_only_this_policy_is_gone(room: Room) -> None:
    assert "mlflow-role" not in policies(room)
    assert "mlflow-classroom-student" in policies(room)
