"""The rule for ids, every name that follows from one, and the message of every refusal."""

from __future__ import annotations

import datetime
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from ansible.errors import AnsibleFilterError
from classroom import (
    BUCKET_RESERVED_ENDINGS,
    ID_RULE,
    RESERVED,
    FilterModule,
    classroom_names,
    postgres_url,
    suggest_id,
)
from jinja2 import Undefined
from sqlalchemy.engine import make_url

REPOSITORY = Path(__file__).resolve().parents[2]
EXPECTED_RESERVED_TEXT = """
    postgres template0 template1 rdsadmin admin root public all none test default system mlflow
    user replication sameuser samerole ungrouped localhost tmpl
    no yes true false null on off y n
    template schema provisioner tmpl-owner
"""
EXPECTED_RESERVED = EXPECTED_RESERVED_TEXT.split()


def refusal(*args: Any, **kwargs: Any) -> str:
    """Return the message with which classroom_names refuses."""
    with pytest.raises(AnsibleFilterError) as caught:
        classroom_names(*args, **kwargs)
    return str(caught.value)


# --- Names


def test_every_name_of_a_student() -> None:
    assert classroom_names("jane-doe2") == {
        "user": "jane-doe2",
        "owner": "jane-doe2",
        "database": "mlflow_jane_doe2",
        "login": "mlflow_jane_doe2",
        "bucket": "mlflow-exp-tracking-jane-doe2",
        "iam_user": "mlflow-exp-tracking-jane-doe2",
        "account": "mlflow-jane-doe2",
        "service": "mlflow-jane-doe2",
    }


def test_a_team_owns_the_store_and_the_student_keeps_login_and_key() -> None:
    assert classroom_names("jdoe", team="red-tigers", bucket_prefix="ml-", bucket_suffix="-26") == {
        "user": "jdoe",
        "owner": "red-tigers",
        "database": "mlflow_red_tigers",
        "login": "mlflow_jdoe",
        "bucket": "ml-red-tigers-26",
        "iam_user": "ml-jdoe-26",
        "account": "mlflow-jdoe",
        "service": "mlflow-jdoe",
    }


@pytest.mark.parametrize("team", [None, ""])
def test_no_team(team: str | None) -> None:
    assert classroom_names("jdoe", team=team)["owner"] == "jdoe"


@pytest.mark.parametrize(
    "user", ["jd", "a1", "jdoe", "j-doe", "a-b-c", "jdoe2026", "x" * 24, "noa", "yes-man", "nu-ll"]
)
def test_usable_ids_fit_everywhere(user: str) -> None:
    names = classroom_names(user)
    assert len(names["account"]) <= 31
    assert len(names["database"]) <= 63
    assert 3 <= len(names["bucket"]) <= 63


def test_the_longest_id() -> None:
    names = classroom_names("abcdefghijklmnopqrstuvwx")
    assert names["account"] == "mlflow-abcdefghijklmnopqrstuvwx"


def test_names_are_plain_text_even_for_a_subclass_of_str() -> None:
    class Tagged(str):
        pass

    names = classroom_names(
        Tagged("jdoe"),
        team=Tagged("tigers"),
        bucket_prefix=Tagged("p-"),
        bucket_suffix=Tagged("-s"),
    )
    assert {type(value) for value in names.values()} == {str}


# --- Refusals: form

BAD_FORM = {
    # SQL
    "jdoe'; DROP TABLE runs;--": "jdoe-drop-table-runs",
    'jdoe"': "jdoe",
    "jdoe--": "jdoe",
    "j' OR '1'='1": "j-or-1-1",
    "jdoe\\": "jdoe",
    # shell
    "$(id)": "id",
    "`id`": "id",
    "jdoe;id": "jdoe-id",
    "jdoe|id": "jdoe-id",
    "jdoe&": "jdoe",
    "jdoe>x": "jdoe-x",
    "${HOME}": "home",
    "-rf": "rf",
    "*": "jdoe",
    # paths
    "..": "jdoe",
    ".": "jdoe",
    "../jdoe": "jdoe",
    "../../etc/passwd": "etc-passwd",
    "/etc/passwd": "etc-passwd",
    "jdoe/../x": "jdoe-x",
    "c:\\jdoe": "c-jdoe",
    "~jdoe": "jdoe",
    # templates and policies
    "{{ 7 * 7 }}": "jdoe",
    "{% raw %}": "raw",
    "${aws:username}": "aws-username",
    "%h": "jdoe",
    "jdoe%0a": "jdoe-0a",
    "<b>jdoe</b>": "b-jdoe-b",
    # near misses that would become one student
    "j.doe": "j-doe",
    "j_doe": "j-doe",
    "j doe": "j-doe",
    " jdoe": "jdoe",
    "jdoe ": "jdoe",
    "jdoe\t": "jdoe",
    "j--doe": "j-doe",
    "-jdoe": "jdoe",
    "jdoe-": "jdoe",
    "jdoe@example.org": "jdoe-example-org",
    # upper case, accents, look-alikes, invisible characters
    "JDoe": "jdoe",
    "JDOE": "jdoe",
    "jos\u00e9": "jose",
    "jose\u0301": "jose",
    "J\u00f6rg M\u00fcller": "jorg-muller",
    "stra\u00dfe": "stra-e",
    "jd\u043ee": "jd-e",
    "\uff4a\uff44\uff4f\uff45": "jdoe",
    "jdoe\u00b2": "jdoe2",
    "\u4e2d\u6587": "jdoe",
    "jd\u0661": "jd",
    "jd\u200boe": "jdoe",
    "jdoe\u200d": "jdoe",
    "\u202ejdoe": "jdoe",
    "jd\u00a0oe": "jd-oe",
    "\ud800jdoe": "jdoe",
    # control characters
    "jdoe\n": "jdoe",
    "jdoe\r\n": "jdoe",
    "jdoe\x00": "jdoe",
    "jd\x1b[31moe": "jd-31moe",
    # length and first character
    "j": "jdoe",
    "1": "jdoe",
    "x" * 25: "jdoe",
    "x" * 64: "jdoe",
    "007": "jdoe",
    "1e3": "jdoe",
    "2jdoe": "jdoe",
    "2024-01-01": "jdoe",
    "12:30:45": "jdoe",
    # the suggestion itself must not be reserved
    "Admin": "jdoe",
    "no!": "jdoe",
    "x-s3alias-": "jdoe",
}


@pytest.mark.parametrize(("user", "suggestion"), BAD_FORM.items(), ids=ascii)
def test_bad_form(user: str, suggestion: str) -> None:
    message = refusal(user)
    start, end = 'user "', f'" is not usable: {ID_RULE} (try "{suggestion}")'
    assert message.startswith(start)
    assert message.endswith(end)
    assert message.isprintable()
    if user.isprintable():
        assert message == start + user + end
    classroom_names(suggestion)


def test_the_exact_message_for_bad_form() -> None:
    assert refusal("J.Doe") == (
        'user "J.Doe" is not usable: 2-24 characters a-z, 0-9 and single hyphens, starting with '
        'a letter, ending with a letter or digit (try "j-doe")'
    )


@pytest.mark.parametrize(
    ("user", "shown"),
    [("jdoe\n", r"jdoe\n"), ("jdoe\x00", r"jdoe\x00"), ("jd\u200boe", r"jd\u200boe")],
)
def test_what_cannot_be_seen_is_spelled_out(user: str, shown: str) -> None:
    assert refusal(user).startswith(f'user "{shown}" is not usable: ')


def test_a_suggestion_is_always_usable() -> None:
    for character in map(chr, range(0x3000)):
        classroom_names(suggest_id(f"{character}a{character}b{character}"))


# --- Refusals: not text, missing, reserved

NOT_TEXT: list[tuple[Any, str]] = [
    (7, "int (7)"),
    (45045, "int (45045)"),
    (0, "int (0)"),
    (True, "bool (True)"),
    (False, "bool (False)"),
    (1000.0, "float (1000.0)"),
    (None, "NoneType (None)"),
    (["jdoe"], "list (['jdoe'])"),
    ([], "list ([])"),
    ({"name": "jdoe"}, "dict ({'name': 'jdoe'})"),
    ({}, "dict ({})"),
    (datetime.date(2024, 1, 1), "date (2024-01-01)"),
    (b"jdoe", "bytes (b'jdoe')"),
]


@pytest.mark.parametrize(("value", "shown"), NOT_TEXT, ids=repr)
def test_not_text(value: Any, shown: str) -> None:
    expected = f'user must be text, got {shown}: put it in quotes, user: "007"'
    assert refusal(value) == expected


def test_missing() -> None:
    expected = "user is required: run with -e user=<id>, for example -e user=jdoe"
    assert refusal("") == expected
    assert refusal(Undefined(name="user")) == expected


@pytest.mark.parametrize("word", EXPECTED_RESERVED)
def test_reserved(word: str) -> None:
    # A single letter fails the form already.
    if len(word) > 1:
        assert refusal(word) == f'user "{word}" is reserved; choose another id'
        assert refusal("jdoe", team=word) == f'team "{word}" is reserved; choose another id'
    else:
        assert "is not usable" in refusal(word)


def test_the_reserved_words_are_these() -> None:
    assert set(EXPECTED_RESERVED) == RESERVED


def test_a_reserved_ending() -> None:
    assert refusal("jdoe-s3alias") == 'user "jdoe-s3alias" is reserved; choose another id'


def test_a_team_is_checked_like_a_user() -> None:
    assert refusal("jdoe", team="Tigers") == (
        f'team "Tigers" is not usable: {ID_RULE} (try "tigers")'
    )
    assert refusal("jdoe", team=7) == (
        'team must be text, got int (7): put it in quotes, team: "007"'
    )


# --- Refusals: bucket


@pytest.mark.parametrize(
    ("affixes", "bucket", "problem"),
    [
        ({"bucket_prefix": ""}, "jd", "S3 wants 3 to 63 characters, these are 2"),
        (
            {"bucket_suffix": "-" + "x" * 41},
            "mlflow-exp-tracking-jd-" + "x" * 41,
            "S3 wants 3 to 63 characters, these are 64",
        ),
        *[
            ({"bucket_prefix": p}, f"{p}jd", ("S3 wants a-z, 0-9 and hyphens, "
             "with a letter or digit at both ends"))
            for p in ("ML-", "ml_", "ml.", "-ml-", "ml ", "\u00fc-", "ml/")
        ],
        (
            {"bucket_suffix": "-"},
            "mlflow-exp-tracking-jd-",
            "S3 wants a-z, 0-9 and hyphens, with a letter or digit at both ends",
        ),
        *[
            ({"bucket_prefix": p}, f"{p}jd", f'S3 reserves names starting with "{p}"')
            for p in ("xn--", "sthree-", "amzn-s3-demo-")
        ],
        *[
            (
                {"bucket_suffix": s},
                f"mlflow-exp-tracking-jd{s}",
                f'S3 reserves names ending with "{s}"',
            )
            for s in BUCKET_RESERVED_ENDINGS
        ],
    ],
)  # fmt: skip
def test_bucket(affixes: dict[str, str], bucket: str, problem: str) -> None:
    assert refusal("jd", **affixes) == (
        f'bucket "{bucket}" is not usable: {problem}; '
        "choose another bucket_prefix, bucket_suffix or id"
    )


def test_a_newline_after_the_bucket_is_refused() -> None:
    assert r'bucket "mlflow-exp-tracking-jd-a\n" is not usable' in refusal(
        "jd", bucket_suffix="-a\n"
    )


def test_an_id_may_end_like_a_reserved_bucket_if_a_suffix_follows() -> None:
    assert refusal("jo-an").startswith('bucket "mlflow-exp-tracking-jo-an" is not usable')
    assert classroom_names("jo-an", bucket_suffix="-x")["bucket"] == "mlflow-exp-tracking-jo-an-x"


def test_the_iam_user_of_a_team_member_obeys_the_rules_too() -> None:
    refusal("jo-an", team="tigers")
    long = "-" + "x" * 36
    assert "these are 81" in refusal("x" * 24, team="ab", bucket_suffix=long)


def test_bucket_affixes_must_be_text() -> None:
    assert refusal("jdoe", bucket_suffix=26) == (
        'bucket_suffix must be text, got int (26): put it in quotes, bucket_suffix: "007"'
    )


# --- The address of a database


def test_postgres_url_without_a_password() -> None:
    expected = "postgresql+psycopg2://mlflow_jdoe@127.0.0.1:5432/mlflow_jdoe"
    for password in (None, ""):
        url = postgres_url("mlflow_jdoe", "mlflow_jdoe", "127.0.0.1", "5432", password)
        assert url == expected


def test_postgres_url_survives_every_character() -> None:
    password = "".join(map(chr, range(32, 127))) + "\u00e9"
    text = postgres_url("mlflow_jdoe", "a/b@c", "::1", 5432, password)
    assert re.fullmatch(r"[A-Za-z0-9%_.~-]+", text.split(":", 2)[2].split("@")[0])
    url = make_url(text)
    assert (url.username, url.password, url.host, url.port, url.database) == (
        "a/b@c",
        password,
        "::1",
        5432,
        "mlflow_jdoe",
    )


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"database": ""}, "database must be text and not empty"),
        ({"login": None}, "login must be text and not empty"),
        ({"host": "a/b"}, "host must be a host name or an IP address"),
        ({"host": ""}, "host must be a host name or an IP address"),
        ({"port": 0}, "port must be a number from 1 to 65535"),
        ({"port": 65536}, "port must be a number from 1 to 65535"),
        ({"port": "5432x"}, "port must be a number from 1 to 65535"),
        ({"port": True}, "port must be a number from 1 to 65535"),
        ({"password": 1234567}, "password must be text (it is not shown)"),
    ],
)
def test_postgres_url_refuses(changes: dict[str, Any], problem: str) -> None:
    good = {"database": "d", "login": "l", "host": "h", "port": 5432, "password": "secret"}
    with pytest.raises(AnsibleFilterError) as caught:
        postgres_url(**{**good, **changes})
    assert str(caught.value) == f"postgres_url: {problem}"


# --- In Ansible

IN_ANSIBLE: list[tuple[str, dict[str, Any], str]] = [
    (
        "(user | classroom_names(team=crew)).database",
        {"user": "jdoe", "crew": "tigers"},
        "mlflow_tigers",
    ),
    ("user | classroom_names", {}, "user is required: run with -e user=<id>"),
    ("user | default('') | classroom_names", {}, "user is required: run with -e user=<id>"),
    ("user | classroom_names", {"user": 7}, "user must be text, got int (7)"),
    ("user | classroom_names", {"user": {"a": [1]}}, "user must be text, got dict ({'a': [1]})"),
    ("user | classroom_names", {"user": "{{ crew }}"}, "'crew' is undefined"),
    ("'jdoe' | classroom_names(team=crew)", {}, "'crew' is undefined"),
    ("('pencil' | scram_verifier) is match('SCRAM-SHA-256[$]4096:')", {}, '"msg": true'),
    (
        "user | postgres_url(login=user, host='127.0.0.1', port=5432, password='a/b')",
        {"user": "jdoe"},
        "postgresql+psycopg2://jdoe:a%2Fb@127.0.0.1:5432/jdoe",
    ),
]


def test_in_a_playbook(tmp_path: Path) -> None:
    tasks = [
        {
            "name": f"case {number} begins",
            "ansible.builtin.debug": {"msg": f"{{{{ {expression} }}}}"},
            "vars": variables,
            "ignore_errors": True,
        }
        for number, (expression, variables, _) in enumerate(IN_ANSIBLE)
    ]
    playbook = tmp_path / "play.json"
    playbook.write_text(json.dumps([{"hosts": "localhost", "gather_facts": False, "tasks": tasks}]))
    process = subprocess.run(
        [
            *(str(Path(sys.executable).parent / "ansible-playbook"), str(playbook)),
            *("--inventory", "localhost,", "--connection", "local"),
        ],
        env={
            **{name: value for name, value in os.environ.items() if name != "ANSIBLE_CONFIG"},
            "ANSIBLE_FILTER_PLUGINS": str(REPOSITORY / "plugins/filter"),
        },
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=True,
    )
    # Errors are printed before or after their task's heading, so a case is found by its text.
    answers = re.findall(r'"msg": .*|^\[ERROR\].*|fatal: .*', process.stdout, re.MULTILINE)
    for expression, _, expected in IN_ANSIBLE:
        assert any(expected in answer for answer in answers), expression + process.stdout
    assert "'user' is undefined" not in process.stdout


def test_every_filter_is_documented() -> None:
    for name in FilterModule().filters():
        assert (REPOSITORY / f"plugins/filter/{name}.yml").is_file()
