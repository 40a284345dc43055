"""Filters that derive the names, the password verifier and the database address of a student.

Every name in this project comes from `classroom_names`, so that no two places can disagree.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import re
import secrets
import unicodedata
from collections.abc import Callable
from typing import Any
from urllib.parse import quote

from ansible.errors import AnsibleFilterError
from ansible.module_utils.datatag import native_type_name
from ansible.template import accept_args_markers, get_first_marker_arg
from jinja2 import Undefined

# \Z and not $, because $ also matches before a trailing newline.
ID = re.compile(r"[a-z](?:[a-z0-9]|-(?=[a-z0-9])){1,23}\Z")
ID_RULE = (
    "2-24 characters a-z, 0-9 and single hyphens, starting with a letter, "
    "ending with a letter or digit"
)
EXAMPLE_ID = "jdoe"

POSTGRES_WORDS = (
    "postgres template template0 template1 rdsadmin public all replication sameuser samerole"
)
CLASSROOM_WORDS = (
    "admin root none test default system mlflow user ungrouped localhost tmpl tmpl-owner "
    "schema provisioner"
)
# What an unquoted YAML value turns into a bool or null.
YAML_WORDS = "no yes true false null on off y n"
RESERVED = frozenset(f"{POSTGRES_WORDS} {CLASSROOM_WORDS} {YAML_WORDS}".split())
RESERVED_ENDING = "-s3alias"

BUCKET = re.compile(r"[a-z0-9][a-z0-9-]{1,61}[a-z0-9]\Z")
BUCKET_RESERVED_STARTS = ("xn--", "sthree-", "amzn-s3-demo-")
BUCKET_RESERVED_ENDINGS = ("-s3alias", "--ol-s3", "--x-s3", "--table-s3", "-an")

SALT_BYTES = 16
MINIMUM_ITERATIONS = 4096


def classroom_names(
    user: Any,
    team: Any = None,
    bucket_prefix: Any = "mlflow-exp-tracking-",
    bucket_suffix: Any = "",
) -> Any:
    """Derive every name that belongs to one student.

    Args:
        user: The student's id, text that obeys ID_RULE and is not reserved.
        team: The team's id, under the same rule; None or empty text means no team.
        bucket_prefix: Text before the owner in the bucket's name.
        bucket_suffix: Text after the owner in the bucket's name.

    Returns:
        A dict of plain text: user, owner, database, login, bucket, iam_user, account, service.

    Raises:
        AnsibleFilterError: A value is missing, not text, not usable or reserved, or the bucket's
            name would break the rules of S3.
    """
    # An undefined `user` means that nobody gave one. Anything else that is undefined is handed
    # back, so that Ansible reports its real cause.
    if isinstance(user, Undefined) and user._undefined_name == "user":
        raise AnsibleFilterError(_required("user"))
    marker = get_first_marker_arg((user, team, bucket_prefix, bucket_suffix), {})
    if marker is not None:
        return marker

    user = _checked_id("user", user)
    owner = user if team is None or team == "" else _checked_id("team", team)
    prefix = _checked_text("bucket_prefix", bucket_prefix)
    suffix = _checked_text("bucket_suffix", bucket_suffix)
    return {
        "user": user,
        "owner": owner,
        "database": "mlflow_" + owner.replace("-", "_"),
        "login": "mlflow_" + user.replace("-", "_"),
        "bucket": _checked_bucket(prefix + owner + suffix),
        # The name of a personal bucket: one policy with ${aws:username} then serves everybody,
        # and the name cannot meet a person's own IAM user.
        "iam_user": _checked_bucket(prefix + user + suffix),
        "account": "mlflow-" + user,
        "service": "mlflow-" + user,
    }


def classroom_problem(
    user: Any,
    team: Any = None,
    bucket_prefix: Any = "mlflow-exp-tracking-",
    bucket_suffix: Any = "",
) -> str:
    """Say why ids cannot be used, for a task that refuses them in one plain sentence.

    Args:
        user: The student's id; None where none was given.
        team: The team's id; None or empty text means no team.
        bucket_prefix: Text before the owner in the bucket's name.
        bucket_suffix: Text after the owner in the bucket's name.

    Returns:
        The message that classroom_names would raise, empty text where it would not.
    """
    try:
        classroom_names("" if user is None else user, team, bucket_prefix, bucket_suffix)
    except AnsibleFilterError as error:
        return str(error)
    return ""


def scram_verifier(password: Any, salt: Any = None, iterations: Any = MINIMUM_ITERATIONS) -> str:
    """Compute what PostgreSQL stores for a password, so that the password is never sent.

    Args:
        password: 1 or more printable ASCII characters.
        salt: Base64 text of the salt; None takes 16 random bytes, which gives another verifier
            at every call.
        iterations: Rounds of PBKDF2, at least 4096.

    Returns:
        SCRAM-SHA-256$<iterations>:<salt>$<StoredKey>:<ServerKey>, the last three in base64.

    Raises:
        AnsibleFilterError: A value is not usable. The message never contains the password.
    """
    # Other characters would need SASLprep (RFC 4013) to give the verifier that PostgreSQL gives.
    if not isinstance(password, str) or not re.fullmatch(r"[ -~]+", password):
        raise AnsibleFilterError(
            "a password must be text of 1 or more printable ASCII characters (it is not shown)"
        )
    if isinstance(iterations, bool) or not isinstance(iterations, int):
        raise AnsibleFilterError(
            f"iterations must be a whole number, got {native_type_name(iterations)}"
        )
    if iterations < MINIMUM_ITERATIONS:
        raise AnsibleFilterError(
            f"iterations must be {MINIMUM_ITERATIONS} or more, got {iterations}"
        )
    salt_bytes = secrets.token_bytes(SALT_BYTES) if salt is None else _decoded_salt(salt)

    salted = hashlib.pbkdf2_hmac("sha256", password.encode("ascii"), salt_bytes, int(iterations))
    client_key = hmac.digest(salted, b"Client Key", "sha256")
    server_key = hmac.digest(salted, b"Server Key", "sha256")
    stored_key = hashlib.sha256(client_key).digest()
    return (
        f"SCRAM-SHA-256${iterations:d}:{_base64(salt_bytes)}"
        f"${_base64(stored_key)}:{_base64(server_key)}"
    )


def postgres_url(database: Any, login: Any, host: Any, port: Any, password: Any = None) -> str:
    """Build the address of a database for SQLAlchemy with psycopg2.

    Args:
        database: The database's name.
        login: The PostgreSQL login.
        host: A host name or an IP address; IPv6 without brackets.
        port: TCP port, 1 to 65535, a number or its digits.
        password: The password; None or empty text leaves it out.

    Returns:
        postgresql+psycopg2://login[:password]@host:port/database, percent-encoded.

    Raises:
        AnsibleFilterError: A value is not usable. The message never contains the password.
    """
    for name, value in (("database", database), ("login", login)):
        if not isinstance(value, str) or value == "":
            raise AnsibleFilterError(f"postgres_url: {name} must be text and not empty")
    if not isinstance(host, str) or not re.fullmatch(r"[A-Za-z0-9._:-]+", host):
        raise AnsibleFilterError("postgres_url: host must be a host name or an IP address")
    if not re.fullmatch(r"[0-9]{1,5}", str(port)) or not 1 <= int(port) <= 65535:
        raise AnsibleFilterError("postgres_url: port must be a number from 1 to 65535")
    if password is not None and not isinstance(password, str):
        raise AnsibleFilterError("postgres_url: password must be text (it is not shown)")

    secret = ":" + quote(password, safe="") if password else ""
    address = f"[{host}]" if ":" in host else host
    return (
        f"postgresql+psycopg2://{quote(login, safe='')}{secret}"
        f"@{address}:{int(port)}/{quote(database, safe='')}"
    )


class FilterModule:
    """What Ansible looks for in a filter file."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        """Return the filters by the name that templates use."""
        return {
            # Without this, Ansible reports an undefined `user` before the filter can.
            "classroom_names": accept_args_markers(classroom_names),
            "classroom_problem": classroom_problem,
            "scram_verifier": scram_verifier,
            "postgres_url": postgres_url,
        }


def suggest_id(text: str) -> str:
    """Return a legal id that resembles `text`, or the example id where none does."""
    letters = unicodedata.normalize("NFKD", text)
    # Accents and invisible characters separate nothing, so they leave no hyphen.
    bare = "".join(c for c in letters if unicodedata.category(c) not in ("Mn", "Cf"))
    candidate = re.sub(r"[^a-z0-9]+", "-", bare.lower()).strip("-")
    return candidate if ID.match(candidate) and not _is_reserved(candidate) else EXAMPLE_ID


def _checked_id(name: str, value: Any) -> str:
    if not isinstance(value, str):
        raise AnsibleFilterError(_not_text(name, value))
    if value == "":
        raise AnsibleFilterError(_required(name))
    if not ID.match(value):
        raise AnsibleFilterError(
            f'{name} "{_visible(value)}" is not usable: {ID_RULE} (try "{suggest_id(value)}")'
        )
    if _is_reserved(value):
        raise AnsibleFilterError(f'{name} "{value}" is reserved; choose another id')
    return _plain(value)


def _checked_text(name: str, value: Any) -> str:
    if not isinstance(value, str):
        raise AnsibleFilterError(_not_text(name, value))
    return _plain(value)


def _checked_bucket(bucket: str) -> str:
    affixes = [f'starting with "{s}"' for s in BUCKET_RESERVED_STARTS if bucket.startswith(s)]
    affixes += [f'ending with "{e}"' for e in BUCKET_RESERVED_ENDINGS if bucket.endswith(e)]
    if affixes:
        problem = f"S3 reserves names {affixes[0]}"
    elif not 3 <= len(bucket) <= 63:
        problem = f"S3 wants 3 to 63 characters, these are {len(bucket)}"
    elif not BUCKET.match(bucket):
        problem = "S3 wants a-z, 0-9 and hyphens, with a letter or digit at both ends"
    else:
        return bucket
    raise AnsibleFilterError(
        f'bucket "{_visible(bucket)}" is not usable: {problem}; '
        "choose another bucket_prefix, bucket_suffix or id"
    )


def _is_reserved(value: str) -> bool:
    return value in RESERVED or value.endswith(RESERVED_ENDING)


def _required(name: str) -> str:
    return f"{name} is required: run with -e {name}=<id>, for example -e {name}={EXAMPLE_ID}"


def _not_text(name: str, value: Any) -> str:
    shown = _visible(str(value))
    kind = native_type_name(value)
    return f'{name} must be text, got {kind} ({shown}): put it in quotes, {name}: "007"'


def _visible(text: str) -> str:
    """Spell out what would break the line or not be seen: newlines, NUL, zero-width characters."""
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


def _plain(text: str) -> str:
    # Ansible passes tagged subclasses of str.
    return "".join(text)


def _decoded_salt(salt: Any) -> bytes:
    try:
        decoded = base64.b64decode(salt, validate=True) if isinstance(salt, str) else b""
    except (binascii.Error, ValueError):
        decoded = b""
    if not decoded:
        raise AnsibleFilterError("salt must be base64 text of 1 or more bytes")
    return decoded


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")
