"""`POST /relay/v1/usage`: what is taken, what is refused, what waits; as the contract has it."""

import gzip
import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal
from typing import Any

import pytest
import time_machine
from django.db import connection

from billing import holds
from billing.models import Customer, Hold, Transfer
from metering import keys
from metering.models import (
    ApiKey,
    EventConflict,
    EventKey,
    ParkedEvent,
    QuarantinedEvent,
    UnclaimedEvent,
    UsageEvent,
    UsageHour,
)
from relayadmin import ids
from tests.world import EXAMPLE_CHARGE, EXAMPLE_USAGE, Answer, Payer, Relay, make_event, make_payer

pytestmark = pytest.mark.django_db

MIB = 1024 * 1024
NOON = datetime(2026, 11, 20, 12, tzinfo=UTC)
ONE_SEARCH = {"server_tool_use": {"web_search_requests": 1}}


def now() -> datetime:
    return datetime.now(UTC)


def ndjson(*events: dict[str, Any] | bytes) -> bytes:
    return b"\n".join(event if isinstance(event, bytes) else json.dumps(event).encode() for event in events)


def document(*raws: bytes) -> bytes:
    return b'{"events": [' + b", ".join(raws) + b"]}"


def raw(event: dict[str, Any], **pieces: bytes) -> bytes:
    """An event as JSON, with pieces of JSON that no encoder would write."""
    body = json.dumps({**event, **{name: f"@{name}@" for name in pieces}}).encode()
    for name, piece in pieces.items():
        body = body.replace(f'"@{name}@"'.encode(), piece)
    return body


def send_lines(relay: Relay, *events: dict[str, Any] | bytes, **headers: str) -> Answer:
    return relay.post("usage", ndjson(*events), content_type="application/x-ndjson", **headers)


def counts(answer: Answer) -> tuple[int, int, int, int]:
    assert answer.status == 200, answer.body
    assert set(answer.body) == {"accepted", "duplicates", "parked", "rejected"}
    return answer.body["accepted"], answer.body["duplicates"], answer.body["parked"], len(answer.body["rejected"])


def rejection(answer: Answer) -> tuple[str, str]:
    (only,) = answer.body["rejected"]
    assert set(only) == {"index", "id", "code", "message"}
    return only["code"], only["message"]


class TestABatch:
    def test_comes_as_a_json_document(self) -> None:
        payer = make_payer()
        answer = Relay().report(make_event(payer), make_event(payer))
        assert answer.body == {"accepted": 2, "duplicates": 0, "parked": 0, "rejected": []}
        assert payer.balance == 50 - 2 * EXAMPLE_CHARGE

    def test_comes_one_event_a_line(self) -> None:
        payer = make_payer()
        answer = send_lines(Relay(), make_event(payer), b"", make_event(payer), b"  ", b"\r")
        assert counts(answer) == (2, 0, 0, 0)

    @pytest.mark.parametrize("content_type", ["application/json; charset=utf-8", "Application/JSON"])
    def test_s_content_type_may_be_spelt_as_http_allows(self, content_type: str) -> None:
        body = document(json.dumps(make_event(make_payer())).encode())
        assert counts(Relay().post("usage", body, content_type=content_type)) == (1, 0, 0, 0)

    @pytest.mark.parametrize("encoding", ["gzip", "GZIP", " gzip "])
    def test_may_be_gzipped(self, encoding: str) -> None:
        payer, relay = make_payer(), Relay()
        body = gzip.compress(document(json.dumps(make_event(payer)).encode()))
        assert counts(relay.post("usage", body, **{"Content-Encoding": encoding})) == (1, 0, 0, 0)
        lines = gzip.compress(ndjson(make_event(payer), make_event(payer)))
        answer = relay.post("usage", lines, content_type="application/x-ndjson", **{"Content-Encoding": encoding})
        assert counts(answer) == (2, 0, 0, 0)

    def test_of_several_gzip_members_is_read_to_its_end(self) -> None:
        payer = make_payer()
        body = gzip.compress(ndjson(make_event(payer)) + b"\n") + gzip.compress(ndjson(make_event(payer)))
        answer = Relay().post("usage", body, content_type="application/x-ndjson", **{"Content-Encoding": "gzip"})
        assert counts(answer) == (2, 0, 0, 0)

    def test_holds_up_to_10_000_events_and_writes_them_all(self) -> None:
        payer = make_payer(credit="500")
        usage = {"input": 1}
        events = [make_event(payer, id=f"e{n}", format="meters", usage=usage) for n in range(10_000)]
        assert counts(send_lines(Relay(), *events)) == (10_000, 0, 0, 0)
        assert UsageEvent.objects.filter(customer=payer.customer).count() == 10_000
        assert payer.balance == Decimal("499.97")

    @pytest.mark.parametrize("is_lines", [False, True])
    def test_of_10_001_events_is_refused_whole(self, is_lines: bool) -> None:
        payer, relay = make_payer(), Relay()
        events = [make_event(payer)] + [{}] * 10_000
        answer = send_lines(relay, *events) if is_lines else relay.report(*events)
        assert (answer.status, answer.code) == (413, "batch_too_large")
        assert "10,001" in answer.body["error"]["message"]
        assert not EventKey.objects.filter(customer=payer.customer).exists()
        assert not QuarantinedEvent.objects.exists()

    def test_of_16_mib_is_taken_and_of_one_byte_more_is_not(self) -> None:
        payer, relay = make_payer(), Relay()
        body = document(json.dumps(make_event(payer)).encode())
        assert counts(relay.post("usage", body.ljust(16 * MIB))) == (1, 0, 0, 0)
        answer = relay.post("usage", body.ljust(16 * MIB + 1))
        assert (answer.status, answer.code) == (413, "batch_too_large")

    def test_that_unpacks_to_more_than_16_mib_is_refused_whatever_its_size(self) -> None:
        bomb = gzip.compress(b" " * (16 * MIB + 1))
        assert len(bomb) < 20_000
        answer = Relay().post("usage", bomb, **{"Content-Encoding": "gzip"})
        assert (answer.status, answer.code) == (413, "batch_too_large")

    @pytest.mark.parametrize(
        "body",
        [
            b"",
            b" ",
            b"{",
            b'{"events": [',
            b'{"events": [{}',
            b'{"events": [{}]',
            b'{"events": [{},]}',
            b'{"events": [{}]}x',
            b'{"events": []}',
            b'{"events": {}}',
            b'{"events": null}',
            b'{"event": [{}]}',
            b"[]",
            b"null",
            b'"events"',
            b"\x00",
            b"[" * 100_000,
            b'{"events":' * 5_000,
            b'{"events": ' + b"[" * 5_000,
        ],
    )
    def test_that_is_no_document_or_holds_no_event_is_400(self, body: bytes) -> None:
        # Django's test client sends no content type with an empty body unless told by a header.
        answer = Relay().post("usage", body, **{"Content-Type": "application/json"})
        assert (answer.status, answer.code) == (400, "invalid_request_error")
        assert answer.body["error"]["message"].endswith(".")

    def test_cut_off_in_the_middle_is_400_and_charges_nothing(self) -> None:
        payer, relay = make_payer(), Relay()
        body = document(json.dumps(make_event(payer)).encode(), json.dumps(make_event(payer)).encode())
        for size in range(1, len(body), 41):
            assert relay.post("usage", body[:size]).status == 400
        assert payer.balance == 50

    def test_whose_gzip_is_cut_off_or_broken_is_400(self) -> None:
        payer, relay = make_payer(), Relay()
        packed = gzip.compress(document(json.dumps(make_event(payer)).encode()))
        wrong_sum = packed[:-8] + b"\0\0\0\0" + packed[-4:]
        for body in (packed[:-1], packed[:20], b"", b"plain text", packed + b"rest", wrong_sum):
            headers = {"Content-Encoding": "gzip", "Content-Type": "application/json"}
            answer = relay.post("usage", body, **headers)
            assert (answer.status, answer.code) == (400, "invalid_request_error"), body
        assert payer.balance == 50

    @pytest.mark.parametrize("body", [b"", b"\n\n", b" \r\n"])
    def test_of_empty_lines_is_400(self, body: bytes) -> None:
        assert Relay().post("usage", body, **{"Content-Type": "application/x-ndjson"}).status == 400

    @pytest.mark.parametrize(
        "content_type", ["text/plain", "application/jsonl", "multipart/form-data; boundary=x", "", "application/x-json"]
    )
    def test_of_another_content_type_is_415(self, content_type: str) -> None:
        answer = Relay().post("usage", b'{"events": []}', content_type=content_type)
        assert (answer.status, answer.code) == (415, "unsupported_media_type")

    @pytest.mark.parametrize("encoding", ["br", "deflate", "gzip, gzip", "zstd"])
    def test_of_another_encoding_is_400_and_told_which(self, encoding: str) -> None:
        answer = Relay().post("usage", b'{"events": []}', **{"Content-Encoding": encoding})
        assert (answer.status, answer.code) == (400, "invalid_request_error")
        assert encoding in answer.body["error"]["message"]

    def test_needs_a_relay_token_before_anything_else(self) -> None:
        answer = Relay("rl_wrong").post("usage", b"{", content_type="text/plain")
        assert (answer.status, answer.code) == (401, "invalid_relay_token")

    def test_may_hold_events_of_many_customers(self) -> None:
        payers = [make_payer() for _ in range(3)]
        answer = Relay().report(*[make_event(payer) for payer in payers for _ in range(2)])
        assert counts(answer) == (6, 0, 0, 0)
        assert {payer.balance for payer in payers} == {50 - 2 * EXAMPLE_CHARGE}


# What is wrong, by (changes of a good event, code, what the message says).
BAD_EVENTS: dict[str, tuple[dict[str, Any], str, str]] = {
    "negative count": (
        {"usage": {"input_tokens": -1, "output_tokens": 0}},
        "invalid_usage",
        "usage.input_tokens must be ≥ 0, not -1",
    ),
    "fractional count": (
        {"usage": {"input_tokens": 1.5, "output_tokens": 0}},
        "invalid_usage",
        "usage.input_tokens must be a whole number, not 1.5",
    ),
    "a count as text": (
        {"usage": {"input_tokens": "7", "output_tokens": 0}},
        "invalid_usage",
        "usage.input_tokens must be a whole number, not '7'",
    ),
    "a count as bool": (
        {"usage": {"input_tokens": True, "output_tokens": 0}},
        "invalid_usage",
        "usage.input_tokens must be a whole number",
    ),
    "an absurd count": (
        {"usage": {"input_tokens": 10**12 + 1, "output_tokens": 0}},
        "invalid_usage",
        "usage.input_tokens must be at most 10^12, not 1000000000001",
    ),
    "a googol": (
        {"usage": {"input_tokens": 10**100, "output_tokens": 0}},
        "invalid_usage",
        "usage.input_tokens must be at most 10^12",
    ),
    "a missing count": ({"usage": {"input_tokens": 1}}, "invalid_usage", "usage.output_tokens is missing"),
    "parts that do not add up": (
        {"usage": {**EXAMPLE_USAGE, "cache_creation_input_tokens": 3001}},
        "invalid_usage",
        "cache_creation_input_tokens is 3001, but usage.cache_creation adds up to 3000",
    ),
    "an unknown meter": ({"format": "meters", "usage": {"inputs": 1}}, "invalid_usage", "usage.inputs is not a meter"),
    "usage that is a list": ({"usage": []}, "invalid_usage", "usage must be an object"),
    "usage that is a text": ({"usage": "1000 tokens"}, "invalid_usage", "usage must be an object"),
    "an unknown format": ({"format": "openai.chatter"}, "invalid_event", "format must be one of"),
    "no format": ({"format": None}, "invalid_event", "format"),
    "no usage": ({"usage": None}, "invalid_event", "usage"),
    "no model": ({"model": None}, "invalid_event", "model"),
    "no id": ({"id": None}, "invalid_event", "id"),
    "an id that is a number": ({"id": 5}, "invalid_event", "$.id"),
    "no time": ({"occurred_at": None}, "invalid_event", "occurred_at"),
    "a time without offset": ({"occurred_at": "2026-11-22T10:00:00"}, "invalid_event", "occurred_at needs an offset"),
    "a time that is none": ({"occurred_at": "yesterday"}, "invalid_event", "occurred_at"),
    "a time that is a number": ({"occurred_at": 1763800000}, "invalid_event", "occurred_at"),
    "the 30th of February": ({"occurred_at": "2026-02-30T10:00:00Z"}, "invalid_event", "occurred_at"),
    "a time after all years": ({"occurred_at": "9999-12-31T23:59:59-01:00"}, "invalid_event", "occurred_at is outside"),
    "a time before all years": (
        {"occurred_at": "0001-01-01T00:00:00+01:00"},
        "invalid_event",
        "occurred_at is outside",
    ),
    "an empty id": ({"id": ""}, "invalid_event", "id must have 1 to 255 characters, not 0"),
    "a long id": ({"id": "i" * 256}, "invalid_event", "id must have 1 to 255 characters, not 256"),
    "an empty model": ({"model": ""}, "invalid_event", "model must have 1 to 255 characters, not 0"),
    "a long model": ({"model": "m" * 256}, "invalid_event", "model must have 1 to 255 characters, not 256"),
    "no key": ({"api_key_id": None}, "invalid_event", "exactly one of api_key_id and api_key"),
    "two keys": ({"api_key": "sk-aaaaaaaa"}, "invalid_event", "exactly one of api_key_id and api_key"),
    "a long key id": ({"api_key_id": "k" * 256}, "invalid_event", "api_key_id must have"),
    "an unknown status": ({"status": "done"}, "invalid_event", "status must be completed, aborted or failed"),
    "a status that is a number": ({"status": 5}, "invalid_event", "$.status"),
    "estimated as text": ({"estimated": "yes"}, "invalid_event", "$.estimated"),
    "more as number": ({"more": 1}, "invalid_event", "$.more"),
    "metadata that is a list": ({"metadata": []}, "invalid_event", "metadata must be an object"),
    "metadata that is a text": ({"metadata": "x"}, "invalid_event", "metadata must be an object"),
    "metadata over 4 KiB": ({"metadata": {"note": "n" * 4096}}, "invalid_event", "metadata has at most 4 KiB"),
    "an event over 64 KiB": ({"note": "n" * 65_536}, "invalid_event", "an event has at most 64 KiB"),
    "a NUL in the id": ({"id": "a\x00b"}, "invalid_event", "NUL"),
    "an id of NULs": ({"id": "\x00" * 100}, "invalid_event", "NUL"),
    "a NUL in the model": ({"model": "a\x00b"}, "invalid_event", "NUL"),
    "a NUL in the metadata": ({"metadata": {"a": ["\x00"]}}, "invalid_event", "NUL"),
    "a NUL in a name of the metadata": ({"metadata": {"\x00": 1}}, "invalid_event", "NUL"),
    "a NUL in the usage": ({"usage": {**EXAMPLE_USAGE, "note": "\x00"}}, "invalid_event", "NUL"),
    "a NUL in the key": ({"api_key_id": "key_\x00"}, "invalid_event", "NUL"),
    "a NUL in an unknown field": ({"note": "\x00"}, "invalid_event", "NUL"),
    "a lone surrogate in the id": ({"id": "a\ud800b"}, "invalid_event", "not valid JSON"),
    "a lone surrogate in the metadata": ({"metadata": {"a": "\udfff"}}, "invalid_event", "not valid JSON"),
    "a lone surrogate in the usage": (
        {"usage": {**EXAMPLE_USAGE, "note": "\ud800"}},
        "invalid_event",
        "not valid JSON",
    ),
}

# The same, for what no encoder writes: pieces of JSON.
BAD_PIECES: dict[str, tuple[dict[str, bytes], str, str]] = {
    "usage nested 900 deep": ({"usage": b'{"a":' * 900 + b"1" + b"}" * 900}, "invalid_event", "nested too deeply"),
    "usage nested 5,000 deep": ({"usage": b"[" * 5_000 + b"]" * 5_000}, "invalid_event", "nested too deeply"),
    "metadata nested 5,000 deep": (
        {"metadata": b'{"a":' + b"[" * 5_000 + b"]" * 5_000 + b"}"},
        "invalid_event",
        "nested",
    ),
    "metadata nested 900 deep": ({"metadata": b'{"a":' + b"[" * 900 + b"]" * 900 + b"}"}, "invalid_event", "nested"),
    "metadata with 1e999999": ({"metadata": b'{"a": 1e999999}'}, "invalid_event", "metadata does not fit"),
    "metadata with 1e5000": ({"metadata": b'{"a": 1e5000}'}, "invalid_event", "metadata does not fit"),
    # What is charged is kept as text; what waits is kept as jsonb, which has no such number.
    "metadata with 1e-999999 that has to wait": (
        {"metadata": b'{"a": 1e-999999}', "model": b'"claude-unheard-of"'},
        "invalid_event",
        "could not be stored",
    ),
    "usage with 1e400": ({"usage": b'{"input_tokens": 1e400, "output_tokens": 0}'}, "invalid_usage", "usage"),
    "usage with 5,000 digits": ({"usage": b'{"input_tokens": 1' + b"0" * 5_000 + b"}"}, "invalid_usage", "usage"),
    "bytes that are no UTF-8": ({"model": b'"\xff\xfe"'}, "invalid_event", "not valid JSON"),
    "metadata that is no UTF-8": ({"metadata": b'{"a": "\xff"}'}, "invalid_event", "not valid JSON"),
}


class TestABadEvent:
    @pytest.mark.parametrize("fault", BAD_EVENTS)
    @pytest.mark.parametrize("is_lines", [False, True])
    def test_is_rejected_by_its_index_and_the_others_count(self, fault: str, is_lines: bool) -> None:
        changes, code, message = BAD_EVENTS[fault]
        payer, relay = make_payer(), Relay()
        events = [make_event(payer), make_event(payer, **changes), make_event(payer)]
        answer = send_lines(relay, *events) if is_lines else relay.report(*events)
        assert counts(answer) == (2, 0, 0, 1)
        assert answer.body["rejected"][0]["index"] == 1
        assert rejection(answer)[0] == code
        assert message in rejection(answer)[1]
        assert payer.balance == 50 - 2 * EXAMPLE_CHARGE

    @pytest.mark.parametrize("fault", BAD_PIECES)
    @pytest.mark.parametrize("is_lines", [False, True])
    def test_of_json_no_encoder_writes_does_not_fail_its_batch(self, fault: str, is_lines: bool) -> None:
        pieces, code, message = BAD_PIECES[fault]
        payer, relay = make_payer(), Relay()
        raws = [json.dumps(make_event(payer)).encode(), raw(make_event(payer), **pieces)]
        answer = send_lines(relay, *raws) if is_lines else relay.post("usage", document(*raws))
        assert counts(answer) == (1, 0, 0, 1)
        assert rejection(answer)[0] == code
        assert message in rejection(answer)[1]
        assert payer.balance == 50 - EXAMPLE_CHARGE

    @pytest.mark.parametrize("fault", BAD_PIECES)
    def test_of_a_key_nobody_knows_does_not_fail_its_batch_either(self, fault: str) -> None:
        pieces, code, _ = BAD_PIECES[fault]
        payer, relay = make_payer(), Relay()
        good = [
            json.dumps(make_event(payer, api_key_id=name)).encode() for name in (payer.key.public_id, "key_unknown")
        ]
        answer = relay.post("usage", document(*good, raw(make_event(payer, api_key_id="key_unknown"), **pieces)))
        assert counts(answer) == (1, 0, 1, 1)
        assert rejection(answer)[0] == code

    def test_among_a_hundred_leaves_ninety_nine(self) -> None:
        payer = make_payer()
        events = [json.dumps(make_event(payer)).encode() for _ in range(100)]
        events[41] = raw(make_event(payer, id="culprit", model="claude-unheard-of"), metadata=b'{"tiny": 1e-999999}')
        answer = Relay().post("usage", document(*events))
        assert counts(answer) == (99, 0, 0, 1)
        assert answer.body["rejected"][0]["index"] == 41
        assert answer.body["rejected"][0]["id"] == "culprit"
        assert payer.balance == 50 - 99 * EXAMPLE_CHARGE

    def test_is_listed_in_the_order_of_the_indexes_whoever_refused_it(self) -> None:
        payer = make_payer()
        stored_last = raw(make_event(payer, model="claude-unheard-of"), metadata=b'{"tiny": 1e-999999}')
        unknown = raw(make_event(payer, api_key_id="key_x"), metadata=b'{"tiny": 1e-999999}')
        answer = send_lines(Relay(), b"5", stored_last, b"{", unknown, b"{}")
        assert [item["index"] for item in answer.body["rejected"]] == [0, 1, 2, 3, 4]

    @pytest.mark.parametrize(
        "line", [b"{", b"not json", b"[]", b"5", b"null", b'"text"', b'{"id": "a"', b"{}{}", b"\x00"]
    )
    def test_that_is_a_broken_line_is_rejected_by_its_index(self, line: bytes) -> None:
        payer = make_payer()
        answer = send_lines(Relay(), make_event(payer), line, make_event(payer))
        assert counts(answer) == (2, 0, 0, 1)
        assert answer.body["rejected"][0]["index"] == 1
        assert rejection(answer)[0] == "invalid_event"

    def test_keeps_its_id_in_the_answer(self) -> None:
        answer = Relay().report(make_event(make_payer(), id="req_bad", status="done"))
        assert answer.body["rejected"][0]["id"] == "req_bad"

    def test_reserves_no_id(self) -> None:
        payer, relay = make_payer(), Relay()
        bad = make_event(payer, id="req_1", usage={"input_tokens": -1, "output_tokens": 0})
        assert counts(relay.report(bad)) == (0, 0, 0, 1)
        assert counts(relay.report(make_event(payer, id="req_1"))) == (1, 0, 0, 0)

    def test_leaves_its_id_to_a_good_one_of_the_same_batch(self) -> None:
        payer = make_payer()
        bad = make_event(payer, id="req_1", usage={"input_tokens": -1, "output_tokens": 0})
        assert counts(Relay().report(bad, make_event(payer, id="req_1"))) == (1, 0, 0, 1)

    def test_is_kept_for_the_operator_with_its_reason_and_relay(self) -> None:
        token, secret = keys.create_relay_token(name="node 7")
        event = make_event(make_payer(), id="req_bad", status="done")
        Relay(secret).report(event)
        kept = QuarantinedEvent.objects.get()
        assert (kept.event_id, kept.code, kept.relay_token_id) == ("req_bad", "invalid_event", token.pk)
        assert "status must be" in kept.message
        assert json.loads(kept.body) == event

    @pytest.mark.parametrize("size", [65_536, 65_537])
    def test_is_too_large_above_64_kib_and_not_at_it(self, size: int) -> None:
        event = make_event(make_payer(), note="")
        event["note"] = "n" * (size - len(json.dumps(event).encode()))
        assert counts(send_lines(Relay(), event))[3] == (size > 65_536)

    @pytest.mark.parametrize("size", [4096, 4097])
    def test_has_too_much_metadata_above_4_kib_and_not_at_it(self, size: int) -> None:
        metadata = {"n": "x" * (size - len(json.dumps({"n": ""})))}
        answer = Relay().report(make_event(make_payer(), metadata=metadata))
        assert counts(answer)[3] == (size > 4096)

    @pytest.mark.parametrize("length", [1, 255])
    def test_is_not_one_whose_id_or_model_has_1_to_255_characters(self, length: int) -> None:
        answer = Relay().report(make_event(make_payer(), id="й" * length, model="й" * length))
        assert counts(answer) == (0, 0, 1, 0)

    def test_is_not_one_whose_metadata_holds_any_honest_json(self) -> None:
        payer = make_payer()
        metadata = {"a": [1, -0.5, 1e-300, 10**25, None, True, "\u2028\\ \"'\t\n🙂", {"": {}}], "b" * 1000: "{[[[["}
        metadata["deep"] = json.loads("[" * 90 + "]" * 90)
        assert counts(Relay().report(make_event(payer, metadata=metadata))) == (1, 0, 0, 0)
        assert UsageEvent.objects.get(customer=payer.customer).metadata == metadata


class TestARepeat:
    def test_is_counted_and_not_charged(self) -> None:
        payer, relay = make_payer(), Relay()
        event = make_event(payer)
        assert counts(relay.report(event)) == (1, 0, 0, 0)
        assert counts(relay.report(event)) == (0, 1, 0, 0)
        assert payer.balance == 50 - EXAMPLE_CHARGE
        assert not EventConflict.objects.exists()

    @pytest.mark.parametrize(
        "same",
        [
            {"metadata": {"retry": 2}},
            {"authorization": "auth_1_1"},
            {"estimated": True},
            {"usage": {**EXAMPLE_USAGE, "service_tier": "standard", "server_tool_use": None}},
        ],
    )
    def test_that_differs_in_nothing_that_matters_is_no_conflict(self, same: dict[str, Any]) -> None:
        payer, relay = make_payer(), Relay()
        event = make_event(payer)
        relay.report(event)
        assert counts(relay.report({**event, **same})) == (0, 1, 0, 0)
        assert not EventConflict.objects.exists()

    def test_with_its_time_in_another_offset_is_no_conflict(self) -> None:
        payer, relay = make_payer(), Relay()
        event = make_event(payer, occurred_at=NOON.isoformat())
        relay.report(event)
        event["occurred_at"] = NOON.astimezone(timezone(timedelta(hours=8))).isoformat()
        assert counts(relay.report(event)) == (0, 1, 0, 0)
        assert not EventConflict.objects.exists()

    @pytest.mark.parametrize(
        "other",
        [
            {"usage": {**EXAMPLE_USAGE, "output_tokens": 501}},
            {"model": "claude-opus-4-20250514"},
            {"model": "claude-unheard-of"},
            {"channel": "bedrock"},
            {"status": "aborted"},
            {"occurred_at": "2020-01-01T00:00:00Z"},
            {"occurred_at": "2999-01-01T00:00:00Z"},
            {"usage": {**EXAMPLE_USAGE, "speed": "fast"}},
        ],
    )
    def test_with_other_content_is_a_duplicate_and_recorded_as_a_conflict(self, other: dict[str, Any]) -> None:
        payer, relay = make_payer(), Relay()
        event = make_event(payer)
        relay.report(event)
        assert counts(relay.report({**event, **other})) == (0, 1, 0, 0)
        conflict = EventConflict.objects.get()
        assert (conflict.customer, conflict.event_id, conflict.kind) == (payer.customer, event["id"], "other_content")
        assert conflict.payload["usage"] == {**event, **other}["usage"]
        assert payer.balance == 50 - EXAMPLE_CHARGE

    def test_inside_one_batch_loses_to_the_first(self) -> None:
        payer = make_payer()
        first = make_event(payer)
        second = {**first, "usage": {"input_tokens": 10**9, "output_tokens": 0}}
        assert counts(Relay().report(first, first, second)) == (1, 2, 0, 0)
        assert payer.balance == 50 - EXAMPLE_CHARGE
        assert EventConflict.objects.count() == 1

    def test_by_another_key_of_the_same_customer_is_a_conflict(self) -> None:
        payer, relay = make_payer(), Relay()
        other, _ = keys.create_api_key(customer=payer.customer, name="second", at=now())
        event = make_event(payer)
        relay.report(event)
        assert counts(relay.report({**event, "api_key_id": other.public_id})) == (0, 1, 0, 0)
        assert EventConflict.objects.count() == 1

    def test_by_the_secret_of_the_same_key_is_no_conflict(self) -> None:
        payer, relay = make_payer(), Relay()
        event = make_event(payer)
        relay.report(event)
        assert counts(relay.report({**event, "api_key_id": None, "api_key": payer.api_key})) == (0, 1, 0, 0)
        assert not EventConflict.objects.exists()

    def test_of_another_customer_s_id_is_an_event_of_its_own(self) -> None:
        ada, bob = make_payer(), make_payer(name="Bob")
        assert counts(Relay().report(make_event(ada, id="same"), make_event(bob, id="same"))) == (2, 0, 0, 0)

    def test_of_a_parked_event_is_a_duplicate_although_it_could_be_charged_now(self) -> None:
        payer, relay = make_payer(), Relay()
        event = make_event(payer, model="claude-unheard-of")
        assert counts(relay.report(event)) == (0, 0, 1, 0)
        assert counts(relay.report(event)) == (0, 1, 0, 0)
        assert counts(relay.report({**event, "model": "claude-sonnet-4-20250514"})) == (0, 1, 0, 0)
        assert payer.balance == 50

    def test_of_an_event_of_an_unknown_key_is_a_duplicate(self) -> None:
        relay = Relay()
        event = make_event(api_key_id="key_nobody")
        assert counts(relay.report(event, event)) == (0, 1, 1, 0)
        assert counts(relay.report(event)) == (0, 1, 0, 0)
        assert not EventConflict.objects.exists()
        assert counts(relay.report({**event, "status": "failed"})) == (0, 1, 0, 0)
        assert EventConflict.objects.get().customer is None


class TestAParkedEvent:
    @pytest.mark.parametrize(
        ("changes", "reason"),
        [
            ({"model": "claude-unheard-of"}, "unknown_model"),
            ({"channel": "the-moon"}, "unknown_channel"),
            ({"channel": "deepseek"}, "no_price"),
            ({"usage": {**EXAMPLE_USAGE, **ONE_SEARCH}, "channel": "bedrock"}, "no_price"),
            ({"usage": {**EXAMPLE_USAGE, "service_tier": "gold"}}, "unknown_service_tier"),
            ({"usage": {**EXAMPLE_USAGE, "service_tier": "batch", "speed": "fast"}}, "unknown_service_tier"),
            ({"usage": {**EXAMPLE_USAGE, "service_tier": "priority"}}, "no_price"),
            ({"usage": {**EXAMPLE_USAGE, "speed": "fast"}}, "no_price"),
            ({"usage": {**EXAMPLE_USAGE, "speed": "warp"}}, "unknown_speed"),
            ({"upstream_account": "nobody"}, "unknown_upstream_account"),
            ({"usage": {**EXAMPLE_USAGE, "inference_geo": "mars"}}, "unknown_inference_geo"),
            ({"usage": {**EXAMPLE_USAGE, "video_tokens": 1}}, "unknown_counter"),
            ({"usage": {**EXAMPLE_USAGE, "cache_creation": {"ephemeral_24h_input_tokens": 3000}}}, "unknown_counter"),
            ({"occurred_at": "2999-01-01T00:00:00Z"}, "clock_ahead"),
            ({"replaces": "req_before"}, "replaces_unknown"),
        ],
    )
    def test_waits_with_its_reason_and_costs_nothing_yet(self, changes: dict[str, Any], reason: str) -> None:
        payer = make_payer()
        event = make_event(payer, **changes)
        assert counts(Relay().report(event)) == (0, 0, 1, 0)
        parked = ParkedEvent.objects.get()
        assert (parked.customer, parked.event_id, parked.reason) == (payer.customer, event["id"], reason)
        assert parked.detail
        assert parked.payload["usage"] == event["usage"]
        assert payer.balance == 50
        assert not UsageEvent.objects.filter(customer=payer.customer).exists()

    @pytest.mark.parametrize("ahead_ms", [-1, 0, 299_999, 300_000, 300_001, 301_000])
    def test_is_one_more_than_five_minutes_ahead_of_our_clock(self, ahead_ms: int) -> None:
        payer, relay = make_payer(), Relay()
        with time_machine.travel(NOON, tick=False):
            event = make_event(payer, occurred_at=(NOON + timedelta(milliseconds=ahead_ms)).isoformat())
            is_parked = ahead_ms > 300_000
            assert counts(relay.report(event)) == (not is_parked, 0, is_parked, 0)

    @pytest.mark.parametrize(
        "occurred_at", ["0001-01-01T00:00:00Z", "1969-12-31T23:59:59.999999Z", "2024-02-29T12:00:00+14:00"]
    )
    def test_is_never_one_of_the_past(self, occurred_at: str) -> None:
        payer = make_payer()
        assert counts(Relay().report(make_event(payer, occurred_at=occurred_at))) == (1, 0, 0, 0)
        assert UsageEvent.objects.get(customer=payer.customer).occurred_at == datetime.fromisoformat(occurred_at)

    def test_of_an_unknown_key_waits_outside_by_id_or_by_hash(self) -> None:
        secret = "sk-" + "q" * 48
        by_id, by_hash = make_event(api_key_id="key_nobody"), make_event(api_key=secret)
        assert counts(Relay().report(by_id, by_hash)) == (0, 0, 2, 0)
        assert {event.key for event in UnclaimedEvent.objects.all()} == {
            "key_nobody",
            "sha256:" + ids.secret_digest(secret).hex(),
        }

    def test_is_not_one_whose_unknown_counter_is_zero(self) -> None:
        usage = {**EXAMPLE_USAGE, "video_tokens": 0, "web": {"pages": 0}, "is_new": True}
        assert counts(Relay().report(make_event(make_payer(), usage=usage))) == (1, 0, 0, 0)


def text_columns() -> Iterator[tuple[str, str]]:
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT table_name, column_name FROM information_schema.columns WHERE table_schema = 'public'"
            " AND data_type IN ('text', 'character varying', 'character', 'json', 'jsonb', 'bytea', 'ARRAY')"
        )
        yield from cursor.fetchall()


def places_of(secret: str) -> list[str]:
    """Every column of every table that holds a text, in plain or in a JSON text's escapes."""
    found = []
    for table, column in list(text_columns()):
        with connection.cursor() as cursor:
            cursor.execute(
                f'SELECT count(*) FROM "{table}" WHERE position(%s IN "{column}"::text) > 0'
                f'   OR position(%s IN "{column}"::text) > 0',
                [secret, secret.encode().hex()],
            )
            if cursor.fetchone() != (0,):
                found.append(f"{table}.{column}")
    return found


class TestASecret:
    def test_is_found_by_the_search_where_there_is_one(self) -> None:
        Customer.objects.filter(pk=make_payer().customer.pk).update(name="sk-planted")
        assert places_of("sk-planted") == ["billing_customer.name"]

    def test_is_stored_nowhere_whatever_became_of_its_event(self) -> None:
        payer, relay = make_payer(), Relay()
        unknown, odd = "sk-" + "u" * 48, 'odd"key\\with/escapes'
        for secret in (payer.api_key, unknown, odd):
            named = {"api_key_id": None, "api_key": secret}
            good = make_event(payer, **named)
            relay.authorize(payer, api_key=secret)
            relay.authorize(payer, api_key=secret, model="claude-unheard-of")
            relay.report(
                good,
                {**good, "status": "failed"},  # a conflict
                make_event(payer, **named, model="claude-unheard-of"),
                make_event(payer, **named, authorization="auth_1_1"),
                make_event(payer, **named, status="done"),
                make_event(payer, **named, usage={"input_tokens": -1, "output_tokens": 0}),
                make_event(payer, **named, metadata={"tiny": "\x00"}),
                make_event(payer, **named, note="n" * 65_536),
                {"api_key": secret},
            )
            broken = json.dumps(make_event(payer, **named)).encode()
            tiny = raw(make_event(payer, **named, model="claude-unheard-of"), metadata=b'{"tiny": 1e-999999}')
            send_lines(relay, broken[:-3], broken[: broken.index(b"api_key") + 30], tiny, b"[" + broken)
        if connection.queries_log:
            connection.queries_log.clear()
        assert QuarantinedEvent.objects.count() >= 24
        assert UnclaimedEvent.objects.count() >= 6
        assert UsageEvent.objects.filter(customer=payer.customer).count() == 2
        for secret in (payer.api_key, unknown, odd, json.dumps(odd)[1:-1]):
            assert places_of(secret) == []

    def test_of_any_of_our_kinds_is_masked_in_what_is_quarantined(self) -> None:
        payer, relay = make_payer(), Relay()
        secrets = [payer.api_key, payer.access_token, relay.token, "whsec_0123456789abcdef"]
        for secret in secrets:
            relay.report(make_event(payer, status="done", metadata={"pasted": f"see {secret}."}))
        for kept, secret in zip(QuarantinedEvent.objects.order_by("pk"), secrets, strict=True):
            assert secret not in kept.body
            assert secret[:3] + "…" in kept.body or secret[:6] + "…" in kept.body

    def test_is_never_in_an_answer(self) -> None:
        payer = make_payer()
        answer = Relay().report(make_event(payer, api_key_id=None, api_key=payer.api_key, status="done"))
        assert payer.api_key not in json.dumps(answer.body)


class TestUsageThatHappenedIsCharged:
    def charged(self, payer: Payer, **changes: Any) -> bool:
        before = payer.balance
        assert counts(Relay().report(make_event(payer, **changes))) == (1, 0, 0, 0)
        return before - payer.balance == EXAMPLE_CHARGE

    @pytest.mark.parametrize("field", ["revoked_at", "expires_at"])
    def test_by_a_revoked_or_expired_key(self, field: str) -> None:
        payer = make_payer()
        ApiKey.objects.filter(pk=payer.key.pk).update(**{field: NOON})
        assert self.charged(payer)
        assert self.charged(payer, api_key_id=None, api_key=payer.api_key)

    @pytest.mark.parametrize("status", ["suspended", "closed"])
    def test_by_a_suspended_customer(self, status: str) -> None:
        payer = make_payer()
        Customer.objects.filter(pk=payer.customer.pk).update(status=status)
        assert self.charged(payer)

    def test_beyond_the_balance(self) -> None:
        """Row 3: the debt is visible, never clamped."""
        payer = make_payer(credit="0.01")
        assert self.charged(payer)
        assert payer.balance == Decimal("0.01") - EXAMPLE_CHARGE

    @pytest.mark.parametrize("status", ["completed", "aborted", "failed"])
    def test_whatever_its_status(self, status: str) -> None:
        """Row 11: the client that leaves is billed what is known."""
        assert self.charged(make_payer(), status=status)

    @pytest.mark.parametrize("status", ["completed", "aborted", "failed"])
    def test_and_zero_is_zero_and_no_estimate(self, status: str) -> None:
        """Rows 12 and 13: explicit zero usage stays zero, held money comes back, and no transfer is made."""
        payer, relay = make_payer(), Relay()
        granted = relay.authorize(payer)
        zero = {"input_tokens": 0, "output_tokens": 0}
        event = make_event(payer, usage=zero, status=status, authorization=granted.body["id"])
        assert counts(relay.report(event)) == (1, 0, 0, 0)
        stored = UsageEvent.objects.get(customer=payer.customer)
        assert (stored.charge, stored.transfer_id, stored.quantities) == (0, None, {})
        assert (payer.balance, payer.wallet.held) == (50, 0)
        assert not Transfer.objects.filter(customer=payer.customer, kind="usage").exists()
        assert UsageHour.objects.get(customer=payer.customer).requests == 1

    def test_by_the_secret_in_place_of_the_key_s_id(self) -> None:
        payer = make_payer()
        assert self.charged(payer, api_key_id=None, api_key=payer.api_key)

    def test_with_its_raw_usage_kept_verbatim(self) -> None:
        payer = make_payer()
        usage = {**EXAMPLE_USAGE, "note": 'é \\ " \t', "list": [1.5, None], "zero": 0, "list_of": {"f": 0.0}}
        usage["list"] = [-1.5, None]
        Relay().report(make_event(payer, usage=usage, metadata={"team": "search"}, status="aborted", estimated=True))
        stored = UsageEvent.objects.get(customer=payer.customer)
        assert (stored.usage, stored.metadata) == (usage, {"team": "search"})
        assert (stored.status, stored.estimated) == ("aborted", True)


class TestAnAuthorizationOnAnEvent:
    def given(self, credit: str = "50") -> tuple[Payer, Relay, str]:
        payer, relay = make_payer(credit), Relay()
        granted = relay.authorize(payer)
        return payer, relay, granted.body["id"]

    def hold(self, payer: Payer) -> Hold:
        return Hold.objects.get(customer=payer.customer)

    def test_is_settled_and_its_rest_freed(self) -> None:
        payer, relay, authorization = self.given()
        relay.report(make_event(payer, authorization=authorization, format="meters", usage={"input": 1000}))
        hold = self.hold(payer)
        assert (hold.status, hold.amount, hold.settled, hold.remaining) == (
            "settled",
            Decimal("0.0111"),
            Decimal("0.003"),
            0,
        )
        assert (payer.wallet.held, payer.balance) == (0, Decimal("49.997"))
        assert UsageEvent.objects.get(customer=payer.customer).hold_id == hold.pk

    def test_shows_the_overrun_of_usage_that_was_dearer(self) -> None:
        payer, relay, authorization = self.given()
        relay.report(make_event(payer, authorization=authorization))
        hold = self.hold(payer)
        assert hold.settled == EXAMPLE_CHARGE > hold.amount
        assert hold.overrun == EXAMPLE_CHARGE - Decimal("0.0111")
        assert (payer.wallet.held, payer.balance) == (0, 50 - EXAMPLE_CHARGE)

    def test_stays_open_while_there_is_more_to_come(self) -> None:
        payer, relay, authorization = self.given()
        part = {"authorization": authorization, "format": "meters", "usage": {"input": 1000}}
        relay.report(make_event(payer, **part, more=True))
        hold = self.hold(payer)
        assert (hold.status, hold.remaining, hold.settled) == ("open", Decimal("0.0081"), Decimal("0.003"))
        assert (payer.wallet.held, payer.balance) == (Decimal("0.0081"), Decimal("49.997"))
        relay.report(make_event(payer, **part, more=True), make_event(payer, **part))
        hold = self.hold(payer)
        assert (hold.status, hold.remaining, hold.settled) == ("settled", 0, Decimal("0.009"))
        assert (payer.wallet.held, payer.balance) == (0, Decimal("49.991"))

    def test_with_more_than_the_hold_holds_nothing_more_and_stays_open(self) -> None:
        payer, relay, authorization = self.given()
        relay.report(make_event(payer, authorization=authorization, more=True))
        hold = self.hold(payer)
        assert (hold.status, hold.remaining, hold.settled) == ("open", 0, EXAMPLE_CHARGE)
        assert payer.wallet.held == 0

    def test_is_settled_in_the_order_of_the_batch_and_not_of_the_ids(self) -> None:
        payer, relay, authorization = self.given()
        part = {"authorization": authorization, "format": "meters", "usage": {"input": 1000}}
        relay.report(make_event(payer, id="z", **part, more=True), make_event(payer, id="a", **part))
        assert self.hold(payer).settled == Decimal("0.006")

    def test_that_was_settled_before_is_left_alone_and_the_usage_charged(self) -> None:
        payer, relay, authorization = self.given()
        for _ in range(2):
            relay.report(make_event(payer, authorization=authorization))
        assert payer.balance == 50 - 2 * EXAMPLE_CHARGE
        assert self.hold(payer).settled == EXAMPLE_CHARGE
        assert not EventConflict.objects.exists()

    @pytest.mark.parametrize("end", ["released", "expired"])
    def test_that_was_released_or_expired_charges_all_the_same_without_a_conflict(self, end: str) -> None:
        payer, relay, authorization = self.given()
        if end == "released":
            relay.release(authorization)
        else:
            Hold.objects.filter(customer=payer.customer).update(expires_at=NOON)
            holds.expire(at=now())
        assert counts(relay.report(make_event(payer, authorization=authorization))) == (1, 0, 0, 0)
        assert payer.balance == 50 - EXAMPLE_CHARGE
        assert payer.wallet.held == 0
        assert (self.hold(payer).status, self.hold(payer).settled) == (end, 0)
        assert not EventConflict.objects.exists()

    def test_of_another_customer_charges_its_own_and_is_recorded(self) -> None:
        payer, relay, authorization = self.given()
        other = make_payer(name="Bob")
        event = make_event(other, authorization=authorization)
        assert counts(relay.report(event)) == (1, 0, 0, 0)
        assert other.balance == 50 - EXAMPLE_CHARGE
        assert (payer.balance, payer.wallet.held, self.hold(payer).status) == (50, Decimal("0.0111"), "open")
        conflict = EventConflict.objects.get()
        assert (conflict.kind, conflict.customer, conflict.event_id) == (
            "unknown_authorization",
            other.customer,
            event["id"],
        )
        assert UsageEvent.objects.get(customer=other.customer).hold_id is None

    @pytest.mark.parametrize(
        "garbage", ["", "x", "auth_", "auth_1_1", "auth_zzz_zzz", "evt_1_1", "a" * 300, "auth_1_" + "z" * 12]
    )
    def test_that_is_garbage_charges_all_the_same_and_is_recorded(self, garbage: str) -> None:
        payer = make_payer()
        assert counts(Relay().report(make_event(payer, authorization=garbage))) == (1, 0, 0, 0)
        assert payer.balance == 50 - EXAMPLE_CHARGE
        assert EventConflict.objects.get().kind == "unknown_authorization"

    def test_that_this_customer_never_had_is_recorded_for_each_event(self) -> None:
        payer, relay, _ = self.given()
        never = ids.hot_id("auth", payer.customer.pk, self.hold(payer).pk + 10**6)
        relay.report(make_event(payer, authorization=never), make_event(payer, authorization=never))
        assert EventConflict.objects.count() == 2
        assert set(UsageEvent.objects.filter(customer=payer.customer).values_list("hold_id", flat=True)) == {None}
