"""Rating again: a preview changes nothing, applying puts right what differs, and a closed month stays as it was."""

import random
from collections.abc import Iterator
from datetime import UTC, date, datetime
from decimal import Decimal
from io import StringIO
from typing import Any

import msgspec
import pytest
from django.core.management import CommandError, call_command

from billing import credits
from billing.models import Entry, Grant, Invoice, Transfer
from metering import formats, parking, pricing, rerating, rerating_pages, statements
from metering.formats import Usage
from metering.models import Model, Price, Rerating, UsageAdjustment, UsageEvent, UsageHour
from metering.rerating import Outcome
from metering.rerating_pages import Scope
from metering.verification import verify_books
from tests.world import EXAMPLE_CHARGE, EXAMPLE_USAGE, SONNET, Payer, Relay, make_event, make_payer

pytestmark = pytest.mark.django_db

AT = datetime(2027, 1, 1, tzinfo=UTC)
OCTOBER, NOVEMBER = date(2026, 10, 1), date(2026, 11, 1)
IN_OCTOBER = "2026-10-15T12:00:00Z"
EVER = Scope(datetime(2020, 1, 1, tzinfo=UTC), datetime(2030, 1, 1, tzinfo=UTC))
# Of the worked example: 500 output tokens at 15 USD.
OUTPUT_CHARGE = Decimal("0.0075")


@pytest.fixture(autouse=True)
def _books_are_right() -> Iterator[None]:
    yield
    for full in (False, True):
        verified = verify_books(full=full, at=AT)
        assert verified.ok, verified.differences


def mend(unit_price: str, *, meter: str = "output", model: str = SONNET, kind: str = "") -> None:
    """Let the price of a meter have been another one all the time."""
    rows = Price.objects.filter(model__public_id=model, meter=meter, variant="")
    (rows.filter(kind=kind) if kind else rows).update(unit_price=Decimal(unit_price))
    pricing.bump_version()


def apply(scope: Scope = EVER) -> Outcome:
    return rerating.apply(scope, reason="a wrong price", actor="tests", at=AT)


def changed(outcome: Outcome, payer: Payer) -> tuple[int, Decimal, Decimal]:
    sums = outcome.customers.get(payer.customer.pk, rerating.Sums())
    return sums.events, sums.old_charge, sums.new_charge


def close(payer: Payer, month: date = OCTOBER) -> Invoice:
    at = datetime(2027, 1, 2, tzinfo=UTC)
    statements.close_invoices(period=month, at=at, customer=payer.customer)
    return Invoice.objects.get(customer=payer.customer, period=month)


def lines(invoice: Invoice) -> list[tuple[str, str, int, Decimal]]:
    rows = invoice.lines.exclude(quantity=None).order_by("position")
    return [(row.description, row.meter, int(row.quantity), Decimal(int(row.unit_price))) for row in rows]


def stored(payer: Payer, period: date = OCTOBER) -> list[Any]:
    """All that a closed month consists of."""
    return [
        list(model.objects.filter(customer=payer.customer, period=period).order_by("pk").values())
        for model in (UsageHour, UsageEvent, Invoice)
    ] + [list(Entry.objects.filter(customer=payer.customer).order_by("pk").values())]


class TestPreview:
    def test_shows_old_new_and_difference_by_customer_and_changes_nothing(self) -> None:
        payer, other, relay = make_payer(), make_payer(), Relay()
        relay.report(make_event(payer), make_event(payer), make_event(other), make_event(other, model="gpt-4o"))
        mend("20")
        before = [stored(one, NOVEMBER) for one in (payer, other)]
        outcome = rerating.preview(EVER)
        assert changed(outcome, payer) == (2, 2 * EXAMPLE_CHARGE, 2 * EXAMPLE_CHARGE + Decimal("0.005"))
        assert changed(outcome, other) == (1, EXAMPLE_CHARGE, EXAMPLE_CHARGE + Decimal("0.0025"))
        assert [stored(one, NOVEMBER) for one in (payer, other)] == before
        assert not Rerating.objects.exists()
        assert not UsageAdjustment.objects.exists()

    def test_without_a_change_shows_nothing(self) -> None:
        payer = make_payer()
        Relay().report(make_event(payer))
        outcome = rerating.preview(EVER)
        assert (outcome.events, outcome.customers, outcome.left) == (1, {}, {})


class TestApply:
    def test_charges_the_difference_and_says_so_everywhere(self) -> None:
        payer, relay = make_payer(), Relay()
        relay.report(make_event(payer))
        mend("20")
        outcome = apply()
        new = EXAMPLE_CHARGE + Decimal("0.0025")
        assert changed(outcome, payer) == (1, EXAMPLE_CHARGE, new)
        assert payer.balance == 50 - new
        job = outcome.rerating
        assert job is not None
        assert (job.events, job.old_charge, job.new_charge, job.actor) == (1, EXAMPLE_CHARGE, new, "tests")
        assert (job.new_cost - job.old_cost, job.finished_at) == (Decimal("0.0025"), AT)
        adjustment = UsageAdjustment.objects.get(customer=payer.customer)
        event = UsageEvent.objects.get(customer=payer.customer)
        assert (adjustment.event_number, adjustment.step, adjustment.kind) == (event.pk, 1, "rerating")
        assert (adjustment.old_charge, adjustment.new_charge, event.charge) == (EXAMPLE_CHARGE, new, EXAMPLE_CHARGE)
        transfer = Transfer.objects.get(customer=payer.customer, kind="adjustment")
        assert transfer.pk == adjustment.transfer_id
        assert transfer.key.startswith(f"rerating:{job.pk}:")
        assert transfer.reason == "a wrong price"
        hours = UsageHour.objects.filter(customer=payer.customer).order_by("pk")
        assert [(hour.requests, hour.charge, hour.output) for hour in hours] == [(0, 0, 0), (1, new, 500)]

    def test_twice_has_no_second_effect(self) -> None:
        payer = make_payer()
        Relay().report(make_event(payer))
        mend("20")
        apply()
        before = stored(payer, NOVEMBER)
        again = apply()
        assert (again.customers, again.rerating) == ({}, None)
        assert stored(payer, NOVEMBER) == before
        assert Rerating.objects.count() == 1

    def test_there_and_back_leaves_what_was(self) -> None:
        payer, relay = make_payer(credit="0.03"), Relay()
        relay.report(make_event(payer), make_event(payer))
        grants = list(Grant.objects.filter(customer=payer.customer).values_list("pk", "remaining"))
        balance = payer.balance
        for price in ("0", "40", "15"):
            mend(price)
            apply()
        assert payer.balance == balance
        assert list(Grant.objects.filter(customer=payer.customer).values_list("pk", "remaining")) == grants
        assert UsageAdjustment.objects.filter(customer=payer.customer).count() == 6

    def test_gives_back_over_several_grants_and_debt(self) -> None:
        payer, relay = make_payer(credit="0.02"), Relay()
        for kind, amount in (("paid", "0.02"), ("promotional", "0.02")):
            credits.grant(
                customer_id=payer.customer.pk,
                amount=Decimal(amount),
                kind=kind,
                reason="",
                reference="wire",
                key=kind,
                at=AT,
            )
        relay.report(*[make_event(payer) for _ in range(3)])
        assert payer.balance == Decimal("0.06") - 3 * EXAMPLE_CHARGE
        for meter in ("output", "input", "cache_write_1h", "cache_read", "cache_write_5m"):
            mend("0", meter=meter)
        apply()
        assert payer.balance == Decimal("0.06")
        remaining = Grant.objects.filter(customer=payer.customer).order_by("pk").values_list("remaining", flat=True)
        assert list(remaining) == [Decimal("0.02")] * 3

    def test_only_the_cost_may_differ(self) -> None:
        payer = make_payer()
        Relay().report(make_event(payer))
        mend("1", kind="cost")
        apply()
        adjustment = UsageAdjustment.objects.get(customer=payer.customer)
        assert (adjustment.transfer_id, adjustment.old_charge) == (None, adjustment.new_charge)
        assert adjustment.new_cost < adjustment.old_cost
        assert payer.balance == 50 - EXAMPLE_CHARGE
        assert not Transfer.objects.filter(kind="adjustment").exists()

    def test_of_free_events_charges_them(self) -> None:
        payer, relay = make_payer(), Relay()
        mend("0")
        tokens = {"format": "meters", "usage": {"output": 500}}
        relay.report(make_event(payer, **tokens), make_event(payer, format="meters", usage={"input": 0}))
        assert payer.balance == 50
        mend("15")
        assert changed(apply(), payer) == (1, Decimal(0), OUTPUT_CHARGE)
        assert payer.balance == 50 - OUTPUT_CHARGE

    def test_leaves_alone_what_a_correction_took_back(self) -> None:
        payer, relay = make_payer(), Relay()
        old = make_event(payer, estimated=True)
        relay.report(old, make_event(payer, replaces=old["id"]))
        mend("20")
        assert changed(apply(), payer)[0] == 1
        assert payer.balance == 50 - EXAMPLE_CHARGE - Decimal("0.0025")

    def test_a_correction_takes_back_what_the_estimate_counts_for_by_now(self) -> None:
        payer, relay = make_payer(), Relay()
        old = make_event(payer, estimated=True)
        relay.report(old)
        mend("20")
        apply()
        mend("15")
        relay.report(make_event(payer, replaces=old["id"]))
        assert payer.balance == 50 - EXAMPLE_CHARGE

    def test_of_what_has_no_price_now_leaves_it_and_counts_it(self) -> None:
        payer = make_payer()
        Relay().report(make_event(payer))
        Price.objects.filter(model__public_id=SONNET, meter="output").delete()
        pricing.bump_version()
        assert apply().left == {"no_price": 1}

    def test_is_limited_to_its_time_model_and_customer(self) -> None:
        payer, other, relay = make_payer(), make_payer(), Relay()
        relay.report(
            make_event(payer, occurred_at="2026-10-01T00:00:00Z"),
            make_event(payer, occurred_at="2026-10-31T23:59:59.999999Z"),
            make_event(payer, occurred_at="2026-11-01T00:00:00Z"),
            make_event(payer, occurred_at=IN_OCTOBER, model="gpt-4o", channel="openai"),
            make_event(other, occurred_at=IN_OCTOBER),
        )
        for model in (SONNET, "gpt-4o"):
            mend("1000", model=model)
        start, end = datetime(2026, 10, 1, tzinfo=UTC), datetime(2026, 11, 1, tzinfo=UTC)
        number = Model.objects.get(public_id=SONNET).pk
        one = rerating.preview(Scope(start, end, number, payer.customer.pk))
        assert (one.events, changed(one, payer)[0], changed(one, other)[0]) == (2, 2, 0)
        assert changed(rerating.preview(Scope(start, end, number)), other)[0] == 1
        assert rerating.preview(Scope(start, end, None, payer.customer.pk)).events == 3


class TestSeveralCallsInOneResponse:
    ADVISOR = "claude-opus-4-20250514"

    def report(self, payer: Payer, **changes: Any) -> dict[str, Any]:
        advisor = {"type": "advisor_message", "model": self.ADVISOR, "input_tokens": 1000, "output_tokens": 100}
        event = make_event(payer, **changes)
        event["usage"] = {**EXAMPLE_USAGE, "iterations": [{"type": "message", **EXAMPLE_USAGE}, advisor]}
        assert Relay().report(event).body["accepted"] == 1
        return event

    def test_each_is_rated_by_its_own_model(self) -> None:
        payer = make_payer()
        self.report(payer)
        before = payer.balance
        mend("1000", model=self.ADVISOR)
        number = Model.objects.get(public_id=self.ADVISOR).pk
        outcome = apply(Scope(EVER.start, EVER.end, model_id=number))
        assert changed(outcome, payer)[0] == 1
        assert payer.balance == before - 100 * Decimal(1000 - 75) / 10**6
        adjustment = UsageAdjustment.objects.get()
        assert [part["kind"] for part in adjustment.new_parts] == [part["kind"] for part in adjustment.old_parts]
        assert sum(hour.requests for hour in UsageHour.objects.filter(customer=payer.customer)) == 1

    def test_all_are_taken_back_by_a_correction(self) -> None:
        payer = make_payer()
        old = self.report(payer, estimated=True)
        Relay().report(make_event(payer, replaces=old["id"]))
        assert payer.balance == 50 - EXAMPLE_CHARGE
        assert sum(hour.requests for hour in UsageHour.objects.filter(customer=payer.customer)) == 1


class TestPages:
    @pytest.fixture(autouse=True)
    def _small(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(rerating_pages, "PAGE", 3)
        monkeypatch.setattr(rerating_pages, "CUSTOMERS_PER_PAGE", 2)

    def test_many_events_of_many_customers_are_all_put_right_once(self) -> None:
        payers, relay = [make_payer() for _ in range(5)], Relay()
        relay.report(*[make_event(payer, occurred_at=IN_OCTOBER) for payer in payers for _ in range(4)])
        mend("20")
        outcome = apply()
        assert outcome.events == 20
        for payer in payers:
            assert changed(outcome, payer)[0] == 4
            assert payer.balance == 50 - 4 * (EXAMPLE_CHARGE + Decimal("0.0025"))
        assert outcome.rerating is not None
        assert outcome.rerating.events == 20

    def test_what_was_interrupted_goes_on_as_the_same_job(self, monkeypatch: pytest.MonkeyPatch) -> None:
        payers, relay = [make_payer() for _ in range(3)], Relay()
        relay.report(*[make_event(payer) for payer in payers for _ in range(4)])
        mend("20")
        put_right, calls = rerating._put_right, []

        def break_off(*args: Any) -> dict[int, rerating.Sums]:
            calls.append(1)
            if len(calls) == 3:
                raise KeyboardInterrupt
            return put_right(*args)

        monkeypatch.setattr(rerating, "_put_right", break_off)
        with pytest.raises(KeyboardInterrupt):
            apply()
        first = Rerating.objects.get()
        assert (first.events, first.finished_at, first.reached_customer) == (6, None, payers[1].customer.pk - 1)
        outcome = apply()
        assert outcome.rerating == first
        assert outcome.rerating is not None
        assert outcome.rerating.events == 12
        assert {payer.balance for payer in payers} == {50 - 4 * (EXAMPLE_CHARGE + Decimal("0.0025"))}


class TestRow18:
    """A price refresh changes last week's closed total."""

    def test_a_price_that_changes_changes_nothing_of_a_closed_month(self) -> None:
        payer, relay = make_payer(), Relay()
        relay.report(make_event(payer, occurred_at=IN_OCTOBER))
        close(payer)
        before = stored(payer)
        mend("20")
        relay.report(make_event(payer, occurred_at="2026-11-02T12:00:00Z"))
        parking.sweep(at=AT)
        assert close(payer, NOVEMBER).exact_total == EXAMPLE_CHARGE + Decimal("0.0025")
        assert stored(payer)[:3] == before[:3]

    def test_rating_it_again_is_booked_in_the_open_month_and_stands_on_its_invoice(self) -> None:
        payer, relay = make_payer(), Relay()
        relay.report(make_event(payer, occurred_at=IN_OCTOBER))
        close(payer)
        before = stored(payer)
        mend("20")
        apply()
        assert stored(payer)[:3] == before[:3], "what is closed stays"
        assert payer.balance == 50 - EXAMPLE_CHARGE - Decimal("0.0025")
        relay.report(make_event(payer, occurred_at="2026-11-02T12:00:00Z", format="meters", usage={"output": 100}))
        invoice = close(payer, NOVEMBER)
        label = f"{SONNET}: output tokens"
        assert lines(invoice)[0] == (label, "output", 100, Decimal(20))
        of_output = [line for line in lines(invoice)[1:] if line[1] == "output"]
        assert of_output == [
            (f"{label}, used in October 2026, taken back", "output", -500, Decimal(15)),
            (f"{label}, used in October 2026", "output", 500, Decimal(20)),
        ]
        assert invoice.exact_total == Decimal("0.0045")

    def test_money_back_alone_makes_an_invoice_below_zero(self) -> None:
        payer = make_payer()
        Relay().report(make_event(payer, occurred_at=IN_OCTOBER))
        close(payer)
        mend("0")
        apply()
        invoice = close(payer, NOVEMBER)
        assert (invoice.exact_total, invoice.total) == (-OUTPUT_CHARGE, Decimal("-0.01"))
        assert payer.balance == 50 - EXAMPLE_CHARGE + OUTPUT_CHARGE

    def test_there_and_back_in_one_month_leaves_no_line(self) -> None:
        payer = make_payer()
        Relay().report(make_event(payer, occurred_at=IN_OCTOBER))
        close(payer)
        for price in ("20", "15"):
            mend(price)
            apply()
        statements.close_invoices(period=NOVEMBER, at=AT, customer=payer.customer)
        assert not Invoice.objects.filter(customer=payer.customer, period=NOVEMBER).exists()


@pytest.mark.parametrize("reason", ["", " \n", "x" * 501])
def test_nothing_is_put_right_without_a_reason_that_customers_can_read(reason: str) -> None:
    payer = make_payer()
    Relay().report(make_event(payer))
    mend("20")
    with pytest.raises(rerating.CannotRerate, match="why the events are rated again"):
        rerating.apply(EVER, reason=reason, actor="tests", at=AT)
    assert payer.balance == 50 - EXAMPLE_CHARGE
    assert not Rerating.objects.exists()


class TestReparse:
    def misread(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Let the parser overlook output tokens, until it is mended."""
        read = formats.FORMATS["anthropic.messages"]

        def overlook(usage: dict[str, Any]) -> Usage:
            found = read(usage)
            return msgspec.structs.replace(found, quantities=found.quantities | {"output": 1})

        monkeypatch.setitem(formats.FORMATS, "anthropic.messages", overlook)

    def test_reads_the_kept_usage_with_today_s_parser(self, monkeypatch: pytest.MonkeyPatch) -> None:
        payer = make_payer()
        with monkeypatch.context() as patch:
            self.misread(patch)
            Relay().report(make_event(payer))
        assert payer.balance == 50 - (EXAMPLE_CHARGE - OUTPUT_CHARGE + Decimal("0.000015"))
        plain = apply()
        assert (plain.customers, plain.left) == ({}, {"reads_differently": 1})
        apply(Scope(EVER.start, EVER.end, is_reparse=True))
        assert payer.balance == 50 - EXAMPLE_CHARGE
        assert UsageAdjustment.objects.get().kind == "reparse"
        assert UsageAdjustment.objects.get().new_quantities["output"] == 500
        mend("20")
        assert changed(apply(), payer)[0] == 1, "what it was read as by then is what counts"

    def test_of_what_the_parser_refuses_now_leaves_it(self, monkeypatch: pytest.MonkeyPatch) -> None:
        payer = make_payer()
        Relay().report(make_event(payer))

        def refuse(usage: dict[str, Any]) -> Usage:
            raise formats.InvalidUsage("not today")

        monkeypatch.setitem(formats.FORMATS, "anthropic.messages", refuse)
        assert apply(Scope(EVER.start, EVER.end, is_reparse=True)).left == {"unreadable": 1}


class TestTheCommand:
    def run(self, *args: str) -> Any:
        out = StringIO()
        call_command("rerate", "--start", "2026-10-01T00:00:00Z", "--end", "2026-11-01T00:00:00Z", *args, stdout=out)
        return msgspec.json.decode(out.getvalue())

    def test_previews_and_applies(self) -> None:
        payer = make_payer()
        Relay().report(make_event(payer, occurred_at=IN_OCTOBER))
        mend("20")
        sums = {
            "changed": 1,
            "old": "0.029250",
            "new": "0.031750",
            "difference": "0.002500",
            "old_cost": "0.029250",
            "new_cost": "0.031750",
            "cost_difference": "0.002500",
        }
        answer = self.run("--model", SONNET, "--customer", payer.customer.public_id)
        expected = {"applied": False, "rerating": None, "events": 1, "left": {}, "total": sums}
        ending = {"billed": "2026-10", "difference": "0.002500", "invoice": None, "as": "next_invoice"}
        ends = [{**ending, "credit_note": None, "why": "the month is not invoiced yet"}]
        assert answer == expected | {"customers": [{"customer": payer.customer.public_id, **sums, "ends": ends}]}
        answer = self.run("--apply", "--reason", "the price was wrong")
        job = Rerating.objects.get()
        assert (answer["applied"], answer["rerating"], answer["total"]) == (True, job.pk, sums)
        assert (job.actor, job.reason) == ("command line", "the price was wrong")
        assert Transfer.objects.get(kind="adjustment").reason == "the price was wrong"

    @pytest.mark.parametrize(
        ("args", "message"),
        [
            (["--customer", "cus_nobody"], "no customer"),
            (["--model", "nothing"], "no model"),
            (["--start", "2026-12-01T00:00:00Z"], "before"),
            (["--start", "yesterday"], "not a time"),
            (["--start", "2026-10-01"], "offset"),
            (["--apply", "--reason", "x" * 501], "500"),
            (["--apply"], "Nothing was changed: say in at most 500 characters why"),
            (["--apply", "--reason", " "], "--reason"),
        ],
    )
    def test_refuses_what_it_does_not_understand(self, args: list[str], message: str) -> None:
        with pytest.raises(CommandError, match=message):
            self.run(*args)


@pytest.mark.parametrize("seed", range(6))
def test_any_order_of_usage_prices_grants_closings_and_corrections_ends_as_if_the_last_prices_had_held(
    seed: int,
) -> None:
    dice = random.Random(seed)
    payer, relay = make_payer(credit="0.05"), Relay()
    open_estimates: list[dict[str, Any]] = []
    granted = Decimal("0.05")
    for step in range(14):
        match dice.choice(["usage", "usage", "usage", "price", "rerate", "grant", "correct", "close"]):
            case "usage":
                event = make_event(
                    payer,
                    occurred_at=dice.choice([IN_OCTOBER, "2026-11-05T10:00:00Z"]),
                    format="meters",
                    usage={"output": dice.randint(0, 2000), "input": dice.randint(0, 5000)},
                    estimated=dice.random() < 0.5,
                )
                relay.report(event)
                if event["estimated"]:
                    open_estimates.append(event)
            case "price":
                mend(str(dice.choice([0, 1, 15, 40])))
            case "rerate":
                apply()
            case "grant":
                amount = Decimal(dice.randint(1, 60)) / 1000
                credits.grant(
                    customer_id=payer.customer.pk,
                    amount=amount,
                    kind=dice.choice(["paid", "promotional", "goodwill"]),
                    reason="",
                    reference="wire",
                    key=f"key {step}",
                    at=AT,
                )
                granted += amount
            case "correct" if open_estimates:
                old = open_estimates.pop()
                relay.report(
                    make_event(
                        payer,
                        replaces=old["id"],
                        occurred_at=old["occurred_at"],
                        format="meters",
                        usage={"output": dice.randint(0, 2000)},
                    )
                )
            case "close":
                statements.close_invoices(period=OCTOBER, at=AT, customer=payer.customer)
    mend("15")
    apply()
    gone = set(UsageAdjustment.objects.filter(kind="correction").values_list("event_number", flat=True))
    due = Decimal(0)
    for row in UsageEvent.objects.filter(customer=payer.customer).exclude(pk__in=gone):
        due += Decimal(15 * row.quantities.get("output", 0) + 3 * row.quantities.get("input", 0)) / 10**6
    assert payer.balance == granted - due
    assert sum(hour.charge for hour in UsageHour.objects.filter(customer=payer.customer)) == due
