"""What is left behind while a student works, and that removal leaves nothing."""

from __future__ import annotations

import os
import stat
import subprocess
from pathlib import Path

import psycopg2
import pytest
import requests
from conftest import ArgumentSampler, Classroom


def test_no_secret_in_output_arguments_logs_or_definitions(
    classroom: Classroom, sampler: ArgumentSampler
) -> None:
    values = classroom.secret_values()
    assert len(values) >= 8
    texts = {f"run {n}": run.output for n, run in enumerate(classroom.runs)}
    texts |= {f"arguments {line[:60]}": line for line in sampler.seen}
    private = ("secrets", "handouts", "servers", "postgres", "object-store")
    for path in classroom.home.rglob("*"):
        inside = path.relative_to(classroom.home).parts[0]
        if path.is_file() and inside not in private and not inside.startswith("runtime-"):
            texts[str(path)] = path.read_text(errors="replace")
    for name, value in values.items():
        assert [where for where, text in texts.items() if value in text] == [], name


def test_files_with_secrets_are_private(classroom: Classroom) -> None:
    values = list(classroom.secret_values().values())
    for folder in ("secrets", "handouts", "servers", "object-store", "supervisor", "evidence"):
        for path in classroom.home.joinpath(folder).rglob("*"):
            if path.is_file() and "/data/" not in str(path):
                text = path.read_text(errors="replace")
                if any(value in text for value in values):
                    assert stat.S_IMODE(path.stat().st_mode) & 0o077 == 0, path


def test_destroy_wants_the_name_again(classroom: Classroom) -> None:
    for confirm in ([], ["-e", "confirm=jdoe"]):
        run = classroom.play("playbooks/destroy.yml", "-e", "user=asmith", *confirm, fails=True)
        assert "-e user=asmith -e confirm=asmith" in run.flat()
    assert classroom.handout("asmith")


def test_backend_with_students_is_not_removed(classroom: Classroom) -> None:
    run = classroom.play(
        "playbooks/destroy.yml",
        *["-e", "user=asmith", "-e", "confirm=asmith", "-e", "destroy_backend=true"],
        fails=True,
    )
    assert "would take the stores of jdoe along" in run.flat()
    assert classroom.handout("asmith")


def test_destroy_leaves_nothing_of_one_and_everything_of_the_other(classroom: Classroom) -> None:
    key, secret = classroom.credentials("asmith")
    run = classroom.play("playbooks/destroy.yml", "-e", "user=asmith", "-e", "confirm=asmith")
    assert "Nothing is left of asmith" in run.flat()
    with pytest.raises(psycopg2.OperationalError):
        psycopg2.connect(
            host="127.0.0.1",
            port=classroom.ports["classroom_postgres_port"],
            dbname="mlflow_asmith",
            user="mlflow_asmith",
            password="x",
        )
    listing = subprocess.run(
        [
            next(classroom.home.glob("runtime-*/bin/python")),
            "-c",
            "import boto3; boto3.client('s3').head_bucket(Bucket='mlflow-exp-tracking-asmith')",
        ],
        env={
            "AWS_ACCESS_KEY_ID": key,
            "AWS_SECRET_ACCESS_KEY": secret,
            "AWS_DEFAULT_REGION": "us-east-2",
            "AWS_ENDPOINT_URL_S3": f"http://127.0.0.1:{classroom.ports['classroom_s3_port']}",
        },
        capture_output=True,
        text=True,
        check=False,
    )
    assert "403" in listing.stderr
    if os.geteuid() == 0:
        assert "mlflow-asmith:" not in Path("/etc/passwd").read_text()
    again = classroom.play("playbooks/destroy.yml", "-e", "user=asmith", "-e", "confirm=asmith")
    assert again.changed == 0
    classroom.play("playbooks/verify.yml", "-e", "user=jdoe")


def test_destroy_can_take_the_backend_along(classroom: Classroom) -> None:
    classroom.play(
        "playbooks/destroy.yml",
        *["-e", "user=jdoe", "-e", "confirm=jdoe", "-e", "destroy_backend=true"],
    )
    assert not classroom.home.exists()
    with pytest.raises(requests.ConnectionError):
        requests.get(f"http://127.0.0.1:{classroom.ports['classroom_s3_port']}/", timeout=5)
