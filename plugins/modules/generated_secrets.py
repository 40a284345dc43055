"""Ansible module that keeps a directory of random secrets, one file each."""

from __future__ import annotations

DOCUMENTATION = r"""
---
module: generated_secrets
short_description: Keep a directory of random secrets
description:
  - Makes each named secret once, as a file that only its owner can read, and keeps it from then on.
  - A secret is written to a temporary file, synced and renamed, so that a killed run leaves
    either nothing or a whole secret.
  - Values are never returned, shown in a diff or put into a message.
version_added: "1.0.0"
author:
  - mlflow-classroom
options:
  directory:
    description:
      - The directory of the secrets. It is made if missing. Its mode is 0700 and its owner is
        the running account.
    type: path
    required: true
  names:
    description:
      - The names of the secrets, each also a file name. Letters, digits, C(.), C(_) and C(-),
        the first one neither C(.) nor C(-).
    type: list
    elements: str
    required: true
  length:
    description:
      - How many characters a new secret has, at least 24. A secret that exists keeps its length.
    type: int
    default: 32
  state:
    description:
      - C(present) makes what is missing or empty and repairs modes and owners.
      - C(absent) removes the named secrets, and the directory if nothing else is in it.
    type: str
    choices: [present, absent]
    default: present
attributes:
  check_mode:
    support: full
    description: Reports what would change and writes nothing.
  diff_mode:
    support: full
    description: Shows names and states, never a value.
"""

EXAMPLES = r"""
- name: Ensure the student's secrets exist
  generated_secrets:
    directory: "{{ playbook_dir }}/.secrets/jdoe"
    names: [database_password, database_salt]
  delegate_to: localhost

- name: Ensure the student's secrets are gone
  generated_secrets:
    directory: "{{ playbook_dir }}/.secrets/jdoe"
    names: [database_password, database_salt]
    state: absent
  delegate_to: localhost
"""

RETURN = r"""
created:
  description: The names of the secrets that were made.
  returned: success
  type: list
  elements: str
repaired:
  description: The names of the secrets whose mode or owner was repaired.
  returned: success
  type: list
  elements: str
removed:
  description: The names of the secrets that were removed.
  returned: success
  type: list
  elements: str
paths:
  description: The absolute path of each named secret.
  returned: success
  type: dict
  sample: {database_password: /srv/classroom/.secrets/jdoe/database_password}
"""

import contextlib
import fcntl
import os
import re
import secrets
import stat
import string
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule

ALPHABET = string.ascii_letters + string.digits
MINIMUM_LENGTH = 24
NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]*\Z")
VALID = re.compile(rb"[A-Za-z0-9]{24,}\n?\Z")
TEMPORARY_PREFIX = ".generated-secret-"
FILE_MODE = 0o600
DIRECTORY_MODE = 0o700

MISSING = "missing"
EMPTY = "empty"
INVALID = "invalid"
NOT_A_FILE = "not a file"
EXPOSED = "wrong mode or owner"
PRESENT = "present"


def is_private(status: os.stat_result, mode: int) -> bool:
    """Tell whether a file or directory has exactly `mode` and belongs to the running account."""
    return stat.S_IMODE(status.st_mode) == mode and status.st_uid == os.geteuid()


def look_at(path: Path) -> str:
    """Return the state of one secret: one of the constants above, never its value."""
    try:
        status = path.lstat()
    except FileNotFoundError:
        return MISSING
    # A link could lead a root run to a file of somebody else's choice.
    if not stat.S_ISREG(status.st_mode):
        return NOT_A_FILE
    if status.st_size == 0:
        return EMPTY
    if not VALID.match(path.read_bytes()):
        return INVALID
    return PRESENT if is_private(status, FILE_MODE) else EXPOSED


def look_at_directory(directory: Path) -> str:
    """Return the state of the directory: missing, not a file, exposed or present."""
    try:
        status = directory.stat()
    except FileNotFoundError:
        return MISSING
    if not stat.S_ISDIR(status.st_mode):
        return NOT_A_FILE
    return PRESENT if is_private(status, DIRECTORY_MODE) else EXPOSED


def left_over(directory: Path) -> list[Path]:
    """Return the temporary files that a killed run has left behind."""
    return sorted(directory.glob(TEMPORARY_PREFIX + "*")) if directory.is_dir() else []


def input_problem(names: Iterable[str], length: int) -> str | None:
    """Return what is wrong with the parameters, or None."""
    if length < MINIMUM_LENGTH:
        return f"length must be {MINIMUM_LENGTH} or more, got {length}"
    for name in names:
        if not NAME.match(name):
            return (
                f"{name!r} cannot name a secret: use letters, digits, . _ and -, "
                "the first one a letter, a digit or _"
            )
    return None


def refusal(path: Path, state: str) -> str | None:
    """Return why a secret in this state cannot be kept or made, or None."""
    if state == NOT_A_FILE:
        return f"{path} is not a plain file: move it away and run again"
    if state == INVALID:
        return (
            f"{path} does not hold a usable secret: {MINIMUM_LENGTH} or more of A-Z a-z 0-9 "
            "on one line. Put the right value there, or remove the file to have a new one made"
        )
    return None


@contextlib.contextmanager
def locked(directory: Path) -> Iterator[None]:
    """Keep other runs of this module out of the directory; a killed run releases its lock."""
    handle = os.open(directory, os.O_RDONLY)
    try:
        # Some network file systems cannot lock a directory; the rename is still whole there.
        with contextlib.suppress(OSError):
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def sync_directory(directory: Path) -> None:
    """Bring the directory's entries to the disk."""
    handle = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_secret(path: Path, length: int) -> None:
    """Make one secret of `length` characters at `path`, whole or not at all."""
    # mkstemp opens with mode 0600, so the value is never readable for others.
    handle, temporary = tempfile.mkstemp(prefix=TEMPORARY_PREFIX, dir=path.parent)
    try:
        with os.fdopen(handle, "w", encoding="ascii") as file:
            file.write("".join(secrets.choice(ALPHABET) for _ in range(length)))
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        raise
    sync_directory(path.parent)


def make_private(path: Path, mode: int) -> None:
    """Give `path` to the running account, then set exactly `mode`."""
    if path.stat().st_uid != os.geteuid():
        os.chown(path, os.geteuid(), -1)
    path.chmod(mode)


def make_directory(directory: Path) -> None:
    """Make the directory, readable for nobody else, and bring it to the disk."""
    # Services of other accounts live beside the secrets and have to get there, whatever the umask.
    for parent in [each for each in reversed(directory.parents) if not each.exists()]:
        parent.mkdir()
        parent.chmod(0o755)
    directory.mkdir(mode=DIRECTORY_MODE, exist_ok=True)
    sync_directory(directory.parent)


def make_present(directory: Path, names: list[str], length: int) -> None:
    """Make, repair and tidy until every named secret is present."""
    if look_at_directory(directory) == MISSING:
        make_directory(directory)
    if look_at_directory(directory) == EXPOSED:
        make_private(directory, DIRECTORY_MODE)
    with locked(directory):
        for path in left_over(directory):
            path.unlink()
        for path in (directory / name for name in names):
            # Looked at again, because another run may have held the lock until now.
            state = look_at(path)
            if state in (MISSING, EMPTY):
                write_secret(path, length)
            elif state == EXPOSED:
                make_private(path, FILE_MODE)


def make_absent(directory: Path, names: list[str]) -> None:
    """Remove the named secrets and left-over files, then the directory if it is empty."""
    if look_at_directory(directory) == MISSING:
        return
    with locked(directory):
        for path in [*left_over(directory), *(directory / name for name in names)]:
            path.unlink(missing_ok=True)
        sync_directory(directory)
        if not any(directory.iterdir()):
            directory.rmdir()


def will_empty(directory: Path, names: list[str]) -> bool:
    """Tell whether nothing remains once the named secrets and left-over files are removed."""
    going = {*names, *(path.name for path in left_over(directory))}
    return directory.is_dir() and all(path.name in going for path in directory.iterdir())


def run(module: AnsibleModule) -> dict[str, Any]:
    """Bring the secrets into the wanted state and return the module's result."""
    directory = Path(os.path.abspath(module.params["directory"]))
    names: list[str] = list(dict.fromkeys(module.params["names"]))
    length: int = module.params["length"]
    present: bool = module.params["state"] == "present"

    problem = input_problem(names, length)
    if problem:
        module.fail_json(msg=problem)
    directory_before = look_at_directory(directory)
    if directory_before == NOT_A_FILE:
        module.fail_json(msg=f"{directory} is not a directory: move it away and run again")
    before = {name: look_at(directory / name) for name in names}
    stale = left_over(directory)

    created: list[str] = []
    repaired: list[str] = []
    removed: list[str] = []
    if present:
        for name, state in before.items():
            problem = refusal(directory / name, state)
            if problem:
                module.fail_json(msg=problem)
        created = [name for name, state in before.items() if state in (MISSING, EMPTY)]
        repaired = [name for name, state in before.items() if state == EXPOSED]
        directory_after = PRESENT
    else:
        removed = [name for name, state in before.items() if state != MISSING]
        directory_after = MISSING if will_empty(directory, names) else directory_before

    changed = bool(created or repaired or removed or stale) or directory_after != directory_before
    if changed and not module.check_mode:
        if present:
            make_present(directory, names, length)
        else:
            make_absent(directory, names)
    after = dict.fromkeys(names, PRESENT if present else MISSING)
    return {
        "changed": changed,
        "created": created,
        "repaired": repaired,
        "removed": removed,
        "paths": {name: str(directory / name) for name in names},
        "diff": {
            "before": {f"{directory}/": directory_before, **before},
            "after": {f"{directory}/": directory_after, **after},
        },
    }


def main() -> None:
    """Read the parameters, run, and answer."""
    module = AnsibleModule(
        argument_spec={
            "directory": {"type": "path", "required": True},
            "names": {"type": "list", "elements": "str", "required": True},
            "length": {"type": "int", "default": 32},
            "state": {"type": "str", "choices": ["present", "absent"], "default": "present"},
        },
        supports_check_mode=True,
    )
    try:
        result = run(module)
    except OSError as error:
        module.fail_json(
            msg=f"cannot keep secrets in {module.params['directory']}: {error.strerror} "
            f"({error.filename or module.params['directory']})"
        )
    module.exit_json(**result)


if __name__ == "__main__":
    main()
