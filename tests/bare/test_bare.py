"""The README's commands on a bare Debian 12: no systemd, sudo, curl, venv module or make.

Each account starts from a clean clone of what is committed. Ports are shared with the machine,
so free ones are chosen.
"""

from __future__ import annotations

import os
import re
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from tree import Tree, missing_programs
from waiting import classroom_ports

REPOSITORY = Path(__file__).parents[2]
NAME = "mlflow-classroom"
ACCOUNTS = ("root", "student")
DATA = {"root": f"/var/lib/{NAME}", "student": f"/home/student/.local/share/{NAME}"}
README_LINE = "apt-get install -y make python3-venv"
# What stays by design: the checkout with its environments, caches, what the system itself keeps.
STAYS = re.compile(
    r"/(root|home/student)/(mlflow-classroom|\.cache|\.ansible|\.local)(/.*)?"
    r"|/etc/(passwd|group|shadow|gshadow|subuid|subgid)-?"
    r"|/(etc/\.pwd\.lock|etc/ld\.so\.cache|var/cache/ldconfig.*|proc/.*)"
    r"|.*/__pycache__(/.*)?"
)


def home(account: str) -> str:
    """Return an account's home directory."""
    return "/root" if account == "root" else f"/home/{account}"


def checkout(account: str) -> str:
    """Return where the account cloned the project to."""
    return f"{home(account)}/{NAME}"


@pytest.fixture(scope="module")
def tree() -> Iterator[Tree]:
    """Give a bare Debian with a clone of the project for root and one for a plain user."""
    missing = missing_programs()
    reason = "only root can enter a bare Debian by chroot" if os.geteuid() else ""
    if missing:
        reason = f"{', '.join(missing)} not found: apt-get install -y debootstrap git"
    if reason:
        (pytest.fail if os.environ.get("CI") == "true" else pytest.skip)(reason)
    made = Tree()
    try:
        made.must("useradd --create-home --shell /bin/sh student")
        for account in ACCOUNTS:
            target = Path(f"{made.root}{checkout(account)}")
            subprocess.run(["git", "clone", "-q", "--no-hardlinks", REPOSITORY, target], check=True)
        made.must(
            f"chown -R student:student {checkout('student')} && chmod 700 /home/student /root"
        )
        yield made
    finally:
        made.close()


@pytest.fixture(scope="module")
def ports() -> dict[str, int]:
    """Return free ports by the variable that sets them."""
    return classroom_ports()


def settings(ports: dict[str, int]) -> str:
    """Return the ports as they are given to make's args."""
    return " ".join(f"-e {name}={port}" for name, port in ports.items())


def changed(output: str) -> dict[str, int]:
    """Return the number of changes by host from a run's recap."""
    plain = re.sub(r"\x1b\[[0-9;]*m", "", output)
    return {
        h: int(n) for h, n in re.findall(r"^(\S+)\s+: ok=.*?changed=(\d+)", plain, re.MULTILINE)
    }


def flat(output: str) -> str:
    """Return the output without colours, line breaks and runs of blanks."""
    return " ".join(re.sub(r"\x1b\[[0-9;]*m", "", output).split())


def test_the_tree_is_bare(tree: Tree) -> None:
    for program in ("systemctl", "sudo", "curl", "wget", "make", "git", "ps", "pip3", "gcc"):
        assert tree.run(f"command -v {program}").returncode != 0, program
    assert tree.run("python3 -c 'import ensurepip'").returncode != 0
    assert not (tree.root / "etc/ssl/certs/ca-certificates.crt").exists()


@pytest.mark.parametrize("account", ACCOUNTS)
def test_without_a_venv_module_the_fix_is_named_and_nothing_is_made(
    tree: Tree, account: str
) -> None:
    before = set(tree.paths())
    done = tree.run("tools/setup controller .venv", account, checkout(account))
    assert done.returncode == 1
    assert done.stdout == ""
    assert "/usr/bin/python3.11 has no venv module" in done.stderr
    fix = "apt-get update && apt-get install -y python3-venv"
    assert f"Next:  {fix if account == 'root' else f'su -c {fix!r}'}" in done.stderr
    assert set(tree.paths()) - before == set()


def test_the_named_fix_and_the_readme_line_are_enough(tree: Tree) -> None:
    said = tree.run("tools/setup controller .venv", cwd=checkout("root")).stderr
    fix = re.search(r"^Next:  (.*)$", said, re.MULTILINE)
    assert fix, said
    tree.must(fix[1], DEBIAN_FRONTEND="noninteractive")
    # debootstrap leaves /dev/shm to root alone.
    for account in reversed(ACCOUNTS):
        done = tree.run("tools/setup controller .venv", account, checkout(account))
        assert done.returncode != 0
        assert "not every account may write to /dev/shm" in done.stderr
        assert not Path(f"{tree.root}{checkout(account)}/.venv").exists()
    fix = re.search(r"^Next:  (.*)$", done.stderr, re.MULTILINE)
    assert fix, done.stderr
    tree.must(fix[1])
    # The set-up does not need make.
    tree.must("tools/setup controller .venv", cwd=checkout("root"))
    assert tree.must("tools/setup controller .venv", cwd=checkout("root")) == ""
    tree.must(README_LINE, DEBIAN_FRONTEND="noninteractive")
    for program in ("systemctl", "sudo", "curl"):
        assert tree.run(f"command -v {program}").returncode != 0, program


@pytest.fixture(scope="class")
def before(tree: Tree, account: str) -> set[str]:
    """Return what is in the tree before the account's first run."""
    return set(tree.paths())


# Set-up and a refusal are in the gate, for one account; the rest of a life there takes minutes.
LIVES = (pytest.param("root", marks=pytest.mark.long), "student")


@pytest.mark.parametrize("account", LIVES, scope="class")
class TestLife:
    """From nothing to a verified run and back to nothing."""

    def test_a_taken_port_is_named_and_nothing_is_made(
        self, tree: Tree, ports: dict[str, int], account: str, before: set[str]
    ) -> None:
        """A refusal names the port and the setting, and leaves nothing."""
        tree.must("make setup", account, checkout(account))
        with socket.create_server(("127.0.0.1", ports["classroom_s3_port"])):
            done = tree.run(
                f"make site user=jdoe args='{settings(ports)}'", account, checkout(account)
            )
        assert done.returncode != 0
        said = flat(done.stdout + done.stderr)
        assert f"port {ports['classroom_s3_port']} (the S3 server) is taken" in said
        assert "-e classroom_s3_port=" in said
        assert {path for path in set(tree.paths()) - before if not STAYS.fullmatch(path)} == set()
        assert not Path(f"{tree.root}{DATA[account]}").exists()

    @pytest.mark.long
    def test_one_command_from_nothing(
        self, tree: Tree, ports: dict[str, int], account: str, before: set[str]
    ) -> None:
        """Site goes from nothing to a verified run."""
        # As after a login from a machine with another language, with a careful umask.
        said = tree.must(
            f"umask 077; make site user=jdoe args='{settings(ports)}'",
            account,
            checkout(account),
            LANG="de_DE.UTF-8",
            LC_ALL="de_DE.UTF-8",
        )
        assert "verdict pass" in flat(said)
        assert f"{DATA[account]}/handouts/jdoe/README.md" in flat(said)

    @pytest.mark.long
    def test_second_run_only_trains(self, tree: Tree, ports: dict[str, int], account: str) -> None:
        """The second run adds a training run and changes nothing else."""
        said = tree.must(
            f"make site user=jdoe args='{settings(ports)}'", account, checkout(account)
        )
        assert changed(said) == {"jdoe": 1, "localhost": 0}

    @pytest.mark.long
    def test_verify(self, tree: Tree, ports: dict[str, int], account: str) -> None:
        """A look from outside changes nothing."""
        said = tree.must(
            f"make verify user=jdoe args='{settings(ports)}'", account, checkout(account)
        )
        assert "verdict pass" in flat(said)
        assert set(changed(said).values()) == {0}

    @pytest.mark.long
    def test_destroy_leaves_nothing(
        self, tree: Tree, ports: dict[str, int], account: str, before: set[str]
    ) -> None:
        """Neither processes nor files nor accounts are left."""
        tree.must(
            f"make destroy user=jdoe confirm=jdoe args='-e destroy_backend=true {settings(ports)}'",
            account,
            checkout(account),
        )
        assert tree.processes() == []
        assert not Path(f"{tree.root}{DATA[account]}").exists()
        left = {path for path in set(tree.paths()) - before if not STAYS.fullmatch(path)}
        assert left == set()
        for file in ("passwd", "group"):
            assert "mlflow" not in (tree.root / "etc" / file).read_text()
        status = subprocess.run(
            ["git", "-c", "safe.directory=*", "status", "--porcelain"],
            cwd=f"{tree.root}{checkout(account)}",
            capture_output=True,
            text=True,
            check=True,
        )
        assert status.stdout == ""
