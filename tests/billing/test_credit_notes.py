"""Credit notes: never more than is left, with tax in proportion, once, by two people if large; and void."""

from datetime import date, timedelta
from decimal import Decimal

import pytest
from django.db import IntegrityError, connection, transaction
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from billing import correction_notes, credit_notes, expiry, ledger
from billing.adjustments import Change, adjust_usage
from billing.credit_notes import InvalidCreditNote
from billing.manual import AlreadyDecided, Person, SamePerson
from billing.models import (
    CreditNote,
    CreditNoteRequest,
    Grant,
    GrantReturn,
    Invoice,
    Notice,
    OperatorSettings,
    Transfer,
)
from billing.notice_kinds import KINDS
from billing.received import approve
from tests.billing.test_receivables import again, billed, give, wrong
from tests.invoicing import entries, issue, now, on_account, record, use
from tests.operator import make_staff
from tests.world import Payer

pytestmark = pytest.mark.django_db


def ask(invoice: Invoice, amount: str | None, key: str = "k", **changes: object) -> CreditNoteRequest:
    """Take so much of the first line back, or all that is left."""
    line = invoice.lines.order_by("position")[0]
    parts = None if amount is None else {line.pk: Decimal(amount)}
    told = {"reason": "an outage", "person": Person(None, "olga"), "at": now(), **changes}
    return credit_notes.ask(invoice_id=invoice.pk, parts=parts, key=key, **told)  # type: ignore[arg-type]


class TestOnAccount:
    def test_takes_back_a_part_with_its_tax_and_lowers_what_is_due(self) -> None:
        payer, invoice = billed("10.004")
        note = ask(invoice, "2.00").credit_note
        assert (note.subtotal, note.tax, note.total) == (Decimal("2.00"), Decimal("0.42"), Decimal("2.42"))
        assert note.number == "CN-2026-000001"
        assert (again(invoice).status, again(invoice).amount_due) == ("issued", Decimal("9.68"))
        assert payer.balance == Decimal("-9.68")
        assert entries(payer, "tax") == Decimal("1.68")
        assert wrong(payer) == []

    def test_what_had_been_paid_becomes_credit(self) -> None:
        payer, invoice = billed("10.00")
        record(payer, invoice, "12.10")
        ask(invoice, "10.00")
        assert payer.balance == Decimal("12.10")
        assert again(invoice).status == "paid"
        assert wrong(payer) == []

    def test_void_takes_back_all_that_is_left_rounding_too(self) -> None:
        payer, invoice = billed("10.004")
        ask(invoice, "3.333", "first")
        note = ask(invoice, None, "rest").credit_note
        assert (again(invoice).status, again(invoice).amount_due) == ("void", 0)
        assert payer.balance == 0
        assert (entries(payer, "tax"), entries(payer, "revenue") + entries(payer, "rounding")) == (0, 0)
        assert sum(line.amount for line in note.lines.all()) == Decimal("6.667")
        assert note.subtotal == Decimal("6.67")
        assert wrong(payer) == []

    def test_what_a_later_payment_brings_for_a_void_invoice_is_credit(self) -> None:
        OperatorSettings.objects.update(second_person_above=Decimal(5))
        payer, invoice = billed("10.00")
        waiting = record(payer, invoice, "12.10")
        OperatorSettings.objects.update(second_person_above=None)
        ask(invoice, None)
        approve(top_up_id=waiting.pk, person=Person(None, "otto"), at=now())
        assert payer.balance == Decimal("12.10")
        assert wrong(payer) == []

    @pytest.mark.parametrize("amount", ["10.01", "0", "-1", "0.004"])
    def test_more_than_is_left_or_less_than_a_cent_is_refused(self, amount: str) -> None:
        _, invoice = billed("10.00")
        with pytest.raises(InvalidCreditNote):
            ask(invoice, amount)
        assert not CreditNote.objects.exists()

    def test_nothing_is_left_of_a_void_one(self) -> None:
        _, invoice = billed("10.00")
        ask(invoice, None, "all")
        with pytest.raises(InvalidCreditNote, match="void"):
            ask(invoice, "1.00", "more")

    def test_the_same_key_takes_back_once(self) -> None:
        payer, invoice = billed("10.00")
        assert ask(invoice, "2.00").pk == ask(invoice, "2.00").pk
        with pytest.raises(credit_notes.CreditNoteKeyConflict):
            ask(invoice, "3.00")
        assert payer.balance == Decimal("-9.68")

    def test_its_customer_is_told_once(self) -> None:
        payer, invoice = billed("10.00")
        note = ask(invoice, "2.00").credit_note
        ask(invoice, "2.00")
        told = Notice.objects.get(customer=payer.customer, kind="credit_note_issued")
        assert told.data == {
            "credit_note": note.public_id,
            "number": note.number,
            "invoice": invoice.public_id,
            "invoice_number": invoice.number,
            "total": "2.42",
            "amount_due": "9.68",
            "reason": note.reason,
        }
        assert told.data.keys() == KINDS["credit_note_issued"].example.keys()

    def test_is_written_once(self) -> None:
        _, invoice = billed("10.00")
        ask(invoice, "2.00")
        with pytest.raises(IntegrityError), transaction.atomic():
            CreditNote.objects.update(reason="another")


def gifts(payer: Payer) -> list[tuple[str, Decimal]]:
    """What is left of each grant, the oldest first, with its kind; none of it can be refunded."""
    rows = Grant.objects.filter(customer=payer.customer).exclude(remaining=0).order_by("pk")
    assert not rows.filter(is_refundable=True).exists()
    return [(row.kind, row.remaining) for row in rows]


def gifted(amount: str = "10.00", *grants: tuple[str, str]) -> tuple[Payer, Invoice]:
    """A customer with these grants, used in this order, who then used so much in October, and the invoice of it."""
    payer = on_account()
    for kind, part in grants:
        give(payer, part, kind)
    Grant.objects.filter(customer=payer.customer).update(expires_at=None, look_at=None, is_refundable=False)
    use(payer, amount)
    return payer, issue(payer, amount)


def sides(payer: Payer) -> tuple[Decimal, Decimal, Decimal]:
    """All of revenue, of promotional usage and of tax."""
    return entries(payer, "revenue"), entries(payer, "promotional_usage"), entries(payer, "tax")


class TestGifts:
    def test_that_paid_all_come_back_as_what_they_were(self) -> None:
        payer, invoice = gifted("10.00", ("promotional", "4.00"), ("goodwill", "20.00"))
        assert sides(payer) == (0, 10, Decimal("2.10"))
        note = ask(invoice, "5.00").credit_note
        assert gifts(payer) == [("goodwill", Decimal("17.95"))]
        assert sides(payer) == (0, 5, Decimal("1.05"))
        assert GrantReturn.objects.filter(customer=payer.customer, transfer_id=note.transfer_id).count() == 2
        ask(invoice, None, "void")
        assert gifts(payer) == [("promotional", Decimal("4.00")), ("goodwill", Decimal("20.00"))]
        assert sides(payer) == (0, 0, 0)
        assert wrong(payer) == []

    def test_come_back_last_where_money_has_paid_too(self) -> None:
        payer, invoice = gifted("10.00", ("promotional", "4.00"), ("paid", "20.00"))
        ask(invoice, "5.00", "first")
        assert gifts(payer) == [("paid", Decimal("11.90")), ("paid", Decimal("6.05"))]
        assert sides(payer) == (1, 4, Decimal("1.05"))
        ask(invoice, "3.00", "second")
        assert gifts(payer) == [
            ("promotional", Decimal("2.00")),
            ("paid", Decimal("11.90")),
            ("paid", Decimal("6.05")),
            ("paid", Decimal("1.63")),
        ]
        assert sides(payer) == (0, 2, Decimal("0.42"))
        ask(invoice, None, "void")
        assert gifts(payer)[0] == ("promotional", Decimal("4.00"))
        assert (sides(payer), payer.balance) == ((0, 0, 0), Decimal("24.00"))
        assert wrong(payer) == []

    def test_that_an_adjustment_gave_back_do_not_come_back_again(self) -> None:
        payer, invoice = gifted("10.00", ("promotional", "12.10"))
        (number,) = Transfer.objects.filter(customer=payer.customer, kind="usage").values_list("pk", flat=True)
        cheaper(payer, "3.00", number)
        assert gifts(payer) == [("promotional", Decimal("3.00"))]
        ask(invoice, None)
        kinds = dict.fromkeys(kind for kind, _ in gifts(payer))
        assert list(kinds) == ["promotional", "paid"]
        assert gifts(payer)[0] == ("promotional", Decimal("12.10"))
        assert entries(payer, "promotional_usage") == 0
        assert wrong(payer) == []

    def test_lower_what_is_due_first_and_pay_what_debt_is_left(self) -> None:
        payer, invoice = gifted("10.00", ("goodwill", "10.00"))
        assert again(invoice).amount_due == Decimal("2.10")
        use(payer, "3.00", period=date(2026, 11, 1))
        assert payer.balance == Decimal("-5.10")
        ask(invoice, "5.00")
        assert (again(invoice).status, payer.balance) == ("paid", Decimal("0.95"))
        assert gifts(payer) == [("goodwill", Decimal("0.95"))]
        # Of 5.00 that came back, 1.05 paid tax that was due, and 3.00 the new usage.
        assert (entries(payer, "revenue"), entries(payer, "tax")) == (0, Decimal("1.05"))
        assert entries(payer, "promotional_usage") == 8
        assert wrong(payer) == []

    def test_that_came_later_and_paid_the_debt_come_back_too(self) -> None:
        payer, invoice = billed("10.00")
        give(payer, "12.10")
        assert again(invoice).status == "paid"
        ask(invoice, "2.00", "first")
        ask(invoice, "3.00", "second")
        assert gifts(payer) == [("promotional", Decimal("6.05"))]
        ask(invoice, None, "void")
        assert gifts(payer) == [("promotional", Decimal("12.10"))]
        assert sides(payer) == (0, 0, 0)
        assert wrong(payer) == []

    def test_that_have_expired_come_back_to_where_the_sweep_takes_them(self) -> None:
        payer, invoice = gifted("10.00", ("promotional", "12.10"))
        Grant.objects.filter(customer=payer.customer).update(expires_at=now() - timedelta(days=1), look_at=None)
        ask(invoice, None)
        assert Grant.objects.get(customer=payer.customer).look_at is not None
        expiry.sweep(at=now())
        assert (payer.balance, sides(payer)) == (0, (0, 0, 0))
        assert wrong(payer) == []

    def test_books_that_say_otherwise_are_found(self) -> None:
        payer, invoice = gifted("10.00", ("promotional", "12.10"))
        ask(invoice, None)
        with connection.cursor() as cursor:
            cursor.execute("SET CONSTRAINTS ALL IMMEDIATE")
            cursor.execute("ALTER TABLE billing_grantreturn DISABLE TRIGGER append_only")
            cursor.execute("DELETE FROM billing_grantreturn")
        assert {what.split(" by ")[0] for what in wrong(payer)} >= {"credit made", "taken back of promotional usage"}


def cheaper(payer: Payer, amount: str, number: int, period: date = date(2026, 12, 1)) -> None:
    """Usage that this transfer had charged costs so much less, booked in a period that is open."""
    change = Change(payer.customer.pk, period, -Decimal(amount), (number,))
    wallets = ledger.lock_wallets([payer.customer.pk])
    adjust_usage([change], wallets=wallets, job="rerating:7:1", reason="a wrong price", at=now())


@pytest.mark.parametrize("was_cured", [False, True])
def test_a_note_of_a_correction_lowers_other_invoices_by_what_was_cured(was_cured: bool) -> None:
    payer, invoice = gifted("10.00", ("paid", "12.10"))
    november = date(2026, 11, 1)
    (number,) = Transfer.objects.filter(customer=payer.customer, kind="usage").values_list("pk", flat=True)
    if not was_cured:
        cheaper(payer, "4.00", number)
    use(payer, "20.00", period=november)
    other = issue(payer, "20.00", period=november)
    due = other.amount_due
    if was_cured:
        cheaper(payer, "4.00", number)
    whole = invoice.lines.get()
    correction_notes.issue(
        invoice=invoice,
        wallet=ledger.lock_wallets([payer.customer.pk])[payer.customer.pk],
        parts=[correction_notes.Part(whole.pk, "tokens", "m", "input", Decimal(1), Decimal(4), 1, Decimal(4))],
        booked=date(2026, 12, 1),
        source="rerating:7",
        key="n",
        reason="a wrong price",
        actor="olga",
        at=now(),
    )
    assert due - again(other).amount_due == (Decimal("4.84") if was_cured else Decimal("0.84"))
    assert again(other).amount_due == -payer.balance


def test_numbers_have_no_gaps_though_some_are_refused() -> None:
    _, invoice = billed("10.00")
    for turn, amount in enumerate(["1.00", "99.00", "2.00", "99.00", "3.00"]):
        try:
            ask(invoice, amount, str(turn))
        except InvalidCreditNote:
            continue
    assert list(CreditNote.objects.order_by("sequence").values_list("sequence", flat=True)) == [1, 2, 3]


def test_a_usage_statement_is_not_credited() -> None:
    _, invoice = billed("10.00")
    Invoice.objects.filter(pk=invoice.pk).update(terms="prepaid")
    with pytest.raises(InvalidCreditNote, match="rating its usage again"):
        ask(invoice, "1.00")


class TestSecondPerson:
    def test_decides_on_a_large_one(self) -> None:
        OperatorSettings.objects.update(second_person_above=Decimal(2))
        payer, invoice = billed("10.00")
        asker = Person(make_staff().pk, "olga")
        row = ask(invoice, "2.00", person=asker)
        assert (row.status, payer.balance) == ("pending", Decimal("-12.10"))
        with pytest.raises(SamePerson):
            credit_notes.approve(request_id=row.pk, person=asker, at=now())
        row = credit_notes.approve(request_id=row.pk, person=Person(None, "otto"), at=now())
        assert row.credit_note.actor == "olga and otto"
        assert payer.balance == Decimal("-9.68")
        with pytest.raises(AlreadyDecided):
            credit_notes.approve(request_id=row.pk, person=Person(None, "otto"), at=now())

    def test_decides_on_what_small_ones_of_an_invoice_add_up_to(self) -> None:
        OperatorSettings.objects.update(second_person_above=Decimal(5))
        _, invoice = billed("10.00")
        asked = [ask(invoice, "2.00", str(turn)) for turn in range(3)]
        assert [row.status for row in asked] == ["issued", "issued", "pending"]
        credit_notes.approve(request_id=asked[2].pk, person=Person(None, "otto"), at=now())
        assert ask(invoice, "0.10", "two looked at the last one").status == "issued"
        assert ask(invoice, "0.10", "but not at these").status == "pending"
        _, other = billed("10.00")
        assert ask(other, "2.00", "another invoice").status == "issued"

    def test_may_reject_it(self) -> None:
        OperatorSettings.objects.update(second_person_above=Decimal(2))
        payer, invoice = billed("10.00")
        row = ask(invoice, "2.00")
        assert credit_notes.reject(request_id=row.pk, person=Person(None, "otto"), at=now()).status == "rejected"
        assert (payer.balance, CreditNote.objects.count()) == (Decimal("-12.10"), 0)

    def test_may_reject_it_though_the_invoice_is_void_by_now(self) -> None:
        OperatorSettings.objects.update(second_person_above=Decimal(5))
        _, invoice = billed("10.00")
        row = ask(invoice, "9.00")
        OperatorSettings.objects.update(second_person_above=None)
        ask(invoice, None, "void")
        with pytest.raises(InvalidCreditNote, match="void"):
            credit_notes.approve(request_id=row.pk, person=Person(None, "otto"), at=now())
        assert credit_notes.reject(request_id=row.pk, person=Person(None, "otto"), at=now()).status == "rejected"
        with pytest.raises(AlreadyDecided):
            credit_notes.reject(request_id=row.pk, person=Person(None, "otto"), at=now())

    def test_what_was_credited_meanwhile_can_not_be_approved(self) -> None:
        OperatorSettings.objects.update(second_person_above=Decimal(5))
        _, invoice = billed("10.00")
        row = ask(invoice, "9.00", "large")
        ask(invoice, "2.00", "small")
        with pytest.raises(InvalidCreditNote):
            credit_notes.approve(request_id=row.pk, person=Person(None, "otto"), at=now())
        assert CreditNoteRequest.objects.get(pk=row.pk).status == "pending"


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    exact=st.integers(100, 5_000_000).map(lambda units: Decimal(units) / 10_000),
    shares=st.lists(st.integers(1, 900), min_size=1, max_size=5),
    voids=st.booleans(),
    gift=st.integers(1, 60_000).map(lambda cents: Decimal(cents) / 100) | st.none(),
)
def test_credit_notes_never_exceed_the_invoice_and_add_up_to_it(
    exact: Decimal, shares: list[int], voids: bool, gift: Decimal | None
) -> None:
    with transaction.atomic():
        payer, invoice = gifted(str(exact), *([("promotional", str(gift))] if gift else []))
        for turn, share in enumerate(shares):
            try:
                ask(invoice, str((exact * share / 1000).quantize(Decimal("0.000001"))), str(turn))
            except InvalidCreditNote:
                continue
        left = credit_notes.left_of(invoice)
        assert left.subtotal >= 0
        assert left.tax >= 0
        if voids and (left.total or any(left.lines.values())):
            ask(invoice, None, "void")
            assert credit_notes.left_of(invoice).total == 0
            assert payer.balance == (gift or 0)
            # Rounding that an invoice had given back beyond the debt is paid credit by now.
            assert entries(payer, "promotional_usage") < Decimal("0.01")
        assert entries(payer, "promotional_usage") >= 0
        assert wrong(payer) == []
        transaction.set_rollback(True)


@pytest.mark.parametrize(
    ("sql", "what"),
    [
        ("UPDATE billing_creditnote SET tax = tax + 1, total = total + 1", "tax put back by CN-2026-000001"),
        ("UPDATE billing_creditnote SET subtotal = subtotal + 1, total = total + 1", "put back by CN-2026-000001"),
        ("UPDATE billing_creditnoteline SET amount = amount + 1", "lines, to the cent, of CN-2026-000001"),
    ],
)
def test_what_was_changed_is_found(sql: str, what: str) -> None:
    payer, invoice = billed("10.00")
    ask(invoice, "2.00")
    with connection.cursor() as cursor:
        cursor.execute("SET CONSTRAINTS ALL IMMEDIATE")
        cursor.execute("ALTER TABLE billing_creditnote DISABLE TRIGGER append_only")
        cursor.execute("ALTER TABLE billing_creditnoteline DISABLE TRIGGER append_only")
        cursor.execute(sql)
    assert what in wrong(payer)
