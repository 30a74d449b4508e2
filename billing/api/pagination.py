"""Cursor paging: the next page begins after the last row's sort key, so inserts never shift a page."""

import base64
from binascii import Error as BadBase64
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, NamedTuple, TypeVar

import msgspec
from rest_framework.request import Request

from relayadmin.errors import invalid_request

Row = TypeVar("Row")
Key = TypeVar("Key", bound=tuple[Any, ...])
DEFAULT_LIMIT = 50
LARGEST_LIMIT = 200
_LARGEST_CURSOR = 1000


class ById(NamedTuple):
    """The sort key of lists that are ordered by one number."""

    id: int


@dataclass(frozen=True, slots=True)
class KeysetPagination(Generic[Key]):
    """What page is asked for: at most `limit` rows after the sort key `after`, None for the first page."""

    limit: int
    after: Key | None

    @property
    def fetch(self) -> int:
        """How many rows to read: one more than shown tells whether there are more."""
        return self.limit + 1

    def body(
        self, rows: Sequence[Row], *, key: Callable[[Row], Key], show: Callable[[Sequence[Row]], Any]
    ) -> dict[str, Any]:
        """The page as the API shows it, from up to `fetch` rows."""
        shown, has_more = rows[: self.limit], len(rows) > self.limit
        return {
            "data": show(shown),
            "has_more": has_more,
            "next_cursor": _encode(key(shown[-1])) if has_more else None,
        }


def read_page(request: Request, key_type: type[Key]) -> KeysetPagination[Key]:
    """Read ?limit= and ?cursor=; `key_type` is the named tuple of the list's sort key. Raises ApiError 400."""
    text = request.query_params.get("limit", str(DEFAULT_LIMIT))
    limit = int(text) if text.isascii() and text.isdigit() and len(text) <= 3 else 0
    if not 1 <= limit <= LARGEST_LIMIT:
        raise invalid_request(f"limit must be from 1 to {LARGEST_LIMIT}.", "limit")
    cursor = request.query_params.get("cursor")
    return KeysetPagination(limit, None if cursor is None else _decode(cursor, key_type))


def _encode(key: tuple[Any, ...]) -> str:
    return base64.urlsafe_b64encode(msgspec.json.encode(key)).decode().rstrip("=")


def _decode(cursor: str, key_type: type[Key]) -> Key:
    try:
        if not 1 <= len(cursor) <= _LARGEST_CURSOR:
            raise ValueError
        raw = base64.b64decode(cursor + "=" * (-len(cursor) % 4), altchars=b"-_", validate=True)
        key: Key = msgspec.json.decode(raw, type=key_type)
        if any(isinstance(part, int) and not -(2**63) <= part < 2**63 for part in key):
            raise ValueError
        if any(isinstance(part, str) and "\x00" in part for part in key):
            raise ValueError
    except (ValueError, BadBase64, msgspec.MsgspecError) as error:
        raise invalid_request("cursor must be the next_cursor of this list.", "cursor") from error
    return key
