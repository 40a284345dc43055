"""What verify saw."""

from __future__ import annotations

import json

import pytest
from conftest import Room


@pytest.mark.present
def test_document_joins_tables_and_bucket(room: Room) -> None:
    document = json.loads(room.home.joinpath("role/evidence.json").read_text())
    assert document["user"] == "jdoe-12"
    rows = room.sql("select count(*) from runs", database="mlflow_jdoe_12")
    assert len(document["runs"]) == rows[0][0] > 0


@pytest.mark.absent
def test_nothing_is_left(room: Room) -> None:
    assert not room.home.joinpath("role/evidence.json").exists()
