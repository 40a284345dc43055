"""Makes the many forks of a run cheaper."""

from __future__ import annotations

DOCUMENTATION = """
name: classroom_speed
type: aggregate
author: mlflow-classroom
version_added: "1.0.0"
short_description: Makes the many forks of a run cheaper
description:
  - Ansible forks for each task. A fork makes many objects and is gone in a moment; looking through
    them for cycles, hundreds of times, is a tenth of what a run takes. With this, Python looks less
    often.
  - Starts the interpreter of the connection P(warm#connection) when the run begins, so that it has
    loaded its libraries when the first module comes.
requirements:
  - enabled in the configuration, C(callbacks_enabled = classroom_speed)
"""

import contextlib
import gc
import importlib
import os
from pathlib import Path
from typing import Any

import ansible.constants as C  # noqa: N812  its usual name
from ansible.module_utils.parsing.convert_bool import boolean
from ansible.plugins.callback import CallbackBase
from ansible.plugins.loader import connection_loader

# Between two looks. Python's own 700 (2000 from 3.13 on) is for programs that live on.
NEW_OBJECTS = 1_000_000


class CallbackModule(CallbackBase):  # type: ignore[misc]
    """What it does, it does before the first fork."""

    CALLBACK_VERSION = 2.0
    CALLBACK_TYPE = "aggregate"
    CALLBACK_NAME = "classroom_speed"
    CALLBACK_NEEDS_ENABLED = True

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        gc.set_threshold(NEW_OBJECTS)
        self._started = False

    def v2_playbook_on_play_start(self, play: Any) -> None:
        """Start the warm interpreter, where it is not switched off."""
        given = play.get_variable_manager().extra_vars
        wanted = given.get("classroom_warm", os.environ.get("CLASSROOM_WARM") or True)
        if self._started or not boolean(wanted, strict=False):
            return
        self._started = True
        warm = importlib.import_module(connection_loader.get("warm", class_only=True).__module__)
        # Whatever is wrong, the first module says it.
        with contextlib.suppress(OSError, warm.NotWarmError):
            warm.start(Path(C.DEFAULT_LOCAL_TMP))
