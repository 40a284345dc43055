#!/usr/bin/python
"""Keep an IAM user at exactly one access key, and that key in a file."""

from __future__ import annotations

DOCUMENTATION = r"""
module: iam_login
short_description: An IAM user's one access key, saved in a file
description:
  - Makes sure that an IAM user has exactly one access key and that this key is in a file on the
    controller, in the format of the AWS shared credentials file.
  - A run that was killed at any moment is repaired by the next one. A key that is not in the file
    is deleted, because nobody can know its secret any more.
  - With O(state=absent) the user goes too, keys first, whatever else hangs on it.
options:
  name:
    description: The IAM user. For O(state=present) it must exist (M(amazon.aws.iam_user)).
    type: str
    required: true
  path:
    description:
      - The credentials file, profile C(default), mode 0600.
      - A missing directory is made with mode 0700.
    type: path
    required: true
  state:
    description: Whether the login shall exist.
    type: str
    choices: [present, absent]
    default: present
  rotate:
    description: Replace a working key by a new one. The old key works until the new one is saved.
    type: bool
    default: false
extends_documentation_fragment:
  - amazon.aws.common.modules
  - amazon.aws.region.modules
  - amazon.aws.boto3
attributes:
  check_mode: {support: full, description: Says what would change and changes nothing.}
  diff_mode: {support: full, description: Shows key ids, never a secret.}
author: mlflow-classroom
"""

EXAMPLES = r"""
- name: Ensure the student has one key
  iam_login:
    name: jdoe
    path: "{{ secrets }}/jdoe/credentials"
    endpoint_url: http://127.0.0.1:8333

- name: Replace the student's key
  iam_login: {name: jdoe, path: "{{ secrets }}/jdoe/credentials", rotate: true}

- name: Ensure the student can no longer log in
  iam_login: {name: jdoe, path: "{{ secrets }}/jdoe/credentials", state: absent}
"""

RETURN = r"""
access_key_id:
  description: The id of the one key. Empty if there is none, or none yet (check mode).
  returned: always
  type: str
path:
  description: The credentials file.
  returned: always
  type: str
"""

import configparser
import os
import re
from collections.abc import Callable
from typing import Any, NamedTuple, TypedDict

from ansible_collections.amazon.aws.plugins.module_utils.modules import AnsibleAWSModule

try:
    from botocore.config import Config
    from botocore.exceptions import BotoCoreError, ClientError
except ImportError:
    pass  # AnsibleAWSModule reports it.

# Attempts back off up to 1, 2, 4, … 20 s: a connection may be away for about a minute.
RETRIES: Any = {"mode": "standard", "total_max_attempts": 9}
NEW_KEY = "(a new key)"


class Part(NamedTuple):
    """Something that hangs on a user: the calls that find and remove it."""

    what: str
    lister: str
    items: str
    deleter: str
    argument: str


# SeaweedFS implements these …
PARTS = [
    Part("key", "list_access_keys", "AccessKeyMetadata", "delete_access_key", "AccessKeyId"),
    Part("policy", "list_user_policies", "PolicyNames", "delete_user_policy", "PolicyName"),
    Part(
        "policy",
        "list_attached_user_policies",
        "AttachedPolicies",
        "detach_user_policy",
        "PolicyArn",
    ),
    Part("group", "list_groups_for_user", "Groups", "remove_user_from_group", "GroupName"),
]
# … and these are looked for only when AWS says that something still hangs on the user.
RARE_PARTS = [
    Part(
        "certificate",
        "list_signing_certificates",
        "Certificates",
        "delete_signing_certificate",
        "CertificateId",
    ),
    Part(
        "SSH key",
        "list_ssh_public_keys",
        "SSHPublicKeys",
        "delete_ssh_public_key",
        "SSHPublicKeyId",
    ),
    Part(
        "service credential",
        "list_service_specific_credentials",
        "ServiceSpecificCredentials",
        "delete_service_specific_credential",
        "ServiceSpecificCredentialId",
    ),
    Part("MFA device", "list_mfa_devices", "MFADevices", "deactivate_mfa_device", "SerialNumber"),
]


class Plan(TypedDict):
    """What has to be done, in this order."""

    delete: list[str]
    create: bool
    retire: list[str]
    secure: bool


def plan(saved: str, private: bool, keys: dict[str, str], rotate: bool) -> Plan:
    """Compare the saved key id with the user's keys (id: status).

    The saved key is the last to go, so that a rotation never leaves the student without a key.
    """
    works = keys.get(saved) == "Active"
    keep = works and not rotate
    return {
        "delete": [key for key in keys if key != saved],
        "create": not keep,
        "retire": [saved] if saved in keys and not keep else [],
        "secure": keep and not private,
    }


def read_saved(path: str) -> tuple[str, bool]:
    """Return the id of the key in the file, if it is whole, and whether the file is private."""
    content = configparser.RawConfigParser()
    try:
        content.read(path, encoding="utf-8")
        profile = dict(content["default"])
        mode = os.stat(path).st_mode & 0o777
    except (OSError, KeyError, UnicodeDecodeError, configparser.Error):
        return "", False
    key_id = profile.get("aws_access_key_id", "").strip()
    secret = profile.get("aws_secret_access_key", "").strip()
    whole = re.fullmatch(r"[A-Za-z0-9/+=_-]{16,}", secret)
    return (key_id if whole else ""), mode == 0o600


def prepare(path: str) -> None:
    """Find out whether the file can be written, before a key is made whose secret it must hold."""
    os.makedirs(os.path.dirname(path) or ".", mode=0o700, exist_ok=True)
    write_private(path + ".new", "")


def save(path: str, key_id: str, secret: str) -> None:
    """Replace the file in one step, so that a reader sees the old key or the new one."""
    write_private(
        path + ".new",
        f"[default]\naws_access_key_id = {key_id}\naws_secret_access_key = {secret}\n",
    )
    os.replace(path + ".new", path)
    directory = os.open(os.path.dirname(path) or ".", os.O_RDONLY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


def write_private(path: str, text: str) -> None:
    """Write a file that nobody else could read at any moment."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW
    with os.fdopen(os.open(path, flags, 0o600), "w", encoding="utf-8") as output:
        os.fchmod(output.fileno(), 0o600)
        output.write(text)
        output.flush()
        os.fsync(output.fileno())


def remove_files(path: str) -> list[str]:
    """Remove the credentials and what a killed run left beside them."""
    removed = [name for name in (path, path + ".new") if os.path.lexists(name)]
    for name in removed:
        os.unlink(name)
    return removed


def without(codes: set[str], call: Callable[..., Any], **arguments: Any) -> Any:
    """Call the API; an error with one of these codes is an empty answer."""
    try:
        return call(**arguments)
    except ClientError as error:
        if error.response["Error"]["Code"] in codes:
            return {}
        raise


GONE = {"NoSuchEntity"}
# SeaweedFS does not know login profiles and the rare parts; a user there cannot have them.
GONE_OR_UNKNOWN = {"NoSuchEntity", "NotImplemented"}


def user_exists(iam: Any, name: str) -> bool:
    """Tell whether the user exists (SeaweedFS lists the keys of a missing user as none)."""
    return bool(without(GONE, iam.get_user, UserName=name))


def list_keys(iam: Any, name: str) -> dict[str, str]:
    """Return the user's keys, id: status."""
    answer = without(GONE, iam.list_access_keys, UserName=name)
    return {key["AccessKeyId"]: key["Status"] for key in answer.get("AccessKeyMetadata", [])}


def delete_keys(iam: Any, name: str, key_ids: list[str]) -> None:
    """Delete keys; one that is already gone is fine."""
    for key_id in key_ids:
        without(GONE, iam.delete_access_key, UserName=name, AccessKeyId=key_id)


def found_parts(iam: Any, name: str, parts: list[Part]) -> list[tuple[Part, str]]:
    """Return what hangs on the user, each with its id."""
    found = []
    for part in parts:
        answer = without(GONE_OR_UNKNOWN, getattr(iam, part.lister), UserName=name)
        for item in answer.get(part.items, []):
            found.append((part, item if isinstance(item, str) else item[part.argument]))
    return found


def delete_user(iam: Any, name: str) -> None:
    """Delete the user, keys first, so that they stop working whatever happens next."""
    remove_parts(iam, name, PARTS)
    without(GONE_OR_UNKNOWN, iam.delete_login_profile, UserName=name)
    try:
        without(GONE, iam.delete_user, UserName=name)
    except ClientError as error:
        if error.response["Error"]["Code"] != "DeleteConflict":
            raise
        remove_parts(iam, name, RARE_PARTS)
        iam.delete_user(UserName=name)


def remove_parts(iam: Any, name: str, parts: list[Part]) -> None:
    """Take from the user what hangs on it."""
    for part, part_id in found_parts(iam, name, parts):
        without(GONE, getattr(iam, part.deleter), UserName=name, **{part.argument: part_id})


def present(module: AnsibleAWSModule, iam: Any) -> dict[str, Any]:
    """Bring the user to one key, saved in the file."""
    name, path = module.params["name"], module.params["path"]
    if not user_exists(iam, name):
        if module.check_mode:
            keys: dict[str, str] = {}
        else:
            module.fail_json(
                msg=f'IAM user "{name}" does not exist, so it cannot get a key. Make it first:  '
                f"ansible-playbook site.yml -e user={name} --tags provision"
            )
    else:
        keys = list_keys(iam, name)
    saved, private = read_saved(path)
    todo = plan(saved, private, keys, module.params["rotate"])
    key_id = "" if todo["create"] else saved
    if not module.check_mode:
        if todo["create"]:
            prepare(path)
        delete_keys(iam, name, todo["delete"])
        if todo["create"]:
            new = iam.create_access_key(UserName=name)["AccessKey"]
            key_id = new["AccessKeyId"]
            save(path, key_id, new["SecretAccessKey"])
            # A retried request may have made one more key than it told us.
            others = set(list_keys(iam, name)) | set(todo["retire"])
            delete_keys(iam, name, sorted(others - {key_id}))
        elif todo["secure"]:
            os.chmod(path, 0o600)
    after = key_id or NEW_KEY
    return {
        "changed": bool(todo["delete"] or todo["create"] or todo["secure"]),
        "access_key_id": key_id,
        "diff": {
            "before": {"access_keys": sorted(keys), "saved": saved, "private": private},
            "after": {"access_keys": [after], "saved": after, "private": True},
        },
    }


def absent(module: AnsibleAWSModule, iam: Any) -> dict[str, Any]:
    """Remove the user with all that hangs on it, then the file."""
    name, path = module.params["name"], module.params["path"]
    exists = user_exists(iam, name)
    found = found_parts(iam, name, PARTS) if exists else []
    parts = [f"{part.what} {part_id}" for part, part_id in found]
    files = [entry for entry in (path, path + ".new") if os.path.lexists(entry)]
    if not module.check_mode:
        if exists:
            delete_user(iam, name)
        # The file is last: while it exists, a killed removal can be seen and repeated.
        remove_files(path)
    before = {"user": name if exists else "", "has": parts, "files": files}
    return {
        "changed": exists or bool(files),
        "access_key_id": "",
        "diff": {"before": before, "after": {"user": "", "has": [], "files": []}},
    }


def main() -> None:
    """Run the module."""
    module = AnsibleAWSModule(
        argument_spec={
            "name": {"type": "str", "required": True},
            "path": {"type": "path", "required": True},
            "state": {"type": "str", "choices": ["present", "absent"], "default": "present"},
            "rotate": {"type": "bool", "default": False},
        },
        supports_check_mode=True,
    )
    name, path = module.params["name"], module.params["path"]
    iam = module.client("iam", config=Config(retries=RETRIES))
    apply = present if module.params["state"] == "present" else absent
    try:
        result = apply(module, iam)
    except (BotoCoreError, ClientError) as error:
        module.fail_json_aws(error, msg=f'Cannot bring the login of IAM user "{name}" in order')
    except OSError as error:
        module.fail_json(
            msg=f"Cannot write {path}: {error.strerror}. Make its directory writable and run again."
        )
    module.exit_json(path=path, **result)


if __name__ == "__main__":
    main()
