"""A run of the churn project on a test host."""

from __future__ import annotations

from typing import Any

import pytest

FOLDER = "/var/lib/mlflow-classroom/servers/jdoe-12/role"


@pytest.mark.present
def test_work_directory_is_the_students(host: Any) -> None:
    script = host.file(f"{FOLDER}/src/train.py")
    assert script.user == "mlflow-jdoe-12"
    assert host.check_output(f"find {FOLDER} ! -user mlflow-jdoe-12") == ""


@pytest.mark.absent
def test_nothing_is_left(host: Any) -> None:
    # The work directory, and beside it what was sent from the controller.
    assert not host.file(FOLDER).exists
    assert not host.file(f"{FOLDER}.sent").exists
