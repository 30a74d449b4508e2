"""Many authorizations at the same moment against one spend limit; the negative control takes the lock out."""

from collections import Counter
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from uuid import uuid4

import pytest
from django.db import connection

import billing
from billing.models import SpendCounter, SpendLimit
from billing.models.spending import Span
from metering import spend
from tests.concurrency.racing import assert_books_are_right, at_once, second_connection, wait_until, waiting_for
from tests.world import EXAMPLE_CHARGE, Answer, Payer, Relay, make_event, make_payer

pytestmark = pytest.mark.usefixtures("committed")

PRICE = Decimal("0.0105")  # 1,000 tokens of input and 500 of output
PLACE_HOLD = (Path(billing.__file__).parent / "sql" / "place_hold.sql").read_text()
GATE = 7_246_011_002  # an advisory lock


def limited(amount: Decimal, *, of_key: bool) -> Payer:
    payer = make_payer()
    limit = spend.Limit(Span.DAY, amount, api_key_id=payer.key.pk if of_key else None)
    spend.set_limit(payer.customer.pk, limit, owner=SpendLimit.Owner.CUSTOMER, actor="", at=datetime.now(UTC))
    return payer


@pytest.mark.parametrize("of_key", [True, False], ids=["of the key", "of the customer"])
def test_of_32_at_once_a_limit_admits_the_10_that_fit(of_key: bool) -> None:
    payer, token = limited(10 * PRICE, of_key=of_key), Relay().token

    answers = at_once([lambda: Relay(token).authorize(payer, input_tokens=1000)] * 32)

    codes = Counter((answer.status, answer.code) for answer in answers if isinstance(answer, Answer))
    assert codes == {(201, None): 10, (402, "spend_limit_reached"): 22}
    counter = SpendCounter.objects.get(customer=payer.customer)
    assert (counter.spent, counter.held) == (0, 10 * PRICE)
    assert_books_are_right(payer.customer)


@pytest.mark.parametrize(("lock", "passing"), [("FOR UPDATE", 10), ("", 20)], ids=["with the lock", "without it"])
def test_what_lets_only_those_pass_is_the_wallets_lock(lock: str, passing: int) -> None:
    payer = limited(Decimal(1), of_key=False)
    name = f"place_hold_{uuid4().hex}"
    look = "FROM billing_wallet w WHERE w.customer_id = p_customer_id FOR UPDATE;"
    judged = "    IF room >= need AND"
    assert PLACE_HOLD.count(look) == PLACE_HOLD.count(judged) == 1
    source = PLACE_HOLD.replace("billing_place_hold", name).replace(look, look.replace("FOR UPDATE", lock))
    with connection.cursor() as cursor:
        cursor.execute(source.replace(judged, f"    PERFORM pg_advisory_xact_lock_shared({GATE});\n{judged}"))

    def place() -> str:
        with connection.cursor() as cursor:
            cursor.execute(
                f"SELECT outcome FROM {name}(%s, %s, '\\x00', 0.1, now(), now() + interval '1 hour', '{{}}', '',"
                " NULL, NULL)",
                [payer.customer.pk, uuid4().hex],
            )
            return str((cursor.fetchone() or [""])[0])

    with second_connection() as gate:
        gate.execute("SELECT pg_advisory_xact_lock(%s)", [GATE])

        def open_the_gate() -> str:
            # Without the lock all twenty have looked; with it one has, and the others wait for that one.
            wait_until(lambda: len(waiting_for(gate)) == (1 if lock else 20))
            gate.rollback()
            return "opened"

        outcomes = Counter(at_once([place] * 20 + [open_the_gate]))
    with connection.cursor() as cursor:
        cursor.execute(f"DROP FUNCTION {name}")

    assert outcomes.pop("opened") == 1
    assert outcomes["placed"] == passing
    assert SpendCounter.objects.get(customer=payer.customer).held == passing * Decimal("0.1")


def test_a_limit_that_is_set_while_requests_run_counts_all_of_them() -> None:
    payer, token = make_payer(), Relay().token

    def traffic() -> str:
        relay = Relay(token)
        for _ in range(10):
            hold = relay.authorize(payer, input_tokens=1000).body["id"]
            relay.report(make_event(payer, authorization=hold))
        return "done"

    def set_and_remove() -> str:
        for amount in ("5", "6", "7"):
            at = datetime.now(UTC)
            limit = spend.Limit(Span.DAY, Decimal(amount))
            spend.set_limit(payer.customer.pk, limit, owner=SpendLimit.Owner.OPERATOR, actor="", at=at)
            if amount != "7":
                spend.replace_limits(
                    payer.customer.pk, [], owner=SpendLimit.Owner.OPERATOR, api_key_id=None, actor="", at=at
                )
        return "done"

    assert at_once([traffic] * 4 + [set_and_remove]) == ["done"] * 5

    counter = SpendCounter.objects.get(customer=payer.customer)
    assert (counter.spent, counter.held) == (40 * EXAMPLE_CHARGE, 0)
    assert_books_are_right(payer.customer)
