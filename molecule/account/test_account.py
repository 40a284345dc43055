"""The account of one service."""

from __future__ import annotations

from typing import Any

import pytest


@pytest.mark.present
def test_nobody_can_log_in(host: Any) -> None:
    account = host.user("mlflow-role")
    assert account.exists
    assert account.shell == "/usr/sbin/nologin"
    assert account.password == "!"
    assert account.uid < 1000
    assert not host.file(account.home).exists


@pytest.mark.absent
def test_nothing_is_left(host: Any) -> None:
    assert not host.user("mlflow-role").exists
    assert not host.group("mlflow-role").exists
