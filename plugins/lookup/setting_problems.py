"""What is wrong with the types of values that were given for roles' variables."""

from __future__ import annotations

DOCUMENTATION = """
name: setting_problems
author: mlflow-classroom
version_added: "1.0.0"
short_description: What is wrong with the types of values that were given
description:
  - Compares the values of a host's variables with the argument specs of all roles in this
    repository, so that a mistake is found before anything is changed.
  - Values that are templates are left alone. They are the repository's own wiring, or are looked at
    where they are used.
options:
  _terms:
    description: None are taken.
"""

EXAMPLES = """
problems: "{{ lookup('setting_problems', wantlist=true) }}"
"""

RETURN = """
_raw:
  description: A sentence for each value that is not what its role wants.
  type: list
  elements: str
"""

import functools
from pathlib import Path
from typing import Any

import yaml
from ansible.module_utils.common.arg_spec import ArgumentSpecValidator
from ansible.plugins.lookup import LookupBase

ROLES = Path(__file__).resolve().parents[2] / "roles"
RULES = {
    "bool": "true or false",
    "dict": "a dictionary",
    "float": "a number",
    "int": "a whole number",
    "list": "a list",
}


@functools.cache
def specifications() -> dict[str, dict[str, Any]]:
    """Return the specification of each variable of the roles."""
    found: dict[str, dict[str, Any]] = {}
    for path in sorted(ROLES.glob("*/meta/argument_specs.yml")):
        content = yaml.load(path.read_text(), yaml.CSafeLoader)
        for entry in content["argument_specs"].values():
            found |= entry["options"]
    return found


def problem(name: str, value: Any) -> str:
    """Return what is wrong with the value of a role's variable, or nothing.

    Args:
        name: A name of `specifications`.
        value: The value as it was given. Text with a template in it is not wrong.
    """
    specification = specifications()[name]
    if isinstance(value, str) and ("{{" in value or "{%" in value):
        return ""
    # Only what the value itself is, not whether others are there.
    spec = {
        key: specification[key] for key in ("type", "elements", "choices") if key in specification
    }
    if not ArgumentSpecValidator({name: spec}).validate({name: value}).error_messages:
        return ""
    rule = RULES.get(specification.get("type", "str"), "text")
    if "choices" in specification:
        rule = f"one of {', '.join(map(str, specification['choices']))}"
    example = specification.get("default")
    advice = f": for example -e {name}={example}" if isinstance(example, str | int) else ""
    return f'{name} "{value}" must be {rule}{advice}'


class LookupModule(LookupBase):  # type: ignore[misc]
    """The lookup as Ansible finds it."""

    def run(self, terms: list[Any], variables: Any = None, **kwargs: Any) -> list[str]:
        """Return the problems; see RETURN."""
        given = variables or {}
        problems = (problem(name, given[name]) for name in specifications() if name in given)
        return [text for text in problems if text]
