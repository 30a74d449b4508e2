"""CSV for spreadsheets and programs: exact figures, guarded text, a row at a time. Pure."""

import csv
from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any

# What a spreadsheet would run as a formula; some read the full-width signs as the plain ones.
_FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n", "＝", "＋", "－", "＠")
# Without it Excel reads UTF-8 as the machine's old code page, and names in Chinese are gone.
BOM = "\ufeff".encode()
_ROWS = 500


class _Line:
    """What csv.writer writes to: it keeps the line for whoever called."""

    def write(self, text: str) -> str:
        return text


def csv_lines(head: Sequence[str], rows: Iterable[Sequence[Any]]) -> Iterator[bytes]:
    """A file in pieces: RFC 4180 in UTF-8 with a byte order mark; so many rows at a time as one piece."""
    writer = csv.writer(_Line())
    piece = [BOM, writer.writerow(head).encode()]
    for row in rows:
        piece.append(writer.writerow([cell(value) for value in row]).encode())
        if len(piece) > _ROWS:
            yield b"".join(piece)
            piece.clear()
    if piece:
        yield b"".join(piece)


def cell(value: Any) -> str:
    """A value as text: decimals plain and exact, moments in UTC, None empty.

    Text that a spreadsheet would take for a formula gets a leading apostrophe; numbers are ours and stay numbers.
    """
    if value is None:
        return ""
    if isinstance(value, Decimal):
        return _plain(value)
    if isinstance(value, datetime):
        return value.astimezone(UTC).isoformat().replace("+00:00", "Z")
    if isinstance(value, date | int):
        return str(value)
    text = str(value)
    return f"'{text}" if text.startswith(_FORMULA) else text


def _plain(value: Decimal) -> str:
    """ "0.30", not "0.300000000000000" and not "3E+2"; at least two decimals if it has any."""
    text = format(value, "f")
    if "." not in text:
        return text
    whole, _, fraction = text.partition(".")
    fraction = fraction.rstrip("0")
    return f"{whole}.{fraction.ljust(2, '0')}"
