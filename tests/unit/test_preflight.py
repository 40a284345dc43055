"""Problems are found before anything is changed, all at once, each with a way out."""

from __future__ import annotations

import getpass
import multiprocessing
import os
import pwd
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import preflight
import pytest
from modules import ModuleRun
from preflight import Listener, Process
from waiting import bound

SERVER = """
import socket, sys, time
s = socket.socket(socket.AF_INET6 if ":" in sys.argv[1] else socket.AF_INET)
s.bind((sys.argv[1], 0)); s.listen()
print(s.getsockname()[1], flush=True)
time.sleep(3600)
"""
Listen = Callable[..., tuple[int, int]]


@pytest.fixture
def listen() -> Iterator[Listen]:
    """Return a function that starts a listening process and returns its port and pid."""
    started = []

    def start(cwd: Path, address: str = "127.0.0.1", **identity: Any) -> tuple[int, int]:
        process = subprocess.Popen(
            [sys.executable, "-c", SERVER, address],
            cwd=cwd,
            stdout=subprocess.PIPE,
            text=True,
            **identity,
        )
        started.append(process)
        assert process.stdout
        return int(process.stdout.readline()), process.pid

    yield start
    for process in started:
        process.kill()
        process.communicate()


def wanted(port: int, cwd: Path | None = None, variable: str = "mlflow_server_port") -> Any:
    """Return one entry of `ports`."""
    entry = {"port": port, "purpose": "the tracking server of jdoe", "variable": variable}
    return {**entry, "cwd": str(cwd)} if cwd else entry


# --- Ports


@pytest.mark.parametrize("address", ["127.0.0.1", "0.0.0.0", "::1", "::"])
@pytest.mark.parametrize("check", [False, True])
def test_a_foreign_listener_is_named(
    tmp_path: Path, listen: Listen, run_module: ModuleRun, address: str, check: bool
) -> None:
    port, pid = listen(tmp_path, address)
    own = tmp_path / "own"
    own.mkdir()
    result = run_module("preflight", {"ports": [wanted(port, own)]}, check=check)
    assert result["failed"]
    command = f"{sys.executable} -c {SERVER}".replace("\n", "?")[: preflight.COMMAND_WIDTH - 3]
    start = (
        f'port {port} (the tracking server of jdoe) is taken by pid {pid} "{command}..." of '
        f"{getpass.getuser()}; stop it, or choose another port: -e mlflow_server_port="
    )
    [problem] = result["problems"]
    assert problem.startswith(start)
    assert int(problem.removeprefix(start)) > port
    assert result["msg"] == f"1 problem to solve first, nothing was changed:\n{problem}"


@pytest.mark.parametrize("place", [".", "below/here"])
def test_our_own_running_service_is_fine(
    tmp_path: Path, listen: Listen, run_module: ModuleRun, place: str
) -> None:
    home = tmp_path / "mlflow-jdoe"
    (home / place).mkdir(parents=True)
    port, _ = listen(home / place)
    assert run_module("preflight", {"ports": [wanted(port, home)]})["problems"] == []
    link = tmp_path / "link"
    link.symlink_to(home)
    assert run_module("preflight", {"ports": [wanted(port, link)]})["problems"] == []


def test_a_neighbour_with_a_longer_name_is_not_our_own(
    tmp_path: Path, listen: Listen, run_module: ModuleRun
) -> None:
    (tmp_path / "mlflow-jdoe2").mkdir()
    port, pid = listen(tmp_path / "mlflow-jdoe2")
    result = run_module("preflight", {"ports": [wanted(port, tmp_path / "mlflow-jdoe")]})
    assert f"is taken by pid {pid} " in result["msg"]
    assert f"is taken by pid {pid} " in run_module("preflight", {"ports": [wanted(port)]})["msg"]


def test_a_free_port_is_fine(tmp_path: Path, listen: Listen, run_module: ModuleRun) -> None:
    port, _ = listen(tmp_path)
    free = preflight.next_free_port(port, {port})
    assert free
    result = run_module("preflight", {"ports": [wanted(free)]})
    assert (result["changed"], result["problems"]) == (False, [])


def test_a_listener_on_another_address_is_not_in_the_way(
    tmp_path: Path, listen: Listen, run_module: ModuleRun
) -> None:
    port, _ = listen(tmp_path, "127.0.0.2")
    assert run_module("preflight", {"ports": [wanted(port)]})["problems"] == []


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can look with other eyes")
def test_a_process_that_cannot_be_seen(tmp_path: Path, listen: Listen) -> None:
    port, _ = listen(tmp_path)
    nobody = pwd.getpwnam("nobody")
    context = multiprocessing.get_context("fork")
    receiver, sender = context.Pipe(duplex=False)

    def look() -> None:
        os.setgroups([])
        os.setgid(nobody.pw_gid)
        os.setuid(nobody.pw_uid)
        sender.send(preflight.ports_problems([wanted(port)]))

    process = context.Process(target=look)
    process.start()
    assert receiver.poll(bound(2))
    [problem] = receiver.recv()
    process.join()
    assert problem.startswith(
        f"port {port} (the tracking server of jdoe) is taken by a process of root that this "
        "account cannot see; stop it, or choose another port: -e mlflow_server_port="
    )


def test_the_exact_message() -> None:
    listener = Listener("0.0.0.0", 5000, 0, "77")
    process = Process(1234, 0, "python3 -m http.server 5000", "/root")
    problem = preflight.port_problem(wanted(5000), [listener], {"77": [process]}, {5000})
    assert problem == (
        'port 5000 (the tracking server of jdoe) is taken by pid 1234 "python3 -m http.server '
        '5000" of root; stop it, or choose another port: -e mlflow_server_port=5001'
    )


def test_an_account_without_a_name() -> None:
    listener = Listener("127.0.0.1", 5000, 4_000_000, "77")
    problem = preflight.port_problem(wanted(5000), [listener], {}, {5000, 5001})
    assert problem == (
        "port 5000 (the tracking server of jdoe) is taken by a process of uid 4000000 that this "
        "account cannot see; stop it, or choose another port: -e mlflow_server_port=5002"
    )


def test_a_port_wanted_twice() -> None:
    problems = preflight.plan_problems(
        [wanted(5000), {"port": 5000, "purpose": "PostgreSQL", "variable": "postgres_server_port"}],
        {5000, 5001},
    )
    assert problems == [
        (
            "port 5000 (PostgreSQL) is also the port of the tracking server of jdoe "
            "(mlflow_server_port); choose another port: -e postgres_server_port=5002"
        )
    ]


@pytest.mark.parametrize("port", [-1, 0, 80, 1023, 65536, 70000])
def test_a_port_out_of_range(port: int, run_module: ModuleRun) -> None:
    result = run_module("preflight", {"ports": [wanted(port)]})
    assert re.fullmatch(
        rf"port {port} \(the tracking server of jdoe\) is outside 1024-65535; "
        r"choose another port: -e mlflow_server_port=1\d\d\d",
        result["problems"][0],
    )


@pytest.mark.parametrize("port", [1024, 65535])
def test_the_edges_of_the_range(port: int) -> None:
    assert preflight.plan_problems([wanted(port)], set()) == []


def test_no_port_above_is_free() -> None:
    assert (
        preflight.another_port("x_port", 65534, {65535}) == "choose another port: -e x_port=<port>"
    )


def test_the_kernels_table() -> None:
    table = (
        "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid\n"
        "   0: 0100007F:1388 00000000:0000 0A 0:0 00:0 00000000  1000        0 4242 1 0 100 0\n"
        "   1: 0100007F:1389 0100007F:9999 01 0:0 00:0 00000000  1000        0 4243 1 0 100 0\n"
        "   2: 00000000000000000000000001000000:138A "
        "00000000000000000000000000000000:0000 0A 0:0 00:0 00000000     0        0 4244 1\n"
        "   3: 0000000000000000FFFF00000100007F:138B "
        "00000000000000000000000000000000:0000 0A 0:0 00:0 00000000     0        0 4245 1\n"
    )
    if sys.byteorder == "big":
        pytest.skip("the table is one of a little-endian machine")
    assert preflight.parse_listeners(table) == [
        Listener("127.0.0.1", 5000, 1000, "4242"),
        Listener("::1", 5002, 0, "4244"),
        Listener("127.0.0.1", 5003, 0, "4245"),
    ]


def test_a_system_without_proc(
    tmp_path: Path, listen: Listen, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert preflight.read_listeners(tmp_path) is None
    port, _ = listen(tmp_path)
    monkeypatch.setattr(preflight, "read_listeners", lambda: None)
    assert preflight.ports_problems([wanted(port)]) == [
        (
            f"port {port} (the tracking server of jdoe) is taken, its owner is unknown; stop it, "
            f"or choose another port: -e mlflow_server_port={port + 1}"
        )
    ]


# --- Disk


def test_too_little_space_at_a_path_that_does_not_exist_yet(
    tmp_path: Path, run_module: ModuleRun
) -> None:
    path = tmp_path / "not" / "yet"
    disk = {"path": str(path), "purpose": "the class's databases"}
    assert run_module("preflight", {"disk": [{**disk, "minimum_mb": 1}]})["problems"] == []
    result = run_module("preflight", {"disk": [{**disk, "minimum_mb": 10**9}]})
    assert re.fullmatch(
        rf"{path} \(the class's databases\) has \d+ MB free and needs 1000000000 MB; "
        "make room, or choose another directory",
        result["problems"][0],
    )
    assert not path.parent.exists()


def test_the_edge_of_enough_space() -> None:
    assert preflight.disk_problem("/srv", 500_000_000, 500, "databases") is None
    assert preflight.disk_problem("/srv", 499_999_999, 500, "databases") == (
        "/srv (databases) has 499 MB free and needs 500 MB; make room, or choose another directory"
    )


# --- Programs


def test_a_missing_program(run_module: ModuleRun) -> None:
    program = {"purpose": "recording the commit", "fix": "apt-get install git"}
    programs = [{**program, "name": "no-such-git"}, {**program, "name": "sh"}]
    result = run_module("preflight", {"executables": programs})
    assert result["problems"] == [
        'program "no-such-git" (recording the commit) is not found; apt-get install git'
    ]


# --- Python


def test_this_python_will_do(run_module: ModuleRun) -> None:
    assert run_module("preflight", {"python": {"path": sys.executable}})["problems"] == []


@pytest.mark.parametrize(
    ("version", "fine"),
    [
        ("3.10.13", False),
        ("3.11.0", True),
        ("3.9.18", False),
        ("3.13.9", True),
        ("3.14.0", False),
        ("3.14.1", False),
        ("4.0.0", False),
    ],
)
def test_versions_are_compared_as_numbers(version: str, fine: bool) -> None:
    problem = preflight.version_problem("/usr/bin/python3", version, "3.11", "3.14")
    assert problem == (
        None
        if fine
        else f"python /usr/bin/python3 is {version}; needed is 3.11 or later, below 3.14: "
        "install one and give its path"
    )


def test_the_edges_of_the_versions() -> None:
    assert preflight.version_problem("/python", "3.11.0", "3.9.18", "3.11.1") is None
    assert preflight.version_problem("/python", "3.11.1", "3.9.18", "3.11.1")
    assert preflight.version_problem("/python", "3.11.10", "3.11.9", "3.11.11") is None


def test_the_version_comes_from_the_interpreter(run_module: ModuleRun) -> None:
    python = {"path": sys.executable, "minimum": "3.98", "maximum_exclusive": "3.99"}
    running = ".".join(map(str, sys.version_info[:3]))
    result = run_module("preflight", {"python": python})
    assert result["problems"] == [
        (
            f"python {sys.executable} is {running}; needed is 3.98 or later, below 3.99: "
            "install one and give its path"
        )
    ]


def test_a_python_that_is_not_there(run_module: ModuleRun) -> None:
    result = run_module("preflight", {"python": {"path": "/nowhere/python3"}})
    assert result["problems"] == [
        "python /nowhere/python3 does not exist; install one and give its path"
    ]


@pytest.mark.parametrize(
    ("script", "reason"),
    [
        ("#!/bin/sh\nexit 3\n", "exit status 3"),
        (
            "#!/bin/sh\necho first >&2; echo no module encodings >&2; exit 1\n",
            "no module encodings",
        ),
        ("#!/bin/sh\necho hello\n", "exit status 0"),
        ("#!/nowhere/sh\n", "No such file or directory"),
    ],
)
def test_a_python_that_cannot_be_run(
    tmp_path: Path, run_module: ModuleRun, script: str, reason: str
) -> None:
    python = tmp_path / "python3"
    python.write_text(script)
    python.chmod(0o755)
    result = run_module("preflight", {"python": {"path": str(python)}})
    assert result["problems"] == [
        (
            f"python {python} cannot be run by {getpass.getuser()} ({reason}); install one where "
            "every account can run it, such as /usr or /opt, and give its path"
        )
    ]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can start a program as another account")
@pytest.mark.parametrize("account", ["nobody", "mlflow-not-made-yet"])
def test_a_python_that_the_services_account_cannot_run(
    tmp_path: Path, run_module: ModuleRun, account: str
) -> None:
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o700)
    shell = shutil.which("sh")
    assert shell
    python = closed / "python3"
    python.write_text(f"#!{shell}\necho 3.11.2\n")
    python.chmod(0o755)
    assert run_module("preflight", {"python": {"path": str(python)}})["problems"] == []
    result = run_module("preflight", {"python": {"path": str(python), "run_as": account}})
    assert result["problems"] == [
        (
            f"python {python} cannot be run by {account} (Permission denied); install one where "
            "every account can run it, such as /usr or /opt, and give its path"
        )
    ]


def test_a_version_limit_that_is_none(run_module: ModuleRun) -> None:
    python = {"path": sys.executable, "minimum": ">=3.11"}
    result = run_module("preflight", {"python": python})
    assert result["msg"] == "python.minimum must be numbers and dots, got '>=3.11'"


# --- Together


def test_every_problem_is_told_at_once(run_module: ModuleRun) -> None:
    result = run_module(
        "preflight",
        {
            "ports": [wanted(80), wanted(22, variable="other_port")],
            "disk": [{"path": "/", "minimum_mb": 10**9, "purpose": "everything"}],
            "executables": [{"name": "no-such-git", "purpose": "commits", "fix": "install it"}],
            "python": {"path": "/nowhere/python3"},
        },
    )
    assert len(result["problems"]) == 5
    lines = result["msg"].splitlines()
    assert lines[0] == "5 problems to solve first, nothing was changed:"
    assert lines[1:] == result["problems"]


def test_nothing_asked_nothing_found(run_module: ModuleRun) -> None:
    assert run_module("preflight", {})["problems"] == []


def test_a_file_of_another_account_is_named(run_module: ModuleRun, tmp_path: Path) -> None:
    path = tmp_path / "server.sock"
    item = {"paths": [str(path)], "purpose": "a socket", "fix": "remove it", "owner": ""}
    assert run_module("preflight", {"files": [item]})["problems"] == []
    path.touch()
    assert run_module("preflight", {"files": [item]})["problems"] == []
    result = run_module("preflight", {"files": [{**item, "owner": "daemon"}]})
    assert result["problems"] == [
        f"{path} (a socket) belongs to {path.owner()}, not to daemon; remove it"
    ]


# --- What cannot be looked into, and what systemd holds


@pytest.mark.parametrize(("uid", "fine"), [(os.geteuid(), True), (os.geteuid() + 1, False)])
def test_a_hidden_listener_of_the_account_that_owns_the_directory(
    tmp_path: Path, uid: int, fine: bool
) -> None:
    listener = Listener("127.0.0.1", 5000, uid, "77")
    entry = wanted(5000, tmp_path)
    for processes in ((), (Process(7, uid, "mlflow server", None),)):
        problem = preflight.port_problem(entry, [listener], {"77": processes}, {5000})
        assert (problem is None) == fine
    # One that can be looked into, and works elsewhere, is not taken for the service.
    elsewhere = [Process(7, uid, "python3 -m http.server", "/")]
    assert preflight.port_problem(entry, [listener], {"77": elsewhere}, {5000})


@pytest.mark.parametrize(
    ("text", "fine"),
    [
        ("[Socket]\nListenStream=127.0.0.1:5000\n", True),
        ("[Socket]\nListenStream=127.0.0.1:50001\n", False),
        (None, False),
    ],
)
def test_a_socket_of_systemd(tmp_path: Path, text: str | None, fine: bool) -> None:
    unit = tmp_path / "mlflow-jdoe.socket"
    if text is not None:
        unit.write_text(text)
    entry = {**wanted(5000), "socket_unit": str(unit)}
    listener = Listener("127.0.0.1", 5000, 0, "77")
    for systemd in ([Process(1, 0, "/sbin/init", "/")], []):
        problem = preflight.port_problem(entry, [listener], {"77": systemd}, {5000})
        assert (problem is None) == fine
    another = [Process(7, 0, "python3 -m http.server", "/")]
    assert preflight.port_problem(entry, [listener], {"77": another}, {5000})


def test_less_space_is_needed_once_it_is_installed(run_module: ModuleRun, tmp_path: Path) -> None:
    marker = tmp_path / ".complete"
    disk = {"path": str(tmp_path), "minimum_mb": 10**9, "purpose": "programs"}
    disk |= {"installed": str(marker), "minimum_mb_installed": 1}
    assert "needs 1000000000 MB" in run_module("preflight", {"disk": [disk]})["msg"]
    marker.touch()
    assert run_module("preflight", {"disk": [disk]})["problems"] == []
