#!/usr/bin/python
"""Prove that nothing of a student is left."""

from __future__ import annotations

DOCUMENTATION = r"""
module: leftovers
short_description: What is still there of a student who was removed
description:
  - Looks for databases, logins, buckets, IAM users, files, accounts and listening ports, and names
    each that still exists.
  - Reads only. Buckets and IAM users are looked for with the administrator's key among what that
    key owns, because a bucket's name may belong to somebody else by now.
  - A list that is empty is not looked at, and its store need not be given. Paths, accounts and
    ports are those of the host that runs the module.
options:
  user:
    description: The student, for the command that the message suggests.
    type: str
    required: true
  login_host: {description: Address of PostgreSQL., type: str, default: 127.0.0.1}
  login_port: {description: Port of PostgreSQL., type: int, default: 5432}
  login_user: {description: Login of the administrator., type: str, default: postgres}
  login_password: {description: Password of the administrator., type: str}
  login_db: {description: Database to connect to., type: str, default: postgres}
  databases: {description: Names of databases., type: list, elements: str, default: []}
  logins: {description: Names of PostgreSQL roles., type: list, elements: str, default: []}
  buckets: {description: Names of buckets., type: list, elements: str, default: []}
  iam_users: {description: Names of IAM users., type: list, elements: str, default: []}
  paths: {description: Files and directories., type: list, elements: path, default: []}
  accounts: {description: Accounts of the host., type: list, elements: str, default: []}
  ports: {description: Ports on 127.0.0.1., type: list, elements: int, default: []}
  fail:
    description: Fail if something is left.
    type: bool
    default: true
extends_documentation_fragment:
  - amazon.aws.common.modules
  - amazon.aws.region.modules
requirements: [boto3 for buckets and IAM users, psycopg2 for databases and logins]
attributes:
  check_mode: {support: full, description: The module only reads.}
  diff_mode: {support: none, description: Nothing changes.}
author: mlflow-classroom
"""

EXAMPLES = r"""
- name: Prove that nothing is left
  leftovers:
    user: jdoe
    login_password: "{{ administrator_password }}"
    databases: [mlflow_jdoe]
    logins: [mlflow_jdoe]
    buckets: [mlflow-exp-tracking-jdoe]
    iam_users: [jdoe]
    endpoint_url: http://127.0.0.1:8333
    paths: ["{{ secrets }}/jdoe"]
    accounts: [mlflow-jdoe]
    ports: [5001]
"""

RETURN = r"""
left:
  description: What still exists.
  returned: always
  type: list
  elements: str
  sample: [database mlflow_jdoe, bucket mlflow-exp-tracking-jdoe]
"""

import contextlib
import os
import pwd
import socket
from typing import Any

from ansible.module_utils.basic import missing_required_lib
from ansible_collections.amazon.aws.plugins.module_utils.modules import AnsibleAWSModule

MISSING = set()
try:
    import psycopg2
except ImportError:
    MISSING.add("psycopg2")
try:
    from botocore.exceptions import BotoCoreError, ClientError
except ImportError:
    MISSING.add("boto3")

Asked = dict[str, Any]


def left_in_postgres(asked: Asked) -> list[str]:
    """Return the databases and roles that exist."""
    connection = psycopg2.connect(
        host=asked["login_host"],
        port=asked["login_port"],
        user=asked["login_user"],
        password=asked["login_password"],
        dbname=asked["login_db"],
        connect_timeout=20,
        application_name="leftovers",
    )
    with contextlib.closing(connection), connection.cursor() as cursor:
        cursor.execute(
            """
            select 'database ' || datname from pg_database where datname = any(%s)
            union all select 'login ' || rolname from pg_roles where rolname = any(%s)
            order by 1
            """,
            (asked["databases"], asked["logins"]),
        )
        return [row[0] for row in cursor.fetchall()]


def left_in_s3(s3: Any, names: list[str]) -> list[str]:
    """Return the buckets that exist and are the administrator's."""
    own = {bucket["Name"] for bucket in s3.list_buckets().get("Buckets", [])}
    return [f"bucket {name}" for name in names if name in own]


def left_in_iam(iam: Any, names: list[str]) -> list[str]:
    """Return the IAM users that exist."""
    left = []
    for name in names:
        try:
            iam.get_user(UserName=name)
        except ClientError as error:
            if error.response["Error"]["Code"] != "NoSuchEntity":
                raise
        else:
            left.append(f"IAM user {name}")
    return left


def left_on_host(asked: Asked) -> list[str]:
    """Return the files, accounts and listening ports that exist."""
    return [
        *(f"path {path}" for path in asked["paths"] if os.path.lexists(path)),
        *(f"account {name}" for name in asked["accounts"] if has_account(name)),
        *(f"port {port}" for port in asked["ports"] if listens(port)),
    ]


def has_account(name: str) -> bool:
    """Tell whether the host knows the account."""
    try:
        pwd.getpwnam(name)
    except KeyError:
        return False
    return True


def listens(port: int) -> bool:
    """Tell whether something accepts connections on the port."""
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=5):
            return True
    except OSError:
        return False


def message(user: str, left: list[str]) -> str:
    """Say what is left and how to remove it."""
    return (
        f"Of {user} is left: {', '.join(left)}. Remove it:  "
        f"ansible-playbook playbooks/destroy.yml -e user={user} -e confirm={user}"
    )


def look(module: AnsibleAWSModule) -> list[str]:
    """Look at every store that has something to look for."""
    asked = module.params
    left: list[str] = []
    if asked["databases"] or asked["logins"]:
        if "psycopg2" in MISSING:
            module.fail_json(msg=missing_required_lib("psycopg2"))
        try:
            left += left_in_postgres(asked)
        except psycopg2.Error as error:
            where = f"{asked['login_host']}:{asked['login_port']}"
            module.fail_json(
                msg=f"Cannot look into PostgreSQL at {where}: {str(error).strip()}", left=left
            )
    if asked["buckets"] or asked["iam_users"]:
        if "boto3" in MISSING:
            module.fail_json(msg=missing_required_lib("boto3"))
        try:
            if asked["buckets"]:
                left += left_in_s3(module.client("s3"), asked["buckets"])
            if asked["iam_users"]:
                left += left_in_iam(module.client("iam"), asked["iam_users"])
        except (BotoCoreError, ClientError) as error:
            module.fail_json_aws(error, msg="Cannot look for buckets and IAM users", left=left)
    return left + left_on_host(asked)


def main() -> None:
    """Run the module."""
    names = {"type": "list", "elements": "str", "default": []}
    module = AnsibleAWSModule(
        argument_spec={
            "user": {"type": "str", "required": True},
            "login_host": {"type": "str", "default": "127.0.0.1"},
            "login_port": {"type": "int", "default": 5432},
            "login_user": {"type": "str", "default": "postgres"},
            "login_password": {"type": "str", "no_log": True},
            "login_db": {"type": "str", "default": "postgres"},
            "databases": names,
            "logins": names,
            "buckets": names,
            "iam_users": names,
            "paths": {"type": "list", "elements": "path", "default": []},
            "accounts": names,
            "ports": {"type": "list", "elements": "int", "default": []},
            "fail": {"type": "bool", "default": True},
        },
        check_boto3=False,
        supports_check_mode=True,
    )
    left = look(module)
    if left and module.params["fail"]:
        module.fail_json(msg=message(module.params["user"], left), left=left)
    module.exit_json(changed=False, left=left)


if __name__ == "__main__":
    main()
