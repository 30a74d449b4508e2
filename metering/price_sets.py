"""Price sets: the unit prices that events were rated at, stored once per content."""

from collections.abc import Mapping

import msgspec
from django.db import transaction

from metering.rating import RateCard
from relayadmin.db import bytes_array, server_cursor, text_array

_MAX_KNOWN = 100_000
_known: dict[bytes, int] = {}


def numbers_of(cards: Mapping[bytes, RateCard]) -> dict[bytes, int]:
    """The row number of each card by its digest; new ones are inserted in the caller's transaction.

    A number is remembered only once it is committed, so that a rolled-back one is never used again.
    """
    found = {digest: number for digest in cards if (number := _known.get(digest)) is not None}
    missing = sorted(cards.keys() - found.keys())
    if not missing:
        return found
    with server_cursor() as cursor:
        cursor.execute(
            "INSERT INTO metering_priceset (digest, content, created_at)"
            " SELECT digest, content::jsonb, now() FROM unnest(%s::bytea[], %s::text[]) AS t (digest, content)"
            " ORDER BY digest ON CONFLICT (digest) DO NOTHING",
            [
                bytes_array(missing),
                text_array([msgspec.json.encode(cards[digest].content).decode() for digest in missing]),
            ],
        )
        cursor.execute(
            "SELECT digest, id FROM metering_priceset WHERE digest = ANY (%s::bytea[])", [bytes_array(missing)]
        )
        fresh = {bytes(digest): number for digest, number in cursor.fetchall()}
    transaction.on_commit(lambda: _remember(fresh))
    return {**found, **fresh}


def _remember(fresh: dict[bytes, int]) -> None:
    if len(_known) + len(fresh) > _MAX_KNOWN:
        _known.clear()
    _known.update(fresh)


def forget() -> None:
    """Drop what is remembered; for tests that change databases."""
    _known.clear()
