"""The join of what server, tables and bucket say, with plain rows."""

from __future__ import annotations

import copy
import json
from typing import Any

import pytest
from evidence import Asked, Row, Shelf, explain_refusal, judge, parents, size_text, summarise

BUCKET = "mlflow-exp-tracking-jdoe"
ROOT = f"s3://{BUCKET}"


def codes(result: dict[str, Any]) -> list[str]:
    """Return the problems' codes."""
    return sorted(each["code"] for each in result["problems"])


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
