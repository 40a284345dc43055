"""What a student receives."""

from __future__ import annotations

import subprocess

import pytest
from conftest import Room


@pytest.mark.present
def test_environment_file_leads_to_the_tracker(room: Room) -> None:
    folder = room.home / "role/handout"
    assert folder.stat().st_mode & 0o777 == 0o700
    for file in folder.iterdir():
        assert file.stat().st_mode & 0o777 == 0o600
    said = subprocess.run(
        ["sh", "-c", '. "$0" && echo "$MLFLOW_TRACKING_URI"', folder / "mlflow.env"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert said.stdout.strip() == f"http://127.0.0.1:{room.settings['classroom_server_port']}"


@pytest.mark.absent
def test_nothing_is_left(room: Room) -> None:
    assert not room.home.joinpath("role/handout").exists()
