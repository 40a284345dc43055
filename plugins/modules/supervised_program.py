#!/usr/bin/python
"""Ansible module that makes supervisord run exactly one program's definition."""

from __future__ import annotations

DOCUMENTATION = r"""
---
module: supervised_program
short_description: Keep one program running under supervisord
description:
  - Writes the definition of a program and makes supervisord run just that. supervisord itself
    compares the file with what it runs, so a run that was killed between writing and applying is
    made good by the next one.
  - community.general.supervisorctl does not see an edited definition.
version_added: "1.0.0"
author: mlflow-classroom
options:
  name:
    description: Name of the program.
    type: str
    required: true
  directory:
    description: Directory of supervisord.conf, which includes C(programs/*.ini).
    type: path
    required: true
  supervisorctl:
    description: Path of the supervisorctl program.
    type: path
    required: true
  definition:
    description: The section of the program; needed when present. Never a secret.
    type: str
  state:
    description: C(present) runs it, C(absent) stops it and removes its definition.
    type: str
    choices: [present, absent]
    default: present
attributes:
  check_mode:
    support: full
    description: Compares the definition only; whether the program runs is not asked.
  diff_mode:
    support: full
    description: Shows the definition.
"""

EXAMPLES = r"""
- name: Run the server
  supervised_program:
    name: mlflow-jdoe
    directory: /var/lib/mlflow-classroom/supervisor
    supervisorctl: /usr/bin/supervisorctl
    definition: "{{ lookup('ansible.builtin.template', 'program.ini.j2') }}"
"""

RETURN = r"""
said:
  description: What supervisorctl reported, empty where nothing had to be done.
  returned: always
  type: list
  elements: str
"""

import http.client
import os
import socket
import xmlrpc.client
from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule

UP = ("RUNNING", "STARTING")


def read(path: Path) -> str:
    """Return the file's text, empty where there is none."""
    return path.read_text() if path.is_file() else ""


def write(path: Path, text: str) -> None:
    """Write the file whole or not at all, mode 0600."""
    beside = path.with_suffix(".new")
    beside.write_text(text)
    beside.chmod(0o600)
    os.replace(beside, path)


class SocketTransport(xmlrpc.client.Transport):
    """Speaks XML-RPC through a Unix socket."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self._path = path

    def make_connection(self, host: Any) -> http.client.HTTPConnection:
        """Connect."""
        connection = http.client.HTTPConnection("localhost")
        connection.sock = socket.socket(socket.AF_UNIX)
        connection.sock.connect(str(self._path))
        return connection


def is_settled(directory: Path, name: str) -> bool:
    """Return whether supervisord runs a program by the definition in its file.

    supervisorctl says so too, after starting an interpreter for each question.
    """
    try:
        with xmlrpc.client.ServerProxy(
            "http://localhost/RPC2", SocketTransport(directory / "supervisord.sock")
        ) as server:
            supervisor: Any = server.supervisor
            differing: Any = supervisor.reloadConfig()
            state: Any = supervisor.getProcessInfo(name)["statename"]
    except (OSError, http.client.HTTPException, xmlrpc.client.Error):
        return False
    return state in UP and not any(name in names for names in differing[0])


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            "name": {"type": "str", "required": True},
            "directory": {"type": "path", "required": True},
            "supervisorctl": {"type": "path", "required": True},
            "definition": {"type": "str"},
            "state": {"type": "str", "choices": ["present", "absent"], "default": "present"},
        },
        required_if=[("state", "present", ["definition"])],
        supports_check_mode=True,
    )
    name, present = module.params["name"], module.params["state"] == "present"
    directory = Path(module.params["directory"])
    path = directory / "programs" / f"{name}.ini"
    wanted = module.params["definition"] if present else ""
    before = read(path)
    changed, said = before != wanted, []

    def control(*command: str, fail: bool = True) -> str:
        code, out, err = module.run_command(
            [module.params["supervisorctl"], "-c", str(directory / "supervisord.conf"), *command]
        )
        # `status` answers 3 for a program that is not running.
        if fail and code not in (0, 3):
            module.fail_json(
                msg=f"supervisorctl {' '.join(command)} failed: {(out + err).strip()}; "
                f"see {directory}/log/{name}.log"
            )
        return str(out).strip()

    if not module.check_mode and (changed or not present or not is_settled(directory, name)):
        if changed and present:
            write(path, wanted)
        elif changed:
            path.unlink()
        if present or (directory / "supervisord.sock").exists():
            said = control("update", name, fail=present).splitlines()
        if present and not any(word in control("status", name) for word in UP):
            said += control("start", name).splitlines()
        said = [line for line in said if "no such" not in line and "refused" not in line]
    module.exit_json(
        changed=changed or bool(said), said=said, diff={"before": before, "after": wanted}
    )


if __name__ == "__main__":
    main()
