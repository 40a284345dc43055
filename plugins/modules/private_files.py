#!/usr/bin/python
"""Ansible module that writes a directory's configuration files, readable by one account only."""

from __future__ import annotations

DOCUMENTATION = r"""
---
module: private_files
short_description: Write configuration files that only one account can read
description:
  - Makes a directory and writes several files into it in one call, each whole or not at all.
  - Parents that are missing are made with mode 0755, so that the owner can enter.
  - Contents are never logged, returned or shown in a diff, so they may hold secrets.
version_added: "1.0.0"
author: mlflow-classroom
options:
  directory:
    description: The directory, made if missing.
    type: path
    required: true
  directory_mode:
    description: Mode of the directory, octal digits.
    type: str
    default: "0700"
  files:
    description: Contents by file name, without any path.
    type: dict
    required: true
  mode:
    description: Mode of the files, octal digits.
    type: str
    default: "0600"
  owner:
    description: Account and group that own directory and files. Empty leaves the running account.
    type: str
    default: ""
attributes:
  check_mode:
    support: full
    description: Reports what would change and writes nothing.
  diff_mode:
    support: full
    description: Shows names, never contents.
"""

EXAMPLES = r"""
- name: Configure the server
  private_files:
    directory: /var/lib/mlflow-classroom/postgres
    owner: mlflow-postgres
    files:
      pg_hba.conf: "{{ lookup('ansible.builtin.template', 'pg_hba.conf.j2') }}"
"""

RETURN = r"""
written:
  description: Names of the files that were (or in check mode would be) written or repaired.
  returned: always
  type: list
  elements: str
"""

import contextlib
import os
import pwd
import re
import secrets
import stat
from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule

NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]*\Z")


def plan(
    directory: Path, files: dict[str, str], mode: int, directory_mode: int, uid: int, gid: int
) -> tuple[bool, list[str]]:
    """Compare what is there with what is wanted.

    Args:
        directory: The directory of the files.
        files: Contents by name.
        mode: Wanted mode of the files.
        directory_mode: Wanted mode of the directory.
        uid: Wanted owner.
        gid: Wanted group.

    Returns:
        Whether the directory differs, and the names of the files that differ.
    """
    return (
        _differs(directory, directory_mode, uid, gid),
        [
            name
            for name, content in files.items()
            if _differs(directory / name, mode, uid, gid)
            or (directory / name).read_bytes() != content.encode()
        ],
    )


def _differs(path: Path, mode: int, uid: int, gid: int) -> bool:
    try:
        have = path.lstat()
    except FileNotFoundError:
        return True
    return stat.S_ISLNK(have.st_mode) or (stat.S_IMODE(have.st_mode), have.st_uid, have.st_gid) != (
        mode,
        uid,
        gid,
    )


def make(directory: Path) -> None:
    """Make a directory; parents that are missing are open to all accounts, whatever the umask."""
    for missing in [
        each for each in [*reversed(directory.parents), directory] if not each.exists()
    ]:
        missing.mkdir()
        missing.chmod(0o755)


def write(path: Path, content: str, mode: int, uid: int, gid: int) -> None:
    """Write a file beside its place and move it there; a link there is replaced, not followed."""
    beside = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    try:
        with open(os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            file.write(content.encode())
            os.fchown(file.fileno(), uid, gid)
            os.fchmod(file.fileno(), mode)
            file.flush()
            os.fsync(file.fileno())
        os.replace(beside, path)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            beside.unlink()
        raise


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            "directory": {"type": "path", "required": True},
            "directory_mode": {"type": "str", "default": "0700"},
            "files": {"type": "dict", "required": True, "no_log": True},
            "mode": {"type": "str", "default": "0600"},
            "owner": {"type": "str", "default": ""},
        },
        supports_check_mode=True,
    )
    params: dict[str, Any] = module.params
    directory = Path(params["directory"])
    files = {name: str(content) for name, content in params["files"].items()}
    for name in files:
        if not NAME.match(name):
            module.fail_json(msg=f"{name!r} cannot name a file here: give a name without any path")
    mode, directory_mode = int(params["mode"], 8), int(params["directory_mode"], 8)
    uid, gid = os.geteuid(), os.getegid()
    if params["owner"]:
        try:
            account = pwd.getpwnam(params["owner"])
        except KeyError:
            if not module.check_mode:
                module.fail_json(msg=f"account {params['owner']} does not exist; make it first")
            module.exit_json(changed=True, written=sorted(files))
        uid, gid = account.pw_uid, account.pw_gid

    try:
        new_directory, names = plan(directory, files, mode, directory_mode, uid, gid)
        if not module.check_mode:
            if new_directory:
                make(directory)
                os.chown(directory, uid, gid)
                directory.chmod(directory_mode)
            for name in names:
                write(directory / name, files[name], mode, uid, gid)
    except OSError as error:
        module.fail_json(msg=f"cannot write into {directory}: {error.strerror} ({error.filename})")
    module.exit_json(
        changed=new_directory or bool(names),
        written=names,
        diff={"before": "", "after": "".join(f"{directory / name}\n" for name in names)},
    )


if __name__ == "__main__":
    main()
