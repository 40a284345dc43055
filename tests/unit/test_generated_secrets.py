"""Secrets are made once, whole or not at all, readable for nobody else, and never shown."""

from __future__ import annotations

import os
import re
import signal
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import generated_secrets
import pytest
from modules import PLUGINS, ModuleRun


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """Return a directory that does not exist yet."""
    return tmp_path / "secrets" / "jdoe"


def mode(path: Path) -> int:
    """Return the permission bits."""
    return stat.S_IMODE(path.stat().st_mode)


def params(directory: Path, *names: str, **more: Any) -> dict[str, Any]:
    """Return the module's parameters."""
    return {"directory": str(directory), "names": list(names), **more}


def keep(path: Path, value: str, bits: int = 0o600) -> None:
    """Put a file there as a person would."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    path.write_text(value)
    path.chmod(bits)


def test_create_again_remove_again(directory: Path, run_module: ModuleRun) -> None:
    wanted = params(directory, "database", "salt")
    first = run_module("generated_secrets", wanted, diff=True)
    assert (first["changed"], first["created"]) == (True, ["database", "salt"])
    assert first["paths"] == {n: str(directory / n) for n in ("database", "salt")}
    assert first["diff"] == {
        "before": {f"{directory}/": "missing", "database": "missing", "salt": "missing"},
        "after": {f"{directory}/": "present", "database": "present", "salt": "present"},
    }
    values = [(directory / name).read_text() for name in ("database", "salt")]
    assert values[0] != values[1]
    for value in values:
        assert re.fullmatch(r"[A-Za-z0-9]{32}", value)
        assert value not in first["stdout"]
    assert mode(directory) == 0o700
    assert {mode(path) for path in directory.iterdir()} == {0o600}

    second = run_module("generated_secrets", wanted, diff=True)
    assert (second["changed"], second["created"], second["repaired"]) == (False, [], [])
    assert [(directory / name).read_text() for name in ("database", "salt")] == values
    assert not any(value in second["stdout"] for value in values)

    third = run_module("generated_secrets", {**wanted, "state": "absent"}, diff=True)
    assert (third["changed"], third["removed"]) == (True, ["database", "salt"])
    assert not any(value in third["stdout"] for value in values)
    assert not directory.exists()

    fourth = run_module("generated_secrets", {**wanted, "state": "absent"})
    assert (fourth["changed"], fourth["removed"]) == (False, [])


def test_check_mode_writes_nothing(directory: Path, run_module: ModuleRun) -> None:
    result = run_module("generated_secrets", params(directory, "database"), check=True)
    assert (result["changed"], result["created"]) == (True, ["database"])
    assert not directory.parent.exists()

    keep(directory / "database", "a" * 24, 0o644)
    keep(directory / ".generated-secret-abcd_123", "b" * 24)
    result = run_module("generated_secrets", params(directory, "database"), check=True)
    assert (result["changed"], result["repaired"]) == (True, ["database"])
    gone = params(directory, "database", state="absent")
    result = run_module("generated_secrets", gone, check=True, diff=True)
    assert (result["changed"], result["removed"]) == (True, ["database"])
    assert result["diff"]["after"] == {f"{directory}/": "missing", "database": "missing"}
    assert mode(directory / "database") == 0o644
    assert len(list(directory.iterdir())) == 2


def test_an_empty_file_is_filled_and_a_good_one_kept(
    directory: Path, run_module: ModuleRun
) -> None:
    keep(directory / "empty", "")
    keep(directory / "mine", "MyOwnSecretOf24Characters\n")
    result = run_module("generated_secrets", params(directory, "empty", "mine", length=24))
    assert (result["changed"], result["created"]) == (True, ["empty"])
    assert re.fullmatch(r"[A-Za-z0-9]{24}", (directory / "empty").read_text())
    assert (directory / "mine").read_text() == "MyOwnSecretOf24Characters\n"


@pytest.mark.parametrize(
    "value",
    [
        "Sh0rtSecretOf23Charactr",
        "S3cret-With-Hyphens-0123456789",
        "\n",
        " " * 30,
        "S3cretOf24CharactersXXXX\n\n",
        "S3cretOf24CharactersXXXX\r\n",
        "S3cretOf24CharactersXXXé",
    ],
)
def test_a_file_that_is_not_a_secret_is_refused_unseen_and_untouched(
    directory: Path, run_module: ModuleRun, value: str
) -> None:
    keep(directory / "database", value)
    before = (directory / "database").read_bytes()
    result = run_module("generated_secrets", params(directory, "new", "database"))
    assert result["msg"] == (
        f"{directory}/database does not hold a usable secret: 24 or more of A-Z a-z 0-9 on one "
        "line. Put the right value there, or remove the file to have a new one made"
    )
    assert not value.strip() or value.strip() not in result["stdout"]
    assert (directory / "database").read_bytes() == before
    assert not (directory / "new").exists()


def test_modes_are_repaired(directory: Path, run_module: ModuleRun) -> None:
    keep(directory / "open", "a" * 24, 0o644)
    keep(directory / "closed", "b" * 24, 0o400)
    directory.chmod(0o755)
    result = run_module("generated_secrets", params(directory, "open", "closed"), diff=True)
    assert (result["changed"], result["created"]) == (True, [])
    assert result["repaired"] == ["open", "closed"]
    assert result["diff"]["before"] == {
        f"{directory}/": "wrong mode or owner",
        "open": "wrong mode or owner",
        "closed": "wrong mode or owner",
    }
    assert (mode(directory / "open"), mode(directory / "closed")) == (0o600, 0o600)
    assert mode(directory) == 0o700


def test_only_the_directory_needs_repair(directory: Path, run_module: ModuleRun) -> None:
    keep(directory / "database", "a" * 24)
    directory.chmod(0o755)
    result = run_module("generated_secrets", params(directory, "database"))
    assert (result["changed"], result["repaired"]) == (True, [])
    assert mode(directory) == 0o700


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
def test_owners_are_repaired(directory: Path, run_module: ModuleRun) -> None:
    keep(directory / "database", "a" * 24)
    os.chown(directory / "database", 65534, 65534)
    os.chown(directory, 65534, 65534)
    result = run_module("generated_secrets", params(directory, "database"))
    assert (result["changed"], result["repaired"]) == (True, ["database"])
    assert (directory.stat().st_uid, (directory / "database").stat().st_uid) == (0, 0)


def test_a_link_is_not_followed(directory: Path, tmp_path: Path, run_module: ModuleRun) -> None:
    target = tmp_path / "target"
    keep(target, "a" * 24, 0o644)
    keep(directory / "other", "b" * 24)
    (directory / "database").symlink_to(target)
    result = run_module("generated_secrets", params(directory, "database"))
    assert result["msg"] == (
        f"{directory}/database is not a plain file: move it away and run again"
    )
    assert mode(target) == 0o644


def test_the_directory_is_a_file(directory: Path, run_module: ModuleRun) -> None:
    keep(directory, "")
    result = run_module("generated_secrets", params(directory, "database"))
    assert result["msg"] == f"{directory} is not a directory: move it away and run again"


@pytest.mark.parametrize(
    "name", ["", ".", "..", "../x", "a/b", "/etc/x", ".hidden", "-x", "a b", "a\n", "\u00e9", "a\0"]
)
def test_names_that_could_leave_the_directory(name: str) -> None:
    assert generated_secrets.input_problem(["good", name], 32) == (
        f"{name!r} cannot name a secret: use letters, digits, . _ and -, "
        "the first one a letter, a digit or _"
    )


def test_a_bad_name_changes_nothing(directory: Path, run_module: ModuleRun) -> None:
    result = run_module("generated_secrets", params(directory, "good", "../bad"))
    assert result["msg"].startswith("'../bad' cannot name a secret: ")
    assert not directory.parent.exists()


def test_a_short_length_is_refused(directory: Path, run_module: ModuleRun) -> None:
    result = run_module("generated_secrets", params(directory, "database", length=23))
    assert result["msg"] == "length must be 24 or more, got 23"


def test_absent_keeps_what_it_was_not_asked_to_remove(
    directory: Path, run_module: ModuleRun
) -> None:
    keep(directory / "database", "a" * 24)
    keep(directory / "other", "b" * 24)
    result = run_module("generated_secrets", params(directory, "database", state="absent"))
    assert result["removed"] == ["database"]
    assert [path.name for path in directory.iterdir()] == ["other"]


def test_left_over_files_of_a_killed_run_go_away(directory: Path, run_module: ModuleRun) -> None:
    keep(directory / "database", "a" * 24)
    keep(directory / ".generated-secret-abcd_123", "half")
    keep(directory / ".other", "")
    result = run_module("generated_secrets", params(directory, "database"))
    assert (result["changed"], result["created"]) == (True, [])
    assert {path.name for path in directory.iterdir()} == {"database", ".other"}
    assert run_module("generated_secrets", params(directory, "database"))["changed"] is False


def test_an_error_before_the_rename_leaves_nothing(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    directory.mkdir(parents=True)
    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(OSError, match="No space left"):
        generated_secrets.make_present(directory, ["database"], 32)
    assert list(directory.iterdir()) == []


KILLED = """
import os, signal, sys
sys.path.insert(0, sys.argv[1])
import generated_secrets
from pathlib import Path
setattr({place}, "{name}", lambda *a, **k: os.kill(os.getpid(), signal.SIGKILL))
generated_secrets.make_present(Path(sys.argv[2]), ["database"], 32)
"""


@pytest.mark.parametrize(
    ("place", "name", "whole"),
    [
        ("generated_secrets.tempfile", "mkstemp", False),
        ("generated_secrets.secrets", "choice", False),
        ("os", "replace", False),
        ("generated_secrets", "sync_directory", True),
    ],
)
def test_a_kill_leaves_nothing_or_a_whole_secret_and_the_next_run_tidies(
    directory: Path, run_module: ModuleRun, place: str, name: str, whole: bool
) -> None:
    directory.mkdir(parents=True)
    script = KILLED.format(place=place, name=name)
    process = subprocess.run(
        [sys.executable, "-c", script, str(PLUGINS / "modules"), str(directory)], check=False
    )
    assert process.returncode == -signal.SIGKILL
    secret = directory / "database"
    assert secret.exists() == whole
    kept = secret.read_text() if whole else None

    result = run_module("generated_secrets", params(directory, "database"))
    assert result["created"] == ([] if whole else ["database"])
    assert [path.name for path in directory.iterdir()] == ["database"]
    assert re.fullmatch(r"[A-Za-z0-9]{32}", secret.read_text())
    assert kept is None or secret.read_text() == kept


def test_the_data_reaches_the_disk_before_the_name(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps: list[str] = []
    fsync, replace = os.fsync, os.replace

    def watched_fsync(handle: int) -> None:
        steps.append("directory" if stat.S_ISDIR(os.fstat(handle).st_mode) else "file")
        fsync(handle)

    def watched_replace(source: str, target: Path) -> None:
        assert stat.S_IMODE(os.stat(source).st_mode) == 0o600
        steps.append("rename")
        replace(source, target)

    directory.mkdir(parents=True)
    monkeypatch.setattr(os, "fsync", watched_fsync)
    monkeypatch.setattr(os, "replace", watched_replace)
    generated_secrets.write_secret(directory / "database", 32)
    assert steps == ["file", "rename", "directory"]


def test_two_runs_at_once_agree_on_one_value(directory: Path) -> None:
    script = (
        "import sys; sys.path.insert(0, sys.argv[1]); import generated_secrets as g\n"
        "from pathlib import Path; d = Path(sys.argv[2])\n"
        "g.make_present(d, [f'n{i}' for i in range(20)], 32)\n"
        "print(*[(d / f'n{i}').read_text() for i in range(20)])"
    )
    arguments = [sys.executable, "-c", script, str(PLUGINS / "modules"), str(directory)]
    runs = [subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True) for _ in range(3)]
    printed = {run.communicate()[0] for run in runs}
    assert len(printed) == 1
    assert len(printed.pop().split()) == 20


def test_others_get_past_the_secrets_whatever_the_umask(
    tmp_path: Path, run_module: ModuleRun
) -> None:
    before = os.umask(0o077)
    try:
        directory = tmp_path / "home" / "secrets"
        run_module("generated_secrets", {"directory": str(directory), "names": ["one"]})
    finally:
        os.umask(before)
    assert stat.S_IMODE(directory.parent.stat().st_mode) == 0o755
    assert stat.S_IMODE(directory.stat().st_mode) == 0o700
