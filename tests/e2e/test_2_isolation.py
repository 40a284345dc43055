"""Nobody reaches what belongs to somebody else: students, strangers without a key, other accounts.

Every attempt stands in a table with its name. A control makes the same attempts with the rights
that they lack and sees them succeed, so that an attempt cannot fail for a reason of its own.
"""

from __future__ import annotations

import io
import json
import os
import pwd
import re
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import boto3
import botocore.exceptions
import probes
import psycopg2
import psycopg2.errors
import pytest
import requests
from botocore import UNSIGNED
from botocore.config import Config
from conftest import REPOSITORY, Classroom
from waiting import bound, wait_until

if TYPE_CHECKING:
    from psycopg2.extensions import connection as Connection  # noqa: N812
    from types_boto3_iam import IAMClient
    from types_boto3_s3 import S3Client

BUCKET = "mlflow-exp-tracking-"
REGION = "us-east-2"
KEY = "isolation/object"
CONTENT = b"of jdoe, and of nobody else. " * 2000
NOBODY = 65534
other_accounts = pytest.mark.skipif(
    os.geteuid() != 0, reason="one account owns everything unless the classroom was made by root"
)


@pytest.fixture(scope="module", autouse=True)
def students(classroom: Classroom) -> None:
    """Provide jdoe and asmith, unless an earlier test did."""
    for number, user in enumerate(("jdoe", "asmith")):
        if not classroom.home.joinpath("handouts", user, "mlflow.env").is_file():
            port = classroom.ports["classroom_server_port"] + number
            classroom.play("site.yml", "-e", f"user={user}", "-e", f"mlflow_server_port={port}")


# --- PostgreSQL ---------------------------------------------------------------------------------


def connect(room: Classroom, login: str, database: str, password: str | None = None) -> Connection:
    """Open a session as a student (`asmith`) or as the administrator (`classroom`)."""
    if password is None:
        known = ("postgres-admin",) if login == "classroom" else ("students", login, "postgres")
        password = room.secret(*known)
    opened = psycopg2.connect(
        host="127.0.0.1",
        port=room.ports["classroom_postgres_port"],
        dbname=database,
        user=login if login in ("classroom", "postgres") else f"mlflow_{login}",
        password=password,
        connect_timeout=round(bound(5)),
    )
    opened.autocommit = True
    return opened


def ask(session: Connection, statement: str, *values: object) -> list[tuple[Any, ...]]:
    """Return the rows of a statement, none for one that has no rows."""
    with session.cursor() as cursor:
        cursor.execute(statement, values or None)
        return cursor.fetchall() if cursor.description else []


def test_own_login_opens_own_database(classroom: Classroom) -> None:
    for user in ("jdoe", "asmith"):
        with closing(connect(classroom, user, f"mlflow_{user}")) as session:
            assert ask(session, "select count(*) > 0 from runs") == [(True,)]


@pytest.mark.parametrize(
    "database", ["mlflow_jdoe", "postgres", "template0", "template1", "classroom_template"]
)
def test_login_is_refused_at_every_other_database(classroom: Classroom, database: str) -> None:
    message = r"permission denied for database|not currently accepting connections"
    with pytest.raises(psycopg2.OperationalError, match=message):
        connect(classroom, "asmith", database)


@pytest.mark.parametrize("password", ["", "x", "asmith"])
def test_wrong_password_is_refused(classroom: Classroom, password: str) -> None:
    wrong = classroom.secret("students", "asmith", "postgres") if password == "asmith" else password
    with pytest.raises(psycopg2.OperationalError, match=r"authentication failed|no password"):
        connect(classroom, "jdoe", "mlflow_jdoe", wrong)


def test_superuser_has_no_way_in(classroom: Classroom) -> None:
    for password in ("x", classroom.secret("postgres-admin")):
        with pytest.raises(psycopg2.OperationalError, match=r"pg_hba\.conf rejects"):
            connect(classroom, "postgres", "postgres", password)


# Each as asmith, and as the administrator for a control (undone), who may where it says so.
STATEMENTS = {
    "become jdoe": ("set role mlflow_jdoe", True),
    "become the administrator": ("set role classroom", True),
    "become the superuser": ("set role postgres", False),
    "join jdoe": ("grant mlflow_jdoe to mlflow_asmith", True),
    "size of jdoe's database": ("select pg_database_size('mlflow_jdoe')", True),
    "lift the login's limit": ("alter role mlflow_asmith connection limit 500", True),
    "lift the database's limit": ("alter database mlflow_asmith connection limit 500", True),
    "lift the limit of temporary files": ("set temp_file_limit = -1", True),
    "own the database": ("alter database mlflow_asmith owner to mlflow_asmith", True),
    "make an extension": ("create extension {extension}", True),
    "make a database": ("create database mlflow_isolation", True),
    "make a login": ("create role mlflow_isolation login", True),
    "make oneself superuser": ("alter role mlflow_asmith superuser", False),
    "change jdoe's password": ("alter role mlflow_jdoe password 'x'", True),
    "shut jdoe out": ("alter role mlflow_jdoe nologin", True),
    "drop jdoe's database": ("drop database mlflow_jdoe", None),
    "end jdoe's sessions": (
        "select pg_terminate_backend(pid) from pg_stat_activity where usename = 'mlflow_jdoe'",
        None,
    ),
    "read the verifiers": ("select rolpassword from pg_authid", False),
    "read a file": ("select pg_read_file('postgresql.auto.conf')", False),
    "import a file": ("select lo_import('/etc/hostname')", False),
    "copy from a file": ("create temp table t (t text); copy t from '/etc/hostname'", False),
    "run a program": ("copy (select 1) to program 'true'", False),
    "change the server's settings": ("alter system set work_mem = '5MB'", False),
    "read the server's rules": ("select * from pg_hba_file_rules", False),
}


def trusted_extension(session: Connection) -> str:
    """Return an extension that an owner of the database could make."""
    rows = ask(
        session,
        "select name from pg_available_extension_versions"
        " where trusted and not installed and requires is null order by name",
    )
    return str(rows[0][0]) if rows else "plpgsql"


@pytest.mark.parametrize("name", STATEMENTS)
def test_login_may_not(classroom: Classroom, name: str) -> None:
    with (
        closing(connect(classroom, "jdoe", "mlflow_jdoe")),
        closing(connect(classroom, "asmith", "mlflow_asmith")) as session,
    ):
        statement = STATEMENTS[name][0].format(extension=trusted_extension(session))
        with pytest.raises(psycopg2.errors.InsufficientPrivilege):
            ask(session, statement)


@pytest.mark.parametrize("name", [name for name, (_, may) in STATEMENTS.items() if may is not None])
def test_control_administrator_may(classroom: Classroom, name: str) -> None:
    statement, may = STATEMENTS[name]
    with closing(connect(classroom, "classroom", "mlflow_asmith")) as session:
        statement = statement.format(extension=trusted_extension(session))
        session.autocommit = statement.startswith(("alter system", "create database"))
        if may:
            ask(session, statement)
        else:
            with pytest.raises(psycopg2.errors.InsufficientPrivilege):
                ask(session, statement)
        if session.autocommit and may:
            ask(session, "drop database mlflow_isolation")
        session.rollback()


def test_login_cannot_let_others_in(classroom: Classroom) -> None:
    with closing(connect(classroom, "asmith", "mlflow_asmith")) as session:
        # PostgreSQL only warns here, so what counts is the outcome.
        with suppress(psycopg2.errors.InsufficientPrivilege):
            ask(session, "grant connect, create on database mlflow_asmith to mlflow_jdoe, public")
        answer = ask(
            session,
            "select has_database_privilege('mlflow_jdoe', 'mlflow_asmith', 'connect'),"
            " has_database_privilege('mlflow_jdoe', 'mlflow_asmith', 'create')",
        )
    assert answer == [(False, False)]
    with pytest.raises(psycopg2.OperationalError, match="permission denied for database"):
        connect(classroom, "jdoe", "mlflow_asmith")


def test_running_statement_is_hidden(classroom: Classroom) -> None:
    marker = "a statement of jdoe"
    look = "select query from pg_stat_activity where pid = %s"
    with (
        closing(connect(classroom, "jdoe", "mlflow_jdoe")) as busy,
        closing(connect(classroom, "jdoe", "mlflow_jdoe")) as own,
        closing(connect(classroom, "asmith", "mlflow_asmith")) as other,
    ):
        pid = busy.info.backend_pid

        def work() -> None:
            with suppress(psycopg2.errors.QueryCanceled):
                ask(busy, f"select pg_sleep(3600) /* {marker} */")

        thread = threading.Thread(target=work)
        thread.start()
        try:
            wait_until(lambda: marker in ask(own, look, pid)[0][0], "the statement to run", 1)
            assert ask(other, look, pid) == [("<insufficient privilege>",)]
            sql = "select count(*) from pg_stat_activity where query like %s and pid <> %s"
            assert ask(other, sql, f"%{marker}%", other.info.backend_pid) == [(0,)]
        finally:
            busy.cancel()
            thread.join()


def test_connections_run_out_for_oneself_alone(classroom: Classroom) -> None:
    with closing(connect(classroom, "classroom", "postgres")) as admin:
        sql = "select rolconnlimit from pg_roles where rolname = 'mlflow_asmith'"
        limit = ask(admin, sql)[0][0]
    assert 0 < limit <= 20
    sessions: list[Connection] = []
    try:
        with pytest.raises(psycopg2.OperationalError, match="too many connections for role"):
            sessions.extend(connect(classroom, "asmith", "mlflow_asmith") for _ in range(limit + 1))
        # The tracking server holds some of them.
        assert len(sessions) >= limit - 6
        with closing(connect(classroom, "jdoe", "mlflow_jdoe")) as session:
            assert ask(session, "select 1") == [(1,)]
    finally:
        for session in sessions:
            session.close()


def test_no_student_database_lets_everybody_connect(classroom: Classroom) -> None:
    sql = (
        "select datname, datacl is not null and datacl::text !~ '[{,]=[^/]*[CTc]'"
        "  from pg_database where datname like 'mlflow\\_%' order by 1"
    )
    with closing(connect(classroom, "classroom", "postgres")) as session:
        found = dict(ask(session, sql))
    assert {"mlflow_asmith", "mlflow_jdoe"} <= set(found)
    assert all(found.values()), found


def test_administrator_is_no_superuser(classroom: Classroom) -> None:
    sql = "select rolsuper, rolreplication, rolbypassrls from pg_roles where rolname = %s"
    with closing(connect(classroom, "classroom", "postgres")) as session:
        assert ask(session, sql, "classroom") == [(False, False, False)]
        assert ask(session, sql, "postgres") == [(True, True, True)]
        for role in ("pg_execute_server_program", "pg_read_server_files"):
            assert ask(session, "select pg_has_role(%s, 'member')", role) == [(False,)]
            with pytest.raises(psycopg2.errors.InsufficientPrivilege):
                ask(session, f"grant {role} to classroom")
        sql = "select rolname from pg_roles where rolsuper"
        assert ask(session, sql) == [("postgres",)]


# --- S3 -----------------------------------------------------------------------------------------


def keys(room: Classroom, who: str) -> dict[str, Any]:
    """Return the keys of a student or of the administrator, as boto3 takes them."""
    if who == "admin":
        key, secret = room.secret("s3-admin-key"), room.secret("s3-admin-secret")
    else:
        key, secret = room.credentials(who)
    return {"aws_access_key_id": key, "aws_secret_access_key": secret}


def s3_client(room: Classroom, who: str) -> S3Client:
    """Return a client of the students' port, for `nobody` one that signs nothing."""
    settings: dict[str, Any] = {"retries": {"max_attempts": 1}, "read_timeout": bound(5)}
    settings["signature_version"] = UNSIGNED if who == "nobody" else "s3v4"
    client: S3Client = boto3.client(
        "s3",
        endpoint_url=f"http://127.0.0.1:{room.ports['classroom_s3_port']}",
        region_name=REGION,
        config=Config(s3={"addressing_style": "path"}, **settings),
        **({} if who == "nobody" else keys(room, who)),
    )
    return client


def students_port(room: Classroom, service: str, who: str) -> Any:
    """Return a client for keys (iam, sts) of the students' port."""
    return boto3.client(
        service,
        endpoint_url=f"http://127.0.0.1:{room.ports['classroom_s3_port']}",
        region_name=REGION,
        config=Config(retries={"max_attempts": 1}),
        **keys(room, who),
    )


def certificate_file(room: Classroom) -> Path:
    """Return the file whose holder is the administrator of the store."""
    return room.home / "object-store/tls.pem"


def admin_iam(room: Classroom, certificate: bool = True, who: str = "admin") -> IAMClient:
    """Return a client of the administrator's port, with or without the client certificate."""
    pem = str(certificate_file(room))
    client: IAMClient = boto3.client(
        "iam",
        endpoint_url=f"https://127.0.0.1:{room.ports['classroom_s3_admin_port']}",
        region_name=REGION,
        verify=pem,
        config=Config(retries={"max_attempts": 1}, client_cert=pem if certificate else None),
        **keys(room, who),
    )
    return client


def purge(admin: S3Client, bucket: str, prefix: str = "") -> None:
    """Remove every version of every object and every unfinished upload."""
    found = admin.list_object_versions(Bucket=bucket, Prefix=prefix)
    for each in [*found.get("Versions", []), *found.get("DeleteMarkers", [])]:
        admin.delete_object(Bucket=bucket, Key=each["Key"], VersionId=each["VersionId"])
    for upload in admin.list_multipart_uploads(Bucket=bucket, Prefix=prefix).get("Uploads", []):
        admin.abort_multipart_upload(Bucket=bucket, Key=upload["Key"], UploadId=upload["UploadId"])


@dataclass
class Raid:
    """Somebody who may use one bucket reaches for an object and an upload in another one."""

    s3: S3Client
    own: str
    other: str
    version: str
    upload: str

    @property
    def at(self) -> dict[str, Any]:
        """Name the bucket that is not theirs."""
        return {"Bucket": self.other}

    @property
    def it(self) -> dict[str, Any]:
        """Name the object that is not theirs."""
        return {"Bucket": self.other, "Key": KEY}

    @property
    def part(self) -> dict[str, Any]:
        """Name the unfinished upload that is not theirs."""
        return {**self.it, "UploadId": self.upload}

    def presigned(self, operation: str, **more: str) -> bool:
        """Whether a URL that they signed for it works."""
        url = self.s3.generate_presigned_url(operation, Params={**self.it, **more}, ExpiresIn=60)
        method = "PUT" if operation == "put_object" else "GET"
        return requests.request(method, url, timeout=bound(5)).ok

    def batch_delete(self, **version: Any) -> bool:
        """Whether a batch deletes it; such a request is answered with 200 in any case."""
        answer = self.s3.delete_objects(
            Bucket=self.other, Delete={"Objects": [cast("Any", {"Key": KEY, **version})]}
        )
        return "Deleted" in answer

    def part_copy(self) -> object:
        """Copy it as a part into a large object of their own."""
        mine: dict[str, Any] = {"Bucket": self.own, "Key": "isolation/copy"}
        upload = self.s3.create_multipart_upload(**mine)["UploadId"]
        try:
            return self.s3.upload_part_copy(
                **mine, UploadId=upload, PartNumber=1, CopySource=f"{self.other}/{KEY}"
            )
        finally:
            self.s3.abort_multipart_upload(**mine, UploadId=upload)


POLICY = {
    "Version": "2012-10-17",
    "Statement": [
        {"Effect": "Allow", "Principal": "*", "Action": "s3:*", "Resource": "arn:aws:s3:::*"}
    ],
}
PLACE: Any = {"CreateBucketConfiguration": {"LocationConstraint": REGION}}
TAGS: Any = {"TagSet": [{"Key": "owner", "Value": "asmith"}]}
RULES: Any = {
    "Rules": [
        {"ID": "x", "Status": "Enabled", "Filter": {"Prefix": ""}, "Expiration": {"Days": 900}}
    ]
}
CORS: Any = {"CORSRules": [{"AllowedMethods": ["GET"], "AllowedOrigins": ["*"]}]}
ENCRYPTION: Any = {"Rules": [{"ApplyServerSideEncryptionByDefault": {"SSEAlgorithm": "AES256"}}]}
OWNERSHIP: Any = {"Rules": [{"ObjectOwnership": "ObjectWriter"}]}
LOCK: Any = {"Mode": "GOVERNANCE", "RetainUntilDate": "2099-01-01T00:00:00Z"}

# An attempt that returns False has met a closed door without an error.
S3_ATTEMPTS: dict[str, Callable[[Raid], object]] = {
    "ListBuckets": lambda r: r.other in [b["Name"] for b in r.s3.list_buckets()["Buckets"]],
    "HeadBucket": lambda r: r.s3.head_bucket(**r.at),
    "ListObjects": lambda r: r.s3.list_objects(**r.at),
    "ListObjectsV2": lambda r: r.s3.list_objects_v2(**r.at),
    "ListObjectVersions": lambda r: r.s3.list_object_versions(**r.at),
    "HeadObject": lambda r: r.s3.head_object(**r.it),
    "GetObject": lambda r: r.s3.get_object(**r.it),
    "GetObject, range": lambda r: r.s3.get_object(**r.it, Range="bytes=0-9"),
    "GetObject, version": lambda r: r.s3.get_object(**r.it, VersionId=r.version),
    "GetObjectAttributes": lambda r: r.s3.get_object_attributes(
        **r.it, ObjectAttributes=["ObjectSize"]
    ),
    "GetObject, presigned": lambda r: r.presigned("get_object"),
    "GetObject, presigned, version": lambda r: r.presigned("get_object", VersionId=r.version),
    "GetObject, own/../other": lambda r: (
        r.s3.get_object(Bucket=r.own, Key=f"../{r.other}/{KEY}")["Body"].read() == CONTENT
    ),
    "PutObject": lambda r: r.s3.put_object(Bucket=r.other, Key="isolation/new", Body=b"x"),
    "PutObject, overwrite": lambda r: r.s3.put_object(**r.it, Body=b"x"),
    "PutObject, public": lambda r: r.s3.put_object(**r.it, Body=b"x", ACL="public-read"),
    "PutObject, presigned": lambda r: r.presigned("put_object"),
    "CopyObject to own": lambda r: r.s3.copy_object(
        Bucket=r.own, Key="isolation/copy", CopySource=f"{r.other}/{KEY}"
    ),
    "CopyObject to own, version": lambda r: r.s3.copy_object(
        Bucket=r.own, Key="isolation/copy", CopySource=f"{r.other}/{KEY}?versionId={r.version}"
    ),
    "CopyObject from own": lambda r: r.s3.copy_object(
        Bucket=r.other, Key="isolation/copy", CopySource=f"{r.own}/isolation/own"
    ),
    "DeleteObject": lambda r: r.s3.delete_object(**r.it),
    "DeleteObject, version": lambda r: r.s3.delete_object(**r.it, VersionId=r.version),
    "DeleteObjects": lambda r: r.batch_delete(),
    "DeleteObjects, version": lambda r: r.batch_delete(VersionId=r.version),
    "CreateMultipartUpload": lambda r: r.s3.create_multipart_upload(**r.it),
    "ListMultipartUploads": lambda r: r.s3.list_multipart_uploads(**r.at),
    "ListParts": lambda r: r.s3.list_parts(**r.part),
    "UploadPart": lambda r: r.s3.upload_part(**r.part, PartNumber=1, Body=b"x"),
    "UploadPartCopy to own": lambda r: r.part_copy(),
    "UploadPartCopy from own": lambda r: r.s3.upload_part_copy(
        **r.part, PartNumber=1, CopySource=f"{r.own}/isolation/own"
    ),
    "AbortMultipartUpload": lambda r: r.s3.abort_multipart_upload(**r.part),
    "GetObjectTagging": lambda r: r.s3.get_object_tagging(**r.it),
    "PutObjectTagging": lambda r: r.s3.put_object_tagging(**r.it, Tagging=TAGS),
    "DeleteObjectTagging": lambda r: r.s3.delete_object_tagging(**r.it),
    "GetObjectAcl": lambda r: r.s3.get_object_acl(**r.it),
    "PutObjectAcl": lambda r: r.s3.put_object_acl(**r.it, ACL="public-read"),
    "PutObjectRetention": lambda r: r.s3.put_object_retention(**r.it, Retention=LOCK),
    "GetBucketLocation": lambda r: r.s3.get_bucket_location(**r.at),
    "GetBucketAcl": lambda r: r.s3.get_bucket_acl(**r.at),
    "PutBucketAcl": lambda r: r.s3.put_bucket_acl(**r.at, ACL="public-read"),
    "PutBucketPolicy": lambda r: r.s3.put_bucket_policy(
        **r.at, Policy=json.dumps(POLICY).replace(":::*", f":::{r.other}/*")
    ),
    "GetBucketPolicy": lambda r: r.s3.get_bucket_policy(**r.at),
    "DeleteBucketPolicy": lambda r: r.s3.delete_bucket_policy(**r.at),
    "PutBucketTagging": lambda r: r.s3.put_bucket_tagging(**r.at, Tagging=TAGS),
    "GetBucketTagging": lambda r: r.s3.get_bucket_tagging(**r.at),
    "DeleteBucketTagging": lambda r: r.s3.delete_bucket_tagging(**r.at),
    "GetBucketVersioning": lambda r: r.s3.get_bucket_versioning(**r.at),
    "PutBucketVersioning": lambda r: r.s3.put_bucket_versioning(
        **r.at, VersioningConfiguration={"Status": "Enabled"}
    ),
    "PutBucketLifecycle": lambda r: r.s3.put_bucket_lifecycle_configuration(
        **r.at, LifecycleConfiguration=RULES
    ),
    "GetBucketLifecycle": lambda r: r.s3.get_bucket_lifecycle_configuration(**r.at),
    "DeleteBucketLifecycle": lambda r: r.s3.delete_bucket_lifecycle(**r.at),
    "PutBucketCors": lambda r: r.s3.put_bucket_cors(**r.at, CORSConfiguration=CORS),
    "GetBucketCors": lambda r: r.s3.get_bucket_cors(**r.at),
    "DeleteBucketCors": lambda r: r.s3.delete_bucket_cors(**r.at),
    "PutBucketEncryption": lambda r: r.s3.put_bucket_encryption(
        **r.at, ServerSideEncryptionConfiguration=ENCRYPTION
    ),
    "GetBucketEncryption": lambda r: r.s3.get_bucket_encryption(**r.at),
    "DeleteBucketEncryption": lambda r: r.s3.delete_bucket_encryption(**r.at),
    "PutBucketOwnership": lambda r: r.s3.put_bucket_ownership_controls(
        **r.at, OwnershipControls=OWNERSHIP
    ),
    "GetBucketOwnership": lambda r: r.s3.get_bucket_ownership_controls(**r.at),
    "PutObject, own/../other": lambda r: r.s3.put_object(
        Bucket=r.own, Key=f"../{r.other}/isolation/climbed", Body=b"x"
    ),
    "CreateBucket": lambda r: r.s3.create_bucket(Bucket=f"{r.other}-new", **PLACE),
    "CreateBucket, of this name": lambda r: r.s3.create_bucket(**r.at, **PLACE),
    "DeleteBucket": lambda r: r.s3.delete_bucket(**r.at),
}


def outcome(call: Callable[[], object]) -> str:
    """Return `open`, `closed` or the status and code of the server's refusal."""
    try:
        return "closed" if call() is False else "open"
    except botocore.exceptions.ClientError as error:
        status = error.response["ResponseMetadata"]["HTTPStatusCode"]
        return f"{status} {error.response.get('Error', {}).get('Code', 'without a code')}"


def lay_out(s3: S3Client, bucket: str) -> tuple[str, str]:
    """Put the object there and begin an upload; return the version and the upload's id."""
    version = s3.put_object(Bucket=bucket, Key=KEY, Body=CONTENT)["VersionId"]
    return version, s3.create_multipart_upload(Bucket=bucket, Key=KEY)["UploadId"]


def picture(admin: S3Client, bucket: str) -> dict[str, object]:
    """Return what an attempt could have changed in a bucket."""
    versions = admin.list_object_versions(Bucket=bucket)
    seen: dict[str, object] = {
        "versions": [(v["Key"], v["VersionId"], v["ETag"]) for v in versions.get("Versions", [])],
        "markers": versions.get("DeleteMarkers", []),
        "uploads": [u["UploadId"] for u in admin.list_multipart_uploads(Bucket=bucket)["Uploads"]],
    }
    for name in ("acl", "cors", "encryption", "lifecycle_configuration", "policy", "tagging"):
        try:
            seen[name] = getattr(admin, f"get_bucket_{name}")(Bucket=bucket)
        except botocore.exceptions.ClientError as error:
            seen[name] = error.response
        seen[name].pop("ResponseMetadata", None)  # type: ignore[attr-defined]
    seen["versioning"] = admin.get_bucket_versioning(Bucket=bucket)["Status"]
    return seen


@dataclass
class Loot:
    """What jdoe has laid out, and how the bucket looked then."""

    version: str
    upload: str
    picture: dict[str, object]


@pytest.fixture(scope="module")
def loot(classroom: Classroom, students: None) -> Iterator[Loot]:
    """Let both students have an object, and jdoe an unfinished upload."""
    admin = s3_client(classroom, "admin")
    s3_client(classroom, "asmith").put_object(
        Bucket=f"{BUCKET}asmith", Key="isolation/own", Body=b"of asmith"
    )
    version, upload = lay_out(s3_client(classroom, "jdoe"), f"{BUCKET}jdoe")
    yield Loot(version, upload, picture(admin, f"{BUCKET}jdoe"))
    for user in ("jdoe", "asmith"):
        purge(admin, f"{BUCKET}{user}", "isolation/")


def assert_intact(room: Classroom, loot: Loot) -> None:
    """Check that jdoe's bucket is as it was."""
    assert picture(s3_client(room, "admin"), f"{BUCKET}jdoe") == loot.picture
    body = s3_client(room, "jdoe").get_object(Bucket=f"{BUCKET}jdoe", Key=KEY)["Body"]
    assert body.read() == CONTENT


@pytest.mark.parametrize("name", S3_ATTEMPTS)
@pytest.mark.parametrize("who", ["asmith", "nobody"])
def test_bucket_of_jdoe_refuses(classroom: Classroom, loot: Loot, who: str, name: str) -> None:
    client = s3_client(classroom, who)
    raid = Raid(client, f"{BUCKET}asmith", f"{BUCKET}jdoe", loot.version, loot.upload)
    answer = outcome(lambda: S3_ATTEMPTS[name](raid))
    # The server takes such a key for malformed before it asks whose it is.
    refusal = "400 InvalidRequest" if "/../" in name else "403 AccessDenied|403 403|closed"
    assert re.fullmatch(refusal, answer), answer


def test_bucket_of_jdoe_is_as_it_was(classroom: Classroom, loot: Loot) -> None:
    assert_intact(classroom, loot)


def test_control_the_same_attempts_succeed_with_rights(classroom: Classroom) -> None:
    admin = s3_client(classroom, "admin")
    own, other = "isolation-control-own", "isolation-control-other"
    buckets = {own, other, f"{other}-new"}
    answers = {}
    try:
        for bucket in (own, other):
            admin.create_bucket(Bucket=bucket, **PLACE)
            admin.put_bucket_versioning(
                Bucket=bucket, VersioningConfiguration={"Status": "Enabled"}
            )
        admin.put_object(Bucket=own, Key="isolation/own", Body=b"x")
        for name, attempt in S3_ATTEMPTS.items():
            raid = Raid(admin, own, other, *lay_out(admin, other))
            if name == "DeleteBucket":
                purge(admin, other)
            answers[name] = outcome(partial(attempt, raid))
    finally:
        for bucket in buckets & {each["Name"] for each in admin.list_buckets()["Buckets"]}:
            purge(admin, bucket)
            admin.delete_bucket(Bucket=bucket)
    shut = {name: answer for name, answer in answers.items() if answer != "open"}
    # These three nobody can.
    assert shut == {
        "GetObject, own/../other": "400 InvalidRequest",
        "PutObject, own/../other": "400 InvalidRequest",
        "CreateBucket, of this name": "409 BucketAlreadyExists",
    }


def test_list_of_buckets_shows_own_only(classroom: Classroom) -> None:
    for user in ("jdoe", "asmith"):
        found = s3_client(classroom, user).list_buckets()["Buckets"]
        assert [bucket["Name"] for bucket in found] == [f"{BUCKET}{user}"]


def test_own_bucket_works(classroom: Classroom, loot: Loot) -> None:
    asmith = s3_client(classroom, "asmith")
    it: dict[str, Any] = {"Bucket": f"{BUCKET}asmith", "Key": "isolation/large"}
    large = os.urandom(9 << 20)
    assert asmith.get_bucket_versioning(Bucket=it["Bucket"])["Status"] == "Enabled"
    asmith.upload_fileobj(io.BytesIO(large), it["Bucket"], it["Key"])
    first = asmith.head_object(**it)
    assert first["ServerSideEncryption"] == "AES256"
    assert asmith.get_object(**it)["Body"].read() == large
    slice_ = asmith.get_object(**it, Range="bytes=8500000-8500099")["Body"].read()
    assert slice_ == large[8500000:8500100]
    assert asmith.put_object(**it, Body=b"small")["ServerSideEncryption"] == "AES256"
    listed = asmith.list_objects_v2(Bucket=it["Bucket"], Prefix="isolation/large")["Contents"]
    assert [(each["Key"], each["Size"]) for each in listed] == [(it["Key"], 5)]
    assert asmith.delete_object(**it)["DeleteMarker"]
    assert outcome(lambda: asmith.get_object(**it)) == "404 NoSuchKey"
    old = asmith.get_object(**it, VersionId=first["VersionId"])["Body"].read()
    assert old == large


# A student's key on what is their own, but the administrator's to decide.
OWN_ATTEMPTS: dict[str, Callable[[Raid], object]] = {
    name: S3_ATTEMPTS[name]
    for name in (
        *("DeleteObject, version", "DeleteObjects, version", "PutObjectRetention"),
        *("PutBucketAcl", "PutBucketPolicy", "DeleteBucketPolicy", "PutBucketTagging"),
        *("PutBucketLifecycle", "PutBucketCors", "DeleteBucketEncryption", "PutBucketOwnership"),
        *("PutBucketVersioning", "DeleteBucket"),
    )
}


@pytest.mark.parametrize("name", OWN_ATTEMPTS)
def test_student_cannot_open_or_drop_the_own_bucket(
    classroom: Classroom, loot: Loot, name: str
) -> None:
    own = f"{BUCKET}jdoe"
    raid = Raid(s3_client(classroom, "jdoe"), own, own, loot.version, loot.upload)
    assert re.match("403 |closed", outcome(lambda: OWN_ATTEMPTS[name](raid)))


def test_object_declared_public_stays_private(classroom: Classroom, loot: Loot) -> None:
    it: dict[str, Any] = {"Bucket": f"{BUCKET}asmith", "Key": "isolation/public"}
    with suppress(botocore.exceptions.ClientError):
        s3_client(classroom, "asmith").put_object(**it, Body=b"x", ACL="public-read")
    for who in ("jdoe", "nobody"):
        get = partial(s3_client(classroom, who).get_object, **it)
        assert outcome(get).startswith("403")


JDOE: Any = {"UserName": f"{BUCKET}jdoe"}
SELF: Any = {"UserName": f"{BUCKET}asmith"}
ALLOW_ALL = json.dumps(
    {
        "Version": "2012-10-17",
        "Statement": [{"Effect": "Allow", "Action": "s3:*", "Resource": "*"}],
    }
)
GRANT: Any = {"PolicyName": "isolation", "PolicyDocument": ALLOW_ALL}
ADMINISTRATOR = "arn:aws:iam::aws:policy/AdministratorAccess"

IAM_ATTEMPTS: dict[str, Callable[[Any], object]] = {
    "CreateAccessKey": lambda iam: iam.create_access_key(),
    "CreateAccessKey, self by name": lambda iam: iam.create_access_key(**SELF),
    "CreateAccessKey, of jdoe": lambda iam: iam.create_access_key(**JDOE),
    "DeleteAccessKey": lambda iam: iam.delete_access_key(AccessKeyId="AKIA" + 16 * "X"),
    "UpdateAccessKey, of jdoe": lambda iam: iam.update_access_key(
        **JDOE, AccessKeyId="AKIA" + 16 * "X", Status="Inactive"
    ),
    "CreateUser": lambda iam: iam.create_user(UserName="isolation"),
    "UpdateUser": lambda iam: iam.update_user(**SELF, NewUserName="isolation"),
    "DeleteUser": lambda iam: iam.delete_user(**JDOE),
    "CreateGroup": lambda iam: iam.create_group(GroupName="isolation"),
    "CreateRole": lambda iam: iam.create_role(
        RoleName="isolation", AssumeRolePolicyDocument=ALLOW_ALL
    ),
    "CreatePolicy": lambda iam: iam.create_policy(**GRANT),
    "DeletePolicy": lambda iam: iam.delete_policy(
        PolicyArn="arn:aws:iam:::policy/mlflow-classroom-student"
    ),
    "PutUserPolicy": lambda iam: iam.put_user_policy(**SELF, **GRANT),
    "AttachUserPolicy": lambda iam: iam.attach_user_policy(**SELF, PolicyArn=ADMINISTRATOR),
    "DetachUserPolicy": lambda iam: iam.detach_user_policy(
        **JDOE, PolicyArn="arn:aws:iam:::policy/mlflow-classroom-student"
    ),
}


@pytest.mark.parametrize("name", IAM_ATTEMPTS)
@pytest.mark.parametrize("who", ["asmith", "admin"])
def test_students_port_makes_no_keys(classroom: Classroom, who: str, name: str) -> None:
    iam = students_port(classroom, "iam", who)
    assert outcome(lambda: IAM_ATTEMPTS[name](iam)).startswith("403")


@pytest.mark.parametrize(
    ("operation", "arguments"),
    [
        ("get_user", JDOE),
        ("list_access_keys", JDOE),
        ("list_attached_user_policies", JDOE),
        ("list_users", {}),
        ("list_groups", {}),
        ("list_policies", {}),
    ],
)
def test_student_learns_nothing_of_other_users(
    classroom: Classroom, operation: str, arguments: dict[str, str]
) -> None:
    iam = students_port(classroom, "iam", "asmith")
    assert outcome(lambda: getattr(iam, operation)(**arguments)).startswith("403")


@pytest.mark.parametrize(
    ("operation", "arguments"),
    [
        ("get_session_token", {}),
        ("get_federation_token", {"Name": "isolation", "Policy": ALLOW_ALL}),
        (
            "assume_role",
            {"RoleArn": "arn:aws:iam::000000000000:role/x", "RoleSessionName": "isolation"},
        ),
    ],
)
def test_student_gets_no_session(
    classroom: Classroom, operation: str, arguments: dict[str, str]
) -> None:
    sts = students_port(classroom, "sts", "asmith")
    assert re.match("[45]", outcome(lambda: getattr(sts, operation)(**arguments)))


def foreign_certificate(room: Classroom, folder: Path) -> str:
    """Return a certificate made like the store's own, by somebody else."""
    subprocess.run(
        [
            next(room.home.glob("runtime-*/bin/python")),
            REPOSITORY / "roles/object_store/files/make_certificate.py",
            folder / "tls.pem",
        ],
        check=True,
    )
    return folder.joinpath("tls.pem").read_text()


def test_administrators_port_wants_the_certificate(classroom: Classroom, tmp_path: Path) -> None:
    where = f"127.0.0.1:{classroom.ports['classroom_s3_admin_port']}/"
    foreign = foreign_certificate(classroom, tmp_path)
    right = certificate_file(classroom).read_text()

    def get(scheme: str, certificate: str = "") -> str:
        arguments = {"method": "GET", "url": f"{scheme}://{where}", "certificate": certificate}
        return probes.attempt("request", arguments)

    assert get("http").startswith("400\n")
    for certificate in ("", foreign):
        assert re.match("SSL|Connection", get("https", certificate))
    assert get("https", right).startswith("403\n")
    for who in ("asmith", "admin"):
        iam = admin_iam(classroom, certificate=False, who=who)
        with pytest.raises(botocore.exceptions.BotoCoreError, match=r"SSL|Connection"):
            iam.create_access_key()


def test_every_student_has_one_key_and_control_certificate_sees_it(classroom: Classroom) -> None:
    iam = admin_iam(classroom)
    for user in ("jdoe", "asmith"):
        found = iam.list_access_keys(UserName=f"{BUCKET}{user}")["AccessKeyMetadata"]
        assert [key["AccessKeyId"] for key in found] == [classroom.credentials(user)[0]]
    try:
        assert iam.create_user(UserName="isolation")
        assert iam.create_access_key(UserName="isolation")
        student = admin_iam(classroom, who="asmith")
        assert outcome(lambda: student.create_access_key(UserName=f"{BUCKET}jdoe"))[:3] == "403"
    finally:
        for key in iam.list_access_keys(UserName="isolation")["AccessKeyMetadata"]:
            iam.delete_access_key(UserName="isolation", AccessKeyId=key["AccessKeyId"])
        iam.delete_user(UserName="isolation")


# --- inner ports, files and processes -----------------------------------------------------------


@dataclass
class Store:
    """The object store from inside: its ports, programs and what there is to steal."""

    room: Classroom
    ports: range
    certificate: str
    foreign: str
    file_id: str
    secret: str

    @property
    def weed(self) -> str:
        """Return the store's program, which is everybody's to start."""
        return str(next(self.room.home.glob("runtime-*/bin/weed")))

    def shell(self, *commands: str, settings: str = "") -> probes.Attempt:
        """Return the attempt to give the store commands, with or without its settings."""
        master, filer = self.ports[0], self.ports[4]
        argv = [self.weed, "-logtostderr", *([f"-config_dir={settings}"] if settings else [])]
        argv += ["shell", f"-master=127.0.0.1:{master}.{master + 1}"]
        argv += [f"-filer=127.0.0.1:{filer}.{filer + 1}"]
        return {"argv": argv, "stdin": "\n".join(commands) + "\n"}

    @property
    def grpc_ports(self) -> list[int]:
        """Return the ports of master, volumes, filer and both gateways."""
        return [self.ports[n] for n in (1, 3, 5, 6, 7)]

    def sockets(self) -> list[Path]:
        """Return its socket files, in the shared directory and in its own."""
        shared = [f"/tmp/seaweedfs-{part}-grpc-{port}.sock" for part, port in self.socket_names()]
        own = self.room.home.joinpath("object-store/sockets").iterdir()
        return [path for path in (*map(Path, shared), *own) if path.exists()]

    def grpc_targets(self) -> list[int | str]:
        """Return the ports and the socket files on which it speaks gRPC."""
        return [*self.grpc_ports, *(str(p) for p in self.sockets() if "-grpc-" in p.name)]

    def socket_names(self) -> list[tuple[str, int]]:
        """Return part and port of each socket file that the program puts where all can see it."""
        parts = ("master", "volume", "filer", "s3", "s3")
        return list(zip(parts, self.grpc_ports, strict=True))

    def leaked(self, answer: str) -> bool:
        """Whether an answer holds a key, an object's content or a name from inside."""
        known = (self.secret, CONTENT.decode()[:20], '"identities"', "DataNode")
        return any(each in answer for each in known)


IDENTITY = f"/etc/iam/identities/{BUCKET}jdoe.json"


@pytest.fixture(scope="module")
def store(classroom: Classroom, loot: Loot, tmp_path_factory: pytest.TempPathFactory) -> Store:
    """Look into the store with its own settings, to know what a stranger should not find."""
    first = classroom.ports["classroom_s3_inner_port"]
    settings = classroom.home / "object-store"
    found = Store(
        classroom,
        range(first, first + 8),
        certificate_file(classroom).read_text(),
        foreign_certificate(classroom, tmp_path_factory.mktemp("foreign")),
        "",
        classroom.credentials("jdoe")[1],
    )
    path = f"/buckets/{BUCKET}jdoe/{KEY}.versions/v_{loot.version}"
    answer = probes.run(
        **found.shell(f"fs.meta.cat {path}", settings=str(settings)), seconds=bound(3)
    )
    file_id = re.search(r'"fileId":\s*"(\d+,[0-9a-f]+)"', answer)
    assert file_id, answer
    found.file_id = file_id[1]
    return found


def test_every_port_is_known_and_on_loopback(classroom: Classroom, store: Store) -> None:
    known = {port: name for name, port in classroom.ports.items()}
    known |= {port: f"inner port {port}" for port in store.ports}
    known[classroom.ports["classroom_server_port"] + 1] = "server of asmith"
    found = probes.listeners(classroom.home)
    assert {port for port in found if port not in known} == set()
    assert set(known) == set(found)
    loopback = {"0100007F"}
    assert {known[port]: where for port, where in found.items() if where != loopback} == {}


def as_nobody(attempts: list[tuple[str, probes.Attempt]]) -> list[str]:
    """Make the attempts as an account that owns nothing; as oneself, where there is no root."""
    uid = NOBODY if os.geteuid() == 0 else None
    return probes.attempt_as(uid, uid, attempts)


def http_attempts(store: Store) -> dict[str, probes.Attempt]:
    """Return what the inner HTTP ports do for everybody unless they are closed."""
    master, volume, filer = store.ports[0], store.ports[2], store.ports[4]
    bucket, it = f"{BUCKET}jdoe", store.file_id
    paths = [
        *("GET /", "GET /dir/status", "GET /vol/status", "GET /cluster/status", "GET /dir/assign"),
        *("GET /dir/lookup?volumeId=1", "GET /vol/grow?count=1", "GET /vol/vacuum", "POST /submit"),
        *(f"GET /col/delete?collection={bucket}", f"GET /{it}", "GET /stats/counter"),
    ]
    table = [(scheme, master, path) for scheme in ("http", "https") for path in paths]
    table += [
        ("http", volume, path)
        for path in (
            *("GET /", "GET /status", "GET /ui/index.html", "GET /stats/disk", f"GET /{it}"),
            *(f"HEAD /{it}", f"POST /{it}", f"PUT /{it}", f"DELETE /{it}"),
            "GET /admin/assign_volume?volume=77",
        )
    ]
    table += [
        ("http", filer, path)
        for path in (
            *("GET /", "GET /etc/iam/", f"GET {IDENTITY}", f"DELETE {IDENTITY}", "GET /buckets/"),
            *(f"GET /buckets/{bucket}/?recursive=true", f"PUT /buckets/{bucket}/isolation/new"),
            *(f"DELETE /buckets/{bucket}?recursive=true", "GET /?metadata=true", "POST /.tus/x"),
        )
    ]
    attempts = {}
    for scheme, port, line in table:
        method, path = line.split(" ", 1)
        name = f"{scheme} +{port - store.ports[0]} {line}"
        url = f"{scheme}://127.0.0.1:{port}{path}"
        body = "x" if method in ("POST", "PUT") else ""
        attempts[name] = {"method": method, "url": url, "body": body}
    return attempts


def test_inner_http_refuses_another_account(store: Store) -> None:
    attempts = http_attempts(store)
    answers = as_nobody([("request", attempt) for attempt in attempts.values()])
    refused = re.compile(
        r"(401|403|404|405)\n|400\n.*HTTP request to an HTTPS|SSL|Connection|BrokenPipe", re.S
    )
    opened = {
        name: answer[:200]
        for name, answer in zip(attempts, answers, strict=True)
        if store.leaked(answer) or not refused.match(answer)
    }
    # Sizes of disk and volumes, and with them the names of the buckets; no content and no key.
    status = opened.pop("http +2 GET /status", "200")
    assert status.startswith("200")
    assert opened == {}


def test_control_inner_http_serves_the_certificate(store: Store) -> None:
    # The master's only page left; its commands are off for everybody.
    url = f"https://127.0.0.1:{store.ports[0]}/cluster/status"
    answer = probes.request("GET", url, certificate=store.certificate)
    assert answer.startswith("200\n")
    assert "IsLeader" in answer


def grpc_attempts(target: int | str, store: Store) -> dict[str, probes.Attempt]:
    """Return the ways to speak to a gRPC server without the right certificate."""
    return {
        f"{target} in plain text": {"target": target},
        f"{target} without a certificate": {"target": target, "encrypted": True},
        f"{target} with a foreign one": {
            "target": target,
            "encrypted": True,
            "certificate": store.foreign,
        },
    }


def test_inner_grpc_refuses_another_account(store: Store) -> None:
    attempts: dict[str, probes.Attempt] = {}
    for target in store.grpc_targets():
        attempts |= grpc_attempts(target, store)
    answers = as_nobody([("grpc", attempt) for attempt in attempts.values()])
    assert [name for name, a in zip(attempts, answers, strict=True) if a == probes.SERVED] == []


def test_inner_grpc_asks_even_its_own_account_for_the_certificate(store: Store) -> None:
    for target in store.grpc_targets():
        for name, attempt in grpc_attempts(target, store).items():
            assert probes.attempt("grpc", attempt) != probes.SERVED, name
        right = {"target": target, "encrypted": True, "certificate": store.certificate}
        assert probes.attempt("grpc", right) == probes.SERVED, f"control {target}"


@other_accounts
def test_socket_files_are_closed_to_another_account(store: Store) -> None:
    files = [str(path) for path in store.sockets()]
    assert len(files) >= 3
    answers = as_nobody([("connect", {"path": path}) for path in files])
    assert [answer.split(":")[0] for answer in answers] == ["PermissionError"] * len(files)
    control = [probes.attempt("connect", {"path": path}) for path in files]
    assert control == [probes.SERVED] * len(files)


def test_store_takes_no_commands_from_another_account(store: Store) -> None:
    bucket = f"{BUCKET}jdoe"
    filer = f"127.0.0.1:{store.ports[4]}.{store.ports[5]}"
    look = (f"fs.cat {IDENTITY}", "fs.ls /buckets", "s3.configure", "volume.list", "s3.user.list")
    harm = (f"s3.bucket.delete -name {bucket}", f"collection.delete -collection={bucket} -force")
    settings = str(store.room.home / "object-store")
    begin = time.monotonic()
    control = probes.run(**store.shell(*look, settings=settings), seconds=bound(3))
    # An attempt that was only too slow would count as refused.
    seconds = max(probes.PROGRAM_SECONDS, 5 * (time.monotonic() - begin))
    assert store.secret in control
    assert bucket in control
    attempts = [
        store.shell(*look),
        store.shell("lock", *harm, "unlock"),
        {"argv": [store.weed, "filer.cat", f"-filer={filer}", IDENTITY]},
        {"argv": [store.weed, "filer.cat", f"http://{filer}{IDENTITY}"]},
        {"argv": [store.weed, "filer.meta.tail", f"-filer={filer}", "-timeAgo=1h"]},
    ]
    answers = as_nobody([("run", {**attempt, "seconds": seconds}) for attempt in attempts])
    for attempt, answer in zip(attempts, answers, strict=True):
        assert "PermissionError" not in answer, "the program itself can be started by everybody"
        assert not store.leaked(answer), attempt
        assert bucket not in answer.replace(IDENTITY, ""), attempt


PRIVATE = (
    *("secrets", "secrets/postgres-admin", "secrets/s3-admin-secret", "secrets/students/jdoe"),
    *("secrets/students/jdoe/aws", "handouts/jdoe", "handouts/jdoe/mlflow.env", "postgres"),
    *("postgres/data", "postgres/data/pg_hba.conf", "postgres/pg_hba.conf", "object-store"),
    *("object-store/tls.pem", "object-store/s3.json", "object-store/security.toml"),
    *("object-store/data", "servers/jdoe", "servers/jdoe/pgpass", "servers/jdoe/aws"),
    *("servers/jdoe/server.env", "supervisor/supervisord.sock", "evidence/jdoe.json"),
    "supervisor/log",
)


@other_accounts
@pytest.mark.parametrize("account", ["nobody", "mlflow-asmith", "mlflow-postgres"])
def test_files_are_closed_to_another_account(classroom: Classroom, account: str) -> None:
    theirs = pwd.getpwnam(account)
    paths = [path for path in PRIVATE if not account.endswith(path.split("/")[0])]
    attempts = [("read", {"path": str(classroom.home / path)}) for path in paths]
    answers = probes.attempt_as(theirs.pw_uid, theirs.pw_gid, attempts)
    opened = [p for p, a in zip(paths, answers, strict=True) if not a.startswith("PermissionError")]
    assert opened == []
    missing = [p for p in paths if not classroom.home.joinpath(p).exists()]
    assert missing == [], "control: there is something to read"


@other_accounts
def test_environment_of_processes_is_closed_to_another_account(classroom: Classroom) -> None:
    found = probes.processes(classroom.home)
    assert len(found) >= 5
    attempts = [
        ("read", {"path": str(process / name)})
        for process in found
        for name in ("environ", "fd", "cwd", "root", "maps")
    ]
    answers = as_nobody(attempts)
    gone = ("PermissionError", "FileNotFoundError", "ProcessLookupError")
    opened = {
        arguments["path"]: answer[:80]
        for (_, arguments), answer in zip(attempts, answers, strict=True)
        if not answer.startswith(gone)
    }
    assert opened == {}
    assert any(probes.attempt(*each).startswith(probes.SERVED) for each in attempts), "control"


@other_accounts
def test_only_root_can_rename_what_is_private(classroom: Classroom) -> None:
    for path in (".", "servers", "handouts", "secrets", "supervisor", "evidence"):
        seen = classroom.home.joinpath(path).stat()
        assert (seen.st_uid, seen.st_mode & 0o022) == (0, 0), path


def test_bucket_of_jdoe_is_still_as_it_was(classroom: Classroom, loot: Loot) -> None:
    assert_intact(classroom, loot)


# --- tracking server ----------------------------------------------------------------------------


def server(room: Classroom) -> str:
    """Return the address of jdoe's tracking server."""
    return f"http://127.0.0.1:{room.ports['classroom_server_port']}"


@pytest.mark.parametrize("name", ["10.evil.example", "evil.example", "192.168.0.1", "localhost.x"])
def test_server_refuses_names_of_others(classroom: Classroom, name: str) -> None:
    url = f"{server(classroom)}/api/2.0/mlflow/experiments/search"
    port = classroom.ports["classroom_server_port"]
    for host in (name, f"{name}:{port}"):
        answer = requests.post(
            url, json={"max_results": 1}, headers={"Host": host}, timeout=bound(5)
        )
        assert answer.status_code == 403, host
    host = f"localhost:{port}"
    answer = requests.post(url, json={"max_results": 1}, headers={"Host": host}, timeout=bound(5))
    assert answer.status_code == 200, "control"


def test_server_refuses_pages_of_others(classroom: Classroom) -> None:
    url = f"{server(classroom)}/api/2.0/mlflow/experiments/create"
    answer = requests.post(
        url, json={"name": "isolation"}, headers={"Origin": "http://evil.example"}, timeout=20
    )
    assert answer.status_code == 403
    with closing(connect(classroom, "jdoe", "mlflow_jdoe")) as session:
        assert ask(session, "select 1 from experiments where name = 'isolation'") == []


def test_server_passes_on_no_uploads(classroom: Classroom, loot: Loot) -> None:
    name = "isolation-upload"
    for method in ("PUT", "GET", "DELETE"):
        url = f"{server(classroom)}/api/2.0/mlflow-artifacts/artifacts/{name}"
        assert requests.request(method, url, data=b"x", timeout=60).status_code == 503, method
    assert_intact(classroom, loot)
    folders = ("servers", "supervisor", "evidence")
    assert [p for f in folders for p in classroom.home.joinpath(f).rglob(f"*{name}*")] == []


# Run by a stranger: the artifacts of a run that they make are a link to the server's directory.
PILFER = """
import json, os, pathlib, sys, tempfile, urllib.error, urllib.request
server, wanted = sys.argv[1:]

def call(path, body=None):
    data = json.dumps(body).encode() if body else None
    headers = {"Content-Type": "application/json"}
    request = urllib.request.Request(server + path, data, headers)
    return urllib.request.urlopen(request, timeout=60).read().decode()

with tempfile.TemporaryDirectory() as folder:
    os.chmod(folder, 0o755)
    body = {"name": folder, "artifact_location": "file://" + folder}
    try:
        experiment = json.loads(call("/api/2.0/mlflow/experiments/create", body))["experiment_id"]
        made = call("/api/2.0/mlflow/runs/create", {"experiment_id": experiment})
        run = json.loads(made)["run"]["info"]["run_id"]
        pathlib.Path(folder, run).mkdir()
        pathlib.Path(folder, run, "artifacts").symlink_to(os.path.dirname(wanted))
        try:
            print(call(f"/get-artifact?run_id={run}&path={os.path.basename(wanted)}"))
        finally:
            call("/api/2.0/mlflow/experiments/delete", {"experiment_id": experiment})
    except urllib.error.HTTPError as error:
        print("refused", error.code)
"""


@other_accounts
@pytest.mark.parametrize("name", ["pgpass", "aws", "server.env"])
def test_server_reads_no_files_for_another_account(classroom: Classroom, name: str) -> None:
    wanted = classroom.home / "servers/jdoe" / name
    argv = ["/usr/bin/python3", "-I", "-", server(classroom), str(wanted)]
    answer = as_nobody([("run", {"argv": argv, "stdin": PILFER, "seconds": bound(3)})])[0]
    # Not the texts themselves: what fails here would otherwise print them.
    leaked = wanted.read_text().splitlines()[-1] in answer
    assert not leaked
    assert answer.startswith("refused")
