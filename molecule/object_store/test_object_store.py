"""An object store of the classroom."""

from __future__ import annotations

import urllib.error
import urllib.request
from typing import Any

import pytest
from conftest import LOOPBACK, Room, check_gone, check_unit, listeners
from waiting import bound

UNITS = ("mlflow-role-object-store", "mlflow-role-s3")
PORTS = (19161, 19162, *range(19170, 19178))


@pytest.mark.present
@pytest.mark.parametrize("unit", UNITS)
def test_unit_is_hardened(host: Any, unit: str) -> None:
    check_unit(host, unit, "mlflow-object-store")


@pytest.mark.present
@pytest.mark.parametrize("port", PORTS)
def test_listens_on_loopback_alone(host: Any, port: int) -> None:
    assert listeners(host, port) == LOOPBACK


@pytest.mark.present
def test_refuses_who_has_no_key() -> None:
    with pytest.raises(urllib.error.HTTPError, match="403"):
        urllib.request.urlopen(f"http://127.0.0.1:{PORTS[0]}/", timeout=bound(2))


@pytest.mark.present
def test_administrator_makes_and_removes_a_bucket(room: Room) -> None:
    room = Room(room.name, room.home, {"classroom_s3_admin_port": PORTS[1]})
    s3 = room.aws("s3")
    s3.create_bucket(Bucket="role")
    s3.put_object(Bucket="role", Key="key", Body=b"x" * 10_000_000)
    assert len(s3.get_object(Bucket="role", Key="key")["Body"].read()) == 10_000_000
    s3.delete_object(Bucket="role", Key="key")
    s3.delete_bucket(Bucket="role")


@pytest.mark.absent
def test_nothing_is_left(host: Any) -> None:
    for unit in UNITS:
        check_gone(host, unit)
    assert not host.file("/var/lib/mlflow-role/object-store").exists
    for port in PORTS:
        assert listeners(host, port) == []
