"""What tools/setup says and does on machines that lack something, played by stand-ins on PATH."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from waiting import bound, wait_until

REPOSITORY = Path(__file__).parents[2]
TOOLS = (
    "sh",
    "dirname",
    "cat",
    "cksum",
    "head",
    "tail",
    "id",
    "df",
    "awk",
    "rm",
    "mv",
    "readlink",
    "flock",
    "sleep",
    "uname",
    "find",
)
LOCK_LINE = "an-unlocked-package==1.0 --hash=sha256:" + "0" * 64


class Machine:
    """The set-up script in a checkout of its own, and a PATH with what a test puts there."""

    def __init__(self, root: Path) -> None:
        self.checkout = root / "checkout"
        self.bin = root / "bin"
        self.bin.mkdir()
        (self.checkout / "tools").mkdir(parents=True)
        (self.checkout / "requirements").mkdir()
        shutil.copy(REPOSITORY / "tools/setup", self.checkout / "tools/setup")
        for name in ("bootstrap", "controller"):
            self.checkout.joinpath(f"requirements/{name}.txt").write_text(LOCK_LINE + "\n")
        for tool in TOOLS:
            found = shutil.which(tool)
            assert found, tool
            (self.bin / tool).symlink_to(found)

    def program(self, name: str, text: str) -> Path:
        """Put a stand-in on PATH, instead of what is there."""
        path = self.bin / name
        path.unlink(missing_ok=True)
        path.write_text(f"#!/bin/sh\n{text}\n")
        path.chmod(0o755)
        return path

    def python(self, name: str, version: str, venv: bool = True) -> Path:
        """Put an interpreter on PATH that says it is `version` and installs nothing."""
        major, minor, _ = version.split(".")
        fits = (3, 11) <= (int(major), int(minor)) < (3, 14)
        return self.program(
            name,
            f"""
            case "$*" in
                *'import venv'*) exit {0 if venv else 1} ;;
                *'sys.exit(not'*) exit {0 if fits else 1} ;;
                *'%d.%d.%d'*) echo {version} ;;
                *realpath*) echo "$0" ;;
                '-m venv '*)
                    # As the real one does: a folder with an interpreter, whose pip brings uv.
                    mkdir -p "$3/bin"
                    cp "$0" "$3/bin/python"
                    echo 'cd "{self.checkout}"; [ ! -e hold ] || {{ : > held; sleep 600; }}' \\
                        > "$3/bin/uv"
                    chmod 755 "$3/bin/uv" ;;
                '-m pip '*) echo "$PIP_CERT" > "{self.checkout}/pip-cert" ;;
            esac""",
        )

    def environment(self, **variables: str) -> dict[str, str]:
        """Return an environment with this PATH and nothing else."""
        return {"PATH": str(self.bin), **variables}

    def setup(self, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
        """Run tools/setup."""
        return subprocess.run(
            [self.checkout / "tools/setup", *(arguments or ("controller", ".venv"))],
            env=self.environment(**variables),
            capture_output=True,
            text=True,
            timeout=bound(6),
            check=False,
        )

    def refusal(self, **variables: str) -> str:
        """Run tools/setup, which must refuse and make nothing, and return what it says."""
        before = sorted(self.checkout.rglob("*"))
        done = self.setup(**variables)
        assert done.returncode == 1, done
        assert done.stdout == ""
        assert done.stderr.startswith("Cannot set up: ")
        assert "\nNext:  " in done.stderr
        assert sorted(self.checkout.rglob("*")) == before
        return done.stderr

    @property
    def interpreter(self) -> str:
        """The second line of the stamp."""
        return self.checkout.joinpath(".venv/.lock").read_text().splitlines()[1]


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    """A machine without any Python on PATH; the system's own one is out of its reach too."""
    made = Machine(tmp_path)
    for tool in ("mkdir", "cp", "chmod"):
        (made.bin / tool).symlink_to(shutil.which(tool) or "")
    script = made.checkout / "tools/setup"
    # The one absolute path that it falls back to would reach out of the played machine.
    script.write_text(script.read_text().replace("/usr/bin/python3;", f"{made.bin}/none;"))
    return made


def test_no_python(machine: Machine) -> None:
    said = machine.refusal()
    assert "no python3 on PATH, and Python 3.11, 3.12 or 3.13 is needed" in said
    assert "apt-get update && apt-get install -y python3 python3-venv" in said


def test_root_is_told_no_sudo(machine: Machine) -> None:
    machine.program("id", "echo 0")
    machine.program("sudo", "")
    assert "Next:  apt-get update" in machine.refusal()


def test_an_account_is_told_sudo_where_there_is_one(machine: Machine) -> None:
    machine.program("id", "echo 1000")
    assert "Next:  su -c 'apt-get update" in machine.refusal()
    machine.program("sudo", "")
    said = machine.refusal()
    assert "Next:  sudo sh -c 'apt-get update && apt-get install -y python3 python3-venv'" in said


@pytest.mark.parametrize("version", ["3.9.2", "3.14.0"])
def test_only_a_python_that_does_not_fit(machine: Machine, version: str) -> None:
    machine.python("python3", version)
    said = machine.refusal()
    assert f"no Python 3.11, 3.12 or 3.13 on PATH: python3 is {version}" in said
    assert "export PYTHON=/path/to/python3.11" in said


def test_a_python_that_fits_beside_one_that_does_not(machine: Machine) -> None:
    machine.python("python3", "3.14.0")
    chosen = machine.python("python3.12", "3.12.1")
    assert machine.setup().returncode == 0
    assert machine.interpreter == str(chosen)


def test_a_wrong_choice_of_python(machine: Machine) -> None:
    machine.python("python3", "3.11.2")
    old = machine.python("old", "3.8.1")
    broken = machine.program("broken", "exit 127")
    assert f"PYTHON={old} is 3.8.1, and 3.11, 3.12 or 3.13 is needed" in machine.refusal(
        PYTHON=str(old)
    )
    assert f"PYTHON={broken} is no Python that runs" in machine.refusal(PYTHON=str(broken))
    said = machine.refusal(PYTHON="no-such-python")
    assert "PYTHON=no-such-python is not a program" in said
    assert "export PYTHON=/usr/bin/python3" in said


def test_no_venv_module(machine: Machine) -> None:
    python = machine.python("python3", "3.11.2", venv=False)
    said = machine.refusal()
    assert f"{python} has no venv module" in said
    # No package of the system helps an interpreter that is not the system's.
    assert "export PYTHON=/usr/bin/python3" in said


def test_shared_memory_for_root_alone(machine: Machine) -> None:
    machine.python("python3", "3.11.2")
    machine.program("find", "")
    assert "not every account may write to /dev/shm" in machine.refusal()
    machine.program("uname", "echo Darwin")
    assert machine.setup().returncode == 0


def test_disk_too_small(machine: Machine) -> None:
    machine.python("python3", "3.11.2")
    machine.program("df", "printf 'Filesystem x x Available\\n/dev/x 9 9 2999 9%% /\\n'")
    said = machine.refusal()
    assert f"{machine.checkout} has 2999 MB free, and 3000 MB are needed" in said


def test_a_checkout_of_somebody_else(machine: Machine) -> None:
    if os.geteuid() == 0:
        pytest.skip("root may write everywhere")
    machine.python("python3", "3.11.2")
    machine.checkout.chmod(0o555)
    assert "may not write to" in machine.refusal()
    machine.checkout.chmod(0o755)


def test_certificates_that_were_named_reach_pip(machine: Machine, tmp_path: Path) -> None:
    machine.python("python3", "3.11.2")
    authority = tmp_path / "ca.pem"
    said = machine.refusal(SSL_CERT_FILE=str(authority))
    assert f"SSL_CERT_FILE={authority} cannot be read" in said
    authority.write_text("x")
    assert machine.setup(SSL_CERT_FILE=str(authority)).returncode == 0
    assert machine.checkout.joinpath("pip-cert").read_text().strip() == str(authority)


def test_nothing_is_said_or_done_the_second_time(machine: Machine) -> None:
    machine.python("python3", "3.11.2")
    first = machine.setup()
    assert (first.returncode, first.stdout) == (0, "")
    assert "Setting up .venv from requirements/controller.txt with Python 3.11.2" in first.stderr
    made = stat_of(machine)
    second = machine.setup()
    assert (second.returncode, second.stdout, second.stderr) == (0, "", "")
    assert stat_of(machine) == made


def test_another_lock_or_another_python_makes_it_anew(machine: Machine) -> None:
    machine.python("python3", "3.11.2")
    other = machine.python("python3.13", "3.13.0")
    machine.setup()
    made = stat_of(machine)
    assert machine.setup(PYTHON="python3.13").returncode == 0
    assert stat_of(machine) != made
    assert machine.interpreter == str(other)
    # Without a choice, what is there stays.
    made = stat_of(machine)
    machine.setup()
    assert stat_of(machine) == made
    machine.checkout.joinpath("requirements/controller.txt").write_text(LOCK_LINE + " # new\n")
    machine.setup()
    assert stat_of(machine) != made


def test_an_interrupted_setup_is_done_again(machine: Machine) -> None:
    machine.python("python3", "3.11.2")
    hold = machine.checkout / "hold"
    hold.touch()
    process = subprocess.Popen(
        [machine.checkout / "tools/setup", "controller", ".venv"],
        env=machine.environment(),
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    wait_until(machine.checkout.joinpath("held").exists, "the set-up to reach uv", 2)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    assert machine.checkout.joinpath(".venv/bin/python").exists()
    hold.unlink()
    again = machine.setup()
    assert again.returncode == 0
    assert "Setting up .venv" in again.stderr
    assert machine.setup().stderr == ""


def test_two_at_once_make_it_once(machine: Machine) -> None:
    machine.python("python3", "3.11.2")
    both = [
        subprocess.Popen(
            [machine.checkout / "tools/setup", "controller", ".venv"],
            env=machine.environment(),
            stderr=subprocess.PIPE,
            text=True,
        )
        for _ in range(2)
    ]
    said = [process.communicate(timeout=bound(6))[1] for process in both]
    assert [process.returncode for process in both] == [0, 0]
    assert sum("Setting up" in text for text in said) == 1


def test_wrong_arguments(machine: Machine) -> None:
    done = machine.setup("nosuchlock", ".venv")
    assert done.returncode == 1
    assert "tools/setup controller .venv" in done.stderr


def stat_of(machine: Machine) -> int:
    """Tell one environment from the next."""
    return machine.checkout.joinpath(".venv/.lock").stat().st_mtime_ns


def test_the_script_is_portable() -> None:
    text = (REPOSITORY / "tools/setup").read_text()
    assert text.startswith("#!/bin/sh\n")
    dash = shutil.which("dash") or "sh"
    subprocess.run([dash, "-n", REPOSITORY / "tools/setup"], check=True)
    assert sys.version_info >= (3, 11)
