"""A user has one key and the file has it, whatever happened before."""

from __future__ import annotations

import configparser
import contextlib
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from modules import ModuleRun
from servers import Aws

SECRET = "s" * 40


class Login:
    """The module applied to one user, and what the server and the file then say."""

    def __init__(self, aws: Aws, path: Path, run_module: ModuleRun) -> None:
        self.aws, self.path, self.run_module = aws, path, run_module
        self.iam = aws.client("iam")
        self.iam.create_user(UserName="jdoe")

    def run(self, check: bool = False, **params: Any) -> dict[str, Any]:
        """Run the module; whatever it says must hold no secret."""
        before = self.secret()
        params = {"name": "jdoe", "path": str(self.path), **self.aws.params(), **params}
        result = self.run_module("iam_login", params, check=check, diff=True)
        for secret in filter(None, (before, self.secret())):
            assert secret not in result["stdout"]
        return result

    def key_ids(self) -> list[str]:
        """Return the ids of the user's keys."""
        answer = self.iam.list_access_keys(UserName="jdoe")
        return [key["AccessKeyId"] for key in answer["AccessKeyMetadata"]]

    def saved(self, field: str = "aws_access_key_id") -> str:
        """Return a field of the file, as any AWS client would read it."""
        content = configparser.RawConfigParser()
        with contextlib.suppress(configparser.Error):
            content.read(self.path)
        return content.get("default", field, fallback="")

    def secret(self) -> str:
        """Return the secret in the file."""
        return self.saved("aws_secret_access_key")

    def user_exists(self) -> bool:
        """Ask the server."""
        try:
            self.iam.get_user(UserName="jdoe")
        except self.iam.exceptions.NoSuchEntityException:
            return False
        return True


@pytest.fixture(params=["moto", "seaweedfs"])
def login(request: pytest.FixtureRequest, tmp_path: Path, run_module: ModuleRun) -> Iterator[Login]:
    """Give a user without a key, on an emulated AWS and on SeaweedFS."""
    aws = request.getfixturevalue(request.param)
    login = Login(aws, tmp_path / "secrets" / "credentials", run_module)
    yield login
    if login.user_exists():
        login.run(state="absent")


def test_four_beats(login: Login) -> None:
    created = login.run()
    assert created["changed"]
    assert login.key_ids() == [login.saved()] == [created["access_key_id"]]
    assert stat.S_IMODE(login.path.stat().st_mode) == 0o600
    assert stat.S_IMODE(login.path.parent.stat().st_mode) == 0o700
    assert os.listdir(login.path.parent) == ["credentials"]
    secret = login.secret()

    again = login.run()
    assert not again["changed"]
    assert again["access_key_id"] == login.saved()
    assert login.secret() == secret

    removed = login.run(state="absent")
    assert removed["changed"]
    assert not login.user_exists()
    assert not login.path.exists()

    assert not login.run(state="absent")["changed"]


def test_the_saved_key_works_on_the_server(
    seaweedfs: Aws, tmp_path: Path, run_module: ModuleRun
) -> None:
    login = Login(seaweedfs, tmp_path / "credentials", run_module)
    login.run()
    student = Aws(seaweedfs.endpoint_url, login.saved(), login.secret())
    student.client("s3").list_buckets()
    login.run(state="absent")
    client = student.client("s3")
    with pytest.raises(client.exceptions.ClientError):
        client.list_buckets()


@pytest.mark.parametrize("orphans", [1, 2])
def test_keys_that_nobody_saved_are_replaced(login: Login, orphans: int) -> None:
    """Killed between CreateAccessKey and save; two keys are all that AWS allows."""
    for _ in range(orphans):
        login.iam.create_access_key(UserName="jdoe")
    lost = login.key_ids()
    assert login.run()["changed"]
    assert login.key_ids() == [login.saved()]
    assert login.saved() not in lost


def test_a_second_key_is_deleted_and_the_saved_one_stays(login: Login) -> None:
    saved = login.run()["access_key_id"]
    login.iam.create_access_key(UserName="jdoe")
    assert login.run()["changed"]
    assert login.key_ids() == [saved] == [login.saved()]


@pytest.mark.parametrize("content", ["", "[default]\naws_access_key_id = {id}\n"])
def test_a_spoilt_file_gets_a_new_key(login: Login, content: str) -> None:
    old = login.run()["access_key_id"]
    login.path.write_text(content.format(id=old))
    assert login.run()["changed"]
    assert login.key_ids() == [login.saved()]
    assert login.saved() != old
    assert not login.run()["changed"]


def test_an_inactive_key_is_replaced(moto: Aws, tmp_path: Path, run_module: ModuleRun) -> None:
    login = Login(moto, tmp_path / "credentials", run_module)
    old = login.run()["access_key_id"]
    login.iam.update_access_key(UserName="jdoe", AccessKeyId=old, Status="Inactive")
    assert login.run()["changed"]
    assert login.key_ids() == [login.saved()] != [old]
    login.run(state="absent")


def test_rotation_makes_one_new_key(login: Login) -> None:
    old = login.run()["access_key_id"]
    assert login.run(rotate=True)["changed"]
    assert login.key_ids() == [login.saved()] != [old]


def test_a_file_that_others_can_read_is_closed(login: Login) -> None:
    login.run()
    login.path.chmod(0o644)
    assert login.run()["changed"]
    assert stat.S_IMODE(login.path.stat().st_mode) == 0o600
    assert not login.run()["changed"]


def test_check_mode_changes_nothing(login: Login) -> None:
    assert login.run(check=True)["changed"]
    assert login.key_ids() == []
    assert not login.path.parent.exists()

    login.run()
    login.iam.create_access_key(UserName="jdoe")
    before, text = login.key_ids(), login.path.read_text()
    for params in ({}, {"rotate": True}, {"state": "absent"}):
        assert login.run(check=True, **params)["changed"]
    assert login.key_ids() == before
    assert login.path.read_text() == text

    login.run()
    assert not login.run(check=True)["changed"]


def test_the_diff_names_keys(login: Login) -> None:
    login.iam.create_access_key(UserName="jdoe")
    diff = login.run(check=True)["diff"]
    assert diff["before"]["access_keys"] == login.key_ids()
    assert diff["after"]["access_keys"] == ["(a new key)"]


def test_removal_takes_along_what_hangs_on_the_user(login: Login) -> None:
    login.run()
    statement = '{"Effect": "Allow", "Action": ["s3:GetObject"], "Resource": ["arn:aws:s3:::b/*"]}'
    document = f'{{"Version": "2012-10-17", "Statement": [{statement}]}}'
    login.iam.put_user_policy(UserName="jdoe", PolicyName="inline", PolicyDocument=document)
    policy = login.iam.create_policy(PolicyName="managed", PolicyDocument=document)["Policy"]
    login.iam.attach_user_policy(UserName="jdoe", PolicyArn=policy["Arn"])
    login.iam.create_group(GroupName="students")
    login.iam.add_user_to_group(UserName="jdoe", GroupName="students")
    try:
        assert login.run(state="absent")["changed"]
        assert not login.user_exists()
        assert login.iam.get_group(GroupName="students")["Users"] == []
    finally:
        login.iam.delete_group(GroupName="students")
        login.iam.delete_policy(PolicyArn=policy["Arn"])


def test_removal_with_a_console_login(moto: Aws, tmp_path: Path, run_module: ModuleRun) -> None:
    login = Login(moto, tmp_path / "credentials", run_module)
    login.iam.create_login_profile(UserName="jdoe", Password="not-a-real-1")
    assert login.run(state="absent")["changed"]
    assert not login.user_exists()


def test_removal_after_somebody_removed_the_user(login: Login) -> None:
    login.run()
    for key in login.key_ids():
        login.iam.delete_access_key(UserName="jdoe", AccessKeyId=key)
    login.iam.delete_user(UserName="jdoe")
    assert login.run(state="absent")["changed"]
    assert not login.path.exists()


def test_a_missing_user_is_refused_with_the_way_out(login: Login) -> None:
    login.run(state="absent")
    result = login.run()
    assert result["failed"]
    assert "ansible-playbook site.yml -e user=jdoe --tags provision" in result["msg"]
    assert login.run(check=True)["changed"]


def test_no_key_is_made_when_it_could_not_be_saved(login: Login) -> None:
    login.path.parent.write_text("a file where the directory should be")
    result = login.run()
    assert result["failed"]
    assert str(login.path) in result["msg"]
    assert login.key_ids() == []
