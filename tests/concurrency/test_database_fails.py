"""The database goes away in the middle of a batch, or refuses a row of it: rows 8, 9 and 10 of the failures."""

import secrets
from collections.abc import Callable
from decimal import Decimal
from typing import Any

import psycopg
import pytest
from django.db import close_old_connections, connection

from billing.models import Customer, Hold, Transfer, Wallet
from metering.models import ApiKey, EventKey, ParkedEvent, QuarantinedEvent, UsageEvent, UsageHour
from tests.concurrency.racing import (
    assert_books_are_right,
    beside,
    end_who_waits_for,
    second_connection,
    wait_until,
    waiting_for,
)
from tests.world import EXAMPLE_CHARGE, Answer, Payer, Relay, make_event, make_payer


def many_customers(count: int) -> list[ApiKey]:
    """Customers with one key each and no credit, made in three statements."""
    customers = Customer.objects.bulk_create(Customer(name=f"customer {number}") for number in range(count))
    Wallet.objects.bulk_create(Wallet(customer=customer) for customer in customers)
    return ApiKey.objects.bulk_create(
        ApiKey(customer=customer, name="k", digest=secrets.token_bytes(32), prefix="sk-x", last4="xxxx")
        for customer in customers
    )


def balances(keys: list[ApiKey]) -> list[Decimal]:
    found = dict(
        Wallet.objects.filter(customer__in=[key.customer_id for key in keys]).values_list("customer_id", "balance")
    )
    return [found[key.customer_id] for key in keys]


def hold_up_a_wallet(other: psycopg.Connection[Any], key: ApiKey, event: dict[str, Any]) -> None:
    other.execute("SELECT 1 FROM billing_wallet WHERE customer_id = %s FOR UPDATE", [key.customer_id])


def hold_up_an_event_id(other: psycopg.Connection[Any], key: ApiKey, event: dict[str, Any]) -> None:
    other.execute(
        "INSERT INTO metering_eventkey (customer_id, event_id, digest) VALUES (%s, %s, %s)",
        [key.customer_id, event["id"], b"x"],
    )


@pytest.mark.usefixtures("committed")
@pytest.mark.parametrize(
    ("hold_up", "settled"),
    [
        # Whoever's wallet is busy comes last: all the others are settled by then.
        (hold_up_a_wallet, [True] * 700 + [False] + [True] * 499),
        # The second of three transactions has its locks and waits for another's insert.
        (hold_up_an_event_id, [True] * 500 + [False] * 700),
    ],
)
def test_a_batch_whose_database_connection_dies_is_charged_once_when_it_is_sent_again(
    hold_up: Callable[..., None], settled: list[bool]
) -> None:
    """Row 8: a batch is taken off the queue before it is committed, and lost on a database error."""
    keys, token = many_customers(1200), Relay().token
    events = [make_event(api_key_id=key.public_id) for key in keys for _ in range(2)]

    def send_twice() -> tuple[Answer, Answer]:
        relay = Relay(token)
        first = relay.report(*events)
        close_old_connections()  # As Django's handler does after every request.
        between.append(balances(keys))
        return first, relay.report(*events)

    between: list[list[Decimal]] = []
    with second_connection() as other:
        hold_up(other, keys[700], events[1400])
        with beside(send_twice) as sending:
            end_who_waits_for(other)
            wait_until(lambda: between or sending.done())
            other.rollback()
            failed, repeated = sending.result(60)

    assert (failed.status, failed.code) == (503, "database_unavailable")
    assert failed.headers["Retry-After"] == "1"
    charged = [-2 * EXAMPLE_CHARGE if is_settled else Decimal(0) for is_settled in settled]
    assert between == [charged], "whole customers, or nothing of them"
    before = 2 * sum(settled)
    assert repeated.body == {"accepted": 2400 - before, "duplicates": before, "parked": 0, "rejected": []}
    assert set(balances(keys)) == {-2 * EXAMPLE_CHARGE}
    ids = [key.customer_id for key in keys]
    assert UsageEvent.objects.filter(customer__in=ids).count() == 2400
    assert_books_are_right(keys[0].customer, keys[700].customer, keys[1199].customer)


@pytest.mark.usefixtures("committed")
def test_a_connection_that_died_unnoticed_costs_one_5xx_and_no_usage() -> None:
    payer, token = make_payer(), Relay().token
    event = make_event(payer)

    def go_on() -> tuple[Answer, Answer]:
        relay = Relay(token)
        with connection.cursor() as cursor:
            cursor.execute("SELECT pg_backend_pid()")
            (pid,) = cursor.fetchone() or (0,)
        with second_connection() as other:
            other.execute("SELECT pg_terminate_backend(%s)", [pid])
        first = relay.report(event)
        close_old_connections()
        return first, relay.report(event)

    with beside(go_on) as going:
        first, second = going.result(60)
    assert first.status == 503
    assert second.body["accepted"] == 1
    assert payer.balance == 50 - EXAMPLE_CHARGE


@pytest.mark.usefixtures("committed")
def test_an_authorization_whose_connection_dies_holds_nothing_and_can_be_asked_again() -> None:
    payer, token = make_payer(), Relay().token

    def ask_twice() -> tuple[Answer, Answer]:
        relay = Relay(token)
        first = relay.authorize(payer, request_id="once")
        close_old_connections()
        return first, relay.authorize(payer, request_id="once")

    with second_connection() as other:
        other.execute("SELECT 1 FROM billing_wallet WHERE customer_id = %s FOR UPDATE", [payer.customer.pk])
        with beside(ask_twice) as asking:
            pid = end_who_waits_for(other)
            wait_until(lambda: asking.done() or any(found != pid for found in waiting_for(other)))
            other.rollback()
            first, second = asking.result(60)
    assert (first.status, first.code) == (503, "database_unavailable")
    assert second.status == 201
    assert payer.wallet.held == Decimal("0.0111")


STAGES = {
    "metering_eventkey": "INSERT",
    "billing_transfer": "INSERT",
    "billing_entry": "INSERT",
    "billing_grantuse": "INSERT",
    "billing_grant": "UPDATE",
    "billing_wallet": "UPDATE",
    "billing_hold": "UPDATE",
    "metering_usageevent": "INSERT",
    "metering_usagehour": "INSERT",
    "metering_parkedevent": "INSERT",
}


class Fault:
    """One customer's rows in one table are refused, as a broken disk page or a full one would."""

    def __init__(self, table: str, payer: Payer, state: str) -> None:
        self.table, self.name = table, f"fault_{payer.customer.pk}"
        with connection.cursor() as cursor:
            cursor.execute(
                f"CREATE FUNCTION {self.name}() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN"
                f" RAISE EXCEPTION 'refused by the test' USING ERRCODE = '{state}'; END $$"
            )
            cursor.execute(
                f"CREATE TRIGGER {self.name} BEFORE {STAGES[table]} ON {table} FOR EACH ROW"
                f" WHEN (NEW.customer_id = {payer.customer.pk}) EXECUTE FUNCTION {self.name}()"
            )

    def mend(self) -> None:
        with connection.cursor() as cursor:
            cursor.execute(f"DROP TRIGGER {self.name} ON {self.table}")


def traces(payer: Payer) -> dict[str, Any]:
    """All that a batch could have left of a customer."""
    of_payer = {"customer": payer.customer}
    wallet = payer.wallet
    return {
        "ids": EventKey.objects.filter(**of_payer).count(),
        "events": UsageEvent.objects.filter(**of_payer).count(),
        "hours": UsageHour.objects.filter(**of_payer).count(),
        "parked": ParkedEvent.objects.filter(**of_payer).count(),
        "transfers": Transfer.objects.filter(**of_payer, kind="usage").count(),
        "wallet": (wallet.balance, wallet.held, wallet.version),
        "hold": Hold.objects.get(**of_payer).status,
    }


@pytest.fixture
def three() -> list[tuple[Payer, list[dict[str, Any]]]]:
    """Three customers, each with an open hold, three events that settle it, and one that parks."""
    relay = Relay()
    found = []
    for payer in [make_payer() for _ in range(3)]:
        granted = relay.authorize(payer)
        events = [make_event(payer, authorization=granted.body["id"]) for _ in range(3)]
        found.append((payer, [*events, make_event(payer, model="claude-unheard-of")]))
    return found


UNTOUCHED = {"ids": 0, "events": 0, "hours": 0, "parked": 0, "transfers": 0, "hold": "open"}
WHOLE = {"ids": 4, "events": 3, "hours": 1, "parked": 1, "transfers": 1, "hold": "settled"}
BEFORE = (Decimal(50), Decimal("0.0111"), 1)
AFTER = (50 - 3 * EXAMPLE_CHARGE, Decimal(0), 2)


@pytest.mark.django_db
@pytest.mark.parametrize("table", STAGES)
def test_an_error_at_any_stage_leaves_neither_events_without_charge_nor_charge_without_events(
    table: str, three: list[tuple[Payer, list[dict[str, Any]]]]
) -> None:
    """Row 10: charging fails, so the usage row is never written. Whatever fails: all of it, or nothing."""
    relay = Relay()
    relay.client.raise_request_exception = False
    batch = [event for _, events in three for event in events]
    fault = Fault(table, three[1][0], "58030")  # io_error

    answer = relay.report(*batch)

    assert answer.status >= 500
    for payer, _ in three:
        assert traces(payer) == {**UNTOUCHED, "wallet": BEFORE}
    fault.mend()
    assert relay.report(*batch).body == {"accepted": 9, "duplicates": 0, "parked": 3, "rejected": []}
    for payer, _ in three:
        assert traces(payer) == {**WHOLE, "wallet": AFTER}
    assert_books_are_right(*(payer.customer for payer, _ in three))


@pytest.mark.django_db
@pytest.mark.parametrize("table", STAGES)
def test_rows_the_database_refuses_are_rejected_one_by_one_and_cost_nobody_else(
    table: str, three: list[tuple[Payer, list[dict[str, Any]]]]
) -> None:
    relay = Relay()
    batch = [event for _, events in three for event in events]
    refused = three[1][0]
    fault = Fault(table, refused, "23514")  # check_violation

    answer = relay.report(*batch)

    assert answer.status == 200
    for payer, _ in (three[0], three[2]):
        assert traces(payer) == {**WHOLE, "wallet": AFTER}
    found = traces(refused)
    bad = [item["index"] for item in answer.body["rejected"]]
    assert bad == {"metering_parkedevent": [7], "billing_hold": [4, 5, 6]}.get(table, bad)
    assert all("refused by the test" in item["message"] for item in answer.body["rejected"])
    assert found["ids"] == found["events"] + found["parked"] == 4 - len(bad)
    assert found["wallet"][0] == 50 - found["events"] * EXAMPLE_CHARGE
    assert_books_are_right(*(payer.customer for payer, _ in three))

    fault.mend()
    again = relay.report(*batch).body
    assert again == {
        "accepted": 3 - found["events"],
        "duplicates": 12 - len(bad),
        "parked": 1 - found["parked"],
        "rejected": [],
    }
    assert {name: traces(refused)[name] for name in ("ids", "events", "parked")} == {"ids": 4, "events": 3, "parked": 1}
    assert payer_charged_once(refused)
    assert_books_are_right(refused.customer)


def payer_charged_once(payer: Payer) -> bool:
    return payer.balance == 50 - 3 * EXAMPLE_CHARGE and payer.wallet.held == 0


@pytest.mark.usefixtures("committed")
def test_what_can_t_be_quarantined_is_no_reason_to_forget_what_was_charged() -> None:
    """Rejected events are kept after the others are committed: an error there is a 5xx, and the repeat is right."""
    payer, relay = make_payer(), Relay()
    relay.client.raise_request_exception = False
    batch = [make_event(payer), make_event(payer, status="done")]
    with connection.cursor() as cursor:
        cursor.execute(
            "CREATE FUNCTION no_quarantine() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN"
            " RAISE EXCEPTION 'refused by the test' USING ERRCODE = '58030'; END $$;"
            "CREATE TRIGGER no_quarantine BEFORE INSERT ON metering_quarantinedevent"
            " FOR EACH STATEMENT EXECUTE FUNCTION no_quarantine()"
        )
    assert relay.report(*batch).status >= 500
    with connection.cursor() as cursor:
        cursor.execute("DROP FUNCTION no_quarantine() CASCADE")
    answer = relay.report(*batch)
    assert (answer.body["duplicates"], len(answer.body["rejected"])) == (1, 1)
    assert payer.balance == 50 - EXAMPLE_CHARGE
    assert QuarantinedEvent.objects.filter(event_id=batch[1]["id"]).count() == 1


@pytest.mark.django_db
def test_5_000_events_of_one_customer_are_all_written() -> None:
    """Row 9: only the first 100 of a flush are written."""
    payer = make_payer(credit="500")
    events = [make_event(payer, id=f"e{number}") for number in range(5_000)]
    assert Relay().report(*events).body["accepted"] == 5_000
    assert UsageEvent.objects.filter(customer=payer.customer).count() == 5_000
    assert payer.balance == 500 - 5_000 * EXAMPLE_CHARGE
    assert sum(hour.requests for hour in UsageHour.objects.filter(customer=payer.customer)) == 5_000
    assert_books_are_right(payer.customer)
