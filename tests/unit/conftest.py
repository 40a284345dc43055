"""What the tests of this folder share: a way to run a module."""

from __future__ import annotations

from modules import run_module

__all__ = ["run_module"]
