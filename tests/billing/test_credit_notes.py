"""Credit notes: never more than is left, with tax in proportion, once, by two people if large; and void."""

from decimal import Decimal

import pytest
from django.db import IntegrityError, connection, transaction
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from billing import credit_notes
from billing.credit_notes import InvalidCreditNote
from billing.manual import AlreadyDecided, Person, SamePerson
from billing.models import CreditNote, CreditNoteRequest, Invoice, OperatorSettings
from billing.received import approve
from tests.billing.test_receivables import again, billed, wrong
from tests.invoicing import entries, now, record
from tests.operator import make_staff

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

    def test_is_written_once(self) -> None:
        _, invoice = billed("10.00")
        ask(invoice, "2.00")
        with pytest.raises(IntegrityError), transaction.atomic():
            CreditNote.objects.update(reason="another")


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
)
def test_credit_notes_never_exceed_the_invoice_and_add_up_to_it(exact: Decimal, shares: list[int], voids: bool) -> None:
    with transaction.atomic():
        payer, invoice = billed(str(exact))
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
            assert payer.balance == 0
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
