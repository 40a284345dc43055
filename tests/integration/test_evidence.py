"""Each layer is looked at from outside, and each thing that can be wrong is named."""

from __future__ import annotations

import copy
import json
import os
import secrets
import stat
import subprocess
import sys
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from modules import ModuleRun
from servers import BIN, Aws, PostgresServer, mlflow_server
from waiting import bound, free_port

BUCKET = "mlflow-exp-tracking-jdoe"
ROOT = f"s3://{BUCKET}"
TRAIN = """
import mlflow
from sklearn.linear_model import LogisticRegression

mlflow.set_experiment("churn-exp")
with mlflow.start_run(run_name="baseline"):
    mlflow.log_param("C", 1.0)
    mlflow.log_metric("accuracy", 0.9)
    mlflow.log_table({"predicted": [0, 1]}, "predictions.json")
    model = LogisticRegression().fit([[0.0], [1.0]], [0, 1])
    mlflow.sklearn.log_model(model, name="model", registered_model_name="churn-model")
"""


# --- a real server, database and bucket with one logged run -----------------------------------


@dataclass
class Classroom:
    """A student with everything, and the parameters to look at it."""

    params: dict[str, Any]
    aws: Aws
    postgres: PostgresServer
    secrets: list[str]

    def objects(self) -> dict[str, bytes]:
        """Return what is in the bucket."""
        s3 = self.aws.client("s3")
        keys = [each["Key"] for each in s3.list_objects_v2(Bucket=BUCKET).get("Contents", [])]
        return {key: s3.get_object(Bucket=BUCKET, Key=key)["Body"].read() for key in keys}

    def api(self, call: str, **body: Any) -> Any:
        """Call the tracking server."""
        request = urllib.request.Request(
            f"{self.params['tracking_uri']}/api/2.0/mlflow/{call}",
            data=json.dumps(body).encode(),
            headers={"Content-Type": "application/json"},
        )
        with urllib.request.urlopen(request, timeout=bound(2)) as answer:
            return json.load(answer)


@pytest.fixture(scope="session")
def classroom(
    postgres: PostgresServer, seaweedfs: Aws, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Classroom]:
    """Provision a student by hand and train once."""
    directory = tmp_path_factory.mktemp("classroom")
    password = secrets.token_hex(16)
    login = "mlflow_jdoe"
    uri = f"postgresql+psycopg2://{login}:{password}@127.0.0.1:{postgres.port}/{login}"
    with postgres.connect().cursor() as cursor:
        cursor.execute(f"create role {login} login password '{password}'")
        cursor.execute(f"create database {login} owner {login}")
        cursor.execute(f"create database empty owner {login}")
        subprocess.run([BIN / "mlflow", "db", "upgrade", uri], check=True, capture_output=True)
        cursor.execute(f"create database other owner {login} template {login}")

    seaweedfs.client("s3").create_bucket(Bucket=BUCKET)
    iam = seaweedfs.client("iam")
    iam.create_user(UserName="student")
    statement = {
        "Effect": "Allow",
        "Action": ["s3:GetObject", "s3:PutObject", "s3:DeleteObject", "s3:ListBucket"],
        "Resource": [f"arn:aws:s3:::{BUCKET}", f"arn:aws:s3:::{BUCKET}/*"],
    }
    document = json.dumps({"Version": "2012-10-17", "Statement": [statement]})
    iam.put_user_policy(UserName="student", PolicyName="own-bucket", PolicyDocument=document)
    key = iam.create_access_key(UserName="student")["AccessKey"]

    credentials, password_file = directory / "credentials", directory / "password"
    password_file.write_text(password + "\n")
    credentials.write_text(
        f"[default]\naws_access_key_id = {key['AccessKeyId']}\n"
        f"aws_secret_access_key = {key['SecretAccessKey']}\n"
    )
    environment = {
        **{name: text for name, text in os.environ.items() if not name.startswith("AWS_")},
        "AWS_SHARED_CREDENTIALS_FILE": str(credentials),
        "AWS_DEFAULT_REGION": seaweedfs.region,
        "MLFLOW_S3_ENDPOINT_URL": seaweedfs.endpoint_url,
    }
    with mlflow_server(directory, uri, BUCKET, environment) as tracking_uri:
        subprocess.run(
            [sys.executable, "-c", TRAIN],
            check=True,
            capture_output=True,
            cwd=directory,
            env=environment | {"MLFLOW_TRACKING_URI": tracking_uri},
        )
        params = {
            "user": "jdoe",
            "tracking_uri": tracking_uri,
            "database": {
                "host": "127.0.0.1",
                "port": postgres.port,
                "name": login,
                "login": login,
                "password_file": str(password_file),
            },
            "bucket": BUCKET,
            "endpoint_url": seaweedfs.endpoint_url,
            "credentials_file": str(credentials),
        }
        yield Classroom(params, seaweedfs, postgres, [password, key["SecretAccessKey"]])


Look = Callable[..., dict[str, Any]]


@pytest.fixture
def look(classroom: Classroom, run_module: ModuleRun) -> Look:
    """Return a function that looks at the classroom, with changed parameters."""

    def run(**changes: Any) -> dict[str, Any]:
        params = copy.deepcopy(classroom.params)
        params["database"] |= changes.pop("database", {})
        result = run_module("evidence", {**params, **changes})
        assert not result.get("changed")
        for secret in classroom.secrets:
            assert secret not in result["stdout"]
        assert not result.get("failed")
        assert all(each["message"] and each["next"] for each in result["problems"])
        return result

    return run


@pytest.fixture
def restored(classroom: Classroom) -> Iterator[Classroom]:
    """Give the classroom, and put its bucket back in order afterwards."""
    before = classroom.objects()
    yield classroom
    s3 = classroom.aws.client("s3")
    for key in classroom.objects().keys() - before:
        s3.delete_object(Bucket=BUCKET, Key=key)
    for key, body in before.items():
        s3.put_object(Bucket=BUCKET, Key=key, Body=body)


def sentences(result: dict[str, Any]) -> str:
    """Return what the problems say and advise."""
    return "\n".join(
        f"{each['code']}: {each['message']}\n  -> {each['next']}" for each in result["problems"]
    )


def codes(result: dict[str, Any]) -> list[str]:
    """Return the problems' codes."""
    return sorted(each["code"] for each in result["problems"])


def test_a_student_with_everything_passes(look: Look, tmp_path: Path) -> None:
    output = tmp_path / "jdoe.json"
    result = look(output=str(output))
    assert "evidence" not in result
    document = json.loads(output.read_text())
    assert stat.S_IMODE(output.stat().st_mode) == 0o600
    assert (document["verdict"], document["problems"], document["notes"]) == ("pass", [], [])
    assert document["server"]["version"] == "3.17.2"
    assert document["server"]["speaks_for"] == "mlflow_jdoe"
    assert document["database"]["tables"]["runs"] == 1
    assert len(document["database"]["tables"]) > 60
    assert document["experiment"]["artifact_location"].startswith(ROOT)
    (run,) = document["runs"]
    assert (run["name"], run["status"], run["params"]) == ("baseline", "FINISHED", 1)
    assert run["metrics"] == {"accuracy": 0.9}
    assert run["objects"] == 1
    (model,) = run["models"]
    assert model["objects"] >= 4
    assert document["bucket"]["objects"] == run["objects"] + model["objects"]
    assert document["bucket"]["bytes"] == run["bytes"] + model["bytes"]
    assert [each["name"] for each in document["models"]] == ["churn-model"]
    assert "verdict     pass" in result["summary"]
    assert " runs 1, " in " ".join(result["summary"])
    assert all(len(line) <= 112 for line in result["summary"] if "s3://" not in line)


def test_a_model_whose_objects_are_gone(look: Look, restored: Classroom) -> None:
    s3 = restored.aws.client("s3")
    for key in restored.objects():
        if "/models/" in key:
            s3.delete_object(Bucket=BUCKET, Key=key)
    result = look()
    assert codes(result) == ["model_without_objects"]
    run = result["evidence"]["runs"][0]
    assert run["run_id"] in sentences(result)
    assert run["models"][0]["model_id"] in sentences(result)


def test_a_file_of_a_run_is_gone(look: Look, restored: Classroom) -> None:
    (key,) = [key for key in restored.objects() if key.endswith("predictions.json")]
    restored.aws.client("s3").delete_object(Bucket=BUCKET, Key=key)
    result = look()
    assert codes(result) == ["half_logged_run"]
    assert "predictions.json" in sentences(result)


def test_objects_that_nobody_knows(look: Look, restored: Classroom) -> None:
    s3 = restored.aws.client("s3")
    for key in ("1/models/m-gone/artifacts/MLmodel", "stray.bin", "data/churn.csv"):
        s3.put_object(Bucket=BUCKET, Key=key, Body=b"x")
    result = look(ignore_prefixes=["data/"])
    assert codes(result) == ["orphan_object", "orphan_object"]
    assert f"{ROOT}/1/models/m-gone/" in sentences(result)
    assert f"{ROOT}/stray.bin" in sentences(result)


def test_a_run_whose_client_could_not_write(look: Look, restored: Classroom) -> None:
    """The newest run failed with metrics and no object; deleted, it no longer counts."""
    run = restored.api("runs/create", experiment_id="1", run_name="half", start_time=2**42)
    run_id = run["run"]["info"]["run_id"]
    restored.api("runs/log-metric", run_id=run_id, key="accuracy", value=0.5, timestamp=1)
    restored.api("runs/update", run_id=run_id, status="FAILED")
    try:
        result = look()
        assert codes(result) == ["half_logged_run"]
        assert run_id in sentences(result)
    finally:
        restored.api("runs/delete", run_id=run_id)
    assert codes(look()) == []


def test_another_experiment_and_model(look: Look) -> None:
    result = look(experiment="fraud-exp", model="fraud-model")
    assert codes(result) == ["experiment_missing", "model_not_registered"]


def test_a_deleted_experiment(look: Look, restored: Classroom) -> None:
    restored.api("experiments/delete", experiment_id="1")
    try:
        result = look()
        assert codes(result) == ["experiment_deleted"]
        assert "experiments/restore" in sentences(result)
    finally:
        restored.api("experiments/restore", experiment_id="1")
        # MLflow restores the experiment's runs too, with those that were deleted before.
        runs = restored.api("runs/search", experiment_ids=["1"])["runs"]
        for run in (run["info"] for run in runs if run["info"]["run_name"] != "baseline"):
            restored.api("runs/delete", run_id=run["run_id"])
    assert codes(look()) == []


def test_nothing_answers_and_all_of_it_is_said(look: Look) -> None:
    result = look(
        tracking_uri=f"http://127.0.0.1:{free_port()}",
        endpoint_url=f"http://127.0.0.1:{free_port()}",
        database={"port": free_port()},
        timeout=2,
    )
    assert codes(result) == ["bucket_unreachable", "database_unreachable", "server_unreachable"]


def test_the_summary_counts_problems_and_leaves_them_to_who_refuses(look: Look) -> None:
    result = look(experiment="fraud-exp")
    assert codes(result) == ["experiment_missing"]
    assert result["evidence"]["verdict"] == "fail"
    assert result["summary"][-1] == "verdict     fail, 1 problem"
    assert result["problems"][0]["message"] not in "".join(result["summary"])


def test_wrong_password_and_wrong_key(look: Look, classroom: Classroom, tmp_path: Path) -> None:
    wrong, credentials = tmp_path / "password", tmp_path / "credentials"
    wrong.write_text("not-the-password")
    credentials.write_text(
        Path(classroom.params["credentials_file"]).read_text().replace(classroom.secrets[1], "x")
    )
    result = look(database={"password_file": str(wrong)}, credentials_file=str(credentials))
    assert codes(result) == ["bucket_refuses", "database_refuses"]
    assert str(wrong) in sentences(result)
    assert "not-the-password" not in result["stdout"]
    assert result["evidence"]["server"]["ok"]


def test_files_that_are_not_there(look: Look, tmp_path: Path) -> None:
    missing = str(tmp_path / "missing")
    result = look(database={"password_file": missing}, credentials_file=missing)
    assert codes(result) == ["bucket_refuses", "database_refuses"]
    assert sentences(result).count(missing) == 2


def test_the_server_speaks_for_another_database(look: Look) -> None:
    result = look(database={"name": "other"})
    assert "server_wrong_database" in codes(result)
    assert result["evidence"]["server"]["speaks_for"] == ""


def test_a_database_without_schema_and_one_that_is_not_there(look: Look) -> None:
    assert codes(look(database={"name": "empty"})) == ["schema_missing"]
    result = look(database={"name": "nowhere"})
    assert codes(result) == ["database_refuses"]
    assert 'database "nowhere" does not exist' in sentences(result)


def test_a_bucket_that_is_not_there(look: Look, classroom: Classroom, tmp_path: Path) -> None:
    aws = classroom.aws
    administrator = tmp_path / "credentials"
    administrator.write_text(
        f"[default]\naws_access_key_id={aws.access_key}\naws_secret_access_key={aws.secret_key}\n"
    )
    result = look(bucket="not-there", credentials_file=str(administrator))
    assert "bucket_missing" in codes(result)
    assert "uri_elsewhere" in codes(result)
    assert "bucket_refuses" in codes(look(bucket="not-there"))


def test_the_server_does_not_know_its_name(look: Look, classroom: Classroom) -> None:
    port = classroom.params["tracking_uri"].rpartition(":")[2]
    result = look(tracking_uri=f"http://localhost:{port}")
    assert codes(result) == ["server_refuses"]
    assert f"localhost:{port}: Invalid Host header" in sentences(result)


def test_another_program_has_the_port(look: Look, classroom: Classroom) -> None:
    result = look(tracking_uri=classroom.aws.endpoint_url)
    assert codes(result) == ["server_refuses"]
