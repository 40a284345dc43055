"""The churn project: the table's maker, the refusals, and a whole run against a real MLflow."""

from __future__ import annotations

import gzip
import importlib.util
import os
import re
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from unittest import mock

import pandas as pd
import pytest
from waiting import bound

REPO = Path(__file__).parents[2]
TRAINING = REPO / "training"
PUBLIC_TABLE = REPO.parent / "shared" / "data" / "Churn_Modelling.csv"


def load(name: str) -> ModuleType:
    """Import a script of the project by its path, so that no package has to exist."""
    spec = importlib.util.spec_from_file_location(
        f"training_{name}", TRAINING / "src" / f"{name}.py"
    )
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


make_data = load("make_data")
train = load("train")


@pytest.fixture(scope="module")
def table() -> pd.DataFrame:
    return make_data.make_table(10_000, 42)


@pytest.fixture(autouse=True)
def clean_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No setting of the caller reaches a test, and none of a test reaches the next."""
    monkeypatch.chdir(tmp_path)
    with mock.patch.dict(os.environ):
        for name in list(os.environ):
            if name.startswith(("MLFLOW_", "AWS_", "CHURN_")):
                del os.environ[name]
        yield


@pytest.fixture
def store(tmp_path: Path, empty_store: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A fresh SQLite tracking store, set in the environment; artifacts go below tmp_path."""
    path = tmp_path / "mlflow.db"
    path.write_bytes(empty_store.read_bytes())
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{path}")
    return path


@pytest.fixture(scope="module")
def empty_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A migrated SQLite store without experiments of ours; the migration takes a while."""
    from mlflow.store.db.utils import _initialize_tables, create_sqlalchemy_engine

    path = tmp_path_factory.mktemp("store") / "empty.db"
    engine = create_sqlalchemy_engine(f"sqlite:///{path}")
    _initialize_tables(engine)
    engine.dispose()
    return path


def rows_in(store: Path, query: str) -> list[tuple[object, ...]]:
    with sqlite3.connect(store) as connection:
        return connection.execute(query).fetchall()


# The maker


def documented_marginals() -> list[tuple[str, float, float]]:
    text = (TRAINING / "README.md").read_text()
    found = re.findall(
        r"^\| ((?:share|mean|sd|leavers) .+?) \| ([\d.]+) \| ([\d.]+) \|$", text, re.M
    )
    return [(name, float(value), float(tolerance)) for name, value, tolerance in found]


def select(table: pd.DataFrame, condition: str) -> pd.Series:
    column, value = condition.split("=")
    if "-" in value:
        low, high = value.split("-")
        return table[column].between(int(low), int(high))
    return table[column] == (int(value) if value.isdigit() else value)


def measure(table: pd.DataFrame, name: str) -> float:
    kind, of = name.split(" ")
    match kind:
        case "share":
            return float(select(table, of).mean())
        case "leavers":
            return float(table.loc[select(table, of), "Exited"].mean())
        case "mean":
            return float(table[of].mean())
    return float(table[of].std())


def test_readme_documents_marginals() -> None:
    assert len(documented_marginals()) == 35


@pytest.mark.parametrize("seed", [1, 42])
def test_maker_meets_the_documented_marginals(seed: int) -> None:
    made = make_data.make_table(10_000, seed)
    off = {
        name: measure(made, name)
        for name, value, tolerance in documented_marginals()
        if abs(measure(made, name) - value) > tolerance
    }
    assert off == {}


@pytest.mark.skipif(not PUBLIC_TABLE.exists(), reason="the public table is not here")
def test_documented_marginals_are_those_of_the_public_table() -> None:
    public = pd.read_csv(PUBLIC_TABLE)
    for name, value, _ in documented_marginals():
        assert measure(public, name) == pytest.approx(value, rel=0.01), name


@pytest.mark.skipif(not PUBLIC_TABLE.exists(), reason="the public table is not here")
def test_no_row_of_the_public_table_is_made(table: pd.DataFrame) -> None:
    public = pd.read_csv(PUBLIC_TABLE)
    assert list(table.columns) == list(public.columns)
    assert list(table.dtypes) == list(public.dtypes)
    columns = [*train.FEATURES, "Exited"]
    assert table.merge(public, on=columns).empty
    assert not set(table["CustomerId"]) & set(public["CustomerId"])


def test_table_has_plausible_values(table: pd.DataFrame) -> None:
    assert table["CustomerId"].is_unique
    assert table["RowNumber"].tolist() == list(range(1, 10_001))
    assert table["Age"].between(18, 92).all()
    assert table["CreditScore"].between(350, 850).all()
    assert not table.isna().any().any()


def test_same_seed_same_bytes(tmp_path: Path) -> None:
    paths = [tmp_path / name for name in ("a.csv", "b.csv", "c.csv")]
    for path, seed in zip(paths, ("7", "7", "8"), strict=True):
        assert make_data.main(["--out", str(path), "--rows", "300", "--seed", seed]) == 0
    first, second, third = (path.read_bytes() for path in paths)
    assert first == second != third
    assert first.count(b"\n") == 301


def test_a_failed_write_keeps_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "table.csv"
    path.write_text("old")
    broken = mock.Mock()
    broken.to_csv.side_effect = lambda draft, **_: (draft.write_text("half"), 1 / 0)
    with pytest.raises(ZeroDivisionError):
        make_data.write_table(broken, path)
    assert [(found.name, found.read_text()) for found in tmp_path.iterdir()] == [
        ("table.csv", "old")
    ]


def test_unwritable_place_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").touch()
    assert make_data.main(["--out", str(tmp_path / "file" / "x.csv"), "--rows", "5"]) == 2
    assert str(tmp_path / "file" / "x.csv") in capsys.readouterr().err


# Refusals


def change(edit: Callable[[pd.DataFrame], pd.DataFrame]) -> Callable[[pd.DataFrame], bytes]:
    return lambda table: edit(table.copy()).to_csv(index=False).encode()


def put(column: str, value: object) -> Callable[[pd.DataFrame], bytes]:
    def edit(table: pd.DataFrame) -> pd.DataFrame:
        table[column] = table[column].astype(object)
        table.loc[2, column] = value
        return table

    return change(edit)


BAD_FILES = {
    "empty": (lambda _: b"", "the file is empty"),
    "header only": (change(lambda t: t.head(0)), "there is a header but no rows"),
    "binary": (lambda _: gzip.compress(b"x" * 99), "this is not a CSV text file"),
    "ragged": (lambda _: b"a,b\n1,2\n1,2,3,4\n", "this is not a CSV text file"),
    "no columns": (
        change(lambda t: t.drop(columns=["Age", "Exited"])),
        "the comma-separated header lacks Age, Exited",
    ),
    "semicolons": (
        lambda t: t.to_csv(index=False, sep=";").encode(),
        "the comma-separated header lacks Geography, Gender",
    ),
    "one class": (change(lambda t: t[t["Exited"] == 0]), "Exited is 0 in every row; both"),
    "few leavers": (
        change(lambda t: pd.concat([t[t["Exited"] == 0], t[t["Exited"] == 1].head(3)])),
        "Exited is 1 in only 3 rows; at least 50 needed",
    ),
    "third class": (put("Exited", 2), "Exited must be 0 or 1, but holds 2"),
    "word for number": (put("Age", "old"), "Age in row 3 is 'old', not a number"),
    "no number": (put("Balance", None), "Balance in row 3 is empty, not a number"),
    "infinite": (put("CreditScore", "inf"), "CreditScore in row 3 is 'inf', not a number"),
    "no text": (put("Gender", None), "Gender in row 3 is empty, not a text"),
}


@pytest.mark.parametrize("case", BAD_FILES)
def test_bad_table_is_refused_before_any_run(
    case: str, table: pd.DataFrame, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make, fault = BAD_FILES[case]
    path = tmp_path / "bad.csv"
    path.write_bytes(make(table.head(1000)))
    os.environ["MLFLOW_TRACKING_URI"] = f"sqlite:///{tmp_path}/mlflow.db"

    assert train.main(["--csv", str(path)]) == 2

    shown = capsys.readouterr()
    assert shown.err.startswith(f"train.py: {path}: {fault}")
    assert shown.err.endswith("src/make_data.py\n")
    assert shown.err.count("\n") == 1
    assert shown.out == ""
    assert [found.name for found in tmp_path.iterdir()] == ["bad.csv"], "the store was touched"


@pytest.mark.parametrize(
    ("path", "fault"), [("none.csv", "there is no such file"), (".", "cannot be read (Is a dir")]
)
def test_unreadable_path_is_refused(path: str, fault: str) -> None:
    with pytest.raises(train.TableError, match=re.escape(f"{path}: {fault}")):
        train.read_table(Path(path))


def test_absent_default_table_names_the_maker(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(TRAINING)
    monkeypatch.setattr(train, "DEFAULT_CSV", tmp_path / "Churn_Modelling.csv")
    os.environ["MLFLOW_TRACKING_URI"] = "http://127.0.0.1:9"
    assert train.main([]) == 2
    assert capsys.readouterr().err.endswith("run: python src/make_data.py\n")


@pytest.mark.parametrize("uri", [None, "", "127.0.0.1:5000", "mlruns"])
def test_without_an_address_nothing_is_written(
    uri: str | None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    if uri is not None:
        os.environ["MLFLOW_TRACKING_URI"] = uri
    assert train.main([]) == 2
    assert "export MLFLOW_TRACKING_URI=http://127.0.0.1:5000" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("option", [["--C", "0"], ["--seed", "-1"], ["--model", "tree"]])
def test_wrong_option_is_refused(option: list[str]) -> None:
    with pytest.raises(SystemExit) as refusal:
        train.main(option)
    assert refusal.value.code == 2


def test_bug_is_not_taken_for_the_server() -> None:
    assert train.server_trouble(ValueError("bug")) is None


# The steps


def test_rebalance_keeps_the_smaller_class_and_draws_from_the_larger(table: pd.DataFrame) -> None:
    leavers = table[table["Exited"] == 1]
    even = train.rebalance(table, 5)
    assert even["Exited"].value_counts().to_dict() == {0: len(leavers), 1: len(leavers)}
    assert even.index.is_unique
    assert set(leavers.index) <= set(even.index)
    pd.testing.assert_frame_equal(even, train.rebalance(table, 5))
    assert list(even.index) != list(train.rebalance(table, 6).index)


def test_split_is_stratified_and_disjoint(table: pd.DataFrame) -> None:
    parts = train.split(train.rebalance(table, 5), 5)
    assert list(parts.x_train.columns) == train.FEATURES
    assert not set(parts.x_train.index) & set(parts.x_test.index)
    assert parts.y_train.mean() == pytest.approx(0.5, abs=0.001)
    assert parts.y_test.mean() == pytest.approx(0.5, abs=0.002)


@pytest.mark.parametrize(
    ("uri", "shown"),
    [
        ("http://jdoe:s3cret@host:5000/x", "http://host:5000/x"),
        ("postgresql://jdoe:p%40ss@host/db", "postgresql://host/db"),
        ("http://host:5000", "http://host:5000"),
    ],
)
def test_credentials_are_not_shown(uri: str, shown: str) -> None:
    assert train.without_credentials(uri) == shown


# Whole runs

TABLES = [
    "made",
    pytest.param(
        "public",
        marks=pytest.mark.skipif(not PUBLIC_TABLE.exists(), reason="the public table is not here"),
    ),
]


@pytest.fixture
def made_csv(table: pd.DataFrame, tmp_path: Path) -> Path:
    path = tmp_path / "customers.csv"
    make_data.write_table(table, path)
    return path


@pytest.mark.parametrize("source", TABLES)
@pytest.mark.parametrize("model", ["logistic", "knn"])
def test_run_is_logged_registered_and_usable(
    model: str,
    source: str,
    made_csv: Path,
    store: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    import mlflow

    csv = made_csv if source == "made" else PUBLIC_TABLE
    assert train.main(["--csv", str(csv), "--model", model]) == 0

    facts = dict(line.split(": ", 1) for line in capsys.readouterr().out.splitlines())
    run = mlflow.get_run(facts["run id"])
    assert run.info.status == "FINISHED"
    assert run.info.run_name == facts["run name"]
    setting = {"logistic": r"logistic-regression-C1\.0", "knn": r"knn-k\d+"}[model]
    assert re.fullmatch(setting + r"-\d{4}-\d\d-\d\dT\d\d:\d\d", run.info.run_name)
    assert mlflow.get_experiment(run.info.experiment_id).name == "churn-exp"
    assert run.data.params["features"].split(",") == train.FEATURES
    assert run.data.params["csv"] == csv.name
    assert ("C" in run.data.params) == (model == "logistic")
    assert 0.65 < run.data.metrics["accuracy"] < 0.85
    for name in ("accuracy", "precision", "recall", "f1"):
        assert facts[name] == f"{run.data.metrics[name]:.4f}"

    root = f"runs:/{run.info.run_id}"
    png = mlflow.artifacts.download_artifacts(f"{root}/confusion_matrix.png")
    assert Path(png).read_bytes().startswith(b"\x89PNG")
    names = mlflow.artifacts.load_dict(f"{root}/feature_names.json")
    assert names["input"] == train.FEATURES
    assert {"Geography_Germany", "Age"} <= set(names["encoded"])

    assert facts["model"] == "churn-model version 1"
    os.environ["MLFLOW_ALLOW_PICKLE_DESERIALIZATION"] = "true"
    loaded = mlflow.pyfunc.load_model("models:/churn-model/1")
    assert loaded.metadata.signature.inputs.input_names() == train.FEATURES
    assert list(loaded.input_example.columns) == train.FEATURES
    customers = pd.read_csv(csv).head(200)
    answers = loaded.predict(customers)
    assert set(answers) == {0, 1}
    assert (answers == customers["Exited"]).mean() > 0.6


def test_names_from_options_and_environment(
    made_csv: Path, store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "from-env")
    arguments = ["--csv", str(made_csv), "--run-name", "mine", "--model-name", "other"]
    assert train.main(arguments) == 0
    assert rows_in(store, "select name from experiments where name like 'from%'") == [("from-env",)]
    assert rows_in(store, "select name from runs") == [("mine",)]
    assert rows_in(store, "select name, version from model_versions") == [("other", 1)]


def test_deleted_experiment_names_the_restore_command(
    made_csv: Path, store: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import mlflow

    number = mlflow.create_experiment("churn-exp")
    mlflow.delete_experiment(number)
    assert train.main(["--csv", str(made_csv)]) == 3
    assert f"mlflow experiments restore --experiment-id {number}" in capsys.readouterr().err
    assert rows_in(store, "select * from runs") == []


@pytest.mark.parametrize(
    ("endpoint", "keys", "cause"),  # MLflow keeps one S3 client per endpoint: two endpoints
    [
        ("http://127.0.0.1:9", [], "Unable to locate credentials"),
        (
            "http://127.0.0.1:1",
            ["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"],
            "Connection refused",
        ),
    ],
)
def test_s3_refusal_names_endpoint_and_next_step(
    endpoint: str,
    keys: list[str],
    cause: str,
    made_csv: Path,
    store: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    import mlflow

    nothing = str(tmp_path / "none")
    os.environ |= {
        "MLFLOW_S3_ENDPOINT_URL": endpoint,
        "AWS_EC2_METADATA_DISABLED": "true",
        "AWS_SHARED_CREDENTIALS_FILE": nothing,
        "AWS_CONFIG_FILE": nothing,
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_MAX_ATTEMPTS": "1",
        **dict.fromkeys(keys, "s3cret"),
    }
    mlflow.create_experiment("churn-exp", artifact_location="s3://mlflow-exp-tracking-jdoe/1")
    assert train.main(["--csv", str(made_csv)]) == 3
    said = capsys.readouterr().err
    assert f"the artifact store (S3 at {endpoint}) of sqlite:///" in said
    assert cause in said
    assert "environment file" in said
    assert "s3cret" not in said
    assert rows_in(store, "select status from runs") == [("FAILED",)]


def test_dead_server_is_named_soon_and_without_credentials(made_csv: Path) -> None:
    environment = {
        **os.environ,
        "MLFLOW_TRACKING_URI": "http://jdoe:s3cret@127.0.0.1:9",
        "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    }
    done = subprocess.run(
        [sys.executable, TRAINING / "src" / "train.py", "--csv", made_csv],
        env=environment,
        capture_output=True,
        text=True,
        timeout=bound(12),
    )
    assert done.returncode == 3
    assert "the tracking server http://127.0.0.1:9 refused or did not answer" in done.stderr
    assert "Connection refused. Look whether it runs: curl http://127.0.0.1:9/health" in done.stderr
    assert "s3cret" not in done.stderr + done.stdout
    assert "Traceback" not in done.stderr
