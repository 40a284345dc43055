# mypy: disable-error-code="import-untyped"
"""Train the bank-churn classifier and log the run to an MLflow tracking server.

    export MLFLOW_TRACKING_URI=http://127.0.0.1:5000
    python src/train.py                # logistic regression
    python src/train.py --model knn    # k nearest neighbours, k by grid search

Exit codes: 0 logged, 2 wrong input (nothing was sent to the server), 3 the tracking server or
its artifact store refused or did not answer.
"""

from __future__ import annotations

import argparse
import logging
import os
import sys
import time
import warnings
from dataclasses import dataclass
from datetime import datetime
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

# pandas, scikit-learn, matplotlib and mlflow take seconds to import: each function imports what
# it uses, so that --help and refusals answer at once.
if TYPE_CHECKING:
    from collections.abc import Iterator

    import numpy as np
    import pandas as pd
    from matplotlib.figure import Figure

PROJECT = Path(__file__).resolve().parent.parent
DEFAULT_CSV = PROJECT / "data" / "Churn_Modelling.csv"

TARGET = "Exited"
TEXT = ["Geography", "Gender"]
SCALED = [
    "CreditScore",
    "Age",
    "Tenure",
    "Balance",
    "HasCrCard",
    "IsActiveMember",
    "EstimatedSalary",
]
# Churn is lowest with two products and highest with three or four: a number to count, not to scale.
ONE_HOT = [*TEXT, "NumOfProducts"]
FEATURES = [*ONE_HOT, *SCALED]
NUMBERS = [*SCALED, "NumOfProducts", TARGET]

TEST_SHARE = 0.2
# 50 rows per class leave 64 in each of the grid search's training folds, more than the largest k.
MIN_PER_CLASS = 50
FOLDS = 5
K_GRID = [5, 11, 21, 31]

# Without these a dead server or bucket is noticed after many minutes. The environment wins.
CLIENT_DEFAULTS = {
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "20",  # seconds
    "AWS_MAX_ATTEMPTS": "3",
    "AWS_DEFAULTS_MODE": "standard",  # botocore: standard retries, 3.1 s to connect
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",  # MLflow would print the whole URI
}
SERVER_SIDE = {"mlflow", "botocore", "boto3", "s3transfer", "requests", "urllib3", "sqlalchemy"}
STORE_SIDE = {"botocore", "boto3", "s3transfer"}


class TableError(ValueError):
    """The table cannot be trained on. The text names the file, the fault and the next command."""


class TrackingError(RuntimeError):
    """The tracking server or its artifact store refused. The text names the URI and the remedy."""


@dataclass(frozen=True)
class Split:
    """A stratified split: features `(n, 10)` and targets `(n,)` for fitting and for testing."""

    x_train: pd.DataFrame
    x_test: pd.DataFrame
    y_train: pd.Series
    y_test: pd.Series


@dataclass(frozen=True)
class Result:
    """What one training made: a fitted pipeline, how it scored and how it was set."""

    pipeline: Any
    metrics: dict[str, float]
    confusion: np.ndarray
    params: dict[str, Any]


@dataclass(frozen=True)
class Logged:
    """Where the run can be found again."""

    name: str
    run_id: str
    url: str
    model_version: str


def make_data_command() -> str:
    """Return the command, as seen from the current folder, that makes the default table."""
    return f"python {os.path.relpath(Path(__file__).with_name('make_data.py'))}"


def table_error(path: Path, fault: str) -> TableError:
    """Return the one-line refusal of `path`."""
    return TableError(f"{path}: {fault}. To make a table that fits, run: {make_data_command()}")


def read_table(path: Path) -> pd.DataFrame:
    """Read the customers' table from a CSV file and check all that training relies on.

    Returns the ten feature columns and `Exited`, shape `(rows, 11)`; numbers finite, texts not
    empty, `Exited` 0 or 1 with at least `MIN_PER_CLASS` rows each. Other columns are dropped.
    Raises TableError.
    """
    import pandas as pd

    try:
        table = pd.read_csv(path, compression=None)
    except FileNotFoundError:
        raise table_error(path, "there is no such file") from None
    except pd.errors.EmptyDataError:
        raise table_error(path, "the file is empty") from None
    except (pd.errors.ParserError, UnicodeDecodeError):
        raise table_error(path, "this is not a CSV text file") from None
    except OSError as error:
        raise table_error(path, f"cannot be read ({error.strerror})") from None

    missing = [name for name in [*FEATURES, TARGET] if name not in table.columns]
    if missing:
        raise table_error(path, f"the comma-separated header lacks {', '.join(missing)}")
    if table.empty:
        raise table_error(path, "there is a header but no rows")
    table = table[[*FEATURES, TARGET]].copy()
    for name in TEXT:
        check_cells(path, table[name], table[name].isna(), "a text")
        table[name] = table[name].astype(str)
    for name in NUMBERS:
        numbers = pd.to_numeric(table[name], errors="coerce")
        check_cells(path, table[name], ~numbers.abs().lt(float("inf")), "a number")
        table[name] = numbers
    check_target(path, table[TARGET])
    return table


def check_cells(path: Path, column: pd.Series, wrong: pd.Series, expected: str) -> None:
    """Raise TableError for the first cell of `column` where the mask `wrong` is true."""
    if wrong.any():
        row = int(wrong.to_numpy().argmax())
        cell = "empty" if column.isna().iloc[row] else repr(str(column.iloc[row])[:40])
        raise table_error(path, f"{column.name} in row {row + 1} is {cell}, not {expected}")


def check_target(path: Path, target: pd.Series) -> None:
    """Raise TableError unless `target` holds enough zeros and enough ones, and nothing else."""
    counts = target.value_counts()
    strange = sorted(set(counts.index) - {0, 1})
    if strange:
        raise table_error(path, f"{TARGET} must be 0 or 1, but holds {strange[0]}")
    if len(counts) == 1:
        raise table_error(path, f"{TARGET} is {counts.index[0]} in every row; both 0 and 1 needed")
    if counts.min() < MIN_PER_CLASS:
        fault = f"{TARGET} is {counts.idxmin()} in only {counts.min()} rows"
        raise table_error(path, f"{fault}; at least {MIN_PER_CLASS} needed")


def rebalance(table: pd.DataFrame, seed: int) -> pd.DataFrame:
    """Return `table` with the larger class of `Exited` sampled down to the size of the smaller.

    Every row of the smaller class stays; no row is drawn twice. Same seed, same rows.
    """
    import pandas as pd
    from sklearn.utils import resample

    small, large = sorted((rows for _, rows in table.groupby(TARGET)), key=len)
    drawn = resample(large, replace=False, n_samples=len(small), random_state=seed)
    return pd.concat([small, drawn]).sort_index()


def split(table: pd.DataFrame, seed: int) -> Split:
    """Keep `TEST_SHARE` of the rows for testing, with the same share of `Exited` in both parts."""
    from sklearn.model_selection import train_test_split

    parts = train_test_split(
        table[FEATURES],
        table[TARGET],
        test_size=TEST_SHARE,
        stratify=table[TARGET],
        random_state=seed,
    )
    return Split(*parts)


def build_model(kind: str, c: float, max_iter: int, seed: int) -> Any:
    """Return an unfitted estimator that takes the ten feature columns as they are in the table.

    `kind` is "logistic" (inverse regularisation strength `c`, at most `max_iter` iterations) or
    "knn" (the number of neighbours by cross-validated grid search).
    """
    from sklearn.compose import ColumnTransformer
    from sklearn.pipeline import Pipeline
    from sklearn.preprocessing import OneHotEncoder, StandardScaler

    encode = ColumnTransformer(
        [
            ("one_hot", OneHotEncoder(handle_unknown="ignore", sparse_output=False), ONE_HOT),
            ("scaled", StandardScaler(), SCALED),
        ],
        verbose_feature_names_out=False,
    )
    if kind == "logistic":
        from sklearn.linear_model import LogisticRegression

        classifier = LogisticRegression(C=c, max_iter=max_iter, random_state=seed)
        return Pipeline([("encode", encode), ("classify", classifier)])

    from sklearn.model_selection import GridSearchCV
    from sklearn.neighbors import KNeighborsClassifier

    # Brute force: as fast at this size, and no search tree has to be stored with the model.
    pipeline = Pipeline([("encode", encode), ("classify", KNeighborsClassifier(algorithm="brute"))])
    return GridSearchCV(pipeline, {"classify__n_neighbors": K_GRID}, cv=FOLDS, scoring="f1")


def evaluate(pipeline: Any, x: pd.DataFrame, y: pd.Series) -> tuple[dict[str, float], np.ndarray]:
    """Return how well `pipeline` predicts `y` from `x`.

    Returns:
        Accuracy, precision, recall and f1 (0 to 1, of `Exited` = 1), and the `(2, 2)` confusion
        matrix, rows true, columns predicted.
    """
    from sklearn import metrics

    predicted = pipeline.predict(x)
    scores = {
        "accuracy": metrics.accuracy_score(y, predicted),
        "precision": metrics.precision_score(y, predicted, zero_division=0),
        "recall": metrics.recall_score(y, predicted),
        "f1": metrics.f1_score(y, predicted),
    }
    confusion = metrics.confusion_matrix(y, predicted, labels=[0, 1])
    return {name: float(score) for name, score in scores.items()}, confusion


def train(parts: Split, args: argparse.Namespace) -> Result:
    """Fit the model that `args` asks for and score it on the test rows."""
    started = time.perf_counter()
    model = build_model(args.model, args.C, args.max_iter, args.seed)
    model.fit(parts.x_train, parts.y_train)
    pipeline = model if args.model == "logistic" else model.best_estimator_
    seconds = time.perf_counter() - started
    scores, confusion = evaluate(pipeline, parts.x_test, parts.y_test)

    params: dict[str, Any] = {
        "model": args.model,
        "seed": args.seed,
        "csv": args.csv.name,
        "train_rows": len(parts.x_train),
        "test_rows": len(parts.x_test),
        "features": ",".join(FEATURES),
    }
    if args.model == "logistic":
        params |= {"C": args.C, "max_iter": args.max_iter}
    else:
        params |= {"n_neighbors": pipeline["classify"].n_neighbors, "folds": FOLDS}
    return Result(pipeline, {**scores, "fit_seconds": seconds}, confusion, params)


def default_run_name(params: dict[str, Any]) -> str:
    """Return a name that tells runs apart in a list: model, main setting, local time."""
    setting = f"C{params['C']}" if "C" in params else f"k{params['n_neighbors']}"
    kind = "logistic-regression" if "C" in params else "knn"
    return f"{kind}-{setting}-{datetime.now():%Y-%m-%dT%H:%M}"


def draw_confusion(confusion: np.ndarray) -> Figure:
    """Draw the `(2, 2)` matrix of counts. Without pyplot, which needs a display and is slow."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4, 4), layout="constrained")
    axes = figure.subplots()
    axes.imshow(confusion, cmap="Blues")
    for row in (0, 1):
        for column in (0, 1):
            cell = confusion[row, column]
            colour = "white" if cell > confusion.max() / 2 else "black"
            axes.text(column, row, str(cell), ha="center", va="center", color=colour)
    axes.set(xlabel="predicted", ylabel="true", title="Test customers")
    axes.set_xticks([0, 1], ["stayed", "exited"])
    axes.set_yticks([0, 1], ["stayed", "exited"])
    return figure


def without_credentials(uri: str) -> str:
    """Return `uri` without user name and password, fit to be shown."""
    userinfo, at, _ = urlsplit(uri).netloc.rpartition("@")
    return uri.replace(userinfo + at, "", 1) if at else uri


def open_experiment(name: str) -> str:
    """Return the id of experiment `name`, which is created if needed.

    Raises TrackingError if it was deleted.
    """
    import mlflow

    found = mlflow.MlflowClient().get_experiment_by_name(name)
    if found is not None and found.lifecycle_stage == "deleted":
        raise TrackingError(
            f'experiment "{name}" was deleted on this tracking server. To take it back, run: '
            f"mlflow experiments restore --experiment-id {found.experiment_id}"
        )
    return str(mlflow.set_experiment(name).experiment_id)


def log_run(result: Result, x: pd.DataFrame, experiment_id: str, name: str, model: str) -> Logged:
    """Log `result` as one run and register its pipeline as a new version of `model`.

    `x` is a sample of features, shape `(n, 10)`: its types become the model's signature, its first
    five rows the input example. Raises what MLflow and boto3 raise; the run is then FAILED.
    """
    import mlflow
    import mlflow.sklearn

    # It warns where uv made the environment, because there is no pip in it.
    logging.getLogger("mlflow.utils.environment").setLevel(logging.ERROR)
    with mlflow.start_run(experiment_id=experiment_id, run_name=name) as run:
        mlflow.log_params(result.params)
        mlflow.log_metrics(result.metrics)
        mlflow.log_figure(draw_confusion(result.confusion), "confusion_matrix.png")
        names = list(result.pipeline["encode"].get_feature_names_out())
        mlflow.log_dict({"input": FEATURES, "encoded": names}, "feature_names.json")
        info = mlflow.sklearn.log_model(
            result.pipeline,
            name="model",
            registered_model_name=model,
            signature=make_signature(x, result.pipeline.predict(x)),
            input_example=x.head(),
            serialization_format="skops",
            # Given, because guessing them loads the model in a second process, for seconds.
            pip_requirements=[
                f"{package}=={version(package)}"
                for package in ["mlflow", "scikit-learn", "pandas", "numpy", "skops"]
            ],
        )
    run_id = run.info.run_id
    return Logged(name, run_id, run_url(experiment_id, run_id), str(info.registered_model_version))


def make_signature(x: pd.DataFrame, predicted: np.ndarray) -> Any:
    """Return the MLflow signature of features `x`, shape `(n, 10)`, and predictions, `(n,)`."""
    from mlflow.models import infer_signature

    with warnings.catch_warnings():
        # Whole numbers stay whole, so that rows read from the CSV fit; read_table refuses gaps.
        warnings.filterwarnings("ignore", message=".*integer column")
        return infer_signature(x, predicted)


def run_url(experiment_id: str, run_id: str) -> str:
    """Return the address of the run's page, or a word if the tracking URI is not a server."""
    uri = without_credentials(os.environ["MLFLOW_TRACKING_URI"])
    if not uri.startswith("http"):
        return "none (the tracking URI is not a web address)"
    return f"{uri.rstrip('/')}/#/experiments/{experiment_id}/runs/{run_id}"


def causes(error: BaseException | None) -> Iterator[BaseException]:
    """Yield `error`, what it was raised from, and so on to the first cause."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def server_trouble(error: Exception) -> str | None:
    """Return one line on an error that came from the server's side, None for any other error."""
    chain = list(causes(error))
    packages = {type(link).__module__.partition(".")[0] for link in chain}
    if isinstance(error, ModuleNotFoundError):
        return f"the Python package {error.name} is missing. Run: pip install {error.name}"
    if not packages & SERVER_SIDE and not isinstance(error, OSError):
        return None

    uri = os.environ["MLFLOW_TRACKING_URI"]
    shown = without_credentials(uri)
    # The first cause of a broken connection says more than MLflow's account of its retries.
    told = chain[-1] if isinstance(chain[-1], OSError) else error
    cause = " ".join(str(told).replace(uri, shown).split())[:300]
    if packages & STORE_SIDE:
        endpoint = without_credentials(os.environ.get("MLFLOW_S3_ENDPOINT_URL") or "AWS")
        return (
            f"the artifact store (S3 at {endpoint}) of {shown} refused or did not answer: {cause}. "
            "Load the environment file of your hand-out (MLFLOW_S3_ENDPOINT_URL, AWS_...) and "
            "run this again"
        )
    if not uri.startswith("http"):
        return f"the tracking store {shown} refused: {cause}. Correct MLFLOW_TRACKING_URI"
    return (
        f"the tracking server {shown} refused or did not answer: {cause}. "
        f"Look whether it runs: curl {shown.rstrip('/')}/health"
    )


def positive_number(text: str) -> float:
    """Parse a number above 0. Raises ValueError, which argparse reports."""
    number = float(text)
    if not 0 < number < float("inf"):
        raise ValueError
    return number


def whole_number(text: str) -> int:
    """Parse a whole number from 1 to 2**32 - 1. Raises ValueError, which argparse reports."""
    number = int(text)
    if not 1 <= number < 2**32:
        raise ValueError
    return number


def parse(argv: list[str] | None) -> argparse.Namespace:
    """Read the options; the names of experiment and model fall back to the environment."""
    env = os.environ
    parser = argparse.ArgumentParser(description="Train the churn model and log it to MLflow.")
    add = parser.add_argument
    add("--csv", type=Path, default=DEFAULT_CSV, help="table (data/Churn_Modelling.csv)")
    add("--model", choices=["logistic", "knn"], default="logistic", help="(%(default)s)")
    add("--C", type=positive_number, default=1.0, help="logistic: regularisation, small is strong")
    add("--max-iter", type=whole_number, default=1000, help="logistic: iterations (%(default)s)")
    add("--seed", type=whole_number, default=42, help="for sampling and splitting (%(default)s)")
    add("--run-name", help="name of the run (model, setting and time)")
    add(
        "--experiment",
        default=env.get("MLFLOW_EXPERIMENT_NAME") or "churn-exp",
        help="experiment (MLFLOW_EXPERIMENT_NAME, else churn-exp)",
    )
    add(
        "--model-name",
        default=env.get("CHURN_MODEL_NAME") or "churn-model",
        help="registered model (CHURN_MODEL_NAME, else churn-model)",
    )
    return parser.parse_args(argv)


def report(logged: Logged, result: Result, model_name: str) -> None:
    """Print one fact per line."""
    print(f"run name: {logged.name}")
    print(f"run id: {logged.run_id}")
    print(f"url: {logged.url}")
    print(f"model: {model_name} version {logged.model_version}")
    for name, value in result.metrics.items():
        print(f"{name}: {value:.4f}")


def fail(message: str, code: int) -> int:
    """Print the refusal on standard error and return the exit code."""
    print(f"train.py: {message}", file=sys.stderr)
    return code


def main(argv: list[str] | None = None) -> int:
    """Train and log once; return the exit code (see the module's text)."""
    args = parse(argv)
    if "://" not in os.environ.get("MLFLOW_TRACKING_URI", ""):
        return fail(
            "MLFLOW_TRACKING_URI is not set to an address. Load the environment file of your "
            "hand-out, or run: export MLFLOW_TRACKING_URI=http://127.0.0.1:5000",
            2,
        )
    for name, value in CLIENT_DEFAULTS.items():
        os.environ.setdefault(name, value)

    try:
        table = read_table(args.csv)
    except TableError as error:
        return fail(str(error), 2)
    parts = split(rebalance(table, args.seed), args.seed)

    try:
        experiment_id = open_experiment(args.experiment)  # before fitting: a dead server shows here
        result = train(parts, args)
        name = args.run_name or default_run_name(result.params)
        logged = log_run(result, parts.x_test, experiment_id, name, args.model_name)
    except TrackingError as error:
        return fail(str(error), 3)
    except Exception as error:
        trouble = server_trouble(error)
        if trouble is None:
            raise
        return fail(trouble, 3)
    report(logged, result, args.model_name)
    return 0


if __name__ == "__main__":
    sys.exit(main())
