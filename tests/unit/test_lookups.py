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


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("mlflow_server_port", "5001", ""),
        ("mlflow_server_port", "{{ 5000 + 1 }}", ""),
        (
            "mlflow_server_port",
            "abc",
            'mlflow_server_port "abc" must be a whole number: for example '
            "-e mlflow_server_port=5000",
        ),
        ("mlflow_server_on_demand", "yes", ""),
        (
            "mlflow_server_on_demand",
            "perhaps",
            'mlflow_server_on_demand "perhaps" must be true or false: for example '
            "-e mlflow_server_on_demand=False",
        ),
        ("training_arguments", ["--model", "knn"], ""),
        ("training_arguments", {"a": 1}, "training_arguments \"{'a': 1}\" must be a list"),
        (
            "training_state",
            "there",
            'training_state "there" must be one of present, absent: for example '
            "-e training_state=present",
        ),
        ("s3_bucket_tags", "a", 's3_bucket_tags "a" must be a dictionary'),
    ],
)
def test_a_value_has_the_type_that_its_role_wants(name: str, value: object, expected: str) -> None:
    assert load("setting_problems").problem(name, value) == expected


def test_only_what_was_given_is_looked_at() -> None:
    lookup = load("setting_problems").LookupModule()
    assert lookup.run([], {"mlflow_server_workers": "two", "else": object()}) == [
        'mlflow_server_workers "two" must be a whole number: for example -e mlflow_server_workers=1'
    ]
    assert lookup.run([]) == []
