"""Ansible module that checks a machine before anything on it is changed."""

from __future__ import annotations

DOCUMENTATION = r"""
---
module: preflight
short_description: Check a machine before anything on it is changed
description:
  - Looks for taken ports, full disks, missing programs and an unusable Python, and changes nothing.
  - Gathers every problem and fails once, with a way out for each.
  - Where C(/proc) exists (Linux), the process behind a taken port is named. Elsewhere a port is
    tried by binding it, and its owner stays unknown.
version_added: "1.0.0"
author:
  - mlflow-classroom
options:
  ports:
    description: Ports that services on this machine are going to listen on, at a loopback address.
    type: list
    elements: dict
    default: []
    suboptions:
      port:
        description: The TCP port, 1024 to 65535.
        type: int
        required: true
      purpose:
        description: What the port is for, such as C(the tracking server of jdoe).
        type: str
        required: true
      variable:
        description: The variable that sets the port.
        type: str
        required: true
      cwd:
        description:
          - A listener that works in this directory or below it is this service itself, already
            running. So is one that cannot be looked into, as in a container without
            C(CAP_SYS_PTRACE), and that runs as the account that owns the directory.
        type: path
      socket_unit:
        description:
          - A file of a systemd socket. Where it has the port, systemd listens for this service.
        type: path
  disk:
    description: Free space that is needed. Each entry is checked alone.
    type: list
    elements: dict
    default: []
    suboptions:
      path:
        description:
          - The directory. If it does not exist yet, its nearest existing parent is looked at.
        type: path
        required: true
      minimum_mb:
        description: How much must be free for an unprivileged account, in MB of 1000000 bytes.
        type: int
        required: true
      installed:
        description: A file that exists once the largest part is there.
        type: path
      minimum_mb_installed:
        description: How much must be free where O(disk[].installed) exists.
        type: int
      purpose:
        description: What the space is for.
        type: str
        required: true
  files:
    description: Places that must be empty or belong to the account that will use them.
    type: list
    elements: dict
    default: []
    suboptions:
      paths:
        description: The files.
        type: list
        elements: path
        required: true
      owner:
        description: The account that will use it; the running account if empty.
        type: str
      purpose:
        description: What the file is for.
        type: str
        required: true
      fix:
        description: What to do about one that belongs to somebody else.
        type: str
        required: true
  executables:
    description: Programs that must be found.
    type: list
    elements: dict
    default: []
    suboptions:
      name:
        description: The program's name on PATH, or its path.
        type: str
        required: true
      purpose:
        description: What the program is for.
        type: str
        required: true
      fix:
        description: How to get the program.
        type: str
        required: true
  python:
    description: The Python that services run with.
    type: dict
    suboptions:
      path:
        description: The interpreter.
        type: path
        required: true
      minimum:
        description: The lowest version that will do.
        type: str
        default: "3.11"
      maximum_exclusive:
        description: The lowest version that will not do any more.
        type: str
        default: "3.14"
      run_as:
        description:
          - The account that services run under. As root the interpreter is started under it, and
            under C(nobody) while the account does not exist yet. Any other account starts the
            interpreter itself.
        type: str
attributes:
  check_mode:
    support: full
    description: The module never changes anything.
"""

EXAMPLES = r"""
- name: Check the machine before anything is changed
  preflight:
    ports:
      - port: 5000
        purpose: the tracking server of jdoe
        variable: mlflow_server_port
        cwd: /srv/classroom/mlflow-jdoe
    disk:
      - {path: /srv/classroom, minimum_mb: 2000, purpose: databases and artifacts}
    executables:
      - {name: git, purpose: recording the commit of a run, fix: apt-get install git}
    python:
      path: /usr/bin/python3
      run_as: mlflow-jdoe
"""

RETURN = r"""
problems:
  description: Every problem, one sentence each; empty where the machine is ready.
  returned: always
  type: list
  elements: str
  sample:
    - >-
      port 5000 (the tracking server of jdoe) is taken by pid 1234 "python3 -m http.server 5000"
      of root; stop it, or choose another port: -e mlflow_server_port=5001
"""

import ipaddress
import os
import pwd
import re
import shutil
import socket
import struct
import subprocess
from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule

PORT_LOWEST = 1024
PORT_HIGHEST = 65535
MEGABYTE = 1_000_000
COMMAND_WIDTH = 80
PYTHON_TIMEOUT_SECONDS = 30

# In the way of a service on a loopback address: loopback itself and "any address".
IN_THE_WAY = frozenset({"127.0.0.1", "0.0.0.0", "::", "::1"})
TCP_LISTEN = "0A"


@dataclass(frozen=True)
class Listener:
    """A listening TCP socket as the kernel lists it."""

    address: str
    port: int
    uid: int
    inode: str


@dataclass(frozen=True)
class Process:
    """A process that holds a listening socket; `cwd` is None where it cannot be seen."""

    pid: int
    uid: int
    command: str
    cwd: str | None


# --- Ports: pure functions


def address_text(hexadecimal: str) -> str:
    """Turn an address of /proc/net/tcp or tcp6 into text.

    The kernel prints 32-bit words in the machine's own byte order.
    """
    words = [hexadecimal[i : i + 8] for i in range(0, len(hexadecimal), 8)]
    packed = b"".join(struct.pack("=I", int(word, 16)) for word in words)
    address = ipaddress.ip_address(packed)
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return str(mapped or address)


def parse_listeners(table: str) -> list[Listener]:
    """Return the listening sockets of the text of /proc/net/tcp or tcp6."""
    listeners = []
    for line in table.splitlines()[1:]:
        field = line.split()
        if len(field) > 9 and field[3] == TCP_LISTEN:
            address, port = field[1].split(":")
            listeners.append(
                Listener(address_text(address), int(port, 16), int(field[7]), field[9])
            )
    return listeners


def is_below(path: str, directory: str) -> bool:
    """Tell whether `path` is `directory` or inside it; both without links."""
    return Path(path).is_relative_to(directory)


def next_free_port(port: int, taken: Container[int]) -> int | None:
    """Return the next port above `port` that is not taken, or None."""
    first = port + 1 if PORT_LOWEST <= port < PORT_HIGHEST else PORT_LOWEST
    return next((p for p in range(first, PORT_HIGHEST + 1) if p not in taken), None)


def another_port(variable: str, port: int, taken: Container[int]) -> str:
    """Return the end of a sentence that says which port to take instead."""
    return f"choose another port: -e {variable}={next_free_port(port, taken) or '<port>'}"


def plan_problems(wanted: Sequence[Mapping[str, Any]], taken: Container[int]) -> list[str]:
    """Return what is wrong with the wanted ports before the machine is looked at."""
    problems = []
    first: dict[int, Mapping[str, Any]] = {}
    for entry in wanted:
        port, purpose, variable = entry["port"], entry["purpose"], entry["variable"]
        if not PORT_LOWEST <= port <= PORT_HIGHEST:
            problems.append(
                f"port {port} ({purpose}) is outside {PORT_LOWEST}-{PORT_HIGHEST}; "
                + another_port(variable, port, taken)
            )
        elif port in first:
            other = first[port]
            problems.append(
                f"port {port} ({purpose}) is also the port of {other['purpose']} "
                f"({other['variable']}); " + another_port(variable, port, taken)
            )
        first.setdefault(port, entry)
    return problems


def holder_text(listener: Listener, processes: Sequence[Process]) -> str:
    """Say who holds a port."""
    if not processes:
        return f"by a process of {account_name(listener.uid)} that this account cannot see"
    process = processes[0]
    return f'by pid {process.pid} "{process.command}" of {account_name(process.uid)}'


def is_own_service(
    listener: Listener, processes: Sequence[Process], entry: Mapping[str, Any]
) -> bool:
    """Tell whether the listener is the service that the port is wanted for."""
    unit = entry.get("socket_unit")
    by_systemd = any(process.pid == 1 for process in processes) or not (processes or listener.uid)
    if unit and by_systemd and listens_for(Path(unit), listener.port):
        return True
    if not entry.get("cwd"):
        return False
    home = os.path.realpath(entry["cwd"])
    if not any(process.cwd for process in processes):
        return os.path.isdir(home) and os.stat(home).st_uid == listener.uid
    return any(process.cwd is not None and is_below(process.cwd, home) for process in processes)


def listens_for(unit: Path, port: int) -> bool:
    """Tell whether a systemd socket has the port."""
    try:
        lines = unit.read_text().splitlines()
    except OSError:
        return False
    return f"ListenStream=127.0.0.1:{port}" in lines


def port_problem(
    entry: Mapping[str, Any],
    listeners: Iterable[Listener],
    holders: Mapping[str, Sequence[Process]],
    taken: Container[int],
) -> str | None:
    """Return who is in the way of one wanted port, or None.

    Args:
        entry: The wanted port: port, purpose, variable, cwd and socket_unit.
        listeners: All listening sockets.
        holders: The visible processes by socket inode.
        taken: Ports that must not be suggested.
    """
    for listener in listeners:
        if listener.port != entry["port"] or listener.address not in IN_THE_WAY:
            continue
        processes = holders.get(listener.inode, ())
        if not is_own_service(listener, processes, entry):
            return (
                f"port {entry['port']} ({entry['purpose']}) is taken "
                f"{holder_text(listener, processes)}; stop it, or "
                + another_port(entry["variable"], entry["port"], taken)
            )
    return None


# --- Ports: the machine


def account_name(uid: int) -> str:
    """Return the account's name, or its number where it has none."""
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return f"uid {uid}"


def read_listeners(proc: Path = Path("/proc")) -> list[Listener] | None:
    """Return all listening sockets, or None where the system has no such list."""
    tables = [table for table in (proc / "net/tcp", proc / "net/tcp6") if table.exists()]
    if not tables:
        return None
    return [listener for table in tables for listener in parse_listeners(table.read_text())]


def read_process(directory: Path) -> Process:
    """Read /proc/<pid>. Raises OSError where the process is gone or cannot be seen."""
    words = (directory / "cmdline").read_bytes().decode(errors="replace").split("\0")
    text = " ".join(words).strip() or (directory / "comm").read_text().strip()
    visible = "".join(c if c.isprintable() else "?" for c in text)
    short = visible if len(visible) <= COMMAND_WIDTH else visible[: COMMAND_WIDTH - 3] + "..."
    try:
        cwd = os.readlink(directory / "cwd")
    except OSError:
        cwd = None
    return Process(int(directory.name), directory.stat().st_uid, short, cwd)


def held_sockets(directory: Path) -> set[str]:
    """Return the inodes of the sockets of /proc/<pid>. Raises OSError where they are hidden."""
    sockets = set()
    for descriptor in (directory / "fd").iterdir():
        try:
            target = os.readlink(descriptor)
        # A busy process closes files while they are looked at; the others still count.
        except FileNotFoundError:
            continue
        if target.startswith("socket:["):
            sockets.add(target[len("socket:[") : -1])
    return sockets


def read_holders(inodes: AbstractSet[str], proc: Path = Path("/proc")) -> dict[str, list[Process]]:
    """Return the visible processes that hold these sockets, lowest pid first, by inode."""
    holders: dict[str, list[Process]] = {}
    pids = sorted(int(entry.name) for entry in proc.iterdir() if entry.name.isdigit())
    for directory in (proc / str(pid) for pid in pids):
        try:
            for inode in held_sockets(directory) & inodes:
                holders.setdefault(inode, []).append(read_process(directory))
        # Processes end while they are looked at, and those of others cannot be seen.
        except OSError:
            continue
    return holders


def bound(port: int) -> bool:
    """Tell whether somebody has the port, by trying to take it for a moment."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as trial:
        try:
            trial.bind(("0.0.0.0", port))
        except OSError:
            return True
    return False


def ports_problems(wanted: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return every problem with the wanted ports."""
    numbers = {entry["port"] for entry in wanted}
    checked = list(
        {e["port"]: e for e in wanted if PORT_LOWEST <= e["port"] <= PORT_HIGHEST}.values()
    )
    listeners = read_listeners()
    if listeners is None:
        problems = plan_problems(wanted, numbers)
        problems += [
            f"port {entry['port']} ({entry['purpose']}) is taken, its owner is unknown; "
            "stop it, or " + another_port(entry["variable"], entry["port"], numbers)
            for entry in checked
            if bound(entry["port"])
        ]
        return problems

    taken = numbers | {listener.port for listener in listeners}
    holders = read_holders({ln.inode for ln in listeners if ln.port in numbers})
    found = [port_problem(entry, listeners, holders, taken) for entry in checked]
    return plan_problems(wanted, taken) + [problem for problem in found if problem]


# --- Disk


def nearest_existing(path: Path) -> Path:
    """Return `path` or the nearest parent that exists."""
    return next(parent for parent in (path, *path.parents) if os.path.exists(parent))


def disk_problem(path: str, free_bytes: int, minimum_mb: int, purpose: str) -> str | None:
    """Return that there is too little space, or None."""
    if free_bytes >= minimum_mb * MEGABYTE:
        return None
    return (
        f"{path} ({purpose}) has {free_bytes // MEGABYTE} MB free and needs {minimum_mb} MB; "
        "make room, or choose another directory"
    )


def disks_problems(wanted: Iterable[Mapping[str, Any]]) -> list[str]:
    """Return every disk with too little space."""
    problems = []
    for entry in wanted:
        status = os.statvfs(nearest_existing(Path(os.path.abspath(entry["path"]))))
        free = status.f_bavail * status.f_frsize
        minimum = entry["minimum_mb"]
        if entry.get("installed") and os.path.exists(entry["installed"]):
            minimum = entry["minimum_mb_installed"]
        problems.append(disk_problem(entry["path"], free, minimum, entry["purpose"]))
    return [problem for problem in problems if problem]


# --- Programs


def executables_problems(
    wanted: Iterable[Mapping[str, Any]], which: Callable[[str], str | None] = shutil.which
) -> list[str]:
    """Return every program that is not found."""
    return [
        f'program "{entry["name"]}" ({entry["purpose"]}) is not found; {entry["fix"]}'
        for entry in wanted
        if which(entry["name"]) is None
    ]


# --- Python


def version_tuple(text: str) -> tuple[int, ...]:
    """Turn `3.11` into (3, 11). Raises ValueError for anything but numbers and dots."""
    return tuple(int(part) for part in text.split("."))


def version_problem(path: str, version: str, minimum: str, maximum_exclusive: str) -> str | None:
    """Return that the version will not do, or None."""
    if version_tuple(minimum) <= version_tuple(version) < version_tuple(maximum_exclusive):
        return None
    return (
        f"python {path} is {version}; needed is {minimum} or later, below {maximum_exclusive}: "
        "install one and give its path"
    )


def identity(run_as: str | None) -> dict[str, Any]:
    """Return the arguments that start a program under `run_as`; none unless this is root."""
    if run_as is None or os.geteuid() != 0:
        return {}
    try:
        account = pwd.getpwnam(run_as)
    except KeyError:
        # The account is made later; any account without privileges meets the same obstacles.
        account = pwd.getpwnam("nobody")
    return {"user": account.pw_uid, "group": account.pw_gid, "extra_groups": []}


def python_problem(
    path: str, minimum: str, maximum_exclusive: str, run_as: str | None
) -> str | None:
    """Start the interpreter and return why it will not do, or None."""
    if not os.path.exists(path):
        return f"python {path} does not exist; install one and give its path"
    who = identity(run_as)
    account = (run_as if who else None) or account_name(os.geteuid())
    code = "import sys; print('%d.%d.%d' % sys.version_info[:3])"
    try:
        # Isolated and from /, so that neither the environment nor the directory decides.
        answer = subprocess.run(
            [path, "-I", "-c", code],
            cwd="/",
            capture_output=True,
            text=True,
            timeout=PYTHON_TIMEOUT_SECONDS,
            check=False,
            **who,
        )
    except OSError as error:
        reason = error.strerror
    except subprocess.TimeoutExpired:
        reason = f"no answer within {PYTHON_TIMEOUT_SECONDS} seconds"
    else:
        version = answer.stdout.strip()
        if answer.returncode == 0 and re.fullmatch(r"[0-9]+(\.[0-9]+)+", version):
            return version_problem(path, version, minimum, maximum_exclusive)
        lines = answer.stderr.strip().splitlines()
        reason = lines[-1] if lines else f"exit status {answer.returncode}"
    return (
        f"python {path} cannot be run by {account} ({reason}); "
        "install one where every account can run it, such as /usr or /opt, and give its path"
    )


# --- Files at fixed places


def files_problems(wanted: Iterable[Mapping[str, Any]]) -> list[str]:
    """Return a sentence for each file that belongs to somebody else.

    Args:
        wanted: Items with paths, owner (None is the running account), purpose and fix.
    """
    problems = []
    for item in wanted:
        owner = item["owner"] or account_name(os.geteuid())
        for path in item["paths"]:
            try:
                holder = account_name(os.lstat(path).st_uid)
            except FileNotFoundError:
                continue
            if holder != owner:
                problems.append(
                    f"{path} ({item['purpose']}) belongs to {holder}, not to {owner}; {item['fix']}"
                )
    return problems


# --- The module


def summary(problems: Sequence[str]) -> str:
    """Return one text with each problem on its own line."""
    count = "1 problem" if len(problems) == 1 else f"{len(problems)} problems"
    return "\n".join([f"{count} to solve first, nothing was changed:", *problems])


def find_problems(params: Mapping[str, Any]) -> list[str]:
    """Return every problem of the machine, in the order of the parameters."""
    problems = ports_problems(params["ports"])
    problems += disks_problems(params["disk"])
    problems += files_problems(params["files"])
    problems += executables_problems(params["executables"])
    python = params["python"]
    if python:
        problem = python_problem(
            python["path"], python["minimum"], python["maximum_exclusive"], python["run_as"]
        )
        problems += [problem] if problem else []
    return problems


def main() -> None:
    """Read the parameters, look, and answer."""
    text = {"type": "str", "required": True}
    module = AnsibleModule(
        argument_spec={
            "ports": {
                "type": "list",
                "elements": "dict",
                "default": [],
                "options": {
                    "port": {"type": "int", "required": True},
                    "purpose": text,
                    "variable": text,
                    "cwd": {"type": "path"},
                    "socket_unit": {"type": "path"},
                },
            },
            "disk": {
                "type": "list",
                "elements": "dict",
                "default": [],
                "options": {
                    "path": {"type": "path", "required": True},
                    "minimum_mb": {"type": "int", "required": True},
                    "installed": {"type": "path"},
                    "minimum_mb_installed": {"type": "int"},
                    "purpose": text,
                },
                "required_together": [("installed", "minimum_mb_installed")],
            },
            "files": {
                "type": "list",
                "elements": "dict",
                "default": [],
                "options": {
                    "paths": {"type": "list", "elements": "path", "required": True},
                    "owner": {"type": "str"},
                    "purpose": text,
                    "fix": text,
                },
            },
            "executables": {
                "type": "list",
                "elements": "dict",
                "default": [],
                "options": {"name": text, "purpose": text, "fix": text},
            },
            "python": {
                "type": "dict",
                "options": {
                    "path": {"type": "path", "required": True},
                    "minimum": {"type": "str", "default": "3.11"},
                    "maximum_exclusive": {"type": "str", "default": "3.14"},
                    "run_as": {"type": "str"},
                },
            },
        },
        supports_check_mode=True,
    )
    python = module.params["python"] or {}
    for name in ("minimum", "maximum_exclusive"):
        if name in python and not re.fullmatch(r"[0-9]+(\.[0-9]+)*", python[name]):
            module.fail_json(msg=f"python.{name} must be numbers and dots, got {python[name]!r}")
    problems = find_problems(module.params)
    if problems:
        module.fail_json(msg=summary(problems), problems=problems)
    module.exit_json(changed=False, problems=[])


if __name__ == "__main__":
    main()
