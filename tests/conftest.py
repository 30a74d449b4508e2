"""One price book per test database, and two ways to a database: rolled back (`db`) or really committed."""

from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import hypothesis
import pytest
from django.db import connection
from django.test.utils import setup_databases, teardown_databases

from metering import attribution, authorization, price_book, price_sets, pricing, rates, uninvoiced
from relayadmin import neighbours

# The same examples on every machine, and no example is late because another program is busy.
hypothesis.settings.register_profile("tests", derandomize=True, deadline=None, database=None)
hypothesis.settings.load_profile("tests")

# On a machine that is busy with tests, a Redis that answers late is not away.
rates.TIMEOUT_MS = 10_000
# Nor is a neighbour busy that does.
neighbours.ASKS_FOR_S = 10.0


@pytest.fixture(scope="session")
def django_db_setup(
    django_test_environment: None, django_db_modify_db_settings: None, django_db_blocker: Any
) -> Iterator[None]:
    """A test database with the whole price book, imported once.

    pytest-django's own makes a database only if a test is marked for one; `committed` alone would get the real one.
    """
    with django_db_blocker.unblock():
        made = setup_databases(verbosity=0, interactive=False, aliases=["default"])
        price_book.import_prices(approve=False, dry_run=False, at=datetime(2026, 11, 1, tzinfo=UTC))
        _read_the_book()
    yield
    with django_db_blocker.unblock():
        teardown_databases(made, verbosity=0)


_book: pricing.PriceTable | None = None


def _read_the_book() -> None:
    """Read the committed price table, once for many tests: it takes half a second."""
    global _book
    _book = pricing.current()


@pytest.fixture(autouse=True)
def _nothing_remembered() -> None:
    """Caches of a process outlive a rolled-back test, its rows don't."""
    attribution.forget()
    authorization.forget()
    price_sets.forget()
    uninvoiced.forget()
    pricing._cached = _book


@pytest.fixture
def committed(django_db_setup: None, django_db_blocker: Any) -> Iterator[None]:
    """A database in which commits are commits, for races and crashes.

    Nothing is cleaned up, because the ledger refuses it: a test makes its own customers and looks only at them.
    """
    with django_db_blocker.unblock():
        yield
        _read_the_book()
        connection.close()
