"""Decoding a batch: event by event, so that one bad event never fails its batch. Pure: no database."""

import gzip
import json
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from metering import ingestion
from metering.ingestion import BatchTooLarge, Event, InvalidBatch
from tests.world import EXAMPLE_USAGE, make_event

texts = st.text(st.characters(codec="utf-8", exclude_characters="\x00"), max_size=20)
names = st.text('ab{}[],:"\\ é', max_size=5)
scalars = st.none() | st.booleans() | st.integers(-(10**30), 10**30) | texts
json_values = st.recursive(
    scalars | st.floats(allow_nan=False, allow_infinity=False),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(names, inner, max_size=4),
    max_leaves=12,
)


def event_bytes(**changes: Any) -> bytes:
    return json.dumps(make_event(**{"api_key_id": "key_1", **changes})).encode()


def decode_one(raw: bytes) -> Event:
    batch = ingestion.decode_ndjson(raw)
    assert batch.rejected == []
    (event,) = batch.events
    return event


class TestSplittingADocumentByHand:
    """What the fast decoder refuses whole for the sake of one event is taken apart, and the others are read."""

    LONE = rb'{"id": "\ud800"}'

    def decoded(self, body: bytes) -> tuple[list[int], list[int]]:
        batch = ingestion.decode_json(body)
        return [event.index for event in batch.events], [item.index for item in batch.rejected]

    @pytest.mark.parametrize("space", [b"", b" ", b"\n\t "])
    def test_whatever_the_white_space(self, space: bytes) -> None:
        parts = [b"{", b'"events"', b":", b"[", event_bytes(), b",", self.LONE, b",", event_bytes(), b"]", b"}", b""]
        assert self.decoded(space.join(parts)) == ([0, 2], [1])

    def test_whatever_brackets_commas_and_quotes_stand_in_strings(self) -> None:
        note = event_bytes(metadata={"note": 'a "quoted" ]}, [{ \\ text', "]": ["}", "{", "\\"]})
        body = b'{"events": [' + b",".join([note, self.LONE, note]) + b"]}"
        assert self.decoded(body) == ([0, 2], [1])

    def test_with_other_fields_after_the_events_it_is_refused_only_if_it_is_no_json(self) -> None:
        body = b'{"events": [' + event_bytes() + b"," + self.LONE + b"]"
        for rest in (b"", b"]", b",", b"}}", b"} x"):
            with pytest.raises(InvalidBatch):
                ingestion.decode_json(body + rest)

    def test_of_nothing_but_events_nested_too_deeply(self) -> None:
        deep = b'{"id": ' + b"[" * 20_000 + b"]" * 20_000 + b"}"
        assert self.decoded(b'{"events": [' + b",".join([deep, event_bytes(), deep]) + b"]}") == ([1], [0, 2])

    @given(st.lists(st.dictionaries(st.sampled_from(["id", "metadata", "note"]), json_values), max_size=6))
    def test_finds_as_many_events_as_there_are(self, events: list[dict[str, Any]]) -> None:
        raws = [json.dumps(event).encode() for event in events]
        with_lone = b'{"events": [' + b", ".join([*raws, self.LONE]) + b"]}"
        batch = ingestion.decode_json(with_lone)
        assert len(batch.events) + len(batch.rejected) == len(events) + 1


class TestUnpacking:
    @given(st.lists(st.binary(max_size=200), min_size=1, max_size=4))
    def test_gzip_members_are_joined(self, pieces: list[bytes]) -> None:
        packed = b"".join(gzip.compress(piece) for piece in pieces)
        assert ingestion.unpack(packed, encoding="gzip") == b"".join(pieces)

    @given(st.binary(min_size=1, max_size=200), st.integers(1, 30))
    def test_a_cut_off_gzip_is_never_taken_for_a_shorter_batch(self, content: bytes, cut: int) -> None:
        packed = gzip.compress(content)
        with pytest.raises(InvalidBatch):
            ingestion.unpack(packed[: max(1, len(packed) - cut)], encoding="gzip")

    def test_a_bomb_stops_at_the_limit_even_in_many_members(self) -> None:
        with pytest.raises(BatchTooLarge):
            ingestion.unpack(gzip.compress(b" " * 2**20) * 17, encoding="gzip")


class TestADigest:
    def digest(self, **changes: Any) -> bytes:
        event = decode_one(event_bytes(id="e", occurred_at="2026-11-20T12:00:00Z", **changes))
        return ingestion.event_digest(event)

    @pytest.mark.parametrize(
        "change",
        [
            {"model": "other"},
            {"channel": "bedrock"},
            {"channel": None},
            {"status": "failed"},
            {"format": "meters", "usage": {"input": 1000}},
            {"usage": {**EXAMPLE_USAGE, "output_tokens": 501}},
            {"usage": {**EXAMPLE_USAGE, "service_tier": "batch"}},
            {"usage": {**EXAMPLE_USAGE, "speed": "fast"}},
            {"usage": {**EXAMPLE_USAGE, "inference_geo": "us"}},
            {"usage": {**EXAMPLE_USAGE, "zebras": 1}},
        ],
    )
    def test_tells_everything_apart_that_matters(self, change: dict[str, Any]) -> None:
        assert self.digest(**change) != self.digest()

    @pytest.mark.parametrize(
        "change",
        [
            {"metadata": {"a": 1}},
            {"more": True},
            {"authorization": "auth_1_1"},
            {"estimated": True},
            {"usage": dict(reversed(EXAMPLE_USAGE.items()))},
            {"usage": {**EXAMPLE_USAGE, "service_tier": None, "inference_geo": ""}},
        ],
    )
    def test_is_the_same_for_what_does_not_matter(self, change: dict[str, Any]) -> None:
        assert self.digest(**change) == self.digest()

    @pytest.mark.parametrize(
        ("one", "other"),
        [
            ({"cache_read": 5, "input": 6}, {"input": 6, "cache_read": 5}),
            ({"output": 1, "web_search": 2, "input": 3}, {"input": 3, "output": 1, "web_search": 2}),
            ({"input": 3, "output": 0}, {"input": 3}),
        ],
    )
    def test_of_our_own_meters_is_the_same_in_any_order(self, one: dict[str, int], other: dict[str, int]) -> None:
        assert self.digest(format="meters", usage=one) == self.digest(format="meters", usage=other)

    def test_names_unknown_counters_the_same_in_any_order(self) -> None:
        names = {f"counter_{number}": 1 for number in range(20)}
        one = self.digest(usage={**EXAMPLE_USAGE, **names})
        assert one == self.digest(usage={**dict(reversed(names.items())), **EXAMPLE_USAGE})

    @pytest.mark.parametrize(
        ("one", "other"),
        [
            ({"zebras": 1}, {"zebras": 2}),
            ({"zebras": 1, "lions": 1}, {"zebras": 2, "lions": 1}),
            ({"details": {"zebras": [1, 2]}}, {"details": {"zebras": [2, 1]}}),
            ({"zebras": 1.5}, {"zebras": 1.25}),
            ({"zebras": 10**300}, {"zebras": 10**300 + 1}),
        ],
    )
    def test_tells_unknown_counters_apart_by_their_values(self, one: dict[str, Any], other: dict[str, Any]) -> None:
        assert self.digest(usage={**EXAMPLE_USAGE, **one}) != self.digest(usage={**EXAMPLE_USAGE, **other})

    def test_of_an_unknown_counter_is_the_same_after_it_was_kept_whatever_its_number_looks_like(self) -> None:
        event = decode_one(event_bytes(usage={**EXAMPLE_USAGE, "zebras": [1e300, 2.50, 10, 1.0]}))
        kept = json.loads(ingestion.payload_json(event))
        # As PostgreSQL writes numbers that it keeps as numerics.
        kept["usage"]["zebras"] = [10**300, 2.5, 10, 1]
        again = ingestion.restore(kept)
        assert ingestion.event_digest(again) == ingestion.event_digest(event)


class TestKeeping:
    @given(metadata=st.dictionaries(names, json_values, max_size=3))
    def test_what_is_kept_is_read_again_as_it_was(self, metadata: dict[str, Any]) -> None:
        event = decode_one(event_bytes(metadata=metadata, authorization="auth_1_1", more=True, status="aborted"))
        kept = json.loads(ingestion.payload_json(event))
        again = ingestion.restore(kept)
        assert ingestion.event_digest(again) == ingestion.event_digest(event)
        assert (again.authorization, again.more, again.status, again.id) == ("auth_1_1", True, "aborted", event.id)
        assert json.loads(again.metadata_json or "null") == metadata

    def test_it_may_have_grown_beyond_the_limits_meanwhile(self) -> None:
        event = decode_one(event_bytes(metadata={"n": [1] * 1000}, usage={**EXAMPLE_USAGE, "n": [1] * 1000}))
        kept = json.loads(ingestion.payload_json(event))
        kept["metadata"]["n"] = kept["usage"]["n"] = [10**300] * 1000
        assert ingestion.restore(kept).usage.unknown == "n[]"

    def test_a_secret_key_is_kept_as_its_hash(self) -> None:
        event = decode_one(event_bytes(api_key_id=None, api_key="sk-abcdefgh"))
        assert "sk-abcdefgh" not in ingestion.payload_json(event)
        assert event.key_name.startswith("sha256:")


class TestMasking:
    @pytest.mark.parametrize(
        "text",
        [
            '{"api_key": "SECRET"}',
            '{"api_key":"SECRET"',
            '{"api_key"  :\n"SECRET',
            '{"api_key": "SEC\\"RET-SECRET"}',
            "Bearer sk-SECRETSECRET",
            "rl_SECRETSECRET",
            "['ct_SECRETSECRET']",
            "whsec_SECRETSECRET,",
        ],
    )
    def test_leaves_nothing_of_a_secret(self, text: str) -> None:
        assert "SECRET" not in ingestion.mask(text)

    @given(st.text(), st.text("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789", min_size=8), st.text())
    def test_finds_a_key_wherever_it_stands(self, before: str, secret: str, after: str) -> None:
        masked = ingestion.mask(f"{before}sk-{secret}{after}")
        assert f"sk-{secret}" not in masked
        assert "\x00" not in masked

    @given(st.text(min_size=1, max_size=60))
    def test_hides_the_field_whatever_is_in_it(self, secret: str) -> None:
        line = json.dumps({"api_key": f"{secret}#secret#"})
        assert "#secret#" not in ingestion.mask(line)


@given(json_values)
def test_whatever_a_line_holds_it_becomes_an_event_or_a_rejection(value: Any) -> None:
    batch = ingestion.decode_ndjson(json.dumps(value).encode() + b"\n" + event_bytes(metadata={"v": value}))
    assert len(batch.events) + len(batch.rejected) == 2


@given(st.binary(min_size=1, max_size=200))
def test_no_bytes_at_all_break_the_decoder(body: bytes) -> None:
    for decode in (ingestion.decode_json, ingestion.decode_ndjson):
        try:
            batch = decode(body)
        except InvalidBatch:
            continue
        assert batch.events or batch.rejected


@given(st.data())
def test_an_event_with_a_byte_changed_is_read_or_rejected(data: st.DataObject) -> None:
    raw = bytearray(event_bytes(metadata={"a": ["é", 1.5e3]}))
    place = data.draw(st.integers(0, len(raw) - 1))
    raw[place] = data.draw(st.integers(0, 255).filter(lambda byte: byte != 10))
    batch = ingestion.decode_ndjson(bytes(raw) + b"\n" + event_bytes())
    assert batch.events
    assert batch.events[-1].index == 1
    for event in batch.events:
        msgspec.json.decode(ingestion.payload_json(event))


def test_events_are_cut_into_runs_of_whole_customers_in_order() -> None:
    events = []
    for index, customer in enumerate([3, 1, 2, 3, 1]):
        event = decode_one(event_bytes(id=str(index)))
        event.index, event.customer_id = index, customer
        events.append(event)
    runs = [[event.index for event in run] for run in ingestion.chunks(events, 2)]
    assert runs == [[1, 4, 2], [0, 3]]
