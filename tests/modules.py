"""Running a module of this repository as Ansible would, without starting Python anew."""

from __future__ import annotations

import importlib
import io
import json
import os
import signal
import sys
import tempfile
import traceback
from pathlib import Path
from typing import Any, Protocol

import pytest
from ansible.module_utils import _internal
from waiting import bound

REPOSITORY = Path(__file__).resolve().parents[1]
PLUGINS = REPOSITORY / "plugins"


class ModuleRun(Protocol):
    """Run a module of this repository in a process of its own and return its result."""

    def __call__(
        self, name: str, params: dict[str, Any], *, check: bool = False, diff: bool = False
    ) -> dict[str, Any]:
        """Return what the module returned, and its `stdout`."""


@pytest.fixture
def run_module() -> ModuleRun:
    """Return a function that runs plugins/modules/<name>.py; the result also has `stdout`.

    In a fork: starting Python and loading libraries takes longer than most modules do, and what a
    module changes about its process stays there.
    """

    def run(
        name: str, params: dict[str, Any], *, check: bool = False, diff: bool = False
    ) -> dict[str, Any]:
        module = importlib.import_module(name)
        arguments = {**params, "_ansible_check_mode": check, "_ansible_diff": diff}
        with tempfile.TemporaryFile() as given, tempfile.TemporaryFile() as said:
            given.write(json.dumps({"ANSIBLE_MODULE_ARGS": arguments}).encode())
            given.seek(0)
            child = os.fork()
            if child == 0:
                # Whatever happens, the child is not to go on as a second run of the tests.
                try:
                    code = call(module.main, name, given.fileno(), said.fileno())
                except BaseException:
                    code = 98
                os._exit(code)
            code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
            said.seek(0)
            output = said.read().decode()
        assert code in (0, 1), f"exit {code}\n{output}"
        result: dict[str, Any] = json.loads(output)
        assert bool(code) == result.get("failed", False)
        return {**result, "stdout": output}

    return run


def call(main: Any, name: str, given: int, said: int) -> int:
    """Call a module's main with its arguments on standard input; return the exit code."""
    # It ends what hangs.
    signal.alarm(round(bound(10)))
    for target, file in ((0, given), (1, said), (2, said)):
        os.dup2(file, target)
    sys.argv = [name]
    sys.stdin = io.TextIOWrapper(io.FileIO(0, closefd=False))
    output = io.TextIOWrapper(io.FileIO(1, "w", closefd=False), line_buffering=True)
    sys.stdout = sys.stderr = output
    # Other tests have loaded what only the controller has.
    _internal.is_controller = False
    try:
        main()
        code = 0
    except SystemExit as end:
        code = int(end.code or 0)
    except BaseException:
        traceback.print_exc()
        code = 99
    output.flush()
    return code
