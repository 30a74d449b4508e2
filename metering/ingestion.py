"""A batch of usage as it came over the wire → events to settle, and what is wrong with the others.

Decoding is done event by event, so that one bad event never fails its batch. A secret key becomes its hash here,
before anything is stored or logged.
"""

import gzip
import io
import json
import re
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from decimal import Decimal
from hashlib import blake2b
from math import floor
from typing import Any

import msgspec

from metering import formats
from metering.formats import InvalidUsage, Usage
from relayadmin.ids import secret_digest

MAX_EVENTS = 10_000
MAX_BODY_BYTES = 16 * 1024 * 1024
MAX_EVENT_BYTES = 64 * 1024
MAX_METADATA_BYTES = 4 * 1024
MAX_ID_LENGTH = 255
# What is kept is read again at any depth of the call stack, and Python's own JSON reader stops at about 900 levels.
MAX_NESTING = 100
STATUSES = frozenset({"completed", "aborted", "failed"})

_SECRETS = re.compile(r"(sk-|rl_|ct_|whsec_)[A-Za-z0-9_\-]{4,}")
_SECRETS_BEGIN = ("sk-", "rl_", "ct_", "whsec_")
# Letters, digits, - and _ that somebody wrote as \\u escapes.
_ESCAPED_LETTER = re.compile(r"\\u00(2[dD]|3[0-9]|4[1-9a-fA-F]|5[0-9aAfF]|6[1-9a-fA-F]|7[0-9aA])")
_KEY_FIELD = re.compile(r'("api_key"\s*:\s*)"(?:[^"\\]|\\.)*"?')


class InvalidBatch(ValueError):
    """There is no such document at all, or no event in it."""


class BatchTooLarge(ValueError):
    """More events or bytes than one batch may have."""


class _Wire(msgspec.Struct, gc=False):
    """An event as relays send it."""

    id: str
    model: str
    occurred_at: datetime
    format: str
    usage: msgspec.Raw
    api_key_id: str | None = None
    api_key: str | None = None
    authorization: str | None = None
    channel: str | None = None
    status: str = "completed"
    estimated: bool = False
    more: bool = False
    metadata: msgspec.Raw = msgspec.Raw(b"null")
    replaces: str | None = None
    upstream_account: str | None = None


class Event(msgspec.Struct, gc=False):
    """A well-formed event: `usage` as disjoint meters, `usage_json` verbatim, the key as its id or its hash."""

    index: int
    id: str
    model: str
    channel: str | None
    format: str
    status: str
    occurred_at: datetime
    moment: str  # occurred_at as text
    epoch_s: int  # and in seconds since 1970, rounded down
    estimated: bool
    more: bool
    authorization: str | None
    key_id: str | None
    key_digest: bytes | None
    usage: Usage
    quantities_json: str  # usage.quantities as text
    usage_json: str
    metadata_json: str | None
    replaces: str | None = None
    upstream_account: str | None = None
    # Known once the key is attributed:
    api_key_pk: int = 0
    customer_id: int = 0
    digest: bytes = b""
    number: int = 0

    def count_as(self, usage: Usage) -> None:
        """Take other quantities in; the content by which repeats are told is what was reported."""
        self.usage, self.quantities_json = usage, str(_encode(usage.quantities), "utf-8")

    @property
    def key_name(self) -> str:
        """How the key was named, without its secret."""
        return self.key_id if self.key_id is not None else "sha256:" + (self.key_digest or b"").hex()


@dataclass(frozen=True, slots=True)
class Rejection:
    """An event that was refused: `body` is the event as it came, secrets masked."""

    index: int
    id: str
    code: str
    message: str
    body: str


@dataclass(slots=True)
class Batch:
    """A decoded batch, both lists in the order of their index."""

    events: list[Event] = field(default_factory=list)
    rejected: list[Rejection] = field(default_factory=list)


class _Invalid(ValueError):
    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


def unpack(body: bytes, *, encoding: str) -> bytes:
    """Undo a Content-Encoding ("" or gzip). Raises InvalidBatch, BatchTooLarge."""
    if encoding in {"", "identity"}:
        unpacked = body
    elif encoding == "gzip":
        try:
            with gzip.GzipFile(fileobj=io.BytesIO(body)) as reader:  # Reads on where several members are joined.
                unpacked = reader.read(MAX_BODY_BYTES + 1)
        except EOFError as error:
            raise InvalidBatch("the gzip body ends in the middle; send the batch again") from error
        except (OSError, zlib.error) as error:
            raise InvalidBatch("the body is not gzip, though Content-Encoding says so") from error
    else:
        raise InvalidBatch(f"Content-Encoding must be gzip or absent, not {encoding[:40]}")
    if len(unpacked) > MAX_BODY_BYTES:
        raise BatchTooLarge("a batch has at most 16 MiB unpacked; send fewer events at a time")
    return unpacked


class _Document(msgspec.Struct):
    events: list[msgspec.Raw]


_document = msgspec.json.Decoder(_Document)
_wire = msgspec.json.Decoder(_Wire)
_any = msgspec.json.Decoder()
_encode = msgspec.json.Encoder().encode


def decode_json(body: bytes) -> Batch:
    """Decode `{"events": […]}`. Raises InvalidBatch, BatchTooLarge."""
    try:
        raws: list[bytes] = [bytes(raw) for raw in _document.decode(body).events]
    except msgspec.ValidationError as error:
        raise InvalidBatch(f'the body must be {{"events": […]}}: {error}') from error
    except (msgspec.DecodeError, RecursionError) as error:
        raws = _split_by_hand(body, error)
    return _decode(raws, has_escapes=b"\\u" in body)


def decode_ndjson(body: bytes) -> Batch:
    """Decode one event per line; blank lines don't count. Raises InvalidBatch, BatchTooLarge."""
    return _decode([line for line in body.split(b"\n") if line.strip()], has_escapes=b"\\u" in body)


def _decode(raws: list[bytes], *, has_escapes: bool) -> Batch:
    if not raws:
        raise InvalidBatch("there is no event in the body; send 1 to 10,000")
    if len(raws) > MAX_EVENTS:
        raise BatchTooLarge(f"a batch has at most {MAX_EVENTS:,} events, this one has {len(raws):,}")
    batch = Batch()
    for index, raw in enumerate(raws):
        try:
            batch.events.append(_event(index, raw, has_escapes=has_escapes))
        except (_Invalid, InvalidUsage) as error:
            code = error.code if isinstance(error, _Invalid) else "invalid_usage"
            batch.rejected.append(rejection(index, raw, code, str(error)))
    return batch


# Possessive, and a string without an end is one token: no body is read twice.
_TOKENS = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+(?:"|\Z)|[\[\]{},]', re.DOTALL)


def _split_by_hand(body: bytes, error: Exception) -> list[bytes]:
    """The events of a document that the fast decoder refuses whole because of what stands inside one of them.

    That is so for a lone surrogate in a string and for very deep nesting: faults of one event, not of the batch.
    """
    try:
        opening = re.compile(rb'\s*\{\s*"events"\s*:\s*\[').match(body)
        if opening is None or not isinstance(error, RecursionError):
            json.loads(body)
    except (ValueError, RecursionError) as other:
        raise InvalidBatch(f"the body is not a JSON document: {error}") from other
    if opening is None:
        raise InvalidBatch('the body must be {"events": […]}') from error
    raws, depth, start = [], 2, opening.end()
    for token in _TOKENS.finditer(body, start):
        mark = token.group()
        if mark in b"[{":
            depth += 1
        elif mark in b"]}":
            depth -= 1
            if depth == 1:
                raws.append(body[start : token.start()])
                break
        elif mark == b"," and depth == 2:
            raws.append(body[start : token.start()])
            start = token.end()
            if len(raws) > MAX_EVENTS:
                raise BatchTooLarge(f"a batch has at most {MAX_EVENTS:,} events, this one has more")
    if depth != 1 or body[token.end() :].strip() != b"}":
        raise InvalidBatch(f"the body is not a JSON document: {error}") from error
    return [raw for raw in raws if raw.strip()]


def _nesting(raw: bytes) -> int:
    """How deep arrays and objects stand in each other; what stands in strings doesn't count."""
    deepest = depth = 0
    for token in _TOKENS.finditer(raw):
        mark = token.group()
        if mark in b"[{":
            depth += 1
            deepest = max(deepest, depth)
            if deepest > MAX_NESTING:
                break
        elif mark in b"]}":
            depth -= 1
    return deepest


def _event(index: int, raw: bytes, *, is_kept: bool = False, has_escapes: bool = True) -> Event:
    """One event; what is kept was within the limits of size when it came. Raises _Invalid, InvalidUsage.

    `has_escapes`: there may be a \\u escape in it, by which a NUL could come.
    """
    if len(raw) > MAX_EVENT_BYTES and not is_kept:
        raise _Invalid("invalid_event", f"an event has at most 64 KiB, this one has {len(raw):,} bytes")
    if raw.count(b"[") + raw.count(b"{") > MAX_NESTING and _nesting(raw) > MAX_NESTING:
        raise _Invalid("invalid_event", f"the event is nested too deeply: more than {MAX_NESTING} levels")
    try:
        wire = _wire.decode(raw)
        if has_escapes and b"\\u" in raw:
            _refuse_nul(_any.decode(raw))
        usage_json = str(wire.usage, "utf-8")
        metadata_json: str | None = str(wire.metadata, "utf-8")
    except msgspec.ValidationError as error:
        raise _Invalid("invalid_event", f"the event does not fit: {error}") from error
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise _Invalid("invalid_event", f"the event is not valid JSON: {error}") from error
    if metadata_json == "null":
        metadata_json = None
    _check(wire, None if is_kept else metadata_json)
    if wire.format not in formats.FORMATS:
        raise _Invalid("invalid_event", f"format must be one of {', '.join(formats.FORMATS)}, not {wire.format[:60]!r}")
    try:
        occurred_at = wire.occurred_at.astimezone(UTC)
    except OverflowError as error:
        raise _Invalid("invalid_event", "occurred_at is outside the years 1 to 9999") from error
    read = formats.read_json(wire.format, wire.usage)
    secret = wire.api_key
    if secret is None and wire.api_key_id is not None and wire.api_key_id.startswith(_SECRETS_BEGIN):
        secret = wire.api_key_id  # A key in the place of its id: the event is its customer's, the secret nobody's.
    return Event(
        index,
        wire.id,
        wire.model,
        wire.channel,
        wire.format,
        wire.status,
        occurred_at,
        msgspec.to_builtins(occurred_at),
        floor(occurred_at.timestamp()),
        wire.estimated,
        wire.more,
        wire.authorization,
        None if secret is not None else wire.api_key_id,
        None if secret is None else secret_digest(secret),
        read,
        str(_encode(read.quantities), "utf-8"),
        usage_json,
        metadata_json,
        wire.replaces,
        wire.upstream_account,
    )


def _check(wire: _Wire, metadata_json: str | None) -> None:
    if not (0 < len(wire.id) <= MAX_ID_LENGTH and 0 < len(wire.model) <= MAX_ID_LENGTH):
        name = "model" if 0 < len(wire.id) <= MAX_ID_LENGTH else "id"
        raise _Invalid("invalid_event", f"{name} must have 1 to 255 characters, not {len(getattr(wire, name))}")
    if wire.status not in STATUSES:
        raise _Invalid("invalid_event", f"status must be completed, aborted or failed, not {wire.status[:60]!r}")
    if wire.occurred_at.tzinfo is None:
        raise _Invalid("invalid_event", 'occurred_at needs an offset, such as "2026-11-22T10:00:00Z"')
    if (wire.api_key_id is None) == (wire.api_key is None):
        raise _Invalid("invalid_event", "an event names its key by exactly one of api_key_id and api_key")
    if wire.api_key_id is not None:
        _check_name("api_key_id", wire.api_key_id)
    if wire.channel is not None:
        _check_name("channel", wire.channel)
    if wire.replaces is not None:
        _check_name("replaces", wire.replaces)
    if wire.upstream_account is not None:
        _check_name("upstream_account", wire.upstream_account)
    if metadata_json is not None:
        if len(memoryview(wire.metadata)) > MAX_METADATA_BYTES:
            raise _Invalid("invalid_event", "metadata has at most 4 KiB")
        if not metadata_json.startswith("{"):
            raise _Invalid("invalid_event", "metadata must be an object")
        try:
            # A number beyond floats would be kept in full length, and Python could never read it again.
            _any.decode(wire.metadata)
        except msgspec.ValidationError as error:
            raise _Invalid("invalid_event", f"metadata does not fit: {error}") from error


def _check_name(field_name: str, text: str) -> None:
    if not 0 < len(text) <= MAX_ID_LENGTH:
        raise _Invalid("invalid_event", f"{field_name} must have 1 to 255 characters, not {len(text)}")


def _refuse_nul(value: Any) -> None:
    todo = [value]
    while todo:
        item = todo.pop()
        if isinstance(item, str):
            if "\x00" in item:
                raise _Invalid("invalid_event", "a string holds a NUL character")
        elif isinstance(item, dict):
            todo.extend(item)
            todo.extend(item.values())
        elif isinstance(item, list):
            todo.extend(item)


def rejection(index: int, raw: bytes, code: str, message: str) -> Rejection:
    """What the relay is told of a bad event, and what is kept of it."""
    return Rejection(index, _id_of(raw), code, message, mask(raw[:MAX_EVENT_BYTES].decode("utf-8", "replace")))


class _OnlyId(msgspec.Struct):
    id: str = ""


_only_id = msgspec.json.Decoder(_OnlyId)


def _id_of(raw: bytes) -> str:
    try:
        found = _only_id.decode(raw).id
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return ""
    return found.replace("\x00", "\\u0000")[:MAX_ID_LENGTH]


def mask(text: str) -> str:
    """Replace secrets: whatever stands in `api_key`, and what looks like a key, a token or a webhook secret."""
    plain = _ESCAPED_LETTER.sub(lambda found: chr(int(found[1], 16)), text) if "\\u" in text else text
    return _SECRETS.sub(r"\1…", _KEY_FIELD.sub(r'\1"…"', plain)).replace("\x00", "\\u0000")


def kept_name(name: str) -> str:
    """A name as it may be kept: of one that is a secret as a whole no more than its beginning, "sk-…"."""
    if name.startswith(_SECRETS_BEGIN) and (secret := _SECRETS.fullmatch(name)) is not None:
        return f"{secret[1]}…"
    return name


def event_digest(event: Event) -> bytes:
    """16 bytes that tell a repeat from another event of the same id: all that matters of it, in one order.

    Every format lists its meters in an order of its own, whatever the order they came in. Names count as they are kept,
    so that an event is the same after it has waited.
    """
    usage = event.usage
    channel = "" if event.channel is None else kept_name(event.channel)
    content = (
        f"{event.api_key_pk}\x1f{kept_name(event.model)}\x1f{channel}\x1f{event.format}\x1f{event.status}"
        f"\x1f{event.moment}\x1f{event.quantities_json}"
    )
    if usage.service_tier != "standard" or usage.speed != "standard" or usage.inference_geo or usage.unknown:
        content += f"\x1f{usage.service_tier}\x1f{usage.speed}\x1f{usage.inference_geo}\x1f{usage.unknown}"
    if usage.unknown:
        content += f"\x1fcounts{_counts(_any.decode(event.usage_json))}"
    if usage.parts:
        content += f"\x1fparts{_encode(usage.parts).decode()}"
    if event.upstream_account is not None:
        content += f"\x1faccount{kept_name(event.upstream_account)}"
    if event.replaces is not None:
        content += f"\x1freplaces{event.replaces}"
    return blake2b(content.encode(), digest_size=16).digest()


def _counts(value: object, path: str = "") -> str:
    """Every number of a usage object but zeros, with its path, in the order of names; equal numbers look alike."""
    if isinstance(value, dict):
        return "".join(_counts(value[name], f"{path}.{name}") for name in sorted(value))
    if isinstance(value, list):
        return "".join(_counts(item, f"{path}[{place}]") for place, item in enumerate(value))
    if isinstance(value, bool | str) or not value:
        return ""
    sign, digits, exponent = Decimal(str(value)).as_tuple()
    figures = "".join(map(str, digits))
    plain = figures.rstrip("0")  # PostgreSQL keeps 1e3 as 1000.
    return f"\x1f{path}={'-' * sign}{plain}e{int(exponent) + len(figures) - len(plain)}"


def payload(event: Event) -> dict[str, Any]:
    """An event to be kept beside the hot tables, without secrets; `restore` reads it again."""
    return {
        "id": event.id,
        "model": kept_name(event.model),
        "channel": event.channel and kept_name(event.channel),
        "format": event.format,
        "status": event.status,
        "occurred_at": event.moment,
        "estimated": event.estimated,
        "more": event.more,
        "authorization": event.authorization and kept_name(event.authorization),
        "api_key_id": event.key_name,
        "usage": msgspec.Raw(event.usage_json.encode()),
        "metadata": None if event.metadata_json is None else msgspec.Raw(event.metadata_json.encode()),
        "replaces": event.replaces,
        "upstream_account": event.upstream_account and kept_name(event.upstream_account),
    }


def payload_json(event: Event) -> str:
    """`payload` as JSON text."""
    return msgspec.json.encode(payload(event)).decode()


def restore(kept: dict[str, Any]) -> Event:
    """The event of a kept payload. Raises InvalidUsage if today's format refuses it."""
    try:
        return _event(0, msgspec.json.encode(kept), is_kept=True)
    except _Invalid as error:
        raise InvalidUsage(str(error)) from error


def chunks(events: list[Event], customers: int) -> Iterator[list[Event]]:
    """Events in customer order, in runs of at most so many customers."""
    by_customer: dict[int, list[Event]] = {}
    for event in events:
        by_customer.setdefault(event.customer_id, []).append(event)
    ordered = sorted(by_customer)
    for start in range(0, len(ordered), customers):
        yield [event for customer_id in ordered[start : start + customers] for event in by_customer[customer_id]]
