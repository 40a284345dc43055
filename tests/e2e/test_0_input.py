"""What is refused at the front door, with which words, and that nothing was made by then."""

from __future__ import annotations

import dataclasses
import json
import secrets
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from conftest import HOMES, REPOSITORY, Classroom, Run, remove

REQUIRED = "user is required: run with -e user=<id>, for example -e user=jdoe"
MARK = Path(f"/tmp/{HOMES}carried-out-{secrets.token_hex(4)}")
PIPE = "{{ lookup('pipe', 'touch " + str(MARK) + "') }}"


def rule(given: str, suggestion: str = "jdoe", name: str = "user") -> str:
    return (
        f'{name} "{given}" is not usable: 2-24 characters a-z, 0-9 and single hyphens, starting '
        f'with a letter, ending with a letter or digit (try "{suggestion}")'
    )


def not_text(kind: str, given: str) -> str:
    return f'user must be text, got {kind} ({given}): put it in quotes, user: "007"'


def extra(**values: Any) -> list[str]:
    """Return -e options that pass values with their types, as a file of variables would."""
    return ["-e", json.dumps(values)]


# What is given on the command line, and the whole message; tests/unit/test_names.py has every other
# kind of id. The space never reaches the filter, and no program may be carried out on the way.
REFUSED: dict[str, tuple[list[str], str]] = {
    "missing": ([], REQUIRED),
    "null": (extra(user=None), REQUIRED),
    "number": (extra(user=7), not_text("int", "7")),
    "space": (
        ["-e", "user=jane doe"],
        '"doe" stands alone among the -e values: an id has no blanks. For example -e user=jdoe',
    ),
    "shell": (extra(user=f"$(touch {MARK})"), rule(f"$(touch {MARK})")),
    "template": (extra(user=PIPE), rule(PIPE)),
    "team's template": (extra(user="jdoe", team=PIPE), rule(PIPE, name="team")),
}

# What is found out about good names, after they were accepted. Parts of the message. The scenario
# `guards` has the refusals of roles.
REFUSED_LATER: dict[str, tuple[list[str], str]] = {
    "bucket": (
        ["-e", "user=jdoe", "-e", "classroom_bucket_prefix=ML-"],
        'bucket "ML-jdoe" is not usable: S3 wants a-z, 0-9 and hyphens, with a letter or digit at '
        "both ends",
    ),
    "patience": (
        ["-e", "user=jdoe", "-e", "classroom_patience=fast"],
        'classroom_patience "fast" must be a number above 0',
    ),
    "port in words": (
        ["-e", "user=jdoe", "-e", "mlflow_server_port=abc", "-e", "mlflow_server_on_demand=maybe"],
        'mlflow_server_port "abc" must be a whole number: for example -e mlflow_server_port=5000; '
        'mlflow_server_on_demand "maybe" must be true or false: for example '
        "-e mlflow_server_on_demand=False",
    ),
    "port of no account": (
        ["-e", "user=jdoe", "-e", "mlflow_server_port=80"],
        'mlflow_server_port "80" must be 1024-65535',
    ),
    "dataset": (
        ["-e", "user=jdoe", "-e", "training_csv=/nonexistent/table.csv"],
        'training_csv "/nonexistent/table.csv" is not a file: give the path of a CSV file',
    ),
    "long home": (
        ["-e", "user=jdoe", "-e", f"classroom_home=/tmp/{'long' * 24}"],
        "is too long for a Unix socket (at most 80 characters): choose a shorter place with "
        "-e classroom_home=",
    ),
}


def inventory(folder: Path, students: str) -> list[str]:
    """Write the inventory of a class and return the options that choose it."""
    path = folder / "class.yml"
    path.write_text(
        "students:\n"
        f"  hosts:\n    {students}\n"
        "  vars:\n"
        "    ansible_connection: local\n"
        '    ansible_python_interpreter: "{{ ansible_playbook_python }}"\n'
    )
    return ["-i", str(REPOSITORY / "inventory/localhost.yml"), "-i", str(path)]


def somewhere(room: Classroom) -> Classroom:
    """Return a classroom that must not come into being."""
    home = Path(f"/tmp/{HOMES}none-{secrets.token_hex(3)}")
    return dataclasses.replace(room, home=home, runs=[])


@pytest.fixture
def nowhere(classroom: Classroom) -> Iterator[Classroom]:
    """Give a classroom that must not come into being."""
    room = somewhere(classroom)
    yield room
    remove(room)


@pytest.fixture(scope="module")
def refusals(classroom: Classroom) -> Iterator[dict[str, Future[Run]]]:
    """Knock at the door with everything, four at a time."""

    def knock(arguments: list[str]) -> Run:
        room = somewhere(classroom)
        try:
            return room.play("site.yml", *arguments, fails=True)
        finally:
            made = room.home.exists()
            remove(room)
            assert not made, room.runs[-1].output

    with ThreadPoolExecutor(4) as pool:
        everything = {**REFUSED, **REFUSED_LATER}
        yield {name: pool.submit(knock, arguments) for name, (arguments, _) in everything.items()}


@pytest.mark.parametrize("name", REFUSED)
def test_id_is_refused_in_one_sentence(refusals: dict[str, Future[Run]], name: str) -> None:
    run = refusals[name].result()
    assert f"\n\n{REFUSED[name][1]}\n\n" in run.output
    assert "[ERROR]" not in run.output
    assert run.changed == 0
    assert not MARK.exists()


@pytest.mark.parametrize("name", REFUSED_LATER)
def test_value_is_refused_before_anything_is_made(
    refusals: dict[str, Future[Run]], name: str
) -> None:
    run = refusals[name].result()
    assert REFUSED_LATER[name][1] in run.flat()
    assert run.changed == 0


@pytest.mark.long
@pytest.mark.parametrize("user", ["jd", "yes-man", "a" * 24])
def test_odd_but_legal_id_is_taken_as_it_is(nowhere: Classroom, user: str) -> None:
    run = nowhere.play("site.yml", "-e", f"user={user}", "--check")
    assert f"would make the bucket mlflow-exp-tracking-{user} " in run.flat()
    assert f"database mlflow_{user.replace('-', '_')} " in run.flat()
    assert not nowhere.home.exists()


def test_user_beside_a_class_is_refused(nowhere: Classroom, tmp_path: Path) -> None:
    chosen = inventory(tmp_path, "{jdoe: , asmith: }")
    run = nowhere.play("site.yml", *chosen, "-e", "user=bbaker", fails=True)
    message = "user is for a single student, and this inventory has a class of 2"
    assert f"\n{message}: use --limit for one of them\n" in run.output
    assert run.changed == 0
    assert not nowhere.home.exists()


def test_class_with_a_bad_id_makes_nothing(nowhere: Classroom, tmp_path: Path) -> None:
    run = nowhere.play("site.yml", *inventory(tmp_path, "{J.Doe: }"), fails=True)
    assert rule("J.Doe", "j-doe") in run.flat()
    assert run.changed == 0
    assert not nowhere.home.exists()


@pytest.mark.parametrize(
    ("students", "reason"),
    [
        # YAML reads it as a number, and the inventory cannot be used.
        ("{007: }", "Failed to parse"),
        ("{jdoe: , asmith: , jdoe: }", "jdoe"),
    ],
    ids=["number", "twice"],
)
def test_inventory_that_cannot_be_read_stops_the_run(
    nowhere: Classroom, tmp_path: Path, students: str, reason: str
) -> None:
    run = nowhere.play("site.yml", *inventory(tmp_path, students), fails=True)
    assert reason in run.flat()
    assert "PLAY RECAP" not in run.output
    assert not nowhere.home.exists()
