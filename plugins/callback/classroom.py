"""What a run says: its steps, what they change, and what somebody has to do."""

from __future__ import annotations

DOCUMENTATION = """
name: classroom
type: stdout
author: mlflow-classroom
version_added: "1.0.0"
short_description: The steps of a run, and what they change
description:
  - Prints a line for each play, and below it one for each task that changes something, takes long
    or has something to say. What failed comes in full. A refusal is its message and nothing else.
  - With C(-v) or more it says what the callback C(default) says.
extends_documentation_fragment: [default_callback, result_format_callback]
"""

import re
import time
from collections.abc import Callable
from typing import Any

import ansible.constants as C  # noqa: N812  its usual name
from ansible.playbook.block import Block
from ansible.plugins.callback.default import CallbackModule as Default

# By which name a task refuses: its message is all that there is to say.
REFUSALS = {"fail", "assert"}
# Of a task: its role, the file that it is in, and what it does.
NAME = re.compile(r"(?:(\w+) : )?(?:\w+ \| )?(.*)", re.DOTALL)
# What takes longer gets its time said.
LONG_SECONDS = 3
# What a failed result says that nobody can act on, or says twice.
INNER_WORDS = """
_ansible_no_log _ansible_verbose_always ansible_facts ansible_loop_var attempts censored changed
delta deprecations end exception failed failed_when_result invocation msg start stderr_lines
stdout_lines warnings
"""
INNER = frozenset(INNER_WORDS.split())


def when_verbose(name: str) -> Callable[..., None]:
    """Return a method that says what Ansible's own callback says, with -v only."""

    def method(self: Any, *arguments: Any, **options: Any) -> None:
        if not self._is_brief:
            getattr(Default, name)(self, *arguments, **options)

    return method


class CallbackModule(Default):  # type: ignore[misc]
    """The callback as Ansible finds it."""

    CALLBACK_VERSION = 2.0
    CALLBACK_TYPE = "stdout"
    CALLBACK_NAME = "classroom"

    def __init__(self) -> None:
        super().__init__()
        self._since = 0.0
        self._retried = ""
        self._heading = ""
        # Of the task that runs: its name with its role's, but without the file that it is in.
        self._title = ""

    @property
    def _is_brief(self) -> bool:
        return int(self._display.verbosity) == 0

    def _say(self, text: str, color: str | None = None) -> None:
        self._display.display(text, color=color)

    def _step(self, result: Any) -> str:
        """Return whom and what a result is about."""
        name = re.sub(r" \([^)]*\)$", "", self._title)
        return f"{self.host_label(result)}  {name}"

    def v2_playbook_on_play_start(self, play: Any) -> None:
        """Leave it to the first task to say which step begins: there may be none."""
        self._play, self._heading = play, play.get_name().strip()
        if not self._is_brief:
            super().v2_playbook_on_play_start(play)

    def v2_playbook_on_task_start(self, task: Any, is_conditional: bool) -> None:
        """Say which step begins, and at once what takes long; such a task says so in its name."""
        self._since = time.monotonic()
        # Later, the values in it may be gone.
        role, name = NAME.fullmatch(task.get_name().strip()).groups()  # type: ignore[union-attr]
        self._title = f"{role}: {name}" if role else name
        if not self._is_brief:
            super().v2_playbook_on_task_start(task, is_conditional)
            return
        if self._heading:
            self._say(self._heading)
            self._heading = ""
        if self._title.endswith(")"):
            self._say(f"  ...      {self._title}")

    def v2_runner_on_ok(self, result: Any) -> None:
        """Say what was changed, and what a task was there to say."""
        if not self._is_brief:
            super().v2_runner_on_ok(result)
            return
        message = result.result.get("msg")
        if result.task.action.rpartition(".")[2] == "debug" and message:
            lines = message if isinstance(message, list) else str(message).splitlines()
            for line in lines:
                self._say(f"  {line}")
        elif result.result.get("changed"):
            took = time.monotonic() - self._since
            word = "would   " if result.task.check_mode else "changed "
            self._say(
                f"  {word} {self._step(result)}"
                + (f" ({took:.0f} s)" if took > LONG_SECONDS else ""),
                C.COLOR_CHANGED,
            )

    def v2_runner_retry(self, result: Any) -> None:
        """Say once that something is waited for."""
        if not self._is_brief:
            super().v2_runner_retry(result)
        elif self._retried != result.task._uuid:
            self._retried = result.task._uuid
            self._say(f"  waiting  {self._step(result)}")

    def v2_runner_on_failed(self, result: Any, ignore_errors: bool = False) -> None:
        """Say what failed in full, or the message of a refusal."""
        if not self._is_brief:
            super().v2_runner_on_failed(result, ignore_errors)
        elif not ignore_errors and not is_rescued(result.task):
            self._fail(result, "FAILED")

    def v2_runner_on_unreachable(self, result: Any) -> None:
        """Say which host cannot be reached and why."""
        if not self._is_brief:
            super().v2_runner_on_unreachable(result)
        else:
            self._fail(result, "UNREACHABLE")

    def _fail(self, result: Any, word: str) -> None:
        failed = [one for one in result.result.get("results") or [] if one.get("failed")]
        for one in failed or [result.result]:
            message = str(one.get("msg") or one.get("censored") or one.get("reason") or "").strip()
            if result.task.action.rpartition(".")[2] in REFUSALS:
                self._say(f"\n{message}", C.COLOR_ERROR)
                continue
            self._say(f"\n{word}: {self._step(result)}\n{message}", C.COLOR_ERROR)
            details = {
                key: value
                for key, value in one.items()
                if key not in INNER and value not in (None, "", [], {})
            }
            if details:
                self._say(self._dump_results(details).strip("\n"))
            self._say("All of it: the same command with -v")

    # Of items, the whole task speaks; of the rest, nobody.
    v2_runner_item_on_ok = when_verbose("v2_runner_item_on_ok")
    v2_runner_item_on_failed = when_verbose("v2_runner_item_on_failed")
    v2_runner_item_on_skipped = when_verbose("v2_runner_item_on_skipped")
    v2_runner_on_skipped = when_verbose("v2_runner_on_skipped")
    v2_playbook_on_include = when_verbose("v2_playbook_on_include")
    v2_playbook_on_no_hosts_remaining = when_verbose("v2_playbook_on_no_hosts_remaining")
    _print_task_banner = when_verbose("_print_task_banner")

    def v2_playbook_on_stats(self, stats: Any) -> None:
        """Count, one line a host."""
        if not self._is_brief:
            super().v2_playbook_on_stats(stats)
            return
        self._say("")
        for host in sorted(stats.processed):
            counts = stats.summarize(host)
            ended = counts["failures"] or counts["unreachable"]
            color = C.COLOR_ERROR if ended else C.COLOR_CHANGED if counts["changed"] else C.COLOR_OK
            shown = "ok", "changed", "unreachable", "failures", "skipped"
            text = " ".join(
                f"{name.replace('failures', 'failed')}={counts[name]}" for name in shown
            )
            self._say(f"{host} : {text}", color)


def is_rescued(task: Any) -> bool:
    """Return whether a failure of a task is dealt with by tasks that say more about it."""
    block = task._parent
    while block is not None:
        if isinstance(block, Block) and block.rescue:
            return not any(task._uuid == other._uuid for other in block.rescue)
        block = block._parent
    return False
