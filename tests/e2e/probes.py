"""What a stranger on this machine can try, with nothing but the standard library.

The tests send this file to an interpreter that runs as another account; controls call the same
functions themselves. Every function returns what it was told, errors among it, and judges nothing.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import socket
import ssl
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

# For an answer, which comes at once on a quiet machine; and for a program, which may wait in vain.
ANSWER_SECONDS = 60
PROGRAM_SECONDS = 5
# An HTTP/2 client's opening: preface and empty SETTINGS. A gRPC server answers with its SETTINGS.
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\x00\x00\x00\x04\x00\x00\x00\x00\x00"
SETTINGS = 4
SERVED = "served"
Attempt = dict[str, Any]


def tls(certificate: str) -> ssl.SSLContext:
    """Return a context that trusts anybody and shows this certificate (PEM text), if any."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    if certificate:
        with tempfile.NamedTemporaryFile("w", suffix=".pem") as file:
            file.write(certificate)
            file.flush()
            context.load_cert_chain(file.name)
    return context


def request(method: str, url: str, body: str = "", certificate: str = "") -> str:
    """Return status, headers and body of one HTTP request."""
    where = urlsplit(url)
    host, port = where.hostname or "", where.port
    connection: http.client.HTTPConnection
    if where.scheme == "https":
        context = tls(certificate)
        connection = http.client.HTTPSConnection(
            host, port, timeout=ANSWER_SECONDS, context=context
        )
    else:
        connection = http.client.HTTPConnection(host, port, timeout=ANSWER_SECONDS)
    try:
        connection.request(method, url.split(where.netloc, 1)[1], body or None)
        answer = connection.getresponse()
        text = answer.read(100_000).decode(errors="replace")
        return f"{answer.status}\n{answer.headers}\n{text}"
    finally:
        connection.close()


def grpc(target: int | str, encrypted: bool = False, certificate: str = "") -> str:
    """Say whether a gRPC server on this port or socket file would serve us."""
    if isinstance(target, int):
        plain = socket.create_connection(("127.0.0.1", target), ANSWER_SECONDS)
    else:
        plain = socket.socket(socket.AF_UNIX)
        plain.settimeout(ANSWER_SECONDS)
        plain.connect(target)
    with plain:
        connection = plain
        if encrypted:
            context = tls(certificate)
            context.set_alpn_protocols(["h2"])
            connection = context.wrap_socket(plain, server_hostname="localhost")
        connection.sendall(PREFACE)
        answer = connection.recv(64)
    return SERVED if len(answer) >= 9 and answer[3] == SETTINGS else f"no SETTINGS: {answer!r}"


def connect(path: str) -> str:
    """Connect to a socket file."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(ANSWER_SECONDS)
        connection.connect(path)
    return SERVED


def read(path: str) -> str:
    """Return a file's content or a directory's names."""
    if Path(path).is_dir():
        return f"{SERVED}: {os.listdir(path)}"
    return f"{SERVED}: " + Path(path).read_bytes().decode(errors="replace")


def run(argv: list[str], stdin: str = "", seconds: float = PROGRAM_SECONDS) -> str:
    """Return what a program prints within some seconds."""
    with subprocess.Popen(
        argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as process:
        try:
            return process.communicate(stdin, timeout=seconds)[0]
        except subprocess.TimeoutExpired:
            process.kill()
            return process.communicate()[0] + "[timeout]"


PROBES = {probe.__name__: probe for probe in (request, grpc, connect, read, run)}


def attempt(probe: str, arguments: Attempt) -> str:
    """Return the probe's answer, or the error that it met."""
    try:
        return PROBES[probe](**arguments)
    except (OSError, http.client.HTTPException) as error:
        return f"{type(error).__name__}: {error}"


def attempt_all(attempts: list[tuple[str, Attempt]]) -> list[str]:
    """Return the answers, in the order of the attempts."""
    with ThreadPoolExecutor(4) as pool:
        return list(pool.map(lambda each: attempt(*each), attempts))


def attempt_as(uid: int | None, gid: int | None, attempts: list[tuple[str, Attempt]]) -> list[str]:
    """Make the attempts in a bare process, as another account if we are root."""
    program = Path(__file__).read_text()
    call = f"print(json.dumps(attempt_all(json.loads({json.dumps(attempts)!r}))))"
    done = subprocess.run(
        [sys.executable if uid is None else "/usr/bin/python3", "-I", "-"],
        input=f"{program}\n{call}\n",
        user=uid,
        group=gid,
        extra_groups=None if uid is None else [],
        cwd="/",
        env={"PATH": "/usr/bin:/bin", "HOME": "/nonexistent"},
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    if done.returncode != 0:
        raise RuntimeError(done.stderr)
    answers: list[str] = json.loads(done.stdout)
    return answers


def processes(inside: Path) -> list[Path]:
    """Return the /proc directories of the programs that were started from a directory."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            line = process.joinpath("cmdline").read_bytes().decode(errors="replace")
        except OSError:
            continue
        if f"{inside}/" in line:
            found.append(process)
    return found


def listeners(inside: Path) -> dict[int, set[str]]:
    """Return the TCP ports on which such programs listen, with addresses as /proc writes them."""
    sockets = set()
    for process in processes(inside):
        with contextlib.suppress(OSError):
            for each in process.joinpath("fd").iterdir():
                # One that is closed meanwhile must not take the others along.
                with contextlib.suppress(OSError):
                    sockets.add(os.readlink(each))
    found: dict[int, set[str]] = {}
    for table in ("tcp", "tcp6"):
        for line in Path("/proc/net", table).read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == "0A" and f"socket:[{fields[9]}]" in sockets:
                address, port = fields[1].split(":")
                found.setdefault(int(port, 16), set()).add(address)
    return found
