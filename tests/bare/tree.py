"""A bare Debian 12 in a directory, entered by chroot inside namespaces of its own.

Nothing is ever mounted where the machine could see it: the mounts live in a namespace that ends
with its holder, and the holder ends when its standard input is closed or its parent dies, however
the tests end. Its process 1 is a plain `cat`, which adopts and never reaps, as in a container that
was started with `sleep infinity`.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

from waiting import bound

REPOSITORY = Path(__file__).resolve().parents[2]
SUITE = "bookworm"
PREFIX = "mlflow-classroom-bare-"
NEEDED = ("debootstrap", "chroot", "unshare", "nsenter", "setpriv", "mountpoint", "tar", "git")
# Of this machine's environment: what lets downloads through, and how long to wait.
PASSED_ON = re.compile(
    r"(?i)(https?_proxy|no_proxy|all_proxy)|PIP_INDEX_URL|UV_DEFAULT_INDEX|CLASSROOM_PATIENCE"
)
AUTHORITY = "/opt/authority.pem"


def missing_programs() -> list[str]:
    """Return the programs that making and entering a tree needs and that are not here."""
    return [name for name in NEEDED if shutil.which(name) is None]


def remove_directory(path: Path) -> None:
    """Remove a tree, but never through a mount."""
    for inside in (path / "proc", path / "sys", path / "dev", path):
        if subprocess.run(["mountpoint", "-q", inside], check=False).returncode == 0:
            raise RuntimeError(f"{inside} is a mount point: not removed; umount {inside}")
    subprocess.run(["rm", "-rf", "--one-file-system", "--", path], check=True)


def isolated(*command: str | Path) -> list[str | Path]:
    """Return the command in namespaces of its own, which end with it, and it with its parent."""
    inside = ["unshare", "--mount", "--propagation=private", "--pid", "--fork", "--kill-child"]
    return ["setpriv", "--pdeathsig", "KILL", *inside, *command]


def fresh_archive() -> Path:
    """Return the archive of an unused tree."""
    done = subprocess.run(
        [sys.executable, REPOSITORY / "tools/debian-archive", SUITE],
        capture_output=True,
        text=True,
        timeout=bound(120),
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return Path(done.stdout.strip())


class Tree:
    """A Debian 12 of its own until `close`."""

    def __init__(self) -> None:
        # A run that was killed could not remove its tree.
        for stale in Path("/var/tmp").glob(f"{PREFIX}*"):
            if time.time() - stale.stat().st_mtime > 24 * 3600:
                remove_directory(stale)
        self.root = Path(tempfile.mkdtemp(prefix=PREFIX, dir="/var/tmp"))
        self.holder: subprocess.Popen[str] | None = None
        try:
            archive = fresh_archive()
            subprocess.run(["tar", "--numeric-owner", "-C", self.root, "-xpf", archive], check=True)
            self.root.chmod(0o755)
            shutil.copy("/etc/resolv.conf", self.root / "etc/resolv.conf")
            if os.environ.get("SSL_CERT_FILE"):
                shutil.copy(os.environ["SSL_CERT_FILE"], f"{self.root}{AUTHORITY}")
                (self.root / AUTHORITY.lstrip("/")).chmod(0o644)
            script = 'mount -t proc proc "$1/proc" && echo ready && exec cat'
            self.holder = subprocess.Popen(
                isolated("sh", "-c", script, "sh", self.root),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
            assert self.holder.stdout
            assert self.holder.stdout.readline() == "ready\n", "no namespace, or no /proc in it"
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """End everything that runs in the tree, and remove it."""
        if self.holder:
            assert self.holder.stdin
            self.holder.stdin.close()
            try:
                self.holder.wait(timeout=bound(3))
            except subprocess.TimeoutExpired:
                self.holder.kill()
                self.holder.wait(timeout=bound(3))
        remove_directory(self.root)

    def run(
        self,
        command: str,
        account: str = "root",
        cwd: str = "/",
        quiet_seconds: float = 150,
        variables: Mapping[str, str] | None = None,
    ) -> subprocess.CompletedProcess[str]:
        """Run a shell command in the tree as an account, in an almost empty environment."""
        assert self.holder
        home = "/root" if account == "root" else f"/home/{account}"
        environment = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "HOME": home, "USER": account}
        environment |= {k: v for k, v in os.environ.items() if PASSED_ON.fullmatch(k)}
        if os.environ.get("SSL_CERT_FILE"):
            environment["SSL_CERT_FILE"] = AUTHORITY
        environment |= variables or {}
        namespaces = f"/proc/{self.holder.pid}/ns"
        return subprocess.run(
            [
                *["nsenter", f"--mount={namespaces}/mnt", f"--pid={namespaces}/pid_for_children"],
                *["chroot", f"--userspec={account}:{account}", "--groups=", str(self.root)],
                *["/bin/sh", "-c", 'cd "$0" && eval "$1"', cwd, command],
            ],
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=bound(quiet_seconds),
            check=False,
        )

    def must(self, command: str, account: str = "root", cwd: str = "/", **variables: str) -> str:
        """Run a command that has to succeed, and return what it printed."""
        done = self.run(command, account, cwd, variables=variables)
        assert done.returncode == 0, f"{command}\n{done.stdout[-6000:]}\n{done.stderr[-3000:]}"
        return done.stdout + done.stderr

    def processes(self) -> list[str]:
        """Return the command lines of what runs in the tree, without process 1 and zombies."""
        script = """
            for process in /proc/[0-9]*; do
                line=$(tr '\\0' ' ' 2>/dev/null < $process/cmdline) || continue
                [ -z "$line" ] || [ $process = /proc/1 ] || [ $process = /proc/$$ ] || echo "$line"
            done"""
        return [line for line in self.must(script).splitlines() if "tr \\0" not in line]

    def paths(self) -> Iterator[str]:
        """Yield every path in the tree, as seen in it."""
        for folder, folders, files in os.walk(self.root):
            for name in (*folders, *files):
                yield os.path.join(folder, name).removeprefix(str(self.root))
