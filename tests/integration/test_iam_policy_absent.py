"""A policy that nobody has is removed; one that somebody has is not."""

from __future__ import annotations

import json
from typing import Any

import pytest
from modules import ModuleRun
from servers import Aws

DOCUMENT = json.dumps(
    {
        "Version": "2012-10-17",
        "Statement": [
            {"Effect": "Allow", "Action": "s3:GetObject", "Resource": "arn:aws:s3:::a/*"}
        ],
    }
)


@pytest.fixture(params=["seaweedfs", "moto"])
def aws(request: pytest.FixtureRequest) -> Aws:
    found: Aws = request.getfixturevalue(request.param)
    return found


def names(iam: Any) -> list[str]:
    return [policy["PolicyName"] for policy in iam.list_policies(Scope="Local")["Policies"]]


def test_removes_all_versions_once(aws: Aws, run_module: ModuleRun) -> None:
    iam = aws.client("iam")
    arn = iam.create_policy(PolicyName="goes", PolicyDocument=DOCUMENT)["Policy"]["Arn"]
    iam.create_policy_version(PolicyArn=arn, PolicyDocument=DOCUMENT, SetAsDefault=True)
    iam.create_policy(PolicyName="stays", PolicyDocument=DOCUMENT)
    params = {"name": "goes", **aws.params()}

    assert run_module("iam_policy_absent", params, check=True)["changed"] is True
    assert "goes" in names(iam)
    assert run_module("iam_policy_absent", params)["arn"] == arn
    assert "goes" not in names(iam)
    assert "stays" in names(iam)
    again = run_module("iam_policy_absent", params)
    assert (again["changed"], again["arn"]) == (False, "")


def test_leaves_what_somebody_has(aws: Aws, run_module: ModuleRun) -> None:
    iam = aws.client("iam")
    arn = iam.create_policy(PolicyName="used", PolicyDocument=DOCUMENT)["Policy"]["Arn"]
    iam.create_user(UserName="jdoe")
    iam.attach_user_policy(UserName="jdoe", PolicyArn=arn)
    refused = run_module("iam_policy_absent", {"name": "used", **aws.params()})
    assert refused["failed"]
    assert "used is still attached to jdoe and was left alone" in refused["msg"]
    assert "used" in names(iam)
    iam.detach_user_policy(UserName="jdoe", PolicyArn=arn)
    iam.delete_user(UserName="jdoe")
