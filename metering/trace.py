"""Public request traces: reading them, and what a prompt cache would have made of their prompts. Pure: no Django.

A line is `{"timestamp": ms, "input_length": n, "output_length": n, "hash_ids": […]}` with one hash id per block of 512
prompt tokens; equal ids are equal prefixes.
"""

import gzip
import zlib
from collections.abc import Iterable, Iterator
from io import BufferedIOBase
from itertools import islice
from pathlib import Path
from typing import Annotated

import msgspec

BLOCK_TOKENS = 512
WARM_MS = 300_000

_Count = Annotated[int, msgspec.Meta(ge=0, le=10**12)]


class InvalidTrace(ValueError):
    """A file that is not a trace; the message says where and why."""


class Request(msgspec.Struct, frozen=True, gc=False):
    """One line of a trace; lengths in tokens."""

    timestamp: _Count
    input_length: _Count
    output_length: _Count
    hash_ids: list[int]


class Call(msgspec.Struct, frozen=True, gc=False):
    """A request with its prompt split by what a five-minute cache does: token counts that add up to the prompt."""

    timestamp_ms: int
    input: int
    cache_write_5m: int
    cache_read: int
    output: int

    @property
    def prompt(self) -> int:
        return self.input + self.cache_write_5m + self.cache_read


_line = msgspec.json.Decoder(Request)


def read_trace(path: Path, *, limit: int | None = None) -> list[Request]:
    """The requests of a trace file, plain or gzip, in file order; at most `limit`. Raises InvalidTrace."""
    try:
        with _open(path) as file:
            requests = list(islice(_decode(file), limit))
    except FileNotFoundError as error:
        raise InvalidTrace(f"there is no file {path}") from error
    except (OSError, EOFError, zlib.error) as error:
        raise InvalidTrace(f"{path} can't be read: {error}") from error
    if not requests:
        raise InvalidTrace(f"{path} holds no request")
    return requests


def _open(path: Path) -> BufferedIOBase:
    with path.open("rb") as file:
        is_packed = file.read(2) == b"\x1f\x8b"
    return gzip.open(path) if is_packed else path.open("rb")


def _decode(lines: Iterable[bytes]) -> Iterator[Request]:
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            yield _line.decode(line)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise InvalidTrace(f"line {number} is not a request: {error}") from error


def split_by_cache(requests: Iterable[Request]) -> Iterator[Call]:
    """Each request as a five-minute prompt cache would bill it, in the given order.

    A block is warm when it was seen at most 300,000 ms before; every request refreshes all its blocks. Leading warm
    blocks are read, the other whole blocks are written, the rest of the prompt is plain input.
    """
    seen: dict[int, int] = {}
    for request in requests:
        now, length = request.timestamp, request.input_length
        hit = 0
        for block in request.hash_ids:
            before = seen.get(block)
            if before is None or now - before > WARM_MS:
                break
            hit += 1
        for block in request.hash_ids:
            seen[block] = now
        read = min(BLOCK_TOKENS * hit, length)
        written = max(0, length // BLOCK_TOKENS * BLOCK_TOKENS - read)
        yield Call(
            timestamp_ms=now,
            input=length - read - written,
            cache_write_5m=written,
            cache_read=read,
            output=request.output_length,
        )
