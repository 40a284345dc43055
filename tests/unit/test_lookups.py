"""What the lookups answer."""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path
from types import ModuleType

import pytest

LOOKUPS = Path(__file__).parents[2] / "plugins/lookup"


def load(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, LOOKUPS / f"{name}.py")
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    assert spec.loader is not None
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    ("is_root", "xdg", "expected"),
    [
        (True, "/data", "/var/lib/mlflow-classroom"),
        (False, "", "/home/jdoe/.local/share/mlflow-classroom"),
        (False, "/data", "/data/mlflow-classroom"),
        (False, "relative", "/home/jdoe/.local/share/mlflow-classroom"),
    ],
)
def test_data_directory(is_root: bool, xdg: str, expected: str) -> None:
    assert load("controller").data_directory(is_root, Path("/home/jdoe"), xdg) == expected


def test_controller_speaks_of_this_account() -> None:
    (answer,) = load("controller").LookupModule().run([])
    assert answer["is_root"] == (os.geteuid() == 0)
    assert set(answer) == {"is_root", "has_systemd", "data_directory"}


def test_raw_variable_renders_nothing() -> None:
    lookup = load("raw_variable").LookupModule()
    variables = {"user": "{{ lookup('pipe', 'id') }}", "port": 5000}
    assert lookup.run(["user", "port", "missing"], variables) == [
        "{{ lookup('pipe', 'id') }}",
        5000,
        None,
    ]
