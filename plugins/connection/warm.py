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
import fcntl
import multiprocessing
import os
import selectors
import shlex
import signal
import socket
import subprocess
import sys
from pathlib import Path

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
            client, readers = begin(in_data, self.cwd or os.curdir)
        except (NotWarmError, OSError) as why:
            display.vvv(f"ORDINARY: {why}", host=host)
            return self._run_ordinary(cmd, in_data, sudoable)
        with client:
            stdout, stderr = read_all(readers)
            code, stranger = read_answer(client)
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


def begin(payload: bytes, directory: str | bytes) -> tuple[socket.socket, list[int]]:
    """Have a payload run in a directory.

    Returns:
        The connection on which it will be answered, and where the module's output and errors can
        be read.

    Raises:
        NotWarmError, OSError: nothing has run.
    """
    with contextlib.ExitStack() as on_error, open(os.memfd_create("payload"), "wb") as file:
        client = on_error.enter_context(connect(Path(C.DEFAULT_LOCAL_TMP)))
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
        on_error.pop_all()
    return client, list(readers)


def connect(folder: Path) -> socket.socket:
    """Connect to the server of this run, which its first module starts.

    Args:
        folder: The run's own directory, mode 0700.

    Raises:
        NotWarmError, OSError: there is none.
    """
    if not hasattr(os, "pidfd_open"):
        raise NotWarmError("only Linux has what it takes")
    with contextlib.ExitStack() as stack:
        directory = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        stack.callback(os.close, directory)
        # Through the descriptor, a path of any length fits.
        address = f"/proc/self/fd/{directory}/warm"
        client = socket.socket(socket.AF_UNIX)
        stack.callback(client.close)
        if client.connect_ex(address) != 0:
            lock = stack.enter_context((folder / "warm.lock").open("w"))
            fcntl.flock(lock, fcntl.LOCK_EX)
            if client.connect_ex(address) != 0:
                start(folder, directory)
                client.connect(address)
        return client.dup()


def start(folder: Path, directory: int) -> None:
    """Start the server and wait until it listens.

    Raises:
        NotWarmError: it ended before, or did so for an earlier module.
    """
    log = folder / "warm.log"
    if log.exists():
        raise NotWarmError("there is no warm interpreter")
    run = multiprocessing.parent_process() or multiprocessing.current_process()
    places = [os.pathsep.join(C.DEFAULT_MODULE_PATH), os.pathsep.join(C.DEFAULT_MODULE_UTILS_PATH)]
    with log.open("w") as errors:
        server = subprocess.Popen(
            [sys.executable, str(SERVER), str(directory), str(run.pid), *places],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=errors,
            pass_fds=[directory],
            start_new_session=True,
        )
    assert server.stdout is not None
    with server.stdout as output:
        if output.readline() != b"ready\n":
            why = (log.read_text().splitlines() or ["it says nothing"])[-1]
            display.warning(f"Modules run in the ordinary, slower way: {why}")
            raise NotWarmError(why)


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


def read_answer(client: socket.socket) -> tuple[int, str]:
    """Return a module's exit code, or -signal, and which file it could not run warm for.

    Raises:
        AnsibleError: there is no exit code.
    """
    code, stranger = None, ""
    with client.makefile() as answer:
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
