"""The value of a variable as it was given, before Ansible renders templates in it."""

from __future__ import annotations

DOCUMENTATION = """
name: raw_variable
author: mlflow-classroom
version_added: "1.0.0"
short_description: The value of a variable as it was given
description:
  - Ansible renders templates in values from the command line as soon as they are used. This lookup
    does not, so that a value can be checked before anything in it is carried out.
options:
  _terms:
    description: Names of variables.
    required: true
"""

EXAMPLES = """
given: "{{ lookup('raw_variable', 'user') }}"
"""

RETURN = """
_raw:
  description: The values; none for a variable that is not defined.
  type: list
  elements: raw
"""

from typing import Any

from ansible.plugins.lookup import LookupBase


class LookupModule(LookupBase):  # type: ignore[misc]
    """The lookup as Ansible finds it."""

    def run(self, terms: list[str], variables: Any = None, **kwargs: Any) -> list[Any]:
        """Return one value for each name; see RETURN."""
        # A copy of the text without Ansible's mark that it may be rendered.
        values = [(variables or {}).get(name) for name in terms]
        return ["".join(value) if isinstance(value, str) else value for value in values]
