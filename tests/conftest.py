from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack

import pytest
from faults.private_postgres import NoPostgres, private_postgres


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--rewrite-transcripts", action="store_true", help="write tests/core/transcripts/*.txt anew")


@pytest.fixture(scope="session")
def postgres() -> Iterator[str]:
    """Start a real server for the whole run; yields what psycopg.connect() takes."""
    pytest.importorskip("psycopg", reason="the driver psycopg is not installed")
    with ExitStack() as stack:
        try:
            connect_to = stack.enter_context(private_postgres())
        except NoPostgres as error:
            pytest.skip(str(error))
        yield connect_to
