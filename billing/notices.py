"""What customers are to be told: each thing once, however many workers see it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import msgspec

from relayadmin.db import number_array, server_cursor, text_array


@dataclass(frozen=True, slots=True)
class News:
    """One thing to tell: `kind` is what the message says, `key` what it is about, `data` what it needs to know.

    Amounts in `data` are strings, moments RFC 3339.
    """

    customer_id: int
    kind: str
    key: str
    data: Mapping[str, Any]


_ANNOUNCE = """
INSERT INTO billing_notice (customer_id, kind, key, data, created_at)
SELECT customer_id, kind, key, data::jsonb, %s
FROM unnest(%s::bigint[], %s::text[], %s::text[], %s::text[]) AS t (customer_id, kind, key, data)
ON CONFLICT (customer_id, kind, key) DO NOTHING"""


def announce(*, customer_id: int, kind: str, key: str, data: Mapping[str, Any], at: datetime) -> bool:
    """Tell a customer one thing; False if it was told before. In the caller's transaction, if it has one."""
    return announce_all([News(customer_id, kind, key, data)], at=at) == 1


def announce_all(news: Sequence[News], *, at: datetime) -> int:
    """Tell many customers many things, in one statement; returns how many of them were new."""
    if not news:
        return 0
    # Two workers that tell the same things meet in the same order.
    ordered = sorted(news, key=lambda item: (item.customer_id, item.kind, item.key))
    with server_cursor() as cursor:
        cursor.execute(
            _ANNOUNCE,
            [
                at,
                number_array([item.customer_id for item in ordered]),
                text_array([item.kind for item in ordered]),
                text_array([item.key for item in ordered]),
                text_array([msgspec.json.encode(item.data).decode() for item in ordered]),
            ],
        )
        return cursor.rowcount
