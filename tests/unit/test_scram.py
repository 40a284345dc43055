"""The verifier of a password: against RFC 7677 and against a real PostgreSQL."""

from __future__ import annotations

import base64
import hashlib
import hmac
import re
from typing import Any

import pytest
from ansible.errors import AnsibleFilterError
from classroom import scram_verifier

# RFC 7677, section 3: user "user", password "pencil".
RFC_SALT = "W22ZaJ0SNY7soEsUEjb6gQ=="
RFC_AUTH_MESSAGE = (
    "n=user,r=rOprNGfwEbeRWgbNEkqO,"
    "r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096,"
    "c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0"
)
RFC_CLIENT_PROOF = "dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ="
RFC_SERVER_SIGNATURE = "6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4="


def test_the_keys_prove_what_the_rfc_says() -> None:
    verifier = scram_verifier("pencil", salt=RFC_SALT)
    head, keys = verifier.rsplit("$", 1)
    assert head == f"SCRAM-SHA-256$4096:{RFC_SALT}"
    stored_key, server_key = (base64.b64decode(key) for key in keys.split(":"))
    message = RFC_AUTH_MESSAGE.encode()

    # The server recovers the client's key from its proof, and hashes it to the stored key.
    signature = hmac.digest(stored_key, message, "sha256")
    proof = base64.b64decode(RFC_CLIENT_PROOF)
    client_key = bytes(a ^ b for a, b in zip(signature, proof, strict=True))
    assert hashlib.sha256(client_key).digest() == stored_key

    answer = hmac.digest(server_key, message, "sha256")
    assert base64.b64encode(answer).decode() == RFC_SERVER_SIGNATURE


def test_without_a_salt_every_verifier_differs() -> None:
    first, second = scram_verifier("pencil"), scram_verifier("pencil")
    assert first != second
    shape = r"SCRAM-SHA-256\$4096:[A-Za-z0-9+/]{22}==\$[A-Za-z0-9+/]{43}=:[A-Za-z0-9+/]{43}="
    assert re.fullmatch(shape, first)


def test_a_generated_secret_can_be_the_salt() -> None:
    salt = "abcdefghijklmnopqrstuvwxyz012345"
    assert scram_verifier("pencil", salt=salt).startswith(f"SCRAM-SHA-256$4096:{salt}$")


@pytest.mark.parametrize("password", ["p\u00e9ncil", "", "pen\ncil", "pencil\n", "pen\x00", "\x7f"])
def test_a_password_that_is_not_printable_ascii_is_refused_unseen(password: str) -> None:
    with pytest.raises(AnsibleFilterError) as caught:
        scram_verifier(password)
    assert str(caught.value) == (
        "a password must be text of 1 or more printable ASCII characters (it is not shown)"
    )


@pytest.mark.parametrize("password", [None, 31415926, b"31415926", ["31415926"]])
def test_a_password_that_is_not_text_is_refused_unseen(password: Any) -> None:
    with pytest.raises(AnsibleFilterError) as caught:
        scram_verifier(password)
    assert "31415926" not in str(caught.value)


@pytest.mark.parametrize(
    ("iterations", "message"),
    [
        (4095, "iterations must be 4096 or more, got 4095"),
        ("4096", "iterations must be a whole number, got str"),
        (True, "iterations must be a whole number, got bool"),
    ],
)
def test_iterations(iterations: Any, message: str) -> None:
    with pytest.raises(AnsibleFilterError, match=f"^{message}$"):
        scram_verifier("pencil", iterations=iterations)


@pytest.mark.parametrize("salt", ["", "no base64", "abc", 7, "\u00e9"])
def test_a_bad_salt(salt: Any) -> None:
    with pytest.raises(AnsibleFilterError, match=r"^salt must be base64 text of 1 or more bytes$"):
        scram_verifier("pencil", salt=salt)
