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
from conftest import ModuleRun, PostgresServer
from evidence import Asked, Row, Shelf, explain_refusal, judge, parents, size_text, summarise
from stores import BIN, Aws, free_port, mlflow_server

pytest_plugins = ["stores"]

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
        with urllib.request.urlopen(request, timeout=20) as answer:
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
        for each in result["problems"] if result.get("failed") else []:
            assert each["message"] in result["msg"]
            assert each["next"] in result["msg"]
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
    assert any(line.split() == ["runs", "1"] for line in result["summary"])


def test_a_model_whose_objects_are_gone(look: Look, restored: Classroom) -> None:
    s3 = restored.aws.client("s3")
    for key in restored.objects():
        if "/models/" in key:
            s3.delete_object(Bucket=BUCKET, Key=key)
    result = look()
    assert result["failed"]
    assert codes(result) == ["model_without_objects"]
    run = result["evidence"]["runs"][0]
    assert run["run_id"] in result["msg"]
    assert run["models"][0]["model_id"] in result["msg"]


def test_a_file_of_a_run_is_gone(look: Look, restored: Classroom) -> None:
    (key,) = [key for key in restored.objects() if key.endswith("predictions.json")]
    restored.aws.client("s3").delete_object(Bucket=BUCKET, Key=key)
    result = look()
    assert codes(result) == ["half_logged_run"]
    assert "predictions.json" in result["msg"]


def test_objects_that_nobody_knows(look: Look, restored: Classroom) -> None:
    s3 = restored.aws.client("s3")
    for key in ("1/models/m-gone/artifacts/MLmodel", "stray.bin", "data/churn.csv"):
        s3.put_object(Bucket=BUCKET, Key=key, Body=b"x")
    result = look(ignore_prefixes=["data/"])
    assert codes(result) == ["orphan_object", "orphan_object"]
    assert f"{ROOT}/1/models/m-gone/" in result["msg"]
    assert f"{ROOT}/stray.bin" in result["msg"]


def test_a_run_whose_client_could_not_write(look: Look, restored: Classroom) -> None:
    """The newest run failed with metrics and no object; deleted, it no longer counts."""
    run = restored.api("runs/create", experiment_id="1", run_name="half", start_time=2**42)
    run_id = run["run"]["info"]["run_id"]
    restored.api("runs/log-metric", run_id=run_id, key="accuracy", value=0.5, timestamp=1)
    restored.api("runs/update", run_id=run_id, status="FAILED")
    try:
        result = look()
        assert codes(result) == ["half_logged_run"]
        assert run_id in result["msg"]
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
        assert "experiments/restore" in result["msg"]
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


def test_problems_can_be_returned_without_failing(look: Look) -> None:
    result = look(fail=False, experiment="fraud-exp")
    assert not result.get("failed")
    assert codes(result) == ["experiment_missing"]
    assert result["evidence"]["verdict"] == "fail"


def test_wrong_password_and_wrong_key(look: Look, classroom: Classroom, tmp_path: Path) -> None:
    wrong, credentials = tmp_path / "password", tmp_path / "credentials"
    wrong.write_text("not-the-password")
    credentials.write_text(
        Path(classroom.params["credentials_file"]).read_text().replace(classroom.secrets[1], "x")
    )
    result = look(database={"password_file": str(wrong)}, credentials_file=str(credentials))
    assert codes(result) == ["bucket_refuses", "database_refuses"]
    assert str(wrong) in result["msg"]
    assert "not-the-password" not in result["stdout"]
    assert result["evidence"]["server"]["ok"]


def test_files_that_are_not_there(look: Look, tmp_path: Path) -> None:
    missing = str(tmp_path / "missing")
    result = look(database={"password_file": missing}, credentials_file=missing)
    assert codes(result) == ["bucket_refuses", "database_refuses"]
    assert result["msg"].count(missing) == 2


def test_the_server_speaks_for_another_database(look: Look) -> None:
    result = look(database={"name": "other"})
    assert "server_wrong_database" in codes(result)
    assert result["evidence"]["server"]["speaks_for"] == ""


def test_a_database_without_schema_and_one_that_is_not_there(look: Look) -> None:
    assert codes(look(database={"name": "empty"})) == ["schema_missing"]
    result = look(database={"name": "nowhere"})
    assert codes(result) == ["database_refuses"]
    assert 'database "nowhere" does not exist' in result["msg"]


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
    assert f"localhost:{port}: Invalid Host header" in result["msg"]


def test_another_program_has_the_port(look: Look, classroom: Classroom) -> None:
    result = look(tracking_uri=classroom.aws.endpoint_url)
    assert codes(result) == ["server_refuses"]


# --- the join, with plain rows ------------------------------------------------------------------

NOW = 1_800_000_000.0
START = int(NOW * 1000) - 60_000


def run_row(run_id: str, **changes: Any) -> Row:
    """Return a row of the runs."""
    row = {
        "run_id": run_id,
        "experiment_id": "1",
        "name": run_id,
        "status": "FINISHED",
        "start_time": START,
        "end_time": START + 1000,
        "user_id": "jdoe",
        "lifecycle_stage": "active",
        "artifact_uri": f"{ROOT}/1/{run_id}/artifacts",
        "name_tag": None,
        "logged_artifacts": None,
    }
    return {**row, **changes}


def model_row(model_id: str, run_id: str | None, **changes: Any) -> Row:
    """Return a row of the logged models."""
    row = {
        "model_id": model_id,
        "experiment_id": "1",
        "name": "model",
        "artifact_location": f"{ROOT}/1/models/{model_id}/artifacts",
        "status": 2,
        "lifecycle_stage": "active",
        "source_run_id": run_id,
    }
    return {**row, **changes}


def metric_row(run_id: str, **changes: Any) -> Row:
    """Return a row of the latest metrics."""
    return {"run_id": run_id, "key": "accuracy", "value": 0.9, "is_nan": False, **changes}


class World:
    """Three layers that agree, to be spoilt by a test."""

    def __init__(self) -> None:
        experiment = {
            "id": "1",
            "name": "churn-exp",
            "artifact_location": f"{ROOT}/1",
            "lifecycle_stage": "active",
            "creation_time": 1,
        }
        self.database: Row = {
            "ok": True,
            "schema": "abc",
            "bytes": 1,
            "tables": {"runs": 1, "jobs": 0},
            "problems": [],
            "experiments": [experiment],
            "runs": [run_row("r1")],
            "metrics": [metric_row("r1")],
            "params": [{"run_id": "r1", "count": 3}],
            "inputs": [],
            "logged_models": [model_row("m-1", "r1")],
            "versions": [
                {
                    "name": "churn-model",
                    "version": 1,
                    "source": "models:/m-1",
                    "storage_location": f"{ROOT}/1/models/m-1/artifacts",
                    "run_id": "r1",
                    "status": "READY",
                }
            ],
            "traces": [],
        }
        self.server: Row = {
            "ok": True,
            "version": "3.17.2",
            "experiments": copy.deepcopy([experiment]),
            "problems": [],
        }
        self.objects = {"1/r1/artifacts/a.png": 10, "1/models/m-1/artifacts/MLmodel": 20}
        self.bucket: Row = {"ok": True, "versioning": "Enabled", "problems": []}
        self.after: Row | None = None

    def add_failed_run(self, **changes: Any) -> None:
        """Add a run whose client could not reach the bucket."""
        self.database["runs"].append(run_row("r2", status="FAILED", **changes))
        self.database["metrics"].append(metric_row("r2"))
        self.database["logged_models"].append(model_row("m-2", "r2", status=3))

    def judge(self, **params: Any) -> Row:
        """Join the layers."""
        defaults: dict[str, Any] = {
            "user": "jdoe",
            "tracking_uri": "http://127.0.0.1:5001",
            "experiment": "churn-exp",
            "model": "churn-model",
            "database": {"host": "h", "port": 5432, "name": "mlflow_jdoe", "login": "mlflow_jdoe"},
            "bucket": BUCKET,
            "endpoint_url": None,
            "tracking_username": None,
            "ignore_prefixes": [],
            "running_after": 3600,
        }
        asked = Asked({**defaults, **params})
        bucket = {**self.bucket, "objects": self.objects}
        return judge(asked, self.server, self.database, self.after or self.database, bucket, NOW)


@pytest.fixture
def world() -> World:
    """Give three layers that agree."""
    return World()


def test_layers_that_agree(world: World) -> None:
    assert world.judge()["problems"] == []
    assert world.judge()["verdict"] == "pass"


def test_a_run_that_only_logged_metrics_is_fine(world: World) -> None:
    world.database["runs"].append(run_row("r2"))
    world.database["metrics"].append(metric_row("r2"))
    assert world.judge()["problems"] == []


def test_a_failed_attempt_before_a_good_run_is_a_note(world: World) -> None:
    world.add_failed_run(start_time=START - 5000)
    document = world.judge()
    assert document["problems"] == []
    assert [each["code"] for each in document["notes"]] == ["half_logged_run"]


def test_a_failed_attempt_after_a_good_run_is_a_problem(world: World) -> None:
    world.add_failed_run(start_time=START + 5000)
    (found,) = world.judge()["problems"]
    assert found["code"] == "half_logged_run"
    assert "m-2 is FAILED, 0 objects" in found["message"]


def test_a_later_run_with_nothing_in_the_bucket_excuses_nothing(world: World) -> None:
    world.add_failed_run(start_time=START + 5000)
    world.database["runs"].append(run_row("r3", start_time=START + 9000))
    assert codes(world.judge()) == ["half_logged_run"]


def test_a_finished_run_whose_model_was_never_uploaded(world: World) -> None:
    world.database["logged_models"].append(model_row("m-2", "r1", status=1))
    assert codes(world.judge()) == ["half_logged_run"]


def test_what_is_still_being_logged_accuses_nobody(world: World) -> None:
    world.database["runs"].append(run_row("r2", status="RUNNING", end_time=None))
    world.database["metrics"].append(metric_row("r2"))
    world.database["logged_models"].append(model_row("m-2", "r2", status=1))
    document = world.judge()
    assert (document["problems"], document["notes"]) == ([], [])
    assert [each["code"] for each in world.judge(running_after=30)["notes"]] == [
        "run_still_running"
    ]


def test_what_was_made_between_the_looks_accuses_nobody(world: World) -> None:
    world.after = copy.deepcopy(world.database)
    new = {**world.database["experiments"][0], "id": "2", "name": "new"}
    world.after["experiments"].append(new)
    world.server["experiments"].append(new)
    world.after["runs"].append(run_row("r9"))
    world.objects["1/r9/artifacts/a.png"] = 1
    assert world.judge()["problems"] == []


def test_deleted_runs_are_not_judged_and_their_objects_are_no_orphans(world: World) -> None:
    world.add_failed_run(start_time=START + 5000, lifecycle_stage="deleted")
    world.objects["1/r2/artifacts/a.png"] = 1
    assert world.judge()["problems"] == []


def test_objects_of_a_trace_are_no_orphans(world: World) -> None:
    world.objects["1/traces/tr-1/artifacts/traces.json"] = 1
    assert codes(world.judge()) == ["orphan_object"]
    world.database["traces"] = [{"location": f"{ROOT}/1/traces/tr-1/artifacts"}]
    assert world.judge()["problems"] == []


def test_a_name_that_begins_like_a_known_one_is_an_orphan(world: World) -> None:
    world.objects["1/r1/artifacts-old/a.png"] = 1
    assert world.judge()["bucket"]["orphans"] == ["1/r1/artifacts-old/a.png"]


def test_many_orphans_are_counted(world: World) -> None:
    world.objects |= {f"stray-{number:02}": 1 for number in range(25)}
    document = world.judge()
    assert len(document["problems"]) == 11
    assert "15 more" in document["problems"][-1]["message"]
    assert len(document["bucket"]["orphans"]) == 25


@pytest.mark.parametrize("root", ["mlflow-artifacts:", f"{ROOT}-other", "/mlruns", "file:///x"])
def test_locations_elsewhere(world: World, root: str) -> None:
    world.database["experiments"][0]["artifact_location"] = f"{root}/1"
    world.server["experiments"][0]["artifact_location"] = f"{root}/1"
    document = world.judge()
    assert codes(document) == ["uri_elsewhere"]
    assert f"{root}/1" in document["problems"][0]["message"]
    assert "confirm=jdoe" in document["problems"][0]["next"]


def test_a_version_that_points_nowhere(world: World) -> None:
    world.database["versions"][0]["storage_location"] = f"{ROOT}/1/models/m-0/artifacts"
    assert codes(world.judge()) == ["model_without_objects"]


def test_a_lost_model_is_reported_once(world: World) -> None:
    del world.objects["1/models/m-1/artifacts/MLmodel"]
    assert codes(world.judge()) == ["model_without_objects"]


def test_no_finished_run(world: World) -> None:
    world.database["runs"][0]["status"] = "KILLED"
    assert codes(world.judge()) == ["no_finished_run"]


def test_no_metrics_and_no_params(world: World) -> None:
    world.database |= {"metrics": [], "params": []}
    assert codes(world.judge()) == ["metrics_missing", "params_missing"]


def test_a_metric_that_is_not_a_number_is_json(world: World) -> None:
    world.database["metrics"] = [metric_row("r1", value=0, is_nan=True)]
    assert json.loads(json.dumps(world.judge()))["runs"][0]["metrics"] == {"accuracy": None}


def test_a_bucket_that_was_not_listed_accuses_no_run(world: World) -> None:
    world.add_failed_run(start_time=START + 5000)
    world.bucket["ok"] = False
    world.objects = {}
    assert world.judge()["problems"] == []


def test_a_server_with_logins_may_hide_experiments(world: World) -> None:
    world.server["experiments"] = []
    assert codes(world.judge()) == ["server_wrong_database"]
    assert codes(world.judge(tracking_username="jdoe")) == []


def test_the_same_name_made_at_another_time_is_another_database(world: World) -> None:
    world.server["experiments"][0]["creation_time"] = 2
    assert codes(world.judge()) == ["server_wrong_database"]


def test_no_model_wanted(world: World) -> None:
    world.database["versions"] = []
    assert codes(world.judge()) == ["model_not_registered"]
    assert codes(world.judge(model="")) == []


def test_names_cannot_move_the_cursor_or_break_out_of_a_command(world: World) -> None:
    world.database["runs"][0]["name"] = "a\x1b[2Jb"
    world.objects["x'; reboot; '"] = 1
    document = world.judge()
    assert "\x1b" not in "".join(summarise(document))
    assert document["problems"][0]["next"].endswith(f"""'s3://{BUCKET}/x'"'"'; reboot; '"'"''""")


@pytest.mark.parametrize(
    ("status", "body", "code", "word"),
    [
        (403, "Invalid Host header - possible DNS rebinding", "server_refuses", "allowed hosts"),
        (403, "", "server_refuses", "not MLflow"),
        (401, "", "server_refuses", "tracking_username"),
        (404, "", "server_refuses", "another program"),
        (503, "", "server_failing", "database"),
    ],
)
def test_what_a_server_says(status: int, body: str, code: str, word: str) -> None:
    params = {name: "" for name in ("experiment", "model", "bucket", "endpoint_url")}
    more = {"user": "jdoe", "tracking_uri": "http://h:1/", "database": {}, "ignore_prefixes": []}
    asked = Asked({**params, **more, "tracking_username": None, "running_after": 1})
    found = explain_refusal(asked, status, body, False)
    assert found["code"] == code
    assert word in found["message"]


def test_small_things() -> None:
    assert list(parents("a/b/c")) == ["a", "a/b"]
    assert [size_text(size) for size in (0, 999, 1000, 10_800, 5 * 10**9)] == [
        "0 B",
        "999 B",
        "1.0 kB",
        "10.8 kB",
        "5.0 GB",
    ]
    assert Shelf("b", {"1/x": 1}).size("s3://other/1") == {"objects": 0, "bytes": 0}
