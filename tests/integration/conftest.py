"""What the tests of this folder share: a way to run a module, and one server of each kind."""

from __future__ import annotations

from modules import run_module
from servers import moto, postgres, seaweedfs

__all__ = ["moto", "postgres", "run_module", "seaweedfs"]
