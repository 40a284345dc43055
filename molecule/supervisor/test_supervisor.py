"""A supervisord of the classroom."""

from __future__ import annotations

from typing import Any

import pytest

FOLDER = "/var/lib/mlflow-role/supervisor"


@pytest.mark.present
def test_answers_root_alone(host: Any) -> None:
    pid = host.check_output(f"cat {FOLDER}/supervisord.pid")
    ctl = f"/var/lib/mlflow-classroom/runtime-*/bin/supervisorctl -c {FOLDER}/supervisord.conf pid"
    assert host.check_output(ctl) == pid
    other = "setpriv --reuid=65534 --regid=65534 --clear-groups"
    assert host.run(f"{other} sh -c '{ctl}'").rc != 0


@pytest.mark.absent
def test_nothing_is_left(host: Any) -> None:
    assert not host.file(FOLDER).exists
    assert FOLDER not in host.check_output("cat /proc/[0-9]*/cmdline | tr '\\0' ' '")
