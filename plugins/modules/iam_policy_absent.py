#!/usr/bin/python
"""Remove a managed IAM policy."""

from __future__ import annotations

DOCUMENTATION = r"""
module: iam_policy_absent
short_description: Remove a managed IAM policy that nobody has
description:
  - Removes the policy with all its versions. One that is attached to somebody is left alone, and
    the module fails, because their rights would go with it.
  - M(amazon.aws.iam_managed_policy) asks whom a policy is attached to. The embedded object store
    does not implement that question, and would remove a policy that somebody has; there, users are
    asked one by one.
options:
  name:
    description: The policy's name.
    type: str
    required: true
extends_documentation_fragment:
  - amazon.aws.common.modules
  - amazon.aws.region.modules
  - amazon.aws.boto3
attributes:
  check_mode: {support: full, description: Says whether the policy is there and changes nothing.}
  diff_mode: {support: none, description: There is nothing to compare.}
author: mlflow-classroom
"""

EXAMPLES = r"""
- name: Ensure the students' policy is gone
  iam_policy_absent:
    name: mlflow-classroom-student
    endpoint_url: http://127.0.0.1:8333
"""

RETURN = r"""
arn:
  description: The removed policy. Empty if there was none.
  returned: always
  type: str
"""

import contextlib
from typing import Any

from ansible_collections.amazon.aws.plugins.module_utils.modules import AnsibleAWSModule

# AnsibleAWSModule reports a library that is missing.
with contextlib.suppress(ImportError):
    from botocore.exceptions import BotoCoreError, ClientError


def find(iam: Any, name: str) -> str:
    """Return the ARN of the account's policy of this name, or an empty text."""
    for page in iam.get_paginator("list_policies").paginate(Scope="Local"):
        for policy in page["Policies"]:
            if policy["PolicyName"] == name:
                return str(policy["Arn"])
    return ""


def holders(iam: Any, arn: str) -> list[str]:
    """Return the names of those whom the policy is attached to."""
    try:
        pages = list(iam.get_paginator("list_entities_for_policy").paginate(PolicyArn=arn))
    except ClientError as error:
        if error.response["Error"]["Code"] != "NotImplemented":
            raise
        users = iam.get_paginator("list_users").paginate()
        names = [user["UserName"] for page in users for user in page["Users"]]
        return [name for name in names if has(iam, name, arn)]
    kinds = {"PolicyUsers": "UserName", "PolicyGroups": "GroupName", "PolicyRoles": "RoleName"}
    return [each[key] for page in pages for kind, key in kinds.items() for each in page[kind]]


def has(iam: Any, user: str, arn: str) -> bool:
    """Tell whether the policy is attached to the user."""
    try:
        attached = iam.list_attached_user_policies(UserName=user)["AttachedPolicies"]
    except iam.exceptions.NoSuchEntityException:
        # The store's own administrator is listed, and has no policies.
        return False
    return any(policy["PolicyArn"] == arn for policy in attached)


def remove(iam: Any, arn: str) -> None:
    """Remove a policy and its versions."""
    for version in iam.list_policy_versions(PolicyArn=arn)["Versions"]:
        if not version["IsDefaultVersion"]:
            iam.delete_policy_version(PolicyArn=arn, VersionId=version["VersionId"])
    iam.delete_policy(PolicyArn=arn)


def main() -> None:
    """Run the module."""
    module = AnsibleAWSModule(
        argument_spec={"name": {"type": "str", "required": True}}, supports_check_mode=True
    )
    name = module.params["name"]
    try:
        iam = module.client("iam")
        arn = find(iam, name)
        if arn and (have := holders(iam, arn)):
            module.fail_json(
                msg=f"The policy {name} is still attached to {', '.join(have)} and was left alone. "
                "Remove the students first: ansible-playbook playbooks/destroy.yml -e user=jdoe"
            )
        if arn and not module.check_mode:
            remove(iam, arn)
    except (BotoCoreError, ClientError) as error:
        module.fail_json_aws(error, msg=f"Cannot remove the policy {name}")
    module.exit_json(changed=bool(arn), arn=arn)


if __name__ == "__main__":
    main()
