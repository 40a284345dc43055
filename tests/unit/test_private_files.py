"""Configuration files that one account can read."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest
from modules import ModuleRun

FILES = {"server.conf": "port = 1\n", "key": "S3cretValueThatNobodyMaySee"}


@pytest.fixture
def wanted(tmp_path: Path) -> dict[str, object]:
    return {"directory": str(tmp_path / "etc"), "files": FILES}


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_writes_once_and_then_agrees(run_module: ModuleRun, wanted: dict[str, object]) -> None:
    first = run_module("private_files", wanted)
    assert (first["changed"], first["written"]) == (True, ["server.conf", "key"])
    folder = Path(str(wanted["directory"]))
    assert mode(folder) == 0o700
    assert {path.name: path.read_text() for path in folder.iterdir()} == FILES
    assert {mode(path) for path in folder.iterdir()} == {0o600}
    again = run_module("private_files", wanted)
    assert (again["changed"], again["written"]) == (False, [])


@pytest.mark.parametrize("damage", ["content", "mode", "missing", "link"])
def test_repairs_only_what_differs(
    run_module: ModuleRun, wanted: dict[str, object], tmp_path: Path, damage: str
) -> None:
    run_module("private_files", wanted)
    path = Path(str(wanted["directory"])) / "key"
    elsewhere = tmp_path / "elsewhere"
    elsewhere.write_text(FILES["key"])
    if damage == "content":
        path.write_text("other")
    elif damage == "mode":
        path.chmod(0o644)
    else:
        path.unlink()
        if damage == "link":
            path.symlink_to(elsewhere)
    result = run_module("private_files", wanted)
    assert (result["changed"], result["written"]) == (True, ["key"])
    assert not path.is_symlink()
    assert (path.read_text(), mode(path)) == (FILES["key"], 0o600)
    assert mode(elsewhere) == 0o644


def test_check_mode_writes_nothing(run_module: ModuleRun, wanted: dict[str, object]) -> None:
    result = run_module("private_files", wanted, check=True, diff=True)
    assert result["changed"] is True
    assert not Path(str(wanted["directory"])).exists()


def test_contents_are_never_shown(run_module: ModuleRun, wanted: dict[str, object]) -> None:
    result = run_module("private_files", wanted, diff=True)
    assert FILES["key"] not in result["stdout"]
    assert "key" in result["diff"]["after"]


@pytest.mark.parametrize("name", ["../key", "/etc/passwd", "a/b", ".hidden", ""])
def test_a_path_is_no_name(run_module: ModuleRun, wanted: dict[str, object], name: str) -> None:
    result = run_module("private_files", {**wanted, "files": {name: "x"}})
    assert "cannot name a file here" in result["msg"]
    assert not Path(str(wanted["directory"])).exists()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
def test_files_belong_to_the_account(run_module: ModuleRun, wanted: dict[str, object]) -> None:
    run_module("private_files", {**wanted, "owner": "nobody"})
    folder = Path(str(wanted["directory"]))
    assert {path.owner() for path in [folder, *folder.iterdir()]} == {"nobody"}


def test_an_unknown_account_is_named(run_module: ModuleRun, wanted: dict[str, object]) -> None:
    result = run_module("private_files", {**wanted, "owner": "no-such-account"})
    assert "account no-such-account does not exist" in result["msg"]
    # Where an earlier task would have made the account, --check goes on.
    assert run_module("private_files", {**wanted, "owner": "no-such-account"}, check=True)[
        "changed"
    ]


def test_a_failed_write_leaves_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import private_files

    path = tmp_path / "key"
    path.write_text("old")

    def fail(*_: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="disk full"):
        private_files.write(path, "new", 0o600, os.geteuid(), os.getegid())
    assert [(each.name, each.read_text()) for each in tmp_path.iterdir()] == [("key", "old")]
