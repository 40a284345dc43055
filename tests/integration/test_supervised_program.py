"""One program under a real supervisord, started through the launcher of the role."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from modules import ModuleRun
from waiting import wait_until

REPOSITORY = Path(__file__).parents[2]
BIN = Path(sys.executable).parent
CONFIGURATION = """
[unix_http_server]
file={home}/supervisord.sock
[supervisord]
pidfile={home}/supervisord.pid
logfile={home}/log/supervisord.log
[rpcinterface:supervisor]
supervisor.rpcinterface_factory=supervisor.rpcinterface:make_main_rpcinterface
[supervisorctl]
serverurl=unix://{home}/supervisord.sock
[include]
files={home}/programs/*.ini
"""


@pytest.fixture
def home() -> Iterator[Path]:
    # Short: a socket's path has at most 107 bytes.
    folder = Path(tempfile.mkdtemp(prefix="sup"))
    for name in ("programs", "log", "work"):
        (folder / name).mkdir()
    (folder / "supervisord.conf").write_text(CONFIGURATION.format(home=folder))
    start(folder)
    yield folder
    control(folder, "shutdown")
    wait_until(lambda: not (folder / "supervisord.pid").exists(), "supervisord to end", 2)
    shutil.rmtree(folder)


def start(home: Path) -> None:
    command = [BIN / "supervisord", "-c", home / "supervisord.conf"]
    subprocess.run(command, check=True, cwd=home)


def control(home: Path, *command: str) -> str:
    return subprocess.run(
        [BIN / "supervisorctl", "-c", home / "supervisord.conf", *command],
        capture_output=True,
        text=True,
        check=False,
    ).stdout


def wanted(home: Path, seconds: int = 1000, **changes: str) -> dict[str, str]:
    launch = REPOSITORY / "roles/supervisor/files/launch"
    # The parent waits for a child, as `mlflow server` does.
    program = f"sleep {seconds} & echo $! > child; wait"
    (home / "program.sh").write_text(program)
    return {
        "name": "sleeper",
        "directory": str(home),
        "supervisorctl": str(BIN / "supervisorctl"),
        "definition": (
            f"[program:sleeper]\ndirectory={home}/work\nstartsecs=0\nstartretries=20\n"
            f"command=/bin/sh {launch} sleeper - TERM /bin/sh {home}/program.sh\n"
            f"; sleeps {seconds} s\nautorestart=true\nstopasgroup=true\nkillasgroup=true\n"
            f"environment=SECONDS_TO_SLEEP={seconds}\n"
        ),
        **changes,
    }


def child(home: Path) -> int:
    path = home / "work/child"
    wait_until(lambda: path.exists() and path.read_text(), "the child to start", 2)
    return int((home / "work/child").read_text())


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_four_beats(run_module: ModuleRun, home: Path) -> None:
    params = wanted(home)
    assert run_module("supervised_program", params)["changed"] is True
    assert "RUNNING" in control(home, "status", "sleeper")
    assert run_module("supervised_program", params)["changed"] is False
    absent = {**params, "state": "absent"}
    assert run_module("supervised_program", absent)["changed"] is True
    assert "sleeper" not in control(home, "status")
    assert run_module("supervised_program", absent)["changed"] is False


def test_check_mode_tells_and_touches_nothing(run_module: ModuleRun, home: Path) -> None:
    params = wanted(home)
    assert run_module("supervised_program", params, check=True)["changed"] is True
    assert list((home / "programs").iterdir()) == []


def test_a_definition_written_but_not_applied_is_applied_next_time(
    run_module: ModuleRun, home: Path
) -> None:
    run_module("supervised_program", wanted(home))
    first = child(home)
    changed = wanted(home, 999)
    (home / "work/child").unlink()
    (home / "programs/sleeper.ini").write_text(changed["definition"])
    assert run_module("supervised_program", changed)["changed"] is True
    assert child(home) != first
    wait_until(lambda: not alive(first), "the first program to end", 4)


def test_a_stopped_program_is_started(run_module: ModuleRun, home: Path) -> None:
    run_module("supervised_program", wanted(home))
    control(home, "stop", "sleeper")
    assert run_module("supervised_program", wanted(home))["changed"] is True
    assert "RUNNING" in control(home, "status", "sleeper")


def test_a_broken_definition_names_the_log(run_module: ModuleRun, home: Path) -> None:
    broken = "[program:sleeper]\ncommand=/no/such/program\nstartsecs=0\n"
    result = run_module("supervised_program", wanted(home, definition=broken))
    assert f"see {home}/log/sleeper.log" in result["msg"]


@pytest.mark.parametrize("killed", ["parent", "supervisord"])
def test_the_launcher_ends_what_a_kill_left_behind(
    run_module: ModuleRun, home: Path, killed: str
) -> None:
    run_module("supervised_program", wanted(home))
    orphan = child(home)
    pid = int(control(home, "pid", "sleeper" if killed == "parent" else ""))
    (home / "work/child").unlink()
    os.kill(pid, signal.SIGKILL)
    if killed == "supervisord":
        wait_until(lambda: not alive(pid), "the killed process to end", 4)
        start(home)
    assert child(home) != orphan
    wait_until(lambda: not alive(orphan), "the orphan to end", 4)


def test_the_launcher_spares_others_in_the_same_directory(
    run_module: ModuleRun, home: Path
) -> None:
    bystander = subprocess.Popen(["sleep", "1000"], cwd=home / "work", start_new_session=True)
    run_module("supervised_program", wanted(home))
    (home / "work/child").unlink()
    os.kill(int(control(home, "pid", "sleeper")), signal.SIGKILL)
    child(home)
    assert bystander.poll() is None
    bystander.kill()
    bystander.wait()
