"""How long tests wait, and for which ports: nothing here depends on how fast the machine is."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable
from pathlib import Path

# CLASSROOM_PATIENCE=3 makes every wait three times as long.
PATIENCE = float(os.environ.get("CLASSROOM_PATIENCE") or 1)
# Both they and their sisters, 10000 above, are below the range that the kernel gives to clients.
FIRST_PORT, LAST_PORT, BLOCK = 20000, 22752, 16
# Locks of this process, which end with it, and ports of its blocks that nobody has yet.
_held: list[socket.socket] = []
_left: list[int] = []


def bound(quiet_seconds: float) -> float:
    """Return how long to wait for what takes so long on a quiet machine, in seconds."""
    return 10 * quiet_seconds * PATIENCE


def wait_until(
    condition: Callable[[], object],
    what: str,
    quiet_seconds: float,
    log: Path | None = None,
    alive: Callable[[], bool] = lambda: True,
) -> None:
    """Wait for something that comes about by itself, as long as what brings it is `alive`.

    Raises:
        AssertionError: it did not come about; with what was waited for, and the end of the log.
    """
    limit = bound(quiet_seconds)
    deadline = time.monotonic() + limit
    while not condition():
        ended = "" if alive() else "it has ended"
        if time.monotonic() > deadline:
            ended = f"not within {limit:.0f} s; CLASSROOM_PATIENCE=3 waits three times as long"
        if ended:
            text = log.read_text(errors="replace")[-4000:] if log and log.exists() else ""
            raise AssertionError(f"waited for {what}: {ended}\n{text}")
        time.sleep(0.05)


def hold_ports() -> range:
    """Return 16 free consecutive ports that no other run of these tests takes before we end.

    What listens at port + 10000, where SeaweedFS speaks gRPC by default, is looked at too; and
    socket files that a killed SeaweedFS has left for them are removed.
    """
    for first in range(FIRST_PORT, LAST_PORT, BLOCK):
        block = range(first, first + BLOCK)
        # A name that only one process on this machine can have, of whatever account.
        lock = socket.socket(socket.AF_UNIX)
        try:
            lock.bind(f"\0mlflow-classroom-ports-{first}")
            for port in block:
                for each in (port, port + 10000):
                    socket.create_server(("127.0.0.1", each)).close()
            remove_sockets(block)
        except OSError:
            lock.close()
            continue
        _held.append(lock)
        return block
    raise RuntimeError(f"no {BLOCK} free ports between {FIRST_PORT} and {LAST_PORT}")


def classroom_ports() -> dict[str, int]:
    """Return free ports as `hold_ports` does, by the setting that takes them."""
    block = hold_ports()
    return {
        "classroom_postgres_port": block[0],
        "classroom_s3_port": block[1],
        "classroom_s3_admin_port": block[2],
        "classroom_server_port": block[3],
        "classroom_s3_inner_port": block[8],
    }


def remove_sockets(ports: range) -> None:
    """Remove the socket files that SeaweedFS makes for ports, of which nobody makes use any more.

    Raises:
        PermissionError: they are another account's.
    """
    for port in ports:
        for each in (port, port + 10000):
            for path in Path("/tmp").glob(f"seaweedfs-*-grpc-{each}.sock"):
                path.unlink()


def free_port() -> int:
    """Return a port as `hold_ports` does, each one once."""
    if not _left:
        _left.extend(hold_ports())
    return _left.pop()
