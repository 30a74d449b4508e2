"""check_ledger: clean after everything that can happen, and never silent about a figure that was changed."""

import threading
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from io import StringIO
from typing import Any

import msgspec
import pytest
from django.core.management import call_command
from django.db import ProgrammingError, connection

from billing import credits, holds
from billing.checks import snapshot
from billing.models import Customer, Transfer, VerifiedWallet, Wallet
from metering import parking, pricing, statements, verification
from metering.models import CustomerPlan, Model, ModelAlias, Plan, UsageEvent, VerifiedUsage
from metering.verification import Verified, verify_books
from tests.world import SONNET, Payer, Relay, make_event, make_payer

OCTOBER = date(2026, 10, 1)


def now() -> datetime:
    return datetime.now(UTC)


def give(payer: Payer, amount: str, kind: str) -> None:
    credits.grant(
        customer_id=payer.customer.pk,
        amount=Decimal(amount),
        kind=kind,
        reason="",
        reference="transfer 7",
        key=f"{kind} {amount}",
        at=now(),
    )


def hold(relay: Relay, payer: Payer, **changes: Any) -> str:
    answer = relay.authorize(payer, max_output_tokens=10, **changes)
    assert answer.status == 201, answer
    return str(answer.body["id"])


def make_busy_payer() -> Payer:
    """A customer to whom everything has happened: all kinds of grants, holds and events, debt, and a closed month."""
    payer, relay = make_payer(credit="0.05"), Relay()
    give(payer, "0.03", "promotional")
    relay.report(make_event(payer, occurred_at="2026-10-15T12:00:00Z"))
    relay.report(make_event(payer, occurred_at="2026-10-15T12:00:00Z"))  # from what is left of one grant, and the next
    statements.close_invoices(period=OCTOBER, at=datetime(2026, 11, 2, tzinfo=UTC), customer=payer.customer)
    settled, released, overdue = hold(relay, payer), hold(relay, payer), hold(relay, payer, ttl_seconds=1)
    hold(relay, payer)
    relay.release(released)
    holds.expire(at=now() + timedelta(seconds=60))
    late = make_event(payer, occurred_at="2026-10-31T23:00:00Z", authorization=settled)
    free = make_event(payer, usage={"input_tokens": 0, "output_tokens": 0})
    ahead = make_event(payer, occurred_at=(now() + timedelta(hours=1)).isoformat())
    waits = make_event(payer, model="a model of tomorrow")
    relay.report(late, free, ahead, waits, late, make_event(payer, authorization=overdue))
    relay.report(make_event(payer), make_event(payer))
    assert payer.balance < 0, "some of it is debt"
    give(payer, "10.00", "paid")
    relay.report(make_event(payer))
    parking.sweep(at=now() + timedelta(hours=2))
    estimate = make_event(payer, estimated=True)
    relay.report(estimate, make_event(payer, replaces=estimate["id"]))
    assert payer.wallet.held > 0
    return payer


def differences(*, full: bool = True) -> list[str]:
    return [item.what for _, item in verify_books(full=full, at=now()).differences]


@pytest.mark.django_db
class TestCleanBooks:
    def test_everything_that_can_happen_leaves_no_difference(self) -> None:
        payer = make_busy_payer()
        plan = Plan.objects.create(name="with a markup", multiplier=Decimal("1.2"))
        CustomerPlan.objects.create(customer=payer.customer, plan=plan)
        pricing.bump_version()
        Relay().report(make_event(payer))
        verified = verify_books(full=True, at=now())
        assert verified.differences == []
        assert verified.checked["customers"] >= 2, "the house customer is one"
        events = UsageEvent.objects.filter(customer=payer.customer).count()
        assert (events, verified.checked["events"]) == (12, UsageEvent.objects.count())

    def test_the_command_prints_what_it_checked(self) -> None:
        make_busy_payer()
        out = StringIO()
        call_command("check_ledger", "--full", stdout=out)
        answer = msgspec.json.decode(out.getvalue())
        assert answer["ok"] is True
        assert answer["differences"] == []
        kinds = {"customers", "events", "transfers", "entries", "holds", "grants", "hours"}
        assert answer["checked"].keys() == kinds
        assert all(count > 0 for count in answer["checked"].values())

    def test_the_command_names_a_difference_and_exits_with_1(self) -> None:
        payer = make_payer(credit="50.00")
        Wallet.objects.filter(customer=payer.customer).update(held=Decimal("0.5"))
        out = StringIO()
        with pytest.raises(SystemExit) as exit_:
            call_command("check_ledger", stdout=out)
        assert exit_.value.code == 1
        answer = msgspec.json.decode(out.getvalue())
        assert answer["ok"] is False
        assert answer["differences"] == [
            {"customer": payer.customer.public_id, "what": "held", "expected": "0.000000", "found": "0.500000"}
        ]


BOOKED_OTHERWISE = (
    "UPDATE billing_entry e SET account = 'promotional_usage' FROM billing_grantreturn r WHERE e.customer_id = {c}"
    " AND r.customer_id = e.customer_id AND e.transfer_id = r.transfer_id AND e.account = 'revenue'"
)

# (what is changed behind the ledger's back, {c} being the customer, and the beginnings of what must be found)
TAMPERINGS = {
    "wallet balance": ("UPDATE billing_wallet SET balance = balance + 1 WHERE customer_id = {c}", ["wallet balance"]),
    "wallet version": ("UPDATE billing_wallet SET version = version + 1 WHERE customer_id = {c}", ["wallet version"]),
    "wallet gone": ("DELETE FROM billing_wallet WHERE customer_id = {c}", ["wallets"]),
    "held": ("UPDATE billing_wallet SET held = held + 0.001 WHERE customer_id = {c}", ["held"]),
    "hold": (
        "UPDATE billing_hold SET remaining = remaining - 0.001 WHERE customer_id = {c} AND status = 'open'",
        ["held"],
    ),
    "resolved hold": (
        "ALTER TABLE billing_hold DROP CONSTRAINT hold_resolved_holds_nothing;"
        "UPDATE billing_hold SET remaining = 0.001 WHERE customer_id = {c} AND status = 'released'",
        ["held by auth_"],
    ),
    "entry amount": (
        "UPDATE billing_entry SET amount = amount - 1 WHERE customer_id = {c} AND wallet_version = 3",
        ["wallet balance", "balance after tr_", "sum of the entries of tr_", "charge of tr_"],
    ),
    "entry and its counterpart": (
        "UPDATE billing_entry SET amount = amount * 2 WHERE customer_id = {c} AND transfer_id = ("
        "SELECT transfer_id FROM billing_entry WHERE customer_id = {c} AND wallet_version = 3)",
        ["wallet balance", "balance after tr_", "charge of tr_"],
    ),
    "balance after": (
        "UPDATE billing_entry SET balance_after = balance_after + 1 WHERE customer_id = {c} AND wallet_version = 3",
        ["balance after tr_"],
    ),
    "gap": (
        "UPDATE billing_entry SET wallet_version = 1000 WHERE customer_id = {c} AND wallet_version = 3",
        ["wallet version after tr_"],
    ),
    "two wallet entries swapped": (
        "UPDATE billing_entry SET wallet_version = 1000 - wallet_version WHERE customer_id = {c}"
        " AND wallet_version IN (3, 4);"
        "UPDATE billing_entry SET wallet_version = wallet_version - 993 WHERE customer_id = {c}"
        " AND wallet_version IN (996, 997)",
        ["balance after tr_"],
    ),
    "transfer gone": (
        "DELETE FROM billing_transfer WHERE customer_id = {c} AND kind = 'usage'",
        ["transfers tr_", "charge of events in 2026-10-01 that name tr_"],
    ),
    "counterpart gone": (
        "DELETE FROM billing_entry WHERE customer_id = {c} AND account <> 'wallet'",
        ["sum of the entries of tr_", "entries of tr_"],
    ),
    "all entries of a transfer gone": (
        "DELETE FROM billing_entry WHERE customer_id = {c} AND transfer_id = ("
        "SELECT transfer_id FROM billing_entry WHERE customer_id = {c} AND wallet_version = 3)",
        ["wallet version", "entries of tr_", "charge of tr_"],
    ),
    "grant remaining": (
        "UPDATE billing_grant SET remaining = remaining - 1 WHERE customer_id = {c} AND kind = 'paid'",
        ["credit left on grants", "left of gr_"],
    ),
    "credit moved between grants": (
        "UPDATE billing_grant SET remaining = remaining + CASE kind WHEN 'paid' THEN -0.01 ELSE 0.01 END"
        " WHERE customer_id = {c} AND kind IN ('paid', 'goodwill')",
        ["left of gr_"],
    ),
    "grant use": (
        "UPDATE billing_grantuse SET amount = amount + 1 WHERE customer_id = {c}",
        ["left of gr_"],
    ),
    "grant use gone": ("DELETE FROM billing_grantuse WHERE customer_id = {c}", ["left of gr_"]),
    "grant gone": (
        "DELETE FROM billing_grant WHERE customer_id = {c} AND kind = 'goodwill'",
        ["uses of gr_"],
    ),
    "event charge": (
        "UPDATE metering_usageevent SET charge = charge + 0.01 WHERE customer_id = {c}",
        ["charge of evt_", "charge of hour", "charge of tr_"],
    ),
    "event charge, and one that makes up for it": (
        "UPDATE metering_usageevent SET charge = charge + CASE WHEN id % 2 = 0 THEN 0.01 ELSE -0.01 END"
        " WHERE customer_id = {c} AND occurred_at = '2026-10-15T12:00:00Z'",
        ["charge of evt_"],
    ),
    "event cost": (
        "UPDATE metering_usageevent SET cost = 0 WHERE customer_id = {c}",
        ["cost of evt_", "cost of hour"],
    ),
    "event quantities": (
        "UPDATE metering_usageevent SET quantities = quantities || '{{\"input\": 7}}' WHERE customer_id = {c}",
        ["charge of evt_", "cost of evt_", "input of hour"],
    ),
    "event quantity of no meter": (
        "UPDATE metering_usageevent SET quantities = quantities || '{{\"magic\": 7}}' WHERE customer_id = {c}",
        ["meters of evt_"],
    ),
    "event quantity without a price": (
        "UPDATE metering_usageevent SET quantities = quantities || '{{\"video_output\": 7}}' WHERE customer_id = {c}",
        ["meters of evt_"],
    ),
    "event prices": (
        "UPDATE metering_priceset SET content = jsonb_set(content, '{{meters,output,charge}}', '\"99\"') WHERE id IN ("
        "SELECT price_set_id FROM metering_usageevent WHERE customer_id = {c})",
        ["charge of evt_"],
    ),
    "price set gone": (
        "DELETE FROM metering_priceset WHERE id IN ("
        "SELECT price_set_id FROM metering_usageevent WHERE customer_id = {c})",
        ["meters of evt_"],
    ),
    "event gone": (
        "DELETE FROM metering_usageevent WHERE customer_id = {c} AND charge > 0",
        ["charge of tr_", "requests of hour", "charge of hour", "events of the id of evt_"],
    ),
    "free event gone": (
        "DELETE FROM metering_usageevent WHERE customer_id = {c} AND charge = 0",
        ["requests of hour", "events of the id of evt_"],
    ),
    "event without a transfer": (
        "UPDATE metering_usageevent SET transfer_id = NULL WHERE customer_id = {c}",
        ["charge of events without a transfer", "charge of tr_"],
    ),
    "event of another transfer": (
        "UPDATE metering_usageevent SET transfer_id = 1 WHERE customer_id = {c} AND charge > 0",
        ["that name tr_", "charge of tr_"],
    ),
    "free event of a transfer that is not there": (
        "UPDATE metering_usageevent SET transfer_id = 1 WHERE customer_id = {c} AND charge = 0",
        ["that name tr_"],
    ),
    "event of a transfer that granted credit": (
        "UPDATE metering_usageevent SET transfer_id = (SELECT min(id) FROM billing_transfer WHERE customer_id = {c}"
        " AND kind = 'grant') WHERE customer_id = {c} AND charge > 0",
        ["that name tr_", "charge of tr_"],
    ),
    "free event of a transfer that granted credit": (
        "UPDATE metering_usageevent SET transfer_id = (SELECT min(id) FROM billing_transfer WHERE customer_id = {c}"
        " AND kind = 'grant') WHERE customer_id = {c} AND charge = 0",
        ["that name tr_"],
    ),
    "transfer in another period": (
        "UPDATE billing_transfer SET period = '2020-01-01' WHERE customer_id = {c} AND kind = 'usage'",
        ["charge of tr_", "that name tr_"],
    ),
    "transfer without a period": (
        "UPDATE billing_transfer SET period = NULL WHERE customer_id = {c} AND kind = 'usage'",
        ["charge of tr_", "that name tr_"],
    ),
    "usage that became a grant": (
        "UPDATE billing_transfer SET kind = 'grant' WHERE customer_id = {c} AND kind = 'usage'",
        ["that name tr_"],
    ),
    "grant that became usage": (
        "UPDATE billing_transfer SET kind = 'usage', period = '2026-10-01' WHERE customer_id = {c} AND kind = 'grant'",
        ["charge of tr_"],
    ),
    "charge of one transfer moved to another": (
        "UPDATE metering_usageevent e SET transfer_id = t.id FROM (SELECT min(transfer_id) AS id FROM"
        " metering_usageevent WHERE customer_id = {c} AND period = '2026-10-01') t WHERE customer_id = {c}"
        " AND period = '2026-10-01' AND transfer_id IS NOT NULL",
        ["charge of tr_"],
    ),
    "wallet entry of another transfer": (
        "ALTER TABLE billing_entry DROP CONSTRAINT entry_number_names_its_transfer;"
        "UPDATE billing_entry SET transfer_id = 1 WHERE customer_id = {c} AND wallet_version = 3",
        ["transfers tr_", "sum of the entries of tr_", "charge of tr_"],
    ),
    "two wallet entries with each other's amount": (
        "UPDATE billing_entry e SET amount = o.amount FROM billing_entry o WHERE e.customer_id = {c}"
        " AND o.customer_id = {c} AND e.wallet_version IN (3, 5) AND o.wallet_version = 8 - e.wallet_version",
        ["balance after tr_", "sum of the entries of tr_", "charge of tr_"],
    ),
    "event in another period": (
        "UPDATE metering_usageevent SET period = '2020-01-01' WHERE customer_id = {c} AND charge > 0",
        ["charge of events in 2020-01-01", "charge of tr_", "charge of hour"],
    ),
    "event key gone": ("DELETE FROM metering_eventkey WHERE customer_id = {c}", ["number of the id of evt_"]),
    "event key of another number": (
        "UPDATE metering_eventkey SET id = id + 1000000 WHERE customer_id = {c}",
        ["number of the id of evt_", "events of the id of evt_"],
    ),
    "event keys swapped": (
        "UPDATE metering_eventkey k SET id = o.low + o.high - k.id FROM (SELECT min(id) AS low, max(id) AS high FROM"
        " metering_usageevent WHERE customer_id = {c}) o WHERE k.customer_id = {c} AND k.id IN (o.low, o.high)",
        ["number of the id of evt_"],
    ),
    "key of a free event gone": (
        "DELETE FROM metering_eventkey k USING metering_usageevent e WHERE k.customer_id = {c}"
        " AND e.customer_id = k.customer_id AND e.id = k.id AND e.charge = 0",
        ["number of the id of evt_"],
    ),
    "parked event gone": (
        "DELETE FROM metering_parkedevent WHERE customer_id = {c} AND resolved_at IS NULL",
        ["events of the id of evt_"],
    ),
    "adjustment gone": (
        "DELETE FROM metering_usageadjustment WHERE customer_id = {c}",
        ["charge of tr_", "requests of hour", "charge of hour"],
    ),
    "event of an adjustment gone": (
        "DELETE FROM metering_usageevent e USING metering_usageadjustment a WHERE e.customer_id = {c}"
        " AND a.customer_id = e.customer_id AND a.event_number = e.id",
        ["that adjustment 1 goes on from", "events of the id of evt_", "charge of tr_"],
    ),
    "adjustment of other figures": (
        "UPDATE metering_usageadjustment SET old_charge = old_charge + 1 WHERE customer_id = {c}",
        ["before adjustment 1", "charge of tr_", "charge of hour"],
    ),
    "adjustment of another event's quantities": (
        "UPDATE metering_usageadjustment SET old_quantities = '{{\"input\": 7}}' WHERE customer_id = {c}",
        ["that adjustment 1 goes on from", "input of hour"],
    ),
    "adjustment for nobody": (
        "UPDATE metering_usageadjustment SET replaced_by = 1 WHERE customer_id = {c}",
        ["events in the place of evt_"],
    ),
    "grant return": (
        "UPDATE billing_grantreturn SET amount = amount * 1000 WHERE customer_id = {c}",
        ["given back of what tr_", "left of gr_"],
    ),
    "grant return gone": (
        "DELETE FROM billing_grantreturn WHERE customer_id = {c}",
        ["left of gr_", "back to paid grants by tr_"],
    ),
    "grant return by a transfer that gave nothing back": (
        "UPDATE billing_grantreturn SET transfer_id = used_by_id WHERE customer_id = {c}",
        ["back to paid grants by tr_"],
    ),
    "grant of another kind than what came back to it": (
        "UPDATE billing_grant SET kind = 'promotional', is_refundable = false"
        " WHERE customer_id = {c} AND kind = 'paid'",
        ["back to promotional grants by tr_", "back to paid grants by tr_"],
    ),
    "money back booked on the other account": (BOOKED_OTHERWISE, ["back to promotional grants", "back to paid grants"]),
    "hour charge": ("UPDATE metering_usagehour SET charge = charge + 1 WHERE customer_id = {c}", ["charge of hour"]),
    "hour cost": ("UPDATE metering_usagehour SET cost = cost + 1 WHERE customer_id = {c}", ["cost of hour"]),
    "hour requests": (
        "UPDATE metering_usagehour SET requests = requests + 1 WHERE customer_id = {c}",
        ["requests of hour"],
    ),
    "hour quantity": ("UPDATE metering_usagehour SET output = 1 WHERE customer_id = {c}", ["output of hour"]),
    "hour quantity of a meter nobody uses": (
        "UPDATE metering_usagehour SET video_output = 1 WHERE customer_id = {c}",
        ["video_output of hour"],
    ),
    "hour gone": (
        "DELETE FROM metering_usagehour WHERE customer_id = {c}",
        ["requests of hour", "exact total of invoice", "output of invoice"],
    ),
    "hour too many": (
        "INSERT INTO metering_usagehour (customer_id, period, hour, api_key_id, model_id, channel_id, price_set_id,"
        " requests, charge, cost) VALUES ({c}, '2026-09-01', '2026-09-01', 1, 1, 1, 1, 3, 1, 1)",
        ["requests of hour", "charge of hour"],
    ),
    "invoice total": (
        "UPDATE billing_invoice SET exact_total = exact_total + 1 WHERE customer_id = {c}",
        ["sum of the usage lines of invoice", "subtotal of invoice", "exact total of invoice"],
    ),
    "invoice subtotal": (
        "UPDATE billing_invoice SET subtotal = subtotal + 1, total = total + 1 WHERE customer_id = {c}",
        ["sum of the lines of invoice", "subtotal of invoice"],
    ),
    "invoice line's amount": (
        "UPDATE billing_invoiceline l SET amount = amount + 1 FROM billing_invoice i WHERE i.id = l.invoice_id"
        " AND i.customer_id = {c} AND meter = 'output'",
        ["lines whose amount is not quantity × unit price of invoice", "sum of the usage lines of invoice"],
    ),
    "invoice line's quantity": (
        "UPDATE billing_invoiceline l SET quantity = quantity + 1 FROM billing_invoice i WHERE i.id = l.invoice_id"
        " AND i.customer_id = {c} AND meter = 'output'",
        ["lines whose amount is not quantity × unit price of invoice", "output of invoice"],
    ),
    "invoice line gone": (
        "DELETE FROM billing_invoiceline l USING billing_invoice i WHERE i.id = l.invoice_id AND i.customer_id = {c}"
        " AND meter = ''",
        ["sum of the lines of invoice"],
    ),
    "invoice gone": (
        "DELETE FROM billing_invoiceline l USING billing_invoice i WHERE i.id = l.invoice_id AND i.customer_id = {c};"
        "DELETE FROM billing_invoice WHERE customer_id = {c}",
        ["charge of closed months on no invoice"],
    ),
    "invoice of another amount than its transfers": (
        "UPDATE billing_entry e SET amount = amount - 1 FROM billing_transfer t WHERE e.customer_id = {c}"
        " AND t.customer_id = e.customer_id AND t.id = e.transfer_id AND t.kind = 'usage' AND t.period = '2026-10-01'"
        " AND e.account = 'wallet'",
        ["usage transfers of invoice"],
    ),
    "transfer of a closed month": (
        "UPDATE billing_transfer SET period = '2026-10-01' WHERE customer_id = {c} AND kind = 'usage'",
        ["usage transfers of invoice"],
    ),
    "invoice's closing balance": (
        "UPDATE billing_invoice SET closing_balance = closing_balance + 1 WHERE customer_id = {c}",
        ["closing balance of invoice"],
    ),
    "invoice's other movements": (
        "UPDATE billing_invoice SET other_movements = other_movements + 1 WHERE customer_id = {c}",
        ["closing balance of invoice"],
    ),
}


def tamper(sql: str, payer: Payer) -> None:
    """Change rows behind the ledger's back: no trigger and no foreign key looks."""
    with connection.cursor() as cursor:
        cursor.execute("SET CONSTRAINTS ALL IMMEDIATE")
        cursor.execute("SET LOCAL session_replication_role = replica")
        cursor.execute(sql.format(c=payer.customer.pk))
        cursor.execute("SET LOCAL session_replication_role = origin")


def house() -> str:
    return str(Customer.objects.get(is_house=True).public_id)


@pytest.mark.django_db
class TestTampering:
    @pytest.mark.parametrize("name", TAMPERINGS)
    def test_it_is_found(self, name: str) -> None:
        payer, sql = make_busy_payer(), TAMPERINGS[name][0]
        make_payer(name="Somebody else")
        tamper(sql, payer)
        verified = verify_books(full=True, at=now())
        assert {customer for customer, _ in verified.differences} >= {payer.customer.public_id}
        if "priceset" not in sql:  # Price sets are everybody's.
            others = {customer for customer, _ in verified.differences} - {payer.customer.public_id}
            # The number of an invoice that is gone is missing in the operator's series.
            assert others == ({house()} if name == "invoice gone" else set())
        found = [item.what for _, item in verified.differences]
        for expected in TAMPERINGS[name][1]:
            assert any(expected in what for what in found), found

    @pytest.mark.parametrize("last", ["last_number + 1", "last_number - 1"])
    def test_a_gap_in_the_numbers_of_invoices_is_the_operators(self, last: str) -> None:
        payer = make_busy_payer()
        tamper(f"UPDATE billing_invoiceseries SET last_number = {last} WHERE series = 'INV' AND year = 2026", payer)
        ((customer, found),) = verify_books(full=True, at=now()).differences
        assert customer == house()
        assert found.what == "numbers of series INV-2026"

    def test_a_difference_says_what_it_should_be(self) -> None:
        payer, relay = make_payer(), Relay()
        relay.report(make_event(payer))
        tamper("UPDATE metering_usagehour SET charge = 1 WHERE customer_id = {c}", payer)
        (found,) = verify_books(full=True, at=now()).differences
        assert found[0] == payer.customer.public_id
        assert (found[1].expected, found[1].found) == ("0.029250", "1.000000")


@pytest.mark.django_db
class TestIncremental:
    def test_it_looks_only_at_what_came_after_the_last_time(self) -> None:
        payer, relay = make_busy_payer(), Relay()
        first = verify_books(full=False, at=now())
        nothing = verify_books(full=False, at=now())
        relay.report(make_event(payer), make_event(payer))
        second = verify_books(full=False, at=now())
        assert first.ok
        assert nothing.ok
        assert second.ok
        assert first.checked["events"] >= 9
        assert (nothing.checked["events"], nothing.checked["transfers"], nothing.checked["entries"]) == (0, 0, 0)
        # A whole hour is summed up again, with what was in it before.
        assert 2 <= second.checked["events"] < first.checked["events"]
        assert second.checked["transfers"] == 1

    @pytest.mark.parametrize(
        ("sql", "expected"),
        [
            ("UPDATE billing_wallet SET balance = balance + 1 WHERE customer_id = {c}", "wallet balance"),
            ("UPDATE billing_wallet SET version = version - 1 WHERE customer_id = {c}", "wallet version"),
            ("UPDATE billing_wallet SET held = held + 1 WHERE customer_id = {c}", "held"),
            (
                "UPDATE billing_grant SET remaining = remaining - 0.001 WHERE customer_id = {c} AND kind = 'paid'",
                "used of all grants",
            ),
            ("DELETE FROM billing_entry WHERE customer_id = {c} AND transfer_id = {t}", "entries of tr_"),
            ("DELETE FROM billing_grantuse WHERE customer_id = {c} AND transfer_id = {t}", "used of all grants"),
            (
                "UPDATE metering_usageevent SET charge = 0 WHERE customer_id = {c} AND transfer_id = {t}",
                "charge of evt_",
            ),
            ("DELETE FROM metering_usageevent WHERE customer_id = {c} AND transfer_id = {t}", "charge of tr_"),
            ("UPDATE metering_usagehour SET charge = charge + 1 WHERE customer_id = {c}", "charge of all hourly usage"),
            ("UPDATE metering_usagehour SET output = 0 WHERE customer_id = {c}", "output of hour"),
        ],
    )
    def test_what_came_after_is_checked(self, sql: str, expected: str) -> None:
        payer, relay = make_busy_payer(), Relay()
        assert verify_books(full=False, at=now()).ok
        relay.report(make_event(payer))
        event = UsageEvent.objects.filter(customer=payer.customer).order_by("-id")[0]
        tamper(sql.replace("{t}", str(event.transfer_id)), payer)
        found = differences(full=False)
        assert any(expected in what for what in found), found

    @pytest.mark.parametrize(
        ("sql", "expected"),
        [
            ("UPDATE billing_grantreturn SET amount = amount * 2 WHERE customer_id = {c}", "given back of what tr_"),
            ("DELETE FROM billing_grantuse WHERE customer_id = {c}", "given back of what tr_"),
            ("DELETE FROM billing_grantreturn WHERE customer_id = {c}", "back to paid grants by tr_"),
            (BOOKED_OTHERWISE, "back to promotional grants by tr_"),
        ],
    )
    def test_what_adjustments_have_given_back_since_is_checked(self, sql: str, expected: str) -> None:
        payer, relay = make_payer(credit="0"), Relay()
        give(payer, "10.00", "paid")
        estimate = make_event(payer, estimated=True)
        relay.report(estimate)
        assert verify_books(full=False, at=now()).ok
        relay.report(make_event(payer, replaces=estimate["id"]))
        tamper(sql, payer)
        found = differences(full=False)
        assert any(expected in what for what in found), found

    def test_what_came_before_is_left_to_the_full_check(self) -> None:
        payer = make_busy_payer()
        assert verify_books(full=False, at=now()).ok
        tamper("UPDATE metering_usageevent SET cost = 0 WHERE customer_id = {c}", payer)
        assert differences(full=False) == []
        assert any("cost of evt_" in what for what in differences(full=True))

    def test_a_difference_is_found_again_until_it_is_gone(self) -> None:
        payer = make_busy_payer()
        Wallet.objects.filter(customer=payer.customer).update(held=99)
        assert differences(full=False) == ["held"]
        assert differences(full=False) == ["held"]
        assert not VerifiedWallet.objects.filter(customer=payer.customer).exists()
        assert not VerifiedUsage.objects.filter(customer=payer.customer).exists()

    def test_events_that_were_parked_before_and_settled_after_are_checked(self) -> None:
        payer, relay = make_payer(), Relay()
        relay.report(make_event(payer, model="a model of tomorrow"), make_event(payer))
        assert verify_books(full=False, at=now()).ok
        ModelAlias.objects.create(name="a model of tomorrow", model=Model.objects.get(public_id=SONNET))
        pricing.bump_version()
        assert parking.sweep(at=now()).settled == 1
        clean = verify_books(full=False, at=now())
        assert clean.ok, clean.differences
        assert clean.checked["events"] >= 1

    def test_a_parked_event_that_is_settled_wrongly_is_found(self) -> None:
        payer, relay = make_payer(), Relay()
        relay.report(make_event(payer, model="a model of tomorrow"), make_event(payer))
        assert verify_books(full=False, at=now()).ok
        ModelAlias.objects.create(name="a model of tomorrow", model=Model.objects.get(public_id=SONNET))
        pricing.bump_version()
        parking.sweep(at=now())
        first = UsageEvent.objects.filter(customer=payer.customer).order_by("id")[0]
        tamper(f"UPDATE metering_usageevent SET charge = 1 WHERE customer_id = {{c}} AND id = {first.pk}", payer)
        assert any("charge of evt_" in what for what in differences(full=False))


@pytest.mark.django_db
class TestNumbersOfTwoCustomers:
    """The numbers of transfers are the customer's own: its figures are never made up for by another's."""

    def test_charges_that_make_up_for_each_other_are_found(self) -> None:
        one, other = make_payer(), make_payer()
        Relay().report(make_event(one), make_event(other))
        numbers = [Transfer.objects.get(customer=payer.customer, kind="usage").pk for payer in (one, other)]
        for table, column in (("billing_transfer", "id"), ("metering_usageevent", "transfer_id")):
            tamper(
                f"UPDATE {table} SET {column} = {numbers[0]} WHERE customer_id = {{c}} AND {column} = {numbers[1]}",
                other,
            )
        tamper(
            f"UPDATE billing_entry SET transfer_id = {numbers[0]}, id = id + 16 * ({numbers[0]} - {numbers[1]})"
            f" WHERE customer_id = {{c}} AND transfer_id = {numbers[1]};"
            f"UPDATE billing_grantuse SET transfer_id = {numbers[0]} WHERE customer_id = {{c}}",
            other,
        )
        assert differences() == []
        for payer, sign in ((one, "+"), (other, "-")):
            tamper(f"UPDATE metering_usageevent SET charge = charge {sign} 0.001 WHERE customer_id = {{c}}", payer)
        assert len([what for what in differences() if what.startswith("charge of tr_")]) == 2


@pytest.mark.django_db
class TestRuns:
    def test_each_connection_has_as_many_and_they_are_even(self) -> None:
        payers = [make_payer() for _ in range(8)]
        Relay().report(*(make_event(payer) for payer in payers))
        movements = dict(Wallet.objects.values_list("customer_id", "version"))
        total, most = sum(movements.values()), max(movements.values())
        runs = list(verification._scopes(full=True, shares=2))
        sizes = [sum(movements.get(pk, 0) for pk in range(run.first, run.last + 1)) for run in runs]
        assert sum(sizes) == total
        assert len(runs) == 2
        assert abs(sizes[0] - sizes[1]) <= 2 * most


@pytest.mark.usefixtures("committed")
class TestManyCustomers:
    """Outside a transaction the runs of customers are shared out among connections."""

    def test_each_is_checked_once_and_named_in_order(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(verification, "_CUSTOMERS", 2)
        payers = [make_payer(name=f"Many {number}") for number in range(9)]
        Relay().report(*(make_event(payer) for payer in payers))
        wrong = [payers[1], payers[4], payers[8]]
        for payer in wrong:
            Wallet.objects.filter(customer=payer.customer).update(held=1)
        verified = verify_books(full=True, at=now())
        Wallet.objects.filter(customer__in=[payer.customer for payer in wrong]).update(held=0)
        mine = {payer.customer.public_id for payer in payers}
        found = [customer for customer, _ in verified.differences if customer in mine]
        assert found == [payer.customer.public_id for payer in wrong]
        assert verified.checked["customers"] == Customer.objects.count()
        assert verified.checked["events"] == UsageEvent.objects.count()
        right = set(VerifiedUsage.objects.values_list("customer__public_id", flat=True))
        assert mine - right == set(found)

    def test_what_stops_one_connection_stops_the_check(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(verification, "_CUSTOMERS", 1)
        payers = [make_payer(name=f"Stopped {number}") for number in range(4)]
        with connection.cursor() as cursor:
            cursor.execute("ALTER TABLE billing_grantuse RENAME TO not_there")
        try:
            with pytest.raises(ProgrammingError):
                verify_books(full=True, at=now())
        finally:
            with connection.cursor() as cursor:
                cursor.execute("ALTER TABLE not_there RENAME TO billing_grantuse")
        assert not VerifiedUsage.objects.filter(customer__in=[payer.customer for payer in payers]).exists()


@pytest.mark.usefixtures("committed")
class TestUnderLoad:
    """Whole books are compared while they are written."""

    def test_no_difference_is_seen_that_is_not_there(self) -> None:
        payers = [make_payer(credit="0.10", name=f"Load {number}") for number in range(5)]
        with _settling(payers) as settled:
            checks: list[Verified] = []
            while settled() < 60 or len(checks) < 4:
                checks.append(verify_books(full=len(checks) % 2 == 0, at=now()))
        mine = {payer.customer.public_id for payer in payers}
        assert [item for check in checks for customer, item in check.differences if customer in mine] == []

    def test_without_a_snapshot_a_balance_and_its_entries_part_ways(self) -> None:
        """The negative control: two reads of one wallet, with and without what keeps them together."""
        payers = [make_payer(name="Load")]
        with _settling(payers) as settled:
            apart = sum(_balance_and_entries_differ(payers[0]) for _ in range(300))
            with_snapshot = 0
            for _ in range(100):
                with snapshot():
                    with_snapshot += _balance_and_entries_differ(payers[0])
            assert settled() > 0
        assert apart > 0
        assert with_snapshot == 0


def _balance_and_entries_differ(payer: Payer) -> bool:
    with connection.cursor() as cursor:
        cursor.execute("SELECT version FROM billing_wallet WHERE customer_id = %s", [payer.customer.pk])
        (version,) = cursor.fetchone()
        cursor.execute("SELECT pg_sleep(0.005)")
        cursor.execute(
            "SELECT count(*) FROM billing_entry WHERE customer_id = %s AND account = 'wallet'", [payer.customer.pk]
        )
        (entries,) = cursor.fetchone()
    return bool(version != entries)


class _settling:
    """A thread that authorizes and reports for these customers for as long as the block runs."""

    def __init__(self, payers: list[Payer]) -> None:
        self.payers, self.count, self.stop = payers, 0, threading.Event()
        self.thread = threading.Thread(target=self._run)

    def _run(self) -> None:
        relay = Relay()
        try:
            while not self.stop.is_set():
                events = []
                for payer in self.payers:
                    answer = relay.authorize(payer, input_tokens=10, max_output_tokens=1)
                    events.append(make_event(payer, authorization=answer.body.get("id")))
                assert relay.report(*events).body["accepted"] == len(events)
                self.count += 1
        finally:
            connection.close()

    def __enter__(self) -> Any:
        self.thread.start()
        return lambda: self.count

    def __exit__(self, *error: object) -> None:
        self.stop.set()
        self.thread.join()


@pytest.mark.django_db
def test_the_house_customer_is_checked_too() -> None:
    house = Customer.objects.get(is_house=True)
    Wallet.objects.filter(customer=house).update(held=1)
    assert [customer for customer, _ in verify_books(full=True, at=now()).differences] == [house.public_id]
