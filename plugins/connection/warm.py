"""Local, with modules run in forks of one interpreter that has their libraries loaded."""

from __future__ import annotations

DOCUMENTATION = """
name: warm
author: mlflow-classroom
version_added: "1.0.0"
short_description: Local, with modules run in forks of one interpreter
description:
  - Does what the connection C(local) does. A module gets no interpreter of its own, which would
    load Ansible's code and the module's libraries first, but a fork of one that has them loaded.
    That takes a tenth of the processor time.
  - That interpreter is started by the first module of a run, listens in the run's own private
    directory, and ends with the run.
  - A module runs in the ordinary way where it needs another interpreter or account, has an
    C(environment) or runs asynchronously, where its code is not what that interpreter has loaded,
    and where the system is not Linux. With C(-vvv), each call says which way it went.
options:
  warm:
    description: Set this to V(false) to run every module in the ordinary way.
    type: bool
    default: true
    vars: [{name: classroom_warm}]
  become_success_timeout:
    description: See the connection C(local).
    type: int
    default: 10
    vars: [{name: ansible_local_become_success_timeout}]
  become_strip_preamble:
    description: See the connection C(local).
    type: bool
    default: true
    vars: [{name: ansible_local_become_strip_preamble}]
extends_documentation_fragment: [connection_pipelining]
"""

import contextlib
import errno
import multiprocessing
import os
import selectors
import shlex
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import ansible.constants as C  # noqa: N812  its usual name
from ansible.errors import AnsibleError
from ansible.plugins.connection.local import Connection as LocalConnection
from ansible.utils.display import Display

display = Display()
SERVER = Path(__file__).parents[1] / "warm_server.py"


class NotWarmError(Exception):
    """Why a module cannot run warm; nothing of it has run."""


class Connection(LocalConnection):  # type: ignore[misc]
    """The connection as Ansible finds it."""

    def exec_command(
        self, cmd: str, in_data: bytes | None = None, sudoable: bool = True
    ) -> tuple[int, bytes, bytes]:
        """Run a command; return its exit code, standard output and standard error."""
        host = self._play_context.remote_addr
        # Not a module but, for example, the making of a directory for one.
        if in_data is None:
            return self._run_ordinary(cmd, in_data, sudoable)
        try:
            if not self.get_option("warm"):
                raise NotWarmError("switched off")
            if b"_ansiballz_main" not in in_data:
                raise NotWarmError("no module of Python")
            if not is_plain_interpreter(cmd):
                raise NotWarmError("another interpreter, account or environment")
            self._connect()
            answer, readers = begin(in_data, self.cwd or os.curdir)
        except (NotWarmError, OSError) as why:
            display.vvv(f"ORDINARY: {why}", host=host)
            return self._run_ordinary(cmd, in_data, sudoable)
        with answer:
            stdout, stderr = read_all(readers)
            code, stranger = read_answer(answer)
        way = f"ORDINARY: {stranger} is not what is loaded" if stranger else "WARM"
        display.vvv(way, host=host)
        if code < 0:
            # As a shell says it.
            code, stderr = 128 - code, stderr + f"{signal.strsignal(-code)}\n".encode()
        return code, stdout, stderr

    def _run_ordinary(
        self, cmd: str, in_data: bytes | None, sudoable: bool
    ) -> tuple[int, bytes, bytes]:
        answer: tuple[int, bytes, bytes] = super().exec_command(cmd, in_data, sudoable)
        return answer


def is_plain_interpreter(command: str) -> bool:
    """Return whether a command is the interpreter that runs Ansible, and nothing else."""
    python = shlex.quote(sys.executable)
    # The second form is that of ansible-core 2.19.
    forms = (python, f"{python} && sleep 0")
    return command in [f"{C.DEFAULT_EXECUTABLE} -c {shlex.quote(form)}" for form in forms]


def begin(payload: bytes, directory: str | bytes) -> tuple[IO[str], list[int]]:
    """Have a payload run in a directory.

    Returns:
        Where it will be answered, and where the module's output and errors can be read.

    Raises:
        NotWarmError, OSError: nothing has run.
    """
    folder = Path(C.DEFAULT_LOCAL_TMP)
    with contextlib.ExitStack() as on_error, open(os.memfd_create("payload"), "wb") as file:
        with connect(folder) as client:
            file.write(payload)
            file.seek(0)
            readers, writers = zip(os.pipe(), os.pipe(), strict=True)
            for reader in readers:
                on_error.callback(os.close, reader)
            try:
                socket.send_fds(client, [os.fsencode(directory)], [file.fileno(), *writers])
            finally:
                for writer in writers:
                    os.close(writer)
            answer = on_error.enter_context(client.makefile())
        if not is_begun(answer):
            raise has_ended(folder)
        on_error.pop_all()
    return answer, list(readers)


def is_begun(answer: IO[str]) -> bool:
    """Wait until the server has taken a payload; it may still be loading."""
    try:
        return answer.readline() == "begun\n"
    except ConnectionError:
        return False


def connect(folder: Path) -> socket.socket:
    """Connect to the server of this run, which its first module starts if nobody did earlier.

    Args:
        folder: The run's own directory, mode 0700.

    Raises:
        NotWarmError, OSError: there is none.
    """
    with contextlib.ExitStack() as stack:
        address = stack.enter_context(address_in(folder))
        client = stack.enter_context(socket.socket(socket.AF_UNIX))
        failure = client.connect_ex(address)
        if failure == errno.ENOENT:
            start(folder)
            failure = client.connect_ex(address)
        if failure:
            raise has_ended(folder)
        return client.dup()


def has_ended(folder: Path) -> NotWarmError:
    """Say once why there is no server."""
    lines = (folder / "warm.log").read_text(errors="replace").splitlines()
    why = lines[-1] if lines else "the warm interpreter has ended"
    display.warning(f"Modules run in the ordinary, slower way: {why}")
    return NotWarmError(why)


@contextlib.contextmanager
def address_in(folder: Path, name: str = "warm") -> Iterator[str]:
    """Give an address in a folder whose own path may be longer than a socket's can be."""
    directory = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        yield f"/proc/self/fd/{directory}/{name}"
    finally:
        os.close(directory)


def start(folder: Path) -> None:
    """Start the server of this run, if it has none yet. It can be connected to at once.

    Args:
        folder: The run's own directory, mode 0700.

    Raises:
        NotWarmError, OSError: it cannot be started.
    """
    if not hasattr(os, "pidfd_open"):
        raise NotWarmError("only Linux has what it takes")
    run = multiprocessing.parent_process() or multiprocessing.current_process()
    places = [os.pathsep.join(C.DEFAULT_MODULE_PATH), os.pathsep.join(C.DEFAULT_MODULE_UTILS_PATH)]
    name = f"warm-{os.getpid()}-{threading.get_ident()}"
    with socket.socket(socket.AF_UNIX) as listener, (folder / "warm.log").open("a") as log:
        with address_in(folder, name) as address:
            listener.bind(address)
        listener.listen(128)
        try:
            # It gets its name when it listens already. Only one of several can give it.
            os.link(folder / name, folder / "warm")
        except FileExistsError:
            return
        finally:
            (folder / name).unlink()
        subprocess.Popen(
            [sys.executable, str(SERVER), str(listener.fileno()), str(run.pid), *places],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            pass_fds=[listener.fileno()],
            start_new_session=True,
        )


def read_all(readers: list[int]) -> list[bytes]:
    """Read some pipes to their ends, and close them."""
    outputs = {reader: b"" for reader in readers}
    with selectors.DefaultSelector() as selector:
        for reader in readers:
            selector.register(reader, selectors.EVENT_READ)
        while selector.get_map():
            for key, _ in selector.select():
                chunk = os.read(key.fd, 1 << 16)
                outputs[key.fd] += chunk
                if not chunk:
                    selector.unregister(key.fd)
                    os.close(key.fd)
    return list(outputs.values())


def read_answer(answer: IO[str]) -> tuple[int, str]:
    """Return a module's exit code, or -signal, and which file it could not run warm for.

    Raises:
        AnsibleError: there is no exit code.
    """
    code, stranger = None, ""
    with contextlib.suppress(ConnectionError):
        for line in answer:
            word, _, value = line.rstrip("\n").partition(" ")
            if word == "exit":
                code = int(value)
            else:
                stranger = value
    if code is None:
        raise AnsibleError(
            "The interpreter that runs the modules ended during one. Run the same command again; "
            "if that does not help, then without it: -e classroom_warm=false"
        )
    return code, stranger
