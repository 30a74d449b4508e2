"""replay_trace: a public trace through the HTTP relay API, charged to the last decimal."""

import gzip
import os
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from decimal import Decimal
from io import StringIO
from pathlib import Path
from socketserver import ThreadingMixIn
from typing import Any
from urllib.parse import urlsplit, urlunsplit
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

import msgspec
import pytest
from django.core.management import CommandError, call_command
from django.core.wsgi import get_wsgi_application
from django.db import connection
from hypothesis import given
from hypothesis import strategies as st

from billing.models import Customer, Hold, Wallet
from metering.models import RelayToken, UsageEvent
from metering.trace import Call, InvalidTrace, Request, read_trace, split_by_cache
from metering.verification import verify_books
from tests.world import SONNET

TRACE = Path(__file__).resolve().parents[3] / "shared" / "data" / "mooncake_conversation_trace.jsonl.gz"


def split(*requests: tuple[int, int, list[int]]) -> list[tuple[int, int, int]]:
    """(timestamp, prompt, blocks) → (input, written, read), each."""
    calls = split_by_cache(Request(at, length, 1, blocks) for at, length, blocks in requests)
    return [(call.input, call.cache_write_5m, call.cache_read) for call in calls]


class TestSplitByCache:
    def test_the_first_time_whole_blocks_are_written_and_the_rest_is_plain_input(self) -> None:
        assert split((0, 1100, [1, 2, 3])) == [(76, 1024, 0)]

    def test_warm_leading_blocks_are_read(self) -> None:
        assert split((0, 1536, [1, 2, 3]), (10, 1600, [1, 2, 9, 8]))[1] == (64, 512, 1024)

    def test_a_warm_block_behind_a_cold_one_is_not_read(self) -> None:
        assert split((0, 1024, [1, 2]), (10, 1024, [7, 2]))[1] == (0, 1024, 0)

    def test_a_read_is_never_longer_than_the_prompt(self) -> None:
        assert split((0, 1000, [1, 2]), (10, 1000, [1, 2]))[1] == (0, 0, 1000)

    @pytest.mark.parametrize(("later_ms", "read"), [(300_000, 512), (300_001, 0)])
    def test_a_block_is_warm_for_five_minutes(self, later_ms: int, read: int) -> None:
        assert split((0, 512, [1]), (later_ms, 512, [1]))[1] == (0, 512 - read, read)

    def test_every_request_keeps_all_its_blocks_warm(self) -> None:
        calls = split((0, 1024, [1, 2]), (200_000, 1024, [9, 2]), (400_000, 1024, [2, 1]))
        assert calls[2] == (0, 512, 512), "block 2 was refreshed behind a cold one, block 1 was not"

    def test_a_prompt_shorter_than_a_block_is_plain_input(self) -> None:
        assert split((0, 511, [1]), (1, 0, [])) == [(511, 0, 0), (0, 0, 0)]

    @given(
        st.lists(
            st.tuples(st.integers(0, 10**6), st.integers(0, 5_000), st.lists(st.integers(0, 9), max_size=10)),
            max_size=30,
        )
    )
    def test_the_parts_add_up_to_the_prompt(self, requests: list[tuple[int, int, list[int]]]) -> None:
        for (_, length, _), parts in zip(requests, split(*requests), strict=True):
            assert sum(parts) == length
            assert min(parts) >= 0

    def test_the_real_trace_adds_up_to_what_it_must(self) -> None:
        if not TRACE.exists():
            pytest.skip(f"the public trace is not at {TRACE}")
        calls = list(split_by_cache(read_trace(TRACE)))
        assert len(calls) == 12_031
        assert sum(call.input for call in calls) == 3_202_234
        assert sum(call.cache_write_5m for call in calls) == 99_110_912
        assert sum(call.cache_read for call in calls) == 42_480_677
        assert sum(call.output for call in calls) == 4_122_048
        assert sum(map(_charge, calls)) == Decimal("455.8475451")


def _charge(call: Call) -> Decimal:
    """On claude-sonnet-4-20250514: 3, 3.75, 0.30 and 15 USD per million."""
    cents = call.input * 300 + call.cache_write_5m * 375 + call.cache_read * 30 + call.output * 1500
    return Decimal(cents).scaleb(-8)


LINES = [
    {"timestamp": 0, "input_length": 1100, "output_length": 100, "hash_ids": [1, 2, 3]},
    {"timestamp": 10, "input_length": 1600, "output_length": 50, "hash_ids": [1, 2, 9, 8]},
    {"timestamp": 20, "input_length": 0, "output_length": 0, "hash_ids": []},
    {"timestamp": 400_000, "input_length": 512, "output_length": 7, "hash_ids": [1]},
    {"timestamp": 400_010, "input_length": 513, "output_length": 1, "hash_ids": [1, 4]},
]
PLAYED = {
    "requests": 5,
    "input": 76 + 64 + 1,
    "cache_write_5m": 1024 + 512 + 512,
    "cache_read": 1024 + 512,
    "output": 158,
}


def write(folder: Path, lines: list[Any] | None = None, name: str = "trace.jsonl") -> Path:
    path = folder / name
    raw = b"".join(msgspec.json.encode(line) + b"\n" for line in (LINES if lines is None else lines))
    path.write_bytes(gzip.compress(raw) if name.endswith(".gz") else raw)
    return path


class TestReadTrace:
    def test_plain_and_gzip_are_the_same(self, tmp_path: Path) -> None:
        plain, packed = write(tmp_path), write(tmp_path, name="trace.jsonl.gz")
        assert read_trace(plain) == read_trace(packed)
        assert len(read_trace(plain, limit=2)) == 2

    @pytest.mark.parametrize(
        ("raw", "sentence"),
        [
            (b"", "holds no request"),
            (b"\n\n", "holds no request"),
            (b"not json\n", "line 1 is not a request"),
            (b'{"timestamp": 0, "input_length": 1, "output_length": 1, "hash_ids": []}\n[]\n', "line 2"),
            (b'{"timestamp": 0, "input_length": -1, "output_length": 1, "hash_ids": []}', "input_length"),
            (b'{"timestamp": 0, "input_length": 1.5, "output_length": 1, "hash_ids": []}', "input_length"),
            (b'{"timestamp": 0, "input_length": 1, "hash_ids": []}', "output_length"),
            (b"\xff\xfe\n", "line 1 is not a request"),
            (gzip.compress(b'{"timestamp": 0}' * 99, mtime=0)[:-9], "can't be read"),
            (b"\x1f\x8bnothing packed", "can't be read"),
        ],
    )
    def test_a_bad_file_is_named_in_one_sentence(self, tmp_path: Path, raw: bytes, sentence: str) -> None:
        path = tmp_path / "bad"
        path.write_bytes(raw)
        with pytest.raises(InvalidTrace, match=sentence):
            read_trace(path)

    def test_a_missing_file_and_a_folder_are_named(self, tmp_path: Path) -> None:
        with pytest.raises(InvalidTrace, match="there is no file"):
            read_trace(tmp_path / "nowhere")
        with pytest.raises(InvalidTrace, match="can't be read"):
            read_trace(tmp_path)


class _Server(ThreadingMixIn, WSGIServer):
    daemon_threads = True


class _Quiet(WSGIRequestHandler):
    def log_message(self, *args: Any) -> None:
        pass


@contextmanager
def web_server() -> Iterator[str]:
    def closing(environ: Any, start_response: Any) -> Any:
        try:
            return list(application(environ, start_response))
        finally:
            connection.close()  # each of this server's threads answers one connection

    application = get_wsgi_application()
    with make_server("127.0.0.1", 0, closing, server_class=_Server, handler_class=_Quiet) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


def replay(*arguments: object) -> dict[str, Any]:
    out = StringIO()
    call_command("replay_trace", *map(str, arguments), stdout=out)
    return dict(msgspec.json.decode(out.getvalue()))


def expected_charge() -> Decimal:
    return sum(map(_charge, split_by_cache(msgspec.convert(line, Request) for line in LINES)), Decimal(0))


@pytest.mark.usefixtures("committed")
class TestCommand:
    def test_a_trace_is_authorized_reported_and_charged(self, tmp_path: Path) -> None:
        customers_before = set(Customer.objects.values_list("pk", flat=True))
        with web_server() as url:
            answer = replay(write(tmp_path), "--customers", 2, "--url", url)
        charged = Decimal(answer.pop("charged"))
        assert answer.pop("cache_read_share") == "0.4123"
        assert answer == PLAYED
        assert charged == expected_charge()
        first, second = Customer.objects.exclude(pk__in=customers_before).order_by("pk")
        played = [UsageEvent.objects.filter(customer=customer).order_by("occurred_at") for customer in (first, second)]
        assert [[event.quantities.get("output", 0) for event in events] for events in played] == [[100, 0, 1], [50, 7]]
        assert {event.format for events in played for event in events} == {"anthropic.messages"}
        assert set(Hold.objects.filter(customer__in=[first, second]).values_list("status", flat=True)) == {"settled"}
        assert all(wallet.held == 0 for wallet in Wallet.objects.filter(customer__in=[first, second]))
        mine = {first.public_id, second.public_id}
        assert [item for name, item in verify_books(full=True, at=datetime.now(UTC)).differences if name in mine] == []

    def test_a_second_run_is_charged_again_with_customers_and_ids_of_its_own(self, tmp_path: Path) -> None:
        with web_server() as url:
            first, second = (replay(write(tmp_path), "--customers", 1, "--url", url) for _ in range(2))
        assert first == second
        assert not RelayToken.objects.filter(name__startswith="replay", revoked_at=None).exists()

    def test_more_customers_than_requests_and_a_limit(self, tmp_path: Path) -> None:
        with web_server() as url:
            answer = replay(write(tmp_path), "--customers", 7, "--limit", 2, "--url", url)
        assert (answer["requests"], answer["output"]) == (2, 150)

    def test_a_pace_is_kept(self, tmp_path: Path) -> None:
        path = write(tmp_path, [{**LINES[0], "timestamp": at} for at in (0, 1_000, 3_000)])
        with web_server() as url:
            began = time.monotonic()
            replay(path, "--customers", 1, "--speed", "2", "--url", url)
            took_s = time.monotonic() - began
        assert took_s >= 1.5, "three seconds of the trace at twice its pace"

    def test_without_a_server_it_starts_one(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            monkeypatch.setenv("PORT", str(probe.getsockname()[1]))
        parts = urlsplit(os.environ["DATABASE_URL"])
        ours = urlunsplit(parts._replace(path="/" + str(connection.settings_dict["NAME"])))
        monkeypatch.setenv("DATABASE_URL", ours)
        assert Decimal(replay(write(tmp_path, name="trace.jsonl.gz"))["charged"]) == expected_charge()


@pytest.mark.usefixtures("committed")
class TestRefusals:
    def refusal(self, *arguments: object) -> str:
        with pytest.raises(CommandError) as refused:
            replay(*arguments)
        return str(refused.value)

    def test_a_bad_file(self, tmp_path: Path) -> None:
        assert "there is no file" in self.refusal(tmp_path / "nowhere")
        assert "line 1 is not a request" in self.refusal(write(tmp_path, ["no"]))

    @pytest.mark.parametrize("speed", ["0", "-1", "fast", "nan", "inf"])
    def test_a_speed_that_is_none(self, tmp_path: Path, speed: str) -> None:
        assert "--speed must be max or a number above zero" in self.refusal(write(tmp_path), f"--speed={speed}")

    def test_counts_that_are_none(self, tmp_path: Path) -> None:
        assert "--customers must be" in self.refusal(write(tmp_path), "--customers", 0)
        assert "--limit must be" in self.refusal(write(tmp_path), "--limit", 0)

    def test_a_server_that_is_not_there(self, tmp_path: Path) -> None:
        assert "does not answer" in self.refusal(write(tmp_path), "--url", "http://127.0.0.1:1")
        assert "is not an address" in self.refusal(write(tmp_path), "--url", "localhost:8000")

    def test_a_model_that_is_not_sold(self, tmp_path: Path) -> None:
        with web_server() as url:
            sentence = self.refusal(write(tmp_path), "--model", "nobodys-model", "--url", url)
        assert "no model 'nobodys-model'" in sentence
        assert not RelayToken.objects.filter(name__startswith="replay", revoked_at=None).exists()

    def test_an_alias_is_a_model(self, tmp_path: Path) -> None:
        with web_server() as url:
            answer = replay(write(tmp_path), "--model", SONNET.replace("-20250514", "-0"), "--url", url)
        assert Decimal(answer["charged"]) == expected_charge()
