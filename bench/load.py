"""A load generator: prebuilt HTTP/1.1 requests over kept connections, one thread each, in a process of its own."""

import multiprocessing
import socket
import sys
import threading
import time
from dataclasses import dataclass

_END_OF_HEADERS = b"\r\n\r\n"


@dataclass(frozen=True)
class Run:
    """What a run measured: seconds of the whole run, and of each request in order of completion."""

    seconds: float
    latencies_s: list[float]
    statuses: dict[int, int]
    last_body: bytes

    @property
    def per_second(self) -> float:
        return len(self.latencies_s) / self.seconds

    def percentile_ms(self, share: float) -> float:
        ordered = sorted(self.latencies_s)
        return 1000 * ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def joined(runs: list[Run]) -> Run:
    """Runs one after another as one."""
    statuses: dict[int, int] = {}
    for run in runs:
        for status, number in run.statuses.items():
            statuses[status] = statuses.get(status, 0) + number
    latencies = [latency for run in runs for latency in run.latencies_s]
    return Run(sum(run.seconds for run in runs), latencies, statuses, runs[-1].last_body)


def request(path: str, body: bytes, token: str = "", content_type: str = "application/json") -> bytes:
    """A POST as bytes."""
    head = (
        f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: {content_type}\r\n"
        f"Authorization: Bearer {token}\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


def play(port: int, requests: list[bytes], *, connections: int, reconnect: bool = False, limit_s: float = 60.0) -> Run:
    """Send every request once, each over the next free connection; stops early after `limit_s`.

    `reconnect`: a new connection for every request. The kernel gives each to one of the server's processes by a hash,
    so two kept connections would measure the toss of a coin: both in one process, or one in each.
    """
    here, there = multiprocessing.get_context("fork").Pipe()
    process = multiprocessing.get_context("fork").Process(
        target=_play, args=(there, port, requests, connections, reconnect, limit_s), daemon=True
    )
    process.start()
    result = here.recv()
    process.join()
    if isinstance(result, str):
        raise RuntimeError(result)
    return result


def _play(  # type: ignore[no-untyped-def]
    pipe, port: int, requests: list[bytes], connections: int, reconnect: bool, limit_s: float
) -> None:
    sys.setswitchinterval(0.0005)
    queue = iter(requests)
    outcomes: list[tuple[list[float], dict[int, int], bytes] | str] = []
    ready, go = threading.Barrier(connections + 1), threading.Event()
    threads = [
        threading.Thread(target=_one_connection, args=(port, queue, reconnect, ready, go, limit_s, outcomes))
        for _ in range(connections)
    ]
    for thread in threads:
        thread.start()
    ready.wait()
    started = time.perf_counter()
    go.set()
    for thread in threads:
        thread.join()
    seconds = time.perf_counter() - started
    latencies: list[float] = []
    statuses: dict[int, int] = {}
    body = b""
    for outcome in outcomes:
        if isinstance(outcome, str):
            pipe.send(outcome)
            return
        latencies += outcome[0]
        for status, number in outcome[1].items():
            statuses[status] = statuses.get(status, 0) + number
        body = outcome[2]
    pipe.send(Run(seconds, latencies, statuses, body))


def _connect(port: int) -> socket.socket:
    connection = socket.create_connection(("127.0.0.1", port), timeout=120)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return connection


def _one_connection(port, queue, reconnect, ready, go, limit_s, outcomes) -> None:  # type: ignore[no-untyped-def]
    latencies: list[float] = []
    statuses: dict[int, int] = {}
    body = b""
    connection = _connect(port)
    ready.wait()
    go.wait()
    stop = time.perf_counter() + limit_s
    try:
        for raw in queue:
            begun = time.perf_counter()
            if begun > stop:
                break
            if reconnect:
                connection.close()
                connection = _connect(port)
            connection.sendall(raw)
            status, body = _read_answer(connection)
            latencies.append(time.perf_counter() - begun)
            statuses[status] = statuses.get(status, 0) + 1
    except (OSError, ValueError) as error:
        outcomes.append(f"the server ended the connection: {error!r}")
        return
    finally:
        connection.close()
    outcomes.append((latencies, statuses, body))


def _read_answer(connection: socket.socket) -> tuple[int, bytes]:
    data = b""
    while _END_OF_HEADERS not in data:
        more = connection.recv(65536)
        if not more:
            raise ValueError("closed before an answer")
        data += more
    head, _, body = data.partition(_END_OF_HEADERS)
    status = int(head[9:12])
    length = 0
    for line in head.split(b"\r\n")[1:]:
        name, _, value = line.partition(b":")
        if name.lower() == b"content-length":
            length = int(value)
    while len(body) < length:
        body += connection.recv(65536)
    return status, body
