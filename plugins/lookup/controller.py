"""What kind of machine and account Ansible itself runs on."""

from __future__ import annotations

DOCUMENTATION = """
name: controller
author: mlflow-classroom
version_added: "1.0.0"
short_description: What kind of machine and account Ansible itself runs on
description:
  - Answers in the controller's own process, so that asking costs no module call.
options:
  _terms:
    description: None are taken.
"""

EXAMPLES = """
home: "{{ lookup('controller').data_directory }}"
"""

RETURN = """
_raw:
  description:
    - One dictionary.
    - C(is_root), whether Ansible runs as root.
    - C(has_systemd), whether systemd is PID 1.
    - C(data_directory), where data belongs, C(/var/lib/mlflow-classroom) for root and
      C($XDG_DATA_HOME/mlflow-classroom) for others.
  type: list
  elements: dict
"""

import os
from pathlib import Path
from typing import Any

from ansible.plugins.lookup import LookupBase

PROJECT = "mlflow-classroom"


def data_directory(is_root: bool, home: Path, xdg_data_home: str) -> str:
    """Return where data belongs.

    Args:
        is_root: Whether the account is root.
        home: The account's home directory.
        xdg_data_home: Value of XDG_DATA_HOME; a relative path is ignored, as its
            specification demands (XDG Base Directory Specification).

    Returns:
        An absolute path that ends with the project's name.
    """
    if is_root:
        return f"/var/lib/{PROJECT}"
    base = Path(xdg_data_home)
    return str((base if base.is_absolute() else home / ".local/share") / PROJECT)


class LookupModule(LookupBase):  # type: ignore[misc]
    """The lookup as Ansible finds it."""

    def run(self, terms: list[Any], variables: Any = None, **kwargs: Any) -> list[dict[str, Any]]:
        """Return one dictionary; see RETURN."""
        is_root = os.geteuid() == 0
        return [
            {
                "is_root": is_root,
                # What sd_booted(3) looks at.
                "has_systemd": Path("/run/systemd/system").is_dir(),
                "data_directory": data_directory(
                    is_root, Path.home(), os.environ.get("XDG_DATA_HOME", "")
                ),
            }
        ]
