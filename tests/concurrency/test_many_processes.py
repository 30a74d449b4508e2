"""Limits and floors are the database's: as many processes as there are admit no more than one would."""

import subprocess
import sys
from collections import Counter
from contextlib import ExitStack
from datetime import UTC, datetime
from decimal import Decimal

import pytest

from billing.models import SpendLimit
from billing.models.spending import Span
from metering import spend
from relayadmin.embedded.home import PROJECT
from tests.concurrency.racing import assert_books_are_right
from tests.processes import environment
from tests.world import Payer, Relay, make_payer

pytestmark = pytest.mark.usefixtures("committed")

PROCESSES, REQUESTS = 3, 10
PRICE = Decimal("0.0105")  # 1,000 tokens of input and 500 of output
NODE = """
import sys
import django
django.setup()
from tests.world import Relay
token, api_key, name = sys.argv[1:]
relay = Relay(token)
def ask(number):
    body = {"api_key": api_key, "model": "claude-sonnet-4-20250514", "request_id": f"{name}-{number}",
            "input_tokens": 1000, "max_output_tokens": 500}
    return relay.post("authorizations", body)
assert ask("first").status == 201  # From here on the process remembers who asks.
print("ready", flush=True)
sys.stdin.readline()
for number in range(REQUESTS):
    answer = ask(number)
    print(answer.code or answer.status, flush=True)
""".replace("REQUESTS", str(REQUESTS))


def asked_by_processes(payer: Payer) -> Counter[str]:
    """What processes of their own are told that ask for the same customer at once, each one once before."""
    token = Relay().token
    with ExitStack() as stack:
        nodes = []
        for number in range(PROCESSES):
            command = [sys.executable, "-c", NODE, token, payer.api_key, f"node{number}"]
            node = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment(), cwd=PROJECT
            )
            nodes.append(stack.enter_context(node))
            stack.callback(node.kill)
        for node in nodes:
            assert node.stdout is not None
            assert node.stdout.readline() == "ready\n"
        for node in nodes:
            assert node.stdin is not None
            node.stdin.write("go\n")
            node.stdin.flush()
        return Counter(line for node in nodes for line in node.communicate(timeout=120)[0].splitlines())


@pytest.mark.parametrize("of_key", [True, False], ids=["of the key", "of the customer"])
def test_a_limit_admits_as_much_by_three_processes_as_by_one(of_key: bool) -> None:
    """Row 31: limits are per process, so N replicas allow N times as much."""
    payer = make_payer()
    limit = spend.Limit(Span.DAY, 10 * PRICE, api_key_id=payer.key.pk if of_key else None)
    spend.set_limit(payer.customer.pk, limit, owner=SpendLimit.Owner.OPERATOR, actor="", at=datetime.now(UTC))

    told = asked_by_processes(payer)

    fitting = 10 - PROCESSES
    assert told == {"201": fitting, "spend_limit_reached": PROCESSES * REQUESTS - fitting}
    assert payer.wallet.held == 10 * PRICE
    assert_books_are_right(payer.customer)


def test_so_does_the_floor() -> None:
    payer = make_payer(credit=str(10 * PRICE))
    assert asked_by_processes(payer)["201"] == 10 - PROCESSES
    assert payer.wallet.held == payer.balance == 10 * PRICE
