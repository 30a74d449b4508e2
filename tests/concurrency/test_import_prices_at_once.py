"""Two imports of the price book at once."""

import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any

import pytest
from django.db import IntegrityError, connection

from metering import price_book
from metering.models import PriceBookVersion
from metering.price_book import Summary, import_prices
from tests.price_source import NOW, Source, new_source

pytestmark = pytest.mark.usefixtures("committed")


@pytest.fixture(autouse=True)
def meeting(monkeypatch: pytest.MonkeyPatch) -> None:
    """Between reading the book and writing to it, two imports wait for each other; alone, one waits a second."""
    barrier = threading.Barrier(2, timeout=1)
    read = price_book._read_shelf

    def read_and_wait() -> Any:
        shelf = read()
        with suppress(threading.BrokenBarrierError):
            barrier.wait()
        return shelf

    monkeypatch.setattr(price_book, "_read_shelf", read_and_wait)


def import_twice_at_once(source: Source) -> list[Summary | IntegrityError]:
    def run(_: int) -> Summary | IntegrityError:
        try:
            return import_prices(approve=False, dry_run=False, at=NOW, book=source.book)
        except IntegrityError as error:
            return error
        finally:
            connection.close()

    with ThreadPoolExecutor(2) as pool:
        return list(pool.map(run, range(2)))


def test_of_two_imports_at_once_one_creates_and_the_other_finds_everything_there() -> None:
    source = new_source()
    before = PriceBookVersion.objects.get().version

    counts = [
        (summary.created, summary.unchanged) for summary in import_twice_at_once(source) if isinstance(summary, Summary)
    ]

    assert sorted(counts) == [(0, 4), (4, 0)]
    assert PriceBookVersion.objects.get().version == before + 1
    assert len(source.stored()) == 2


def test_without_the_lock_they_would_collide(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(price_book, "take_lock", lambda: None)

    results = import_twice_at_once(new_source())

    assert sorted(type(result).__name__ for result in results) == ["IntegrityError", "Summary"]
