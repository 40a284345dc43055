"""One owner's bucket, user and key."""

from __future__ import annotations

import configparser
from typing import Any

import boto3
import pytest
from botocore.exceptions import ClientError
from conftest import Room

BUCKET = "mlflow-exp-tracking-role"


def student(room: Room) -> Any:
    keys = configparser.ConfigParser()
    keys.read(room.home / "role/aws")
    return boto3.client(
        "s3",
        endpoint_url=f"http://127.0.0.1:{room.settings['classroom_s3_port']}",
        region_name="us-east-2",
        aws_access_key_id=keys["default"]["aws_access_key_id"],
        aws_secret_access_key=keys["default"]["aws_secret_access_key"],
    )


@pytest.mark.present
def test_key_opens_its_own_bucket_alone(room: Room) -> None:
    s3 = student(room)
    s3.put_object(Bucket=BUCKET, Key="role", Body=b"x")
    assert s3.get_object(Bucket=BUCKET, Key="role")["Body"].read() == b"x"
    with pytest.raises(ClientError, match="AccessDenied"):
        s3.list_objects_v2(Bucket="mlflow-exp-tracking-jdoe-12")


@pytest.mark.present
def test_bucket_keeps_versions_and_encrypts(room: Room) -> None:
    s3 = room.aws("s3")
    assert s3.get_bucket_versioning(Bucket=BUCKET)["Status"] == "Enabled"
    rules = s3.get_bucket_encryption(Bucket=BUCKET)["ServerSideEncryptionConfiguration"]["Rules"]
    assert rules[0]["ApplyServerSideEncryptionByDefault"]["SSEAlgorithm"] == "AES256"


@pytest.mark.absent
def test_nothing_is_left(room: Room) -> None:
    assert BUCKET not in [bucket["Name"] for bucket in room.aws("s3").list_buckets()["Buckets"]]
    assert BUCKET not in [user["UserName"] for user in room.aws("iam").list_users()["Users"]]
    assert not room.home.joinpath("role/aws").exists()
