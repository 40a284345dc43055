#!/usr/bin/python
"""Look from outside, as the student, at server, database and bucket, and join what is there."""

from __future__ import annotations

DOCUMENTATION = r"""
module: evidence
short_description: What is really there of a student's experiment tracking
description:
  - Looks as the student would at the tracking server (HTTP), the database (SQL) and the bucket
    (S3), and joins the three, so that a half-logged run, a model without objects or an orphan
    object is named.
  - Reads only. Every layer is looked at even if another one is down, and all problems are listed.
  - Runs on the controller, which needs no MLflow.
  - A failed or half-logged run that was followed by a complete one in the same experiment is a
    note, not a problem. A run that logged only metrics and finished is complete.
options:
  user:
    description: The student, for the document and for the commands that it suggests.
    type: str
    required: true
  tracking_uri:
    description: The tracking server as the student reaches it.
    type: str
    required: true
  tracking_username:
    description: Login at the tracking server, if it wants one.
    type: str
  tracking_password_file:
    description: File that holds only the password of O(tracking_username).
    type: path
  experiment:
    description: The experiment that must hold a finished run.
    type: str
    default: churn-exp
  model:
    description: The registered model that must exist. Empty to ask for none.
    type: str
    default: churn-model
  database:
    description: The database and the student's login.
    type: dict
    required: true
    suboptions:
      host: {description: Address of the server., type: str, required: true}
      port: {description: Port of the server., type: int, default: 5432}
      name: {description: Name of the database., type: str, required: true}
      login: {description: Login of the student., type: str, required: true}
      password_file:
        description: File that holds only the password.
        type: path
        required: true
      sslmode: {description: TLS mode as libpq names it., type: str, default: prefer}
  bucket:
    description: The student's bucket.
    type: str
    required: true
  region:
    description: The bucket's region.
    type: str
    default: us-east-1
  endpoint_url:
    description: The S3 endpoint, if it is not that of AWS.
    type: str
  credentials_file:
    description: The student's AWS credentials file, profile C(default).
    type: path
    required: true
  ignore_prefixes:
    description: Keys in the bucket that begin so are not MLflow's and never orphans.
    type: list
    elements: str
    default: []
  running_after:
    description: A run that is still RUNNING after so many seconds is noted.
    type: int
    default: 3600
  timeout:
    description: Seconds to wait for each answer.
    type: int
    default: 60
  output:
    description: Where to write the document as JSON, mode 0600. Not written in check mode.
    type: path
requirements: [boto3, psycopg2]
attributes:
  check_mode: {support: full, description: The module only reads.}
  diff_mode: {support: none, description: Nothing changes.}
author: mlflow-classroom
"""

EXAMPLES = r"""
- name: Look at what is there
  evidence:
    user: jdoe
    tracking_uri: http://127.0.0.1:5001
    database:
      host: 127.0.0.1
      name: mlflow_jdoe
      login: mlflow_jdoe
      password_file: "{{ secrets }}/jdoe/database.password"
    bucket: mlflow-exp-tracking-jdoe
    endpoint_url: http://127.0.0.1:8333
    credentials_file: "{{ secrets }}/jdoe/credentials"
    output: "{{ evidence }}/jdoe.json"
"""

RETURN = r"""
evidence:
  description: The document.
  returned: when O(output) is empty
  type: dict
  contains:
    schema_version: {description: Version of this layout., type: int, sample: 1}
    user: {description: The student., type: str}
    taken_at: {description: "When, UTC, ISO 8601.", type: str}
    verdict: {description: V(pass) if there is no problem, else V(fail)., type: str}
    server:
      description: "C(uri), C(ok), C(version), C(experiments) (how many it lists), C(speaks_for)
        (the database whose experiments it lists, empty if it is another one or unknown)."
      type: dict
    database:
      description: "C(host), C(port), C(name), C(login), C(ok), C(schema) (Alembic revision),
        C(bytes), C(tables) (rows of every table)."
      type: dict
    bucket:
      description: "C(name), C(ok), C(endpoint), C(objects), C(bytes), C(versioning)
        (V(Enabled), V(Suspended), V(off) or V(unknown)), C(orphans) (keys)."
      type: dict
    experiment:
      description: "C(name), C(id), C(lifecycle_stage), C(artifact_location), C(created)."
      type: dict
    runs:
      description: "The experiment's runs that are not deleted, newest first: C(run_id), C(name),
        C(status), C(start), C(end), C(user), C(metrics) (name and last value), C(params) (how
        many), C(inputs), C(artifact_uri), C(objects), C(bytes), C(missing) (texts), C(models)
        (each C(model_id), C(name), C(status), C(artifact_location), C(objects), C(bytes))."
      type: list
      elements: dict
    models:
      description: "All registered versions: C(name), C(version), C(status), C(run_id), C(source),
        C(location), C(objects), C(bytes)."
      type: list
      elements: dict
    problems: {description: The same as RV(problems)., type: list, elements: dict}
    notes: {description: What is odd but wrong for nobody., type: list, elements: dict}
problems:
  description: "Each C(code), C(message) (the cause) and C(next) (the command that helps)."
  returned: always
  type: list
  elements: dict
summary:
  description: The document in short lines for the terminal.
  returned: always
  type: list
  elements: str
"""

import configparser
import contextlib
import json
import os
import shlex
import socket
import textwrap
from collections import Counter
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any
from urllib.error import HTTPError
from urllib.parse import urlsplit

from ansible.module_utils.basic import AnsibleModule, missing_required_lib
from ansible.module_utils.urls import open_url

try:
    import boto3
    import psycopg2
    import psycopg2.extras
    from botocore.config import Config
    from botocore.exceptions import BotoCoreError, ClientError
    from psycopg2 import sql

    MISSING_LIBRARY = ""
except ImportError as missing:
    MISSING_LIBRARY = str(missing.name)

Row = dict[str, Any]
Problem = dict[str, str]

SCHEMA_VERSION = 1
ORPHANS_SHOWN = 10
MODEL_STATUS = {0: "UNSPECIFIED", 1: "PENDING", 2: "READY", 3: "FAILED"}

QUERIES = {
    "experiments": """
        select experiment_id::text as id, name, artifact_location, lifecycle_stage, creation_time
        from experiments order by experiment_id""",
    "runs": """
        select r.run_uuid as run_id, r.experiment_id::text, r.name, r.status, r.start_time,
               r.end_time, r.user_id, r.lifecycle_stage, r.artifact_uri,
               n.value as name_tag, l.value as logged_artifacts
        from runs r
        left join tags n on n.run_uuid = r.run_uuid and n.key = 'mlflow.runName'
        left join tags l on l.run_uuid = r.run_uuid and l.key = 'mlflow.loggedArtifacts'
        order by r.start_time desc, r.run_uuid""",
    "metrics": "select run_uuid as run_id, key, value, is_nan from latest_metrics order by key",
    "params": "select run_uuid as run_id, count(*) as count from params group by run_uuid",
    "inputs": """
        select destination_id as run_id, count(*) as count from inputs
        where destination_type = 'RUN' group by destination_id""",
    "logged_models": """
        select model_id, experiment_id::text, name, artifact_location, status, lifecycle_stage,
               source_run_id
        from logged_models order by creation_timestamp_ms, model_id""",
    "versions": """
        select name, version, source, storage_location, run_id, status
        from model_versions order by name, version""",
    "traces": "select value as location from trace_tags where key = 'mlflow.artifactLocation'",
}


class Asked:
    """What the module was asked to look at, and the commands that it suggests."""

    def __init__(self, params: dict[str, Any]) -> None:
        self.user: str = params["user"]
        self.uri: str = params["tracking_uri"].rstrip("/")
        self.experiment: str = params["experiment"]
        self.model: str = params["model"]
        self.database: Row = params["database"]
        self.bucket: str = params["bucket"]
        self.endpoint: str = params["endpoint_url"] or ""
        self.sees_all: bool = not params["tracking_username"]
        self.ignore: tuple[str, ...] = tuple(params["ignore_prefixes"])
        self.running_after: int = params["running_after"]
        site = f"ansible-playbook site.yml -e user={self.user}"
        self.provision = f"{site} --tags provision"
        self.train = f"{site} --tags train"
        self.start_over = (
            f"ansible-playbook playbooks/destroy.yml -e user={self.user} -e confirm={self.user}"
            f" && {site}"
        )

    def curl(self, method: str, call: str, **body: str) -> str:
        """Return a command that calls MLflow's API. A student can write what is in ids."""
        data = shlex.quote(json.dumps(body))
        url = shlex.quote(f"{self.uri}/api/2.0/mlflow/{call}")
        return f"curl -X {method} -H 'Content-Type: application/json' -d {data} {url}"


def problem(code: str, message: str, command: str) -> Problem:
    """Return a problem: what is wrong, why, and the command that helps."""
    return {"code": code, "message": printable(message), "next": printable(command)}


def printable(text: str) -> str:
    """Take out what could move a terminal's cursor: a student chooses the names of runs."""
    return "".join(letter if letter.isprintable() else "?" for letter in text)


# --- the server, over HTTP ----------------------------------------------------------------------


def look_at_server(asked: Asked, login: tuple[str, str] | None, timeout: int) -> Row:
    """Ask the real API route; /health answers even when every student is locked out."""
    seen: Row = {"ok": False, "version": "", "experiments": [], "problems": []}
    options: Row = {"timeout": timeout}
    if login:
        options |= {"url_username": login[0], "url_password": login[1], "force_basic_auth": True}
    try:
        seen["experiments"] = search_experiments(asked.uri, options)
        seen["ok"] = True
        with contextlib.suppress(HTTPError):
            answer = open_url(f"{asked.uri}/version", **options)
            seen["version"] = answer.read(200).decode("utf-8", "replace").strip()
    except HTTPError as error:
        body = error.read(2000).decode("utf-8", "replace")
        seen["problems"] = [explain_refusal(asked, error.code, body, bool(login))]
    except (ValueError, KeyError, TypeError, AttributeError):
        cause = "answers, but not as MLflow does: another program has this port"
        seen["problems"] = [
            problem("server_refuses", f"{asked.uri} {cause}", f"curl -i {asked.uri}/version")
        ]
    except Exception as error:  # open_url has a dozen of them, all meaning "no answer"
        cause = str(getattr(error, "reason", error))
        seen["problems"] = [
            problem(
                "server_unreachable",
                f"the tracking server {asked.uri} does not answer: {cause}",
                asked.provision,
            )
        ]
    return seen


def search_experiments(uri: str, options: Row) -> list[Row]:
    """Return all experiments that the server lists, deleted ones too."""
    found: list[Row] = []
    query: Row = {"max_results": 1000, "view_type": "ALL"}
    while True:
        answer = open_url(
            f"{uri}/api/2.0/mlflow/experiments/search",
            method="POST",
            data=json.dumps(query),
            headers={"Content-Type": "application/json"},
            **options,
        )
        page = json.loads(answer.read())
        found += [
            {
                "id": each["experiment_id"],
                "name": each["name"],
                "artifact_location": each["artifact_location"],
                "lifecycle_stage": each["lifecycle_stage"],
                "creation_time": each.get("creation_time"),
            }
            for each in page.get("experiments", [])
        ]
        if not page.get("next_page_token"):
            return found
        query["page_token"] = page["next_page_token"]


def explain_refusal(asked: Asked, status: int, body: str, logged_in: bool) -> Problem:
    """Say why a tracking server answered with an error."""
    if status == 403 and "Invalid Host header" in body:
        host = urlsplit(asked.uri).netloc
        cause = f"refuses the name {host}: Invalid Host header (it is not among its allowed hosts)"
    elif status == 401:
        cause = "refuses the login" if logged_in else "wants a login (tracking_username)"
    elif status == 403:
        cause = "answers 403: not MLflow, or no permission"
    elif status == 404:
        cause = "answers 404: another program has this port"
    elif status >= 500:
        return problem(
            "server_failing",
            f"the tracking server {asked.uri} answers {status}: it cannot reach its database",
            asked.provision,
        )
    else:
        cause = f"answers {status}"
    message = f"the tracking server {asked.uri} {cause}"
    return problem("server_refuses", message, asked.provision)


# --- the database, in SQL -----------------------------------------------------------------------


def connect(asked: Asked, password: str, timeout: int) -> Any:
    """Return a connection as the student, on which nothing can be written."""
    connection = psycopg2.connect(
        host=asked.database["host"],
        port=asked.database["port"],
        dbname=asked.database["name"],
        user=asked.database["login"],
        password=password,
        sslmode=asked.database["sslmode"],
        connect_timeout=timeout,
        application_name="evidence",
        options=f"-c statement_timeout={timeout * 1000}",
        cursor_factory=psycopg2.extras.RealDictCursor,
    )
    connection.set_session(isolation_level="REPEATABLE READ", readonly=True)
    return connection


def read_tables(connection: Any, names: Iterable[str]) -> dict[str, list[Row]]:
    """Run the named queries in one snapshot."""
    with connection, connection.cursor() as cursor:
        rows: dict[str, list[Row]] = {}
        for name in names:
            cursor.execute(QUERIES[name])
            rows[name] = [dict(row) for row in cursor.fetchall()]
        return rows


def look_at_database(asked: Asked, connection: Any) -> Row:
    """Read what MLflow recorded, and count the rows of every table."""
    seen: Row = {"ok": False, "schema": "", "bytes": 0, "tables": {}, "problems": []}
    name = asked.database["name"]
    try:
        with connection, connection.cursor() as cursor:
            cursor.execute("select pg_database_size(current_database()) as bytes")
            seen["bytes"] = cursor.fetchone()["bytes"]
            seen["tables"] = count_rows(cursor)
            if seen["tables"].get("alembic_version"):
                cursor.execute("select version_num from alembic_version")
                seen["schema"] = cursor.fetchone()["version_num"]
        if not seen["schema"]:
            message = f"the database {name} has no MLflow schema (no row in alembic_version)"
            seen["problems"] = [problem("schema_missing", message, asked.provision)]
            return seen
        seen |= read_tables(connection, QUERIES)
        seen["ok"] = True
    except (psycopg2.errors.UndefinedTable, psycopg2.errors.UndefinedColumn) as error:
        message = f"the schema of {name} is not that of this MLflow: {first_line(error)}"
        seen["problems"] = [problem("schema_missing", message, asked.provision)]
    except psycopg2.errors.InsufficientPrivilege as error:
        message = f"{asked.database['login']} may not read {name}: {first_line(error)}"
        seen["problems"] = [problem("database_refuses", message, asked.provision)]
    except psycopg2.Error as error:
        message = f"the database {name} stopped answering: {first_line(error)}"
        seen["problems"] = [problem("database_unreachable", message, asked.provision)]
    return seen


def count_rows(cursor: Any) -> dict[str, int]:
    """Count exactly: the planner's estimates are 0 for a table that was never analysed."""
    cursor.execute(
        "select relname from pg_class where relkind in ('r', 'p') and not relispartition"
        " and relnamespace = 'public'::regnamespace order by relname"
    )
    names = [row["relname"] for row in cursor.fetchall()]
    if not names:
        return {}
    count = sql.SQL("select {} as name, count(*) as count from public.{}")
    queries = [count.format(sql.Literal(name), sql.Identifier(name)) for name in names]
    cursor.execute(sql.SQL(" union all ").join(queries))
    rows = {row["name"]: row["count"] for row in cursor.fetchall()}
    return {name: rows[name] for name in names}


def explain_no_connection(asked: Asked, error: Exception) -> Problem:
    """Say why there is no connection. libpq gives a text and no code."""
    where = f"{asked.database['host']}:{asked.database['port']}"
    login, name = asked.database["login"], asked.database["name"]
    text = first_line(error)
    if not listens(asked.database["host"], asked.database["port"]):
        message = f"nothing listens at {where}, where the database should be"
        return problem("database_unreachable", message, asked.provision)
    if "password" in text:
        cause = f"the password in {asked.database['password_file']} is not that of {login}"
    else:
        cause = text
    message = f"PostgreSQL at {where} does not let {login} into {name}: {cause}"
    return problem("database_refuses", message, asked.provision)


def listens(host: str, port: int) -> bool:
    """Tell whether something accepts connections there."""
    try:
        with socket.create_connection((host, port), timeout=5):
            return True
    except OSError:
        return False


def first_line(error: Exception) -> str:
    """Return the part of an error that says what happened."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return lines[0].rsplit("FATAL:", 1)[-1].strip()


# --- the bucket, over S3 ------------------------------------------------------------------------


def look_at_bucket(asked: Asked, credentials: str, region: str, timeout: int) -> Row:
    """List the whole bucket with the student's key."""
    seen: Row = {"ok": False, "objects": {}, "versioning": "unknown", "problems": []}
    name = asked.bucket
    refused = f"S3 does not let {asked.user} list {name}"
    try:
        key_id, secret = read_key(credentials)
        s3 = boto3.client(
            "s3",
            region_name=region,
            endpoint_url=asked.endpoint or None,
            aws_access_key_id=key_id,
            aws_secret_access_key=secret,
            config=Config(
                connect_timeout=timeout,
                read_timeout=timeout,
                retries={"mode": "standard", "total_max_attempts": 3},
                s3={"addressing_style": "path" if asked.endpoint else "auto"},
            ),
        )
        for page in s3.get_paginator("list_objects_v2").paginate(Bucket=name):
            for entry in page.get("Contents", []):
                seen["objects"][entry["Key"]] = entry["Size"]
        seen["ok"] = True
        with contextlib.suppress(ClientError):
            seen["versioning"] = s3.get_bucket_versioning(Bucket=name).get("Status", "off")
    except (OSError, KeyError, UnicodeDecodeError, configparser.Error) as error:
        cause = f"{credentials} holds no key ({type(error).__name__})"
        seen["problems"] = [problem("bucket_refuses", f"{refused}: {cause}", asked.provision)]
    except ClientError as error:
        code = error.response["Error"]["Code"]
        if code in ("NoSuchBucket", "404"):
            message = f"the bucket {name} does not exist"
            seen["problems"] = [problem("bucket_missing", message, asked.provision)]
        else:
            cause = error.response["Error"].get("Message") or code
            message = f"{refused}: {code}: {cause}"
            seen["problems"] = [problem("bucket_refuses", message, asked.provision)]
    except BotoCoreError as error:
        message = f"S3 does not answer for {name}: {first_line(error)}"
        seen["problems"] = [problem("bucket_unreachable", message, asked.provision)]
    return seen


def read_key(path: str) -> tuple[str, str]:
    """Return the key in a credentials file, and none from the environment."""
    content = configparser.RawConfigParser()
    with open(path, encoding="utf-8") as lines:
        content.read_file(lines)
    profile = content["default"]
    return profile["aws_access_key_id"], profile["aws_secret_access_key"]


# --- the join, without any store ----------------------------------------------------------------


class Shelf:
    """The objects of the bucket, by the location in SQL that they belong to."""

    def __init__(self, bucket: str, objects: dict[str, int]) -> None:
        self.root = f"s3://{bucket}/"
        self.objects = objects
        self.count: Counter[str] = Counter()
        self.bytes: Counter[str] = Counter()
        for key, size in objects.items():
            for parent in parents(key):
                self.count[parent] += 1
                self.bytes[parent] += size

    def key(self, location: str | None) -> str:
        """Return the key prefix of a location in this bucket, else an empty text."""
        location = location or ""
        return location.removeprefix(self.root).strip("/") if self.holds(location) else ""

    def holds(self, location: str | None) -> bool:
        """Tell whether a location is in this bucket."""
        return (location or "").startswith(self.root)

    def size(self, location: str | None) -> Row:
        """Return how much lies below a location."""
        key = self.key(location)
        return {"objects": self.count[key], "bytes": self.bytes[key]}

    def has(self, location: str | None, name: str) -> bool:
        """Tell whether an object lies below a location."""
        return f"{self.key(location)}/{name}" in self.objects

    def orphans(self, locations: Iterable[str | None], ignore: tuple[str, ...]) -> list[str]:
        """Return the keys that lie below none of the locations."""
        known = {key for key in map(self.key, locations) if key}
        return [
            key
            for key in sorted(self.objects)
            if not known.intersection(parents(key)) and not (ignore and key.startswith(ignore))
        ]


def parents(key: str) -> Iterable[str]:
    """Give the folders above a key: a/b/c gives a and a/b."""
    at = key.find("/")
    while at != -1:
        yield key[:at]
        at = key.find("/", at + 1)


def iso(milliseconds: int | None) -> str:
    """Return a time in UTC, ISO 8601."""
    if milliseconds is None:
        return ""
    moment = datetime.fromtimestamp(milliseconds / 1000, UTC)
    return moment.isoformat(timespec="seconds").replace("+00:00", "Z")


def describe_runs(database: Row, shelf: Shelf, bucket_ok: bool) -> list[Row]:
    """Return every live run of every live experiment with its models and objects."""
    live = {each["id"] for each in database["experiments"] if each["lifecycle_stage"] == "active"}
    metrics: dict[str, Row] = {}
    for metric in database["metrics"]:
        value = None if metric["is_nan"] else metric["value"]
        metrics.setdefault(metric["run_id"], {})[metric["key"]] = value
    params = {row["run_id"]: row["count"] for row in database["params"]}
    inputs = {row["run_id"]: row["count"] for row in database["inputs"]}
    models: dict[str, list[Row]] = {}
    for model in database["logged_models"]:
        if model["lifecycle_stage"] == "active":
            models.setdefault(model["source_run_id"], []).append(describe_model(model, shelf))
    runs = []
    for row in database["runs"]:
        if row["lifecycle_stage"] != "active" or row["experiment_id"] not in live:
            continue
        run = {
            "run_id": row["run_id"],
            "experiment_id": row["experiment_id"],
            "name": row["name_tag"] or row["name"] or "",
            "status": row["status"],
            "start": iso(row["start_time"]),
            "end": iso(row["end_time"]),
            "user": row["user_id"] or "",
            "metrics": metrics.get(row["run_id"], {}),
            "params": params.get(row["run_id"], 0),
            "inputs": inputs.get(row["run_id"], 0),
            "artifact_uri": row["artifact_uri"],
            **shelf.size(row["artifact_uri"]),
            "models": models.get(row["run_id"], []),
            "missing": [],
        }
        if bucket_ok:
            run["missing"] = missing_parts(run, promised(row["logged_artifacts"]), shelf)
        runs.append(run)
    return runs


def describe_model(row: Row, shelf: Shelf) -> Row:
    """Return a logged model with its objects."""
    return {
        "model_id": row["model_id"],
        "name": row["name"],
        "status": MODEL_STATUS.get(row["status"], str(row["status"])),
        "artifact_location": row["artifact_location"],
        **shelf.size(row["artifact_location"]),
    }


def promised(tag: str | None) -> list[str]:
    """Return the files that a run says it logged (MLflow records tables and chat files)."""
    try:
        return [entry["path"] for entry in json.loads(tag or "[]")]
    except (ValueError, KeyError, TypeError):
        return []


def missing_parts(run: Row, files: list[str], shelf: Shelf) -> list[str]:
    """Say what a run recorded in SQL and never, or no longer, has in the bucket.

    A READY model is not looked at here: that it lost its objects is a problem of its own.
    """
    if run["status"] not in ("FINISHED", "FAILED", "KILLED"):
        return []
    missing = [
        f"model {model['model_id']} is {model['status']}, {model['objects']} objects"
        for model in run["models"]
        if model["status"] != "READY"
    ]
    if shelf.holds(run["artifact_uri"]):
        missing += [
            f"file {name} is not in the bucket"
            for name in files
            if not shelf.has(run["artifact_uri"], name)
        ]
    nothing = not run["objects"] and not any(model["objects"] for model in run["models"])
    if run["status"] == "FAILED" and run["metrics"] and nothing and not missing:
        missing.append("metrics in SQL, no object in the bucket; could its client write there?")
    return missing


def whole(run: Row) -> bool:
    """Tell whether a run did what it set out to do, with something to show for it."""
    lost = any(model["status"] == "READY" and not model["objects"] for model in run["models"])
    stored = run["objects"] or any(model["objects"] for model in run["models"])
    return bool(run["status"] == "FINISHED" and not run["missing"] and stored and not lost)


def describe_versions(database: Row, shelf: Shelf) -> list[Row]:
    """Return the registered versions with their objects."""
    logged = {
        f"models:/{row['model_id']}": row["artifact_location"] for row in database["logged_models"]
    }
    versions = []
    for row in database["versions"]:
        location = row["storage_location"] or logged.get(row["source"]) or row["source"] or ""
        versions.append(
            {
                "name": row["name"],
                "version": row["version"],
                "status": row["status"],
                "run_id": row["run_id"] or "",
                "source": row["source"] or "",
                "location": location,
                **shelf.size(location),
            }
        )
    return versions


def locations(database: Row) -> list[str | None]:
    """Return every place that SQL knows, deleted or not: what lies there is no orphan."""
    return (
        [row["artifact_uri"] for row in database["runs"]]
        + [row["artifact_location"] for row in database["logged_models"]]
        + [row["storage_location"] or row["source"] for row in database["versions"]]
        + [row["location"] for row in database["traces"]]
    )


def judge_server(asked: Asked, listed: list[Row], before: list[Row], after: list[Row]) -> Row:
    """Tell whether the server speaks for this database.

    The server was asked between two looks at SQL, so that an experiment made meanwhile
    accuses nobody.
    """
    fields = ("id", "name", "artifact_location", "creation_time")
    there, first, last = (
        {tuple(each[field] for field in fields) for each in rows}
        for rows in (listed, before, after)
    )
    # A server with logins lists only what the student may see.
    hidden = first - there if asked.sees_all else set()
    foreign = there - last
    if not hidden and not foreign:
        return {"speaks_for": asked.database["name"], "problems": []}
    odd = ", ".join(f"{each[1]} ({each[0]})" for each in sorted(hidden | foreign)[:3])
    message = (
        f"the tracking server {asked.uri} does not speak for {asked.database['name']}: "
        f"they differ in the experiments {odd}"
    )
    found = [problem("server_wrong_database", message, asked.provision)]
    return {"speaks_for": "", "problems": found}


def judge_experiment(asked: Asked, experiments: list[Row]) -> tuple[Row, list[Problem]]:
    """Find the experiment."""
    found = [each for each in experiments if each["name"] == asked.experiment]
    name = f"the experiment {asked.experiment}"
    if not found:
        message = f"{name} does not exist: nothing was logged to it yet"
        return {"name": asked.experiment, "id": ""}, [
            problem("experiment_missing", message, asked.train)
        ]
    experiment = {
        "name": asked.experiment,
        "id": found[0]["id"],
        "lifecycle_stage": found[0]["lifecycle_stage"],
        "artifact_location": found[0]["artifact_location"],
        "created": iso(found[0]["creation_time"]),
    }
    if experiment["lifecycle_stage"] == "active":
        return experiment, []
    restore = asked.curl("POST", "experiments/restore", experiment_id=experiment["id"])
    message = f"{name} was deleted, which also blocks its name for a new one"
    return experiment, [problem("experiment_deleted", message, restore)]


def judge_locations(asked: Asked, database: Row, shelf: Shelf) -> list[Problem]:
    """Find what MLflow stores anywhere but in the student's bucket."""
    problems = []
    for experiment in database["experiments"]:
        if experiment["lifecycle_stage"] != "active":
            continue
        mine = [("its own location", experiment["artifact_location"])]
        for kind, field in (("runs", "artifact_uri"), ("logged_models", "artifact_location")):
            mine += [
                (f"a {kind[:-1].replace('_', ' ')}", row[field])
                for row in database[kind]
                if row["experiment_id"] == experiment["id"] and row["lifecycle_stage"] == "active"
            ]
        elsewhere = [(what, uri) for what, uri in mine if not shelf.holds(uri)]
        if elsewhere:
            what, uri = elsewhere[0]
            more = f" and {len(elsewhere) - 1} more" if len(elsewhere) > 1 else ""
            message = (
                f"experiment {experiment['name']} ({experiment['id']}) stores outside "
                f"{shelf.root}: {what} is {uri}{more}; a location is fixed when it is made"
            )
            problems.append(problem("uri_elsewhere", message, asked.start_over))
    return problems


def judge_runs(
    asked: Asked, runs: list[Row], experiment_id: str, now: float
) -> tuple[list[Problem], list[Problem]]:
    """Find runs that are not what SQL says; return problems and notes."""
    problems: list[Problem] = []
    notes: list[Problem] = []
    for run in runs:
        named = f"run {run['name']} ({run['run_id']})"
        delete = asked.curl("POST", "runs/delete", run_id=run["run_id"])
        for model in run["models"]:
            if model["status"] == "READY" and not model["objects"]:
                message = (
                    f"{named} logged model {model['model_id']}, which SQL calls READY, but "
                    f"nothing lies at {model['artifact_location']}: its objects were deleted"
                )
                problems.append(problem("model_without_objects", message, delete))
        if run["missing"]:
            message = f"{named} is half-logged ({run['status']}): {'; '.join(run['missing'])}"
            found = problem("half_logged_run", message, asked.train)
            repeated = any(
                whole(other)
                and other["experiment_id"] == run["experiment_id"]
                and other["start"] > run["start"]
                for other in runs
            )
            mine = run["experiment_id"] == experiment_id
            (problems if mine and not repeated else notes).append(found)
        if run["status"] == "RUNNING" and run["start"]:
            started = datetime.fromisoformat(run["start"]).timestamp()
            if now - started > asked.running_after:
                message = f"{named} says RUNNING since {run['start']}; was its process killed?"
                notes.append(problem("run_still_running", message, delete))
    return problems, notes


def judge_success(asked: Asked, runs: list[Row]) -> list[Problem]:
    """Ask for a finished run with metrics and params in the experiment."""
    finished = [run for run in runs if run["status"] == "FINISHED"]
    where = f"in {asked.experiment}"
    if not finished:
        message = f"no finished run {where} ({len(runs)} others)"
        return [problem("no_finished_run", message, asked.train)]
    problems = []
    for code, field in (("metrics_missing", "metrics"), ("params_missing", "params")):
        if not any(run[field] for run in finished):
            message = f"no finished run {where} logged {field}"
            problems.append(problem(code, message, asked.train))
    return problems


def judge_versions(
    asked: Asked, versions: list[Row], runs: list[Row], bucket_ok: bool
) -> list[Problem]:
    """Ask for the registered model, and for objects behind every version."""
    problems = []
    if asked.model and not any(each["name"] == asked.model for each in versions):
        message = f"no version of the model {asked.model} is registered"
        problems.append(problem("model_not_registered", message, asked.train))
    reported = {
        model["artifact_location"]
        for run in runs
        for model in run["models"]
        if model["status"] == "READY" and not model["objects"]
    }
    for each in versions if bucket_ok else []:
        if not each["objects"] and each["location"] not in reported:
            message = (
                f"version {each['version']} of the model {each['name']} points to "
                f"{each['location']}, where nothing lies"
            )
            body = {"name": each["name"], "version": str(each["version"])}
            delete = asked.curl("DELETE", "model-versions/delete", **body)
            problems.append(problem("model_without_objects", message, delete))
    return problems


def judge_orphans(asked: Asked, keys: list[str]) -> list[Problem]:
    """Name the objects that no row knows, one problem for each place."""
    endpoint = f" --endpoint-url {asked.endpoint}" if asked.endpoint else ""
    places: Counter[str] = Counter(place_of(key) for key in keys)
    problems = []
    for place, count in sorted(places.items())[:ORPHANS_SHOWN]:
        uri = f"s3://{asked.bucket}/{place}"
        what = f"{count} objects below {uri}" if place.endswith("/") else f"the object {uri}"
        recursive = " --recursive" if place.endswith("/") else ""
        message = f"{what} belong to no run, model or trace in {asked.database['name']}"
        command = f"aws s3 rm{recursive} {shlex.quote(uri)}{endpoint}"
        problems.append(problem("orphan_object", message, command))
    rest = len(places) - ORPHANS_SHOWN
    if rest > 0:
        message = f"and {rest} more places with objects that no row knows (bucket.orphans)"
        command = f"aws s3 ls --recursive 's3://{asked.bucket}/'{endpoint}"
        problems.append(problem("orphan_object", message, command))
    return problems


def place_of(key: str) -> str:
    """Return the run's or model's folder that a key looks like, else the key."""
    folder, artifacts, _rest = key.partition("/artifacts/")
    return f"{folder}/" if artifacts else key


def judge(asked: Asked, server: Row, database: Row, after: Row, bucket: Row, now: float) -> Row:
    """Join the three layers into the document."""
    problems = server["problems"] + database["problems"] + bucket["problems"]
    notes: list[Problem] = []
    shelf = Shelf(asked.bucket, bucket["objects"])
    speaks_for = ""
    runs: list[Row] = []
    versions: list[Row] = []
    orphans: list[str] = []
    experiment: Row = {"name": asked.experiment, "id": ""}

    if server["ok"] and database["ok"]:
        verdict = judge_server(
            asked, server["experiments"], database["experiments"], after["experiments"]
        )
        speaks_for = verdict["speaks_for"]
        problems += verdict["problems"]
    if database["ok"] or server["ok"]:
        source = database if database["ok"] else server
        experiment, found = judge_experiment(asked, source["experiments"])
        problems += found
    if database["ok"]:
        problems += judge_locations(asked, database, shelf)
        runs = describe_runs(database, shelf, bucket["ok"])
        versions = describe_versions(database, shelf)
        mine = [run for run in runs if run["experiment_id"] == experiment["id"]]
        if experiment.get("lifecycle_stage") == "active":
            problems += judge_success(asked, mine)
        problems += judge_versions(asked, versions, runs if bucket["ok"] else [], bucket["ok"])
        if bucket["ok"]:
            found, notes = judge_runs(asked, runs, experiment["id"], now)
            problems += found
            orphans = shelf.orphans(locations(database) + locations(after), asked.ignore)
            problems += judge_orphans(asked, orphans)
        runs = mine

    return {
        "schema_version": SCHEMA_VERSION,
        "user": asked.user,
        "taken_at": iso(int(now * 1000)),
        "verdict": "fail" if problems else "pass",
        "server": {
            "uri": asked.uri,
            "ok": server["ok"],
            "version": server["version"],
            "experiments": len(server["experiments"]),
            "speaks_for": speaks_for,
        },
        "database": {
            **{field: asked.database[field] for field in ("host", "port", "name", "login")},
            **{field: database[field] for field in ("ok", "schema", "bytes", "tables")},
        },
        "bucket": {
            "name": asked.bucket,
            "ok": bucket["ok"],
            "endpoint": asked.endpoint,
            "objects": len(bucket["objects"]),
            "bytes": sum(bucket["objects"].values()),
            "versioning": bucket["versioning"],
            "orphans": orphans,
        },
        "experiment": experiment,
        "runs": runs,
        "models": versions,
        "problems": problems,
        "notes": notes,
    }


# --- for the reader -----------------------------------------------------------------------------


def size_text(count: int) -> str:
    """Return bytes for a reader: 10.8 kB."""
    size = float(count)
    for unit in ("B", "kB", "MB"):
        if size < 1000:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} GB"


def stored(entry: Row) -> str:
    """Return how much is in the bucket for a reader."""
    return f"{plural(entry['objects'], 'object')}, {size_text(entry['bytes'])}"


def plural(count: int, word: str) -> str:
    """Return a number with its word."""
    return f"{count} {word}" if count == 1 else f"{count} {word}s"


def summarise(document: Row) -> list[str]:
    """Return the document in short aligned lines."""
    lines: list[str] = []

    def say(label: str, text: str) -> None:
        lines.append(printable(f"{label:<12}{text}"))

    server, database, bucket = document["server"], document["database"], document["bucket"]
    if server["ok"]:
        speaks = f"speaks for {server['speaks_for']}" if server["speaks_for"] else "of ?"
        experiments = plural(server["experiments"], "experiment")
        say("server", f"{server['uri']}  MLflow {server['version']}, {experiments}, {speaks}")
    else:
        say("server", f"{server['uri']}  no answer")
    where = f"{database['name']} at {database['host']}:{database['port']}"
    if database["ok"]:
        schema = f"schema {database['schema']}, {size_text(database['bytes'])}"
        say("database", f"{where} as {database['login']}, {schema}")
        lines.extend(table_lines(database["tables"]))
    else:
        say("database", f"{where}  not read")
    if bucket["ok"]:
        say(
            "bucket", f"s3://{bucket['name']}/  {stored(bucket)}, versioning {bucket['versioning']}"
        )
    else:
        say("bucket", f"s3://{bucket['name']}/  not listed")
    experiment = document["experiment"]
    if experiment["id"]:
        say(
            "experiment",
            f"{experiment['name']} ({experiment['id']}, {experiment['lifecycle_stage']})  "
            f"{experiment['artifact_location']}",
        )
    for run in document["runs"]:
        say("run", f"{run['name']} ({run['run_id']})  {run['status']} {run['end'] or run['start']}")
        logged = f"{plural(len(run['metrics']), 'metric')}, {plural(run['params'], 'param')}"
        say("", f"{logged}; {run['artifact_uri']}  {stored(run)}")
        for model in run["models"]:
            say("", f"model {model['name']} {model['status']}; {model['artifact_location']}")
            say("", f"  {stored(model)}")
    for model in document["models"]:
        say(
            "model",
            f"{model['name']} version {model['version']} {model['status']}, {stored(model)}",
        )
    for note in document["notes"]:
        say("note", note["message"])
    verdict = document["verdict"]
    if document["problems"]:
        verdict += f", {plural(len(document['problems']), 'problem')}"
    say("verdict", verdict)
    return lines


def table_lines(tables: dict[str, int]) -> list[str]:
    """Return how many rows each table has, and how many tables have none."""
    filled = [f"{name} {count}" for name, count in tables.items() if count]
    text = f"{', '.join([*filled, plural(len(tables) - len(filled), 'empty table')])}"
    return textwrap.wrap(text, 100, initial_indent=" " * 12, subsequent_indent=" " * 12)


def write_document(path: str, document: Row) -> None:
    """Write the document in one step, readable by its owner only."""
    os.makedirs(os.path.dirname(path) or ".", mode=0o700, exist_ok=True)
    new = path + ".new"
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW
    with os.fdopen(os.open(new, flags, 0o600), "w", encoding="utf-8") as output:
        os.fchmod(output.fileno(), 0o600)
        json.dump(document, output, indent=2)
        output.write("\n")
    os.replace(new, path)


# --- the edge -----------------------------------------------------------------------------------


def read_secret(module: AnsibleModule, path: str) -> str:
    """Return the secret in a file, and keep it out of everything that the module says."""
    with open(path, encoding="utf-8") as lines:
        secret = lines.read().rstrip("\n")
    # A short text is no secret of ours, and hiding it would garble the document.
    if len(secret) >= 12:
        module.no_log_values.add(secret)
    return secret


def look(module: AnsibleModule, asked: Asked, now: float) -> Row:
    """Look at all layers, at SQL both before and after the others."""
    params = module.params
    timeout = params["timeout"]
    database: Row = {"ok": False, "schema": "", "bytes": 0, "tables": {}, "problems": []}
    connection = None
    try:
        password = read_secret(module, asked.database["password_file"])
        connection = connect(asked, password, timeout)
        database = look_at_database(asked, connection)
    except (OSError, UnicodeDecodeError) as error:
        name = asked.database["password_file"]
        message = f"the password file {name} cannot be read: {getattr(error, 'strerror', error)}"
        database["problems"] = [problem("database_refuses", message, asked.provision)]
    except psycopg2.Error as error:
        database["problems"] = [explain_no_connection(asked, error)]

    login = None
    if params["tracking_username"]:
        try:
            password = read_secret(module, params["tracking_password_file"])
        except OSError as error:
            module.fail_json(msg=f"{params['tracking_password_file']}: {error.strerror}")
        login = (params["tracking_username"], password)
    server = look_at_server(asked, login, timeout)
    bucket = look_at_bucket(asked, params["credentials_file"], params["region"], timeout)

    after = database
    if connection and database["ok"]:
        with contextlib.suppress(psycopg2.Error):
            after = read_tables(connection, QUERIES)
    if connection:
        connection.close()
    return judge(asked, server, database, after, bucket, now)


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            "user": {"type": "str", "required": True},
            "tracking_uri": {"type": "str", "required": True},
            "tracking_username": {"type": "str"},
            "tracking_password_file": {"type": "path", "no_log": False},
            "experiment": {"type": "str", "default": "churn-exp"},
            "model": {"type": "str", "default": "churn-model"},
            "database": {
                "type": "dict",
                "required": True,
                "options": {
                    "host": {"type": "str", "required": True},
                    "port": {"type": "int", "default": 5432},
                    "name": {"type": "str", "required": True},
                    "login": {"type": "str", "required": True},
                    "password_file": {"type": "path", "required": True, "no_log": False},
                    "sslmode": {"type": "str", "default": "prefer"},
                },
            },
            "bucket": {"type": "str", "required": True},
            "region": {"type": "str", "default": "us-east-1"},
            "endpoint_url": {"type": "str"},
            "credentials_file": {"type": "path", "required": True},
            "ignore_prefixes": {"type": "list", "elements": "str", "default": []},
            "running_after": {"type": "int", "default": 3600},
            "timeout": {"type": "int", "default": 60},
            "output": {"type": "path"},
        },
        required_together=[("tracking_username", "tracking_password_file")],
        supports_check_mode=True,
    )
    if MISSING_LIBRARY:
        module.fail_json(msg=missing_required_lib(MISSING_LIBRARY))
    asked = Asked(module.params)
    document = look(module, asked, datetime.now(UTC).timestamp())
    result = {
        "changed": False,
        "evidence": document,
        "summary": summarise(document),
        "problems": document["problems"],
    }
    output = module.params["output"]
    if output and not module.check_mode:
        try:
            write_document(output, document)
        except OSError as error:
            module.fail_json(msg=f"Cannot write {output}: {error.strerror}.")
        # Who wants the whole document has it in the file.
        del result["evidence"]
    module.exit_json(**result)


if __name__ == "__main__":
    main()
