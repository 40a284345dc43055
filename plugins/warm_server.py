"""Runs Ansible modules in forks of one interpreter that has their libraries loaded.

    python warm_server.py LISTENER RUN LIBRARIES MODULE_UTILS

The connection plugin `warm` starts it, once for each run of Ansible. LISTENER is the descriptor of
a socket that listens already; RUN is the pid of the run, with which it ends; LIBRARIES and
MODULE_UTILS are the places of modules and their shared code besides Ansible's own, with colons
between them.

A client sends the module's working directory with three files: the payload, standard output,
standard error. It is answered `begun`, then `cold NAME` where NAME in the payload is not what is
loaded here, so that an ordinary interpreter takes over, and at the end `exit CODE`, or
`exit -SIGNAL`. If it leaves earlier, the module is ended with its process group.
"""

from __future__ import annotations

import ast
import atexit
import contextlib
import gc
import importlib
import os
import selectors
import shutil
import signal
import socket
import sys
import threading
import traceback
import types
import zipfile
import zlib
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NoReturn

# What the playbooks use. Any other module works too, and loads its libraries at each call.
STOCK_MODULES = (
    "ansible.modules.command",
    "ansible.modules.copy",
    "ansible.modules.file",
    "ansible.modules.find",
    "ansible.modules.setup",
    "ansible.modules.slurp",
    "ansible.modules.stat",
    "ansible.modules.systemd_service",
    "ansible.modules.uri",
    "ansible.modules.user",
    "ansible.modules.wait_for",
    "ansible_collections.amazon.aws.plugins.modules.iam_managed_policy",
    "ansible_collections.amazon.aws.plugins.modules.iam_user",
    "ansible_collections.amazon.aws.plugins.modules.s3_bucket",
    "ansible_collections.community.postgresql.plugins.modules.postgresql_query",
)
# Ansible writes these anew for each payload, and nothing is loaded from them.
RUNNER = "ansible.module_utils._internal._ansiballz._loader"
# Loaded at the beginning and at the end of each module, by a name that is put together.
ENCODERS = (
    "ansible.module_utils._internal._json._profiles._module_legacy_c2m",
    "ansible.module_utils._internal._json._profiles._module_legacy_m2c",
)
GENERATED = {"ansible/__init__.py", "ansible/module_utils/__init__.py", "sitecustomize.py"}
PATH_MAX = 4096  # bytes, of Linux


class Sources:
    """The files that this interpreter has loaded its modules from, or would."""

    def __init__(self, site: Path, libraries: Sequence[Path], module_utils: Sequence[Path]) -> None:
        self._folders = {
            "ansible/legacy/": [*libraries, site / "ansible/modules"],
            "ansible/module_utils/": [site / "ansible/module_utils", *module_utils],
            "": [site],
        }
        self._site = site
        self._checksums: dict[str, int | None] = {}

    def learn(self, modules: Iterable[types.ModuleType]) -> None:
        """Read the files of what has been loaded, so that forks need not."""
        for module in modules:
            file = Path(getattr(module, "__file__", None) or "/")
            if file.is_relative_to(self._site):
                self._checksum(file.relative_to(self._site).as_posix())

    def first_stranger(self, members: Iterable[zipfile.ZipInfo]) -> str:
        """Return the name of a payload's member that is not the file of that name here, or ""."""
        for member in members:
            name = member.filename
            empty_package = name.endswith("/__init__.py") and member.file_size == 0
            if name not in GENERATED and not empty_package and self._checksum(name) != member.CRC:
                return name
        return ""

    def _checksum(self, name: str) -> int | None:
        if name not in self._checksums:
            prefix = next(prefix for prefix in self._folders if name.startswith(prefix))
            files = (folder / name.removeprefix(prefix) for folder in self._folders[prefix])
            first = next(filter(Path.is_file, files), None)
            self._checksums[name] = zlib.crc32(first.read_bytes()) if first else None
        return self._checksums[name]


def load(libraries: Sequence[Path], module_utils: Sequence[Path]) -> Sources:
    """Load what modules load.

    Args:
        libraries: Folders of modules that belong to no collection.
        module_utils: Folders of their shared code.

    Returns:
        The files that were loaded.
    """
    import ansible.module_utils
    import ansible.modules

    ansible.module_utils.__path__.extend(map(str, module_utils))
    # This package is nowhere on disk.
    legacy = types.ModuleType("ansible.legacy")
    legacy.__path__ = [*map(str, libraries), *ansible.modules.__path__]
    sys.modules["ansible.legacy"] = ansible.legacy = legacy
    site = Path(ansible.__file__).parents[1]
    files = [site / f"{name.replace('.', '/')}.py" for name in STOCK_MODULES]
    for folder in libraries:
        files.extend(sorted(folder.glob("*.py")))
    importlib.import_module(RUNNER)
    for name in (*ENCODERS, *(name for file in files for name in imports_of(file))):
        with contextlib.suppress(ImportError):
            importlib.import_module(name)
    sources = Sources(site, libraries, module_utils)
    sources.learn(list(sys.modules.values()))
    return sources


def imports_of(module: Path) -> Iterator[str]:
    """Yield what a module imports. It is not run, for it may not know from being called."""
    for node in ast.walk(ast.parse(module.read_bytes())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node.module


class Server:
    """Takes calls until the run of Ansible has ended; forks for each."""

    def __init__(self, listener: socket.socket, run: int) -> None:
        """Take calls.

        Args:
            listener: Where clients connect.
            run: File descriptor of the process to end with, from pidfd_open(2).
        """
        self._selector = selectors.DefaultSelector()
        self._running: set[int] = set()
        self._taking = True
        self._listener = listener
        self._run = run
        self._selector.register(run, selectors.EVENT_READ, self._stop_taking)
        self._selector.register(listener, selectors.EVENT_READ, self._accept)

    def serve(self) -> socket.socket | None:
        """Return None at the end; in a fork, the client whose module is to be run.

        There, the module's files are standard input, output and error.
        """
        while self._taking or self._running:
            for key, _ in self._selector.select():
                # A call's two events may come together, and the first one ends both.
                if self._selector.get_map().get(key.fd) is key:
                    client: socket.socket | None = key.data()
                    if client is not None:
                        return client
        return None

    def _stop_taking(self) -> None:
        # Modules go on: workers of a run that was killed may still wait for them.
        self._taking = False
        self._selector.unregister(self._run)
        self._selector.unregister(self._listener)

    def _accept(self) -> None:
        client, _ = self._listener.accept()
        self._selector.register(client, selectors.EVENT_READ, lambda: self._begin(client))

    def _begin(self, client: socket.socket) -> socket.socket | None:
        self._selector.unregister(client)
        directory, files, _, _ = socket.recv_fds(client, PATH_MAX, 3, socket.MSG_CMSG_CLOEXEC)
        pid = os.fork() if len(files) == 3 else -1
        if pid == 0:
            self._become(directory, files)
            return client
        for file in files:
            os.close(file)
        if pid < 0:
            client.close()
            return None
        self._running.add(pid)
        with contextlib.suppress(OSError):
            client.sendall(b"begun\n")
        process = os.pidfd_open(pid)
        self._selector.register(client, selectors.EVENT_READ, lambda: self._end(pid, client))
        self._selector.register(
            process, selectors.EVENT_READ, lambda: self._finish(pid, process, client)
        )
        return None

    def _become(self, directory: bytes, files: Sequence[int]) -> None:
        """Be the fork: alone in its process group, with its own files and none of the server's."""
        os.setpgid(0, 0)
        for key in self._selector.get_map().values():
            if isinstance(key.fileobj, socket.socket):
                key.fileobj.close()
            else:
                os.close(key.fd)
        self._selector.close()
        for standard, file in enumerate(files):
            os.dup2(file, standard)
            os.close(file)
        os.chdir(directory)

    def _end(self, pid: int, client: socket.socket) -> None:
        self._selector.unregister(client)
        # Too early for its group to be made, it has done nothing yet, and is ended alone.
        try:
            os.killpg(pid, signal.SIGTERM)
        except ProcessLookupError:
            os.kill(pid, signal.SIGTERM)

    def _finish(self, pid: int, process: int, client: socket.socket) -> None:
        _, status = os.waitpid(pid, 0)
        self._running.remove(pid)
        self._selector.unregister(process)
        os.close(process)
        if client in self._selector.get_map():
            self._selector.unregister(client)
        with contextlib.suppress(OSError):
            client.sendall(f"exit {os.waitstatus_to_exitcode(status)}\n".encode())
        client.close()


def run(client: socket.socket, sources: Sources) -> NoReturn:
    """Run the payload on standard input as an interpreter would that was started for it."""
    runner = sys.modules[RUNNER]
    run_module = runner.run_module

    def run_if_same(*, modlib_path: str, **others: Any) -> None:
        with zipfile.ZipFile(modlib_path) as archive:
            stranger = sources.first_stranger(archive.infolist())
        if stranger:
            shutil.rmtree(Path(modlib_path).parent, ignore_errors=True)
            client.sendall(f"cold {stranger}\n".encode())
            run_cold()
        client.close()
        run_module(modlib_path=modlib_path, **others)

    runner.run_module = run_if_same  # type: ignore[attr-defined]
    program = types.ModuleType("__main__")
    program.__file__ = "<stdin>"
    sys.modules["__main__"] = program
    sys.argv = [""]
    code = 0
    try:
        with open(0, "rb", closefd=False) as payload:
            source = compile(payload.read(), "<stdin>", "exec")
        exec(source, vars(program))  # noqa: S102  it is what this program is for
    except SystemExit as end:
        code = exit_code(end)
    except BaseException as error:
        code = 1
        traceback.print_exception(error)
    # All that an interpreter does at its end but to free its memory, which would take longer than
    # most modules.
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):
            stream.flush()
    os._exit(code & 0xFF)


def exit_code(end: SystemExit) -> int:
    """Return the exit code that an interpreter ends with, having said what is no number."""
    if end.code is None or isinstance(end.code, int):
        return end.code or 0
    print(end.code, file=sys.stderr)
    return 1


def run_cold() -> NoReturn:
    """Become an ordinary interpreter, which reads the payload once more."""
    os.lseek(0, 0, os.SEEK_SET)
    # Python ignores these for itself, and a program that follows it would go on doing so.
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
    os.execv(sys.executable, [sys.executable])


def main() -> None:
    """Load, and serve."""
    listener, run_pid, libraries, module_utils = sys.argv[1:]
    # The folder of this file, which no module finds its libraries in.
    del sys.path[0]
    ansible_run = os.pidfd_open(int(run_pid))
    sources = load(
        [Path(folder) for folder in libraries.split(":")],
        [Path(folder) for folder in module_utils.split(":")],
    )
    if threading.active_count() > 1:
        sys.exit("a library has started a thread, which forks would not have")
    # Nothing that is there now is looked at by the collector again, so that forks share it.
    gc.collect()
    gc.freeze()
    with socket.socket(fileno=int(listener)) as listening:
        listening.set_inheritable(False)
        client = Server(listening, ansible_run).serve()
    if client is not None:
        run(client, sources)
    os._exit(0)


if __name__ == "__main__":
    main()
