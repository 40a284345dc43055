"""The front door from end to end, in the order in which a student and an instructor meet it."""

from __future__ import annotations

import json
import stat
import subprocess

import pytest
from conftest import REAL_TABLE, Classroom


def test_check_on_a_bare_machine_changes_nothing_and_says_what_would(classroom: Classroom) -> None:
    run = classroom.play("site.yml", "-e", "user=jdoe", "--check", "--diff")
    assert not classroom.home.exists()
    for promise in ("would install PostgreSQL", "database mlflow_jdoe", "mlflow-exp-tracking-jdoe"):
        assert promise in run.flat()


def test_one_command_from_nothing_to_verified_runs(classroom: Classroom) -> None:
    run = classroom.play("site.yml", "-e", "user=jdoe", "-vvv", "--diff")
    assert "verdict pass" in run.flat()
    assert f"open http://127.0.0.1:{classroom.ports['classroom_server_port']}" in run.flat()
    assert f"{classroom.home}/handouts/jdoe/README.md" in run.flat()


def test_second_run_changes_nothing(classroom: Classroom) -> None:
    run = classroom.play("site.yml", "-e", "user=jdoe")
    assert run.changed == 0


@pytest.mark.long
def test_training_on_request_adds_a_run_and_nothing_else(classroom: Classroom) -> None:
    run = classroom.play("site.yml", "-e", "user=jdoe", "--tags", "train,verify")
    assert run.changed == 1
    assert run.flat().count("FINISHED") == 2


@pytest.mark.long
def test_provisioning_again_changes_nothing(classroom: Classroom) -> None:
    run = classroom.play("site.yml", "-e", "user=jdoe", "--tags", "backend,provision")
    assert run.changed == 0


def test_check_on_a_provisioned_machine_changes_nothing(classroom: Classroom) -> None:
    run = classroom.play("site.yml", "-e", "user=jdoe", "--check", "--diff")
    assert run.changed == 0


def test_evidence_joins_server_tables_and_bucket(classroom: Classroom) -> None:
    classroom.play("playbooks/verify.yml", "-e", "user=jdoe")
    evidence = json.loads(classroom.home.joinpath("evidence/jdoe.json").read_text())
    assert evidence["verdict"] == "pass"
    assert evidence["server"]["speaks_for"] == "mlflow_jdoe"
    runs = evidence["runs"]
    assert runs
    for run in runs:
        assert run["artifact_uri"].startswith("s3://mlflow-exp-tracking-jdoe/")
        assert {"accuracy", "precision", "recall", "f1"} <= set(run["metrics"])
        assert run["objects"] > 0
        assert run["models"][0]["objects"] > 0


def test_environment_file_serves_shell_psql_mlflow_and_aws(classroom: Classroom) -> None:
    env_file = classroom.home / "handouts/jdoe/mlflow.env"
    assert stat.S_IMODE(env_file.stat().st_mode) == 0o600
    runtime = next(classroom.home.glob("runtime-*/bin"))
    script = f"""set -eu
        . {env_file}
        {runtime.parent}/postgresql/bin/psql -Atc "select max(name) from experiments"
        {runtime}/python -c 'import boto3; print(boto3.client("s3").list_objects_v2(
            Bucket="mlflow-exp-tracking-jdoe")["KeyCount"] > 0)'
        {runtime}/mlflow runs list --experiment-id 1
    """
    bare = {"PATH": "/usr/bin:/bin", "HOME": "/nonexistent"}
    shell = subprocess.run(
        ["sh", "-c", script], env=bare, capture_output=True, text=True, check=False
    )
    assert shell.returncode == 0, shell.stderr
    lines = shell.stdout.splitlines()
    assert lines[0] == "churn-exp"
    assert lines[1] == "True"
    dotenv = subprocess.run(
        [runtime / "mlflow", "--env-file", env_file, "experiments", "search"],
        env=bare,
        capture_output=True,
        text=True,
        check=False,
    )
    assert "churn-exp" in dotenv.stdout, dotenv.stderr


@pytest.mark.long
@pytest.mark.skipif(
    not REAL_TABLE.is_file(), reason="the real table does not lie beside the project"
)
def test_training_on_the_real_table(classroom: Classroom) -> None:
    run = classroom.play(
        "playbooks/train.yml", "-e", "user=jdoe", "-e", f"training_csv={REAL_TABLE}"
    )
    assert "accuracy: 0.7" in run.flat()
    classroom.play("playbooks/verify.yml", "-e", "user=jdoe")


def test_second_student_gets_a_port_once_and_keeps_it(classroom: Classroom) -> None:
    taken = classroom.ports["classroom_server_port"]
    refused = classroom.play("site.yml", "-e", "user=asmith", fails=True)
    assert f"port {taken} (the tracking server of asmith) is taken by pid" in refused.flat()
    assert not classroom.home.joinpath("secrets/students/asmith").exists()
    classroom.play("site.yml", "-e", "user=asmith", "-e", f"mlflow_server_port={taken + 1}")
    run = classroom.play("site.yml", "-e", "user=asmith", "--tags", "provision")
    assert run.changed == 0
    assert classroom.handout("asmith")["MLFLOW_TRACKING_URI"].endswith(f":{taken + 1}")
