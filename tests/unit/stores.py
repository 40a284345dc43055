"""The real servers that the tests use beside PostgreSQL: SeaweedFS, moto and MLflow.

A pytest plugin, so that every test file that names it in `pytest_plugins` shares one of each.
PYTEST_DONT_REWRITE: it is also imported, and holds no assertion.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

BIN = Path(sys.executable).parent
START_TIMEOUT = 120


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


def free_port() -> int:
    """Return a port that is free, and whose gRPC sister (weed adds 10000) exists."""
    while True:
        with socket.socket() as probe, socket.socket() as sister:
            probe.bind(("127.0.0.1", 0))
            port: int = probe.getsockname()[1]
            if port + 10000 > 65535:
                continue
            with contextlib.suppress(OSError):
                sister.bind(("127.0.0.1", port + 10000))
                return port


def wait_for(ready: Callable[[], bool], process: subprocess.Popen[bytes], log: Path) -> None:
    """Wait until the process answers; show its log when it does not."""
    deadline = time.monotonic() + START_TIMEOUT
    while time.monotonic() < deadline and process.poll() is None:
        with contextlib.suppress(OSError, urllib.error.URLError):
            if ready():
                return
        time.sleep(0.2)
    raise RuntimeError(f"{process.args!r} did not start:\n{log.read_text()[-4000:]}")


def connects(port: int) -> bool:
    """Tell whether something listens on the port."""
    with socket.create_connection(("127.0.0.1", port), timeout=2):
        return True


@contextlib.contextmanager
def running(
    command: list[str], log: Path, ready: Callable[[], bool], **options: Any
) -> Iterator[subprocess.Popen[bytes]]:
    """Run a server for as long as the block lasts."""
    with log.open("wb") as output:
        process = subprocess.Popen(
            command, stdout=output, stderr=subprocess.STDOUT, start_new_session=True, **options
        )
    try:
        wait_for(ready, process, log)
        yield process
    finally:
        stop(process)


def stop(process: subprocess.Popen[bytes]) -> None:
    """End a server and the processes that it started."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, 15)
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(timeout=5)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, 9)
    process.wait(timeout=10)


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
        with urllib.request.urlopen(f"{uri}/health", timeout=5) as answer:
            return bool(answer.status == 200)

    with running(command, directory / "mlflow.log", ready, cwd=directory, env=environment):
        yield uri
