"""Fixtures that every app's tests share. It imports no models."""

from collections.abc import Iterator
from typing import Any

import pytest
from django.db import connections
from django.test.utils import setup_databases, teardown_databases


@pytest.fixture(scope="session")
def committed_database(
    request: pytest.FixtureRequest,
    django_db_setup: Any,
    django_db_blocker: Any,
    django_db_keepdb: bool,
    django_db_createdb: bool,
) -> Iterator[None]:
    """Makes the test database where pytest-django has not.

    It makes one only if a test of the run asks for it by its own fixture or marker;
    without one, a test that commits would write into the real database.
    """
    if any(
        "db" in getattr(item, "fixturenames", ())
        or item.get_closest_marker("django_db")
        for item in request.session.items
    ):
        yield
        return
    with django_db_blocker.unblock():
        made = setup_databases(
            verbosity=0,
            interactive=False,
            aliases={"default"},
            keepdb=django_db_keepdb and not django_db_createdb,
        )
    yield
    if not django_db_keepdb:
        with django_db_blocker.unblock():
            teardown_databases(made, verbosity=0)


@pytest.fixture
def committed_db(committed_database: None, django_db_blocker: Any) -> Iterator[None]:
    """The test database, for a test that commits; threads may use it too.

    Nothing is rolled back and nothing flushed, because append-only tables cannot be:
    such a test makes a ledger id of its own and looks at nothing else.
    """
    with django_db_blocker.unblock():
        yield
        connections.close_all()
