"""Which keys are deleted, made and retired, and what a saved file holds."""

from __future__ import annotations

from pathlib import Path

import pytest
from iam_login import Plan, plan, read_saved

SECRET = "s" * 40


@pytest.mark.parametrize(
    ("saved", "keys", "rotate", "expected"),
    [
        ("", {}, False, ([], True, [])),
        ("A", {"A": "Active"}, False, ([], False, [])),
        ("A", {"A": "Active"}, True, ([], True, ["A"])),
        ("A", {"A": "Inactive"}, False, ([], True, ["A"])),
        ("A", {"A": "Active", "B": "Active"}, False, (["B"], False, [])),
        ("A", {"A": "Active", "B": "Active"}, True, (["B"], True, ["A"])),
        ("A", {"B": "Active", "C": "Active"}, False, (["B", "C"], True, [])),
    ],
)
def test_plan(
    saved: str, keys: dict[str, str], rotate: bool, expected: tuple[list[str], bool, list[str]]
) -> None:
    delete, create, retire = expected
    wanted: Plan = {"delete": delete, "create": create, "retire": retire, "secure": False}
    assert plan(saved, True, keys, rotate) == wanted


@pytest.mark.parametrize(
    "text",
    ["", "[default]\n", "no section", "\x00\x00", "[default]\naws_access_key_id = A\n"]
    + [f"[default]\naws_access_key_id = A\naws_secret_access_key = {bad}\n" for bad in ("", "%")]
    + [f"[other]\naws_access_key_id = A\naws_secret_access_key = {SECRET}\n"],
)
def test_a_spoilt_file_holds_no_key(tmp_path: Path, text: str) -> None:
    path = tmp_path / "credentials"
    path.write_text(text)
    assert read_saved(str(path))[0] == ""


def test_a_whole_file_holds_a_key(tmp_path: Path) -> None:
    path = tmp_path / "credentials"
    assert read_saved(str(path)) == ("", False)
    path.write_text(f"[default]\naws_access_key_id = A\naws_secret_access_key = {SECRET}\n")
    path.chmod(0o640)
    assert read_saved(str(path)) == ("A", False)
    path.chmod(0o600)
    assert read_saved(str(path)) == ("A", True)
