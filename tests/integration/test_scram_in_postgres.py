"""The verifier of a password, as a real PostgreSQL takes it."""

from __future__ import annotations

import psycopg2
import pytest
from classroom import scram_verifier
from psycopg2 import sql
from servers import PostgresServer


@pytest.mark.parametrize("iterations", [4096, 10000])
def test_postgresql_stores_it_as_it_is_and_lets_the_password_in(
    postgres: PostgresServer, iterations: int
) -> None:
    password = "a b'c\\d:e@f/g%h$i\"j"
    verifier = scram_verifier(password, iterations=iterations)
    role = sql.Identifier(f"scram_{iterations}")
    admin = postgres.connect()
    with admin.cursor() as cursor:
        cursor.execute(sql.SQL("CREATE ROLE {} LOGIN PASSWORD %s").format(role), [verifier])
        cursor.execute(
            "SELECT rolpassword FROM pg_authid WHERE rolname = %s", [f"scram_{iterations}"]
        )
        assert cursor.fetchone() == (verifier,)

    postgres.connect(user=f"scram_{iterations}", password=password).close()
    with pytest.raises(psycopg2.OperationalError, match="password authentication failed"):
        postgres.connect(user=f"scram_{iterations}", password=password + "x")

    with admin.cursor() as cursor:
        cursor.execute(sql.SQL("DROP ROLE {}").format(role))
    admin.close()
