"""What is written about the project agrees with the project."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from waiting import bound

REPOSITORY = Path(__file__).resolve().parents[2]
TOOL = REPOSITORY / "tools/role-readme"
ROLES = sorted(spec.parents[1] for spec in REPOSITORY.glob("roles/*/meta/argument_specs.yml"))
PAGES = sorted(
    [
        REPOSITORY / "README.md",
        REPOSITORY / "CHANGELOG.md",
        REPOSITORY / "training/README.md",
        *REPOSITORY.glob("docs/**/*.md"),
        *REPOSITORY.glob("roles/*/README.md"),
    ]
)
COMMENTED_OUT = re.compile(r"^# ([a-z]\w*): +# required( when present)?$", re.MULTILINE)
LINK = re.compile(r"\[[^]]*\]\(([^)\s]+)\)")
UNFINISHED = re.compile(r"\b(TODO|FIXME)\b")
REGISTRY = re.compile(
    r"\b(pypi\.org|pythonhosted\.org|galaxy\.ansible\.com|npmjs\.org|docker\.io|ghcr\.io|quay\.io"
    r"|deb\.debian\.org)\b",
    re.IGNORECASE,
)


def specification(role: Path) -> dict[str, Any]:
    """Return the variables of a role's argument specs."""
    content = yaml.safe_load((role / "meta/argument_specs.yml").read_text())
    options: dict[str, Any] = content["argument_specs"]["main"]["options"]
    return options


def check_pages(roles: Path) -> subprocess.CompletedProcess[str]:
    """Run the tool's check on a folder of roles."""
    return subprocess.run(
        [sys.executable, str(TOOL), "--check", "--roles", str(roles)],
        capture_output=True,
        text=True,
        timeout=bound(6),
        check=False,
    )


def interface_faults(role: Path) -> list[str]:
    """Return where a role's defaults and its argument specs disagree."""
    source = (role / "defaults/main.yml").read_text()
    defaults = yaml.safe_load(source) or {}
    commented = {name: bool(when) for name, when in COMMENTED_OUT.findall(source)}
    options = specification(role)
    specified, given, missing = set(options), set(defaults), set(commented)
    faults = [f"{name} is in the specs only" for name in specified - given - missing]
    faults += [f"{name} is in the defaults only" for name in given - specified]
    faults += [f"{name} is commented out, not in the specs" for name in missing - specified]
    faults += [f"{name} is both set and commented out" for name in missing & given]
    for name, option in options.items():
        if option.get("required", False) != (commented.get(name) is False):
            faults.append(f"{name}: one place says that it is required")
        if "default" in option and option["default"] != defaults.get(name):
            faults.append(f"{name}: the specs say {option['default']!r} is the default")
    return sorted(faults)


def broken_links(page: Path) -> list[str]:
    """Return the relative links of a page that lead nowhere, headings included."""
    text = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)
    broken = []
    for link in LINK.findall(text):
        target, _, heading = link.partition("#")
        if re.match(r"[a-z]+:", target):
            continue
        path = page.parent / target if target else page
        if not path.exists() or (heading and heading not in headings(path)):
            broken.append(link)
    return broken


def headings(page: Path) -> set[str]:
    """Return the anchors of a page's headings, as the usual viewers make them."""
    lines = re.findall(r"^#+ (.+)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", line.lower()).replace(" ", "-") for line in lines}


@pytest.fixture
def copied_role(tmp_path: Path) -> Path:
    """Return a copy of one role that a test may spoil."""
    copy = tmp_path / "roles/account"
    shutil.copytree(REPOSITORY / "roles/account", copy)
    return copy


def test_role_pages_are_current() -> None:
    checked = check_pages(REPOSITORY / "roles")
    assert checked.returncode == 0, checked.stdout + checked.stderr


@pytest.mark.parametrize("file", ["README.md", "meta/argument_specs.yml", "defaults/main.yml"])
def test_stale_role_page_is_named(copied_role: Path, file: str) -> None:
    assert check_pages(copied_role.parent).returncode == 0
    path = copied_role / file
    path.write_text(path.read_text().replace("present", "there"))
    checked = check_pages(copied_role.parent)
    assert checked.returncode == 1
    assert checked.stdout == f"stale: {copied_role / 'README.md'}\n"


def test_words_between_the_markers_are_kept(copied_role: Path) -> None:
    page = copied_role / "README.md"
    page.write_text(page.read_text().replace("## Needs", "## Needs, edited"))
    assert check_pages(copied_role.parent).returncode == 0
    assert "## Needs, edited" in page.read_text()


@pytest.mark.parametrize("role", ROLES, ids=lambda role: role.name)
def test_defaults_and_argument_specs_agree(role: Path) -> None:
    assert interface_faults(role) == []


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        ("account_extra: 1", "account_extra is in the defaults only"),
        ("# account_extra:     # required", "account_extra is commented out, not in the specs"),
        ("# account_state:     # required", "account_state is both set and commented out"),
        (
            "# account_names:     # required when present",
            "account_names: one place says that it is",
        ),
        ("account_state: absent", "account_state: the specs say 'present' is the default"),
    ],
)
def test_disagreement_of_defaults_and_specs_is_found(
    copied_role: Path, change: str, fault: str
) -> None:
    with (copied_role / "defaults/main.yml").open("a") as defaults:
        defaults.write(change + "\n")
    assert fault in "\n".join(interface_faults(copied_role))


def test_variable_without_default_is_found(copied_role: Path) -> None:
    (copied_role / "defaults/main.yml").write_text("# account_names:   # required\n")
    assert "account_state is in the specs only" in interface_faults(copied_role)


def test_ansible_doc_shows_every_role() -> None:
    shown = subprocess.run(
        [
            Path(sys.executable).with_name("ansible-doc"),
            *["--type", "role", "--roles-path", "roles", "--json"],
            *[role.name for role in ROLES],
        ],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        timeout=bound(12),
        check=False,
    )
    assert shown.returncode == 0, shown.stderr
    documents = json.loads(shown.stdout)
    for role in ROLES:
        entry = documents[role.name]["entry_points"]["main"]
        assert entry["short_description"]
        assert entry["options"].keys() == specification(role).keys()


def test_every_role_has_argument_specs() -> None:
    folders = {path.name for path in REPOSITORY.joinpath("roles").iterdir() if path.is_dir()}
    assert folders == {role.name for role in ROLES}


def test_playbooks_see_the_group_variables() -> None:
    link = REPOSITORY / "playbooks/group_vars"
    assert link.is_symlink()
    assert str(link.readlink()) == "../group_vars"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(REPOSITORY)))
def test_page_is_finished_and_its_links_resolve(page: Path) -> None:
    text = page.read_text()
    assert UNFINISHED.findall(text) == []
    assert REGISTRY.findall(text) == []
    assert broken_links(page) == []


@pytest.mark.parametrize(
    ("text", "broken"),
    [
        ("[a](other.md)", []),
        ("[a](other.md#the-part-here)", []),
        ("[a](https://example.org/x) [b](#here)\n\n# Here", []),
        ("[a](missing.md)", ["missing.md"]),
        ("[a](other.md#absent)", ["other.md#absent"]),
        ("[a](#absent)", ["#absent"]),
    ],
)
def test_broken_link_is_found(tmp_path: Path, text: str, broken: list[str]) -> None:
    (tmp_path / "other.md").write_text("## The part, here!\n")
    page = tmp_path / "page.md"
    page.write_text(text)
    assert broken_links(page) == broken


def test_unfinished_words_and_registries_are_found() -> None:
    assert UNFINISHED.findall("a TODO, b") == ["TODO"]
    assert REGISTRY.findall("see https://pypi.org/simple") == ["pypi.org"]


def test_license_is_apache() -> None:
    text = (REPOSITORY / "LICENSE").read_text()
    assert "Apache License" in text
    assert "Version 2.0, January 2004" in text
