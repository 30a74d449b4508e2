"""Re-ratings of issued months that end in credit notes: what they say, post and document, and what stays as it was."""

from collections.abc import Iterator
from datetime import UTC, date, datetime
from decimal import Decimal
from io import StringIO
from typing import Any

import msgspec
import pytest
from django.core.management import call_command
from django.db import connection

from billing import credit_notes, documents
from billing.models import CreditNote, CreditNoteRequest, Entry, Invoice, Transfer
from metering import pricing, rerating, rerating_notes, statements
from metering.models import Price, Rerating, ReratingNote
from metering.rerating import Outcome
from metering.rerating_pages import Scope
from metering.verification import verify_books
from tests.documents import text_of_pdf
from tests.invoicing import OLGA, entries, now, on_account, record
from tests.operator import log_in, make_staff, page, text_of
from tests.world import EXAMPLE_CHARGE, SONNET, Payer, Relay, make_event, make_payer

pytestmark = pytest.mark.django_db

AT = datetime(2027, 1, 2, tzinfo=UTC)
OCTOBER, NOVEMBER = date(2026, 10, 1), date(2026, 11, 1)
IN_OCTOBER, IN_NOVEMBER = "2026-10-15T12:00:00Z", "2026-11-15T12:00:00Z"
EVER = Scope(datetime(2020, 1, 1, tzinfo=UTC), datetime(2030, 1, 1, tzinfo=UTC))
EVENTS = 100
# Of each event, 500 output tokens cost 15 USD a million, and 5 USD after the price is mended.
LESS = EVENTS * Decimal("0.005")
USED = EVENTS * EXAMPLE_CHARGE


def wrong() -> list[Any]:
    return [one for full in (False, True) for one in verify_books(full=full, at=AT).differences]


@pytest.fixture(autouse=True)
def _books_are_right() -> Iterator[None]:
    yield
    assert wrong() == []


def mend(unit_price: str, *, meter: str = "output") -> None:
    """Let the price of a meter have been another one all the time."""
    Price.objects.filter(model__public_id=SONNET, meter=meter, variant="").update(unit_price=Decimal(unit_price))
    pricing.bump_version()


def use(payer: Payer, occurred_at: str = IN_OCTOBER, events: int = EVENTS) -> None:
    assert Relay().report(*[make_event(payer, occurred_at=occurred_at) for _ in range(events)]).status == 200


def close(payer: Payer, month: date = OCTOBER) -> Invoice:
    statements.close_invoices(period=month, at=AT, customer=payer.customer)
    return Invoice.objects.get(customer=payer.customer, period=month)


def apply(scope: Scope = EVER, *, by_credit_note: bool = True) -> Outcome:
    return rerating.apply(scope, reason="a wrong price", actor="olga", at=AT, by_credit_note=by_credit_note)


def invoiced(credit: str = "0") -> tuple[Payer, Invoice]:
    """A customer on account with October's invoice: 2.93 of usage and 0.62 of tax."""
    payer = on_account(credit)
    use(payer)
    return payer, close(payer)


def credit(invoice: Invoice, parts: dict[int, Decimal] | None, *, key: str = "credit") -> CreditNoteRequest:
    return credit_notes.ask(invoice_id=invoice.pk, parts=parts, reason="a gesture", key=key, person=OLGA, at=AT)


def again(invoice: Invoice) -> Invoice:
    return Invoice.objects.get(pk=invoice.pk)


class TestOnAccount:
    def test_one_note_says_old_and_new_price_takes_back_the_tax_and_lowers_what_is_due(self) -> None:
        payer, invoice = invoiced()
        assert (invoice.subtotal, invoice.tax, invoice.amount_due) == (
            Decimal("2.93"),
            Decimal("0.62"),
            Decimal("3.55"),
        )
        mend("5")
        (note,) = apply().notes
        assert (note.subtotal, note.tax, note.total) == (Decimal("0.50"), Decimal("0.11"), Decimal("0.61"))
        assert (note.documented, note.booked_period, note.series) == (LESS, NOVEMBER, "CN")
        rating = Rerating.objects.get()
        assert note.reason == f"a wrong price (re-rating {rating.pk})"
        assert note.source == f"rerating:{rating.pk}"
        line = invoice.lines.get(meter="output")
        assert list(
            note.lines.order_by("position").values_list(
                "invoice_line", "model", "meter", "quantity", "unit_price", "per", "amount"
            )
        ) == [
            (line.pk, SONNET, "output", 50_000, 15, 1_000_000, Decimal("0.75")),
            (line.pk, SONNET, "output", -50_000, 5, 1_000_000, Decimal("-0.25")),
        ]
        assert again(invoice).amount_due == Decimal("2.94")
        assert payer.balance == Decimal("-2.94")
        assert entries(payer, "tax") == Decimal("0.51")

    def test_usage_is_credited_once_only_tax_and_rounding_are_posted(self) -> None:
        payer, _ = invoiced()
        mend("5.011")
        (note,) = apply().notes
        exact = EVENTS * Decimal("0.0049945")
        assert (note.documented, note.subtotal) == (exact, Decimal("0.50"))
        posted = Transfer.objects.get(customer=payer.customer, kind="credit_note")
        moved = dict(Entry.objects.filter(transfer_id=posted.pk).values_list("account", "amount"))
        assert moved == {"wallet": note.total - exact, "tax": -note.tax, "rounding": exact - note.subtotal}
        assert payer.balance == -(Decimal("3.55") - note.total)

    def test_the_next_invoice_counts_it_once(self) -> None:
        payer, _ = invoiced()
        mend("5")
        (note,) = apply().notes
        use(payer, IN_NOVEMBER, 40)
        second = close(payer, NOVEMBER)
        own = 40 * (EXAMPLE_CHARGE - Decimal("0.005"))
        assert second.exact_total == own
        rows = {(line.description, line.amount) for line in second.lines.filter(usage_period=OCTOBER)}
        assert rows == {
            (f"{SONNET}: output tokens, used in October 2026, taken back", Decimal("-0.75")),
            (f"{SONNET}: output tokens, used in October 2026", Decimal("0.25")),
            (f"Documented by credit note {note.number}", LESS),
        }
        assert second.amount_due == second.total
        text = text_of_pdf(documents.invoice_pdf(second))
        assert f"Documented by credit note {note.number}" in " ".join(text.split())

    def test_without_the_choice_it_stands_on_the_next_invoice(self) -> None:
        payer, _ = invoiced()
        mend("5")
        assert apply(by_credit_note=False).notes == []
        use(payer, IN_NOVEMBER, 40)
        assert close(payer, NOVEMBER).exact_total == 40 * (EXAMPLE_CHARGE - Decimal("0.005")) - LESS

    def test_what_stands_on_the_next_invoice_is_not_credited_again(self) -> None:
        payer, invoice = invoiced()
        mend("5")
        apply(by_credit_note=False)
        assert credit_notes.back_already(invoice) == LESS
        with pytest.raises(credit_notes.InvalidCreditNote, match=r"^0\.500000 USD .* 2\.425000 USD at most") as void:
            credit(invoice, None)
        assert void.value.field == "invoice"
        usage = {line.pk: line.amount for line in invoice.lines.filter(quantity__isnull=False)}
        with pytest.raises(credit_notes.InvalidCreditNote, match=r"2\.425000 USD at most") as parts:
            credit(invoice, usage)
        assert parts.value.field == "lines"
        output = invoice.lines.get(meter="output")
        usage[output.pk] -= LESS
        note = credit(invoice, usage).credit_note
        # What is left is the tax on what stands on the next invoice, which takes that back as well.
        assert payer.balance == note.total + LESS - invoice.total
        with pytest.raises(credit_notes.InvalidCreditNote, match=r" 0\.000000 USD at most"):
            credit(invoice, {output.pk: Decimal("0.01")}, key="once more")

    def test_what_a_note_documents_is_not_back_twice_but_once(self) -> None:
        payer, invoice = invoiced()
        mend("5")
        apply()
        assert credit_notes.back_already(invoice) == 0
        credit(invoice, None)
        assert payer.balance == 0

    def test_what_got_dearer_is_no_reason_against_a_credit_note(self) -> None:
        payer, invoice = invoiced()
        mend("25")
        apply(by_credit_note=False)
        assert credit_notes.back_already(invoice) == 0
        credit(invoice, None)
        assert payer.balance == -LESS

    def test_what_got_dearer_stays_on_the_next_invoice(self) -> None:
        payer, invoice = invoiced()
        mend("25")
        assert apply().notes == []
        assert again(invoice).amount_due == invoice.amount_due
        use(payer, IN_NOVEMBER, 40)
        assert close(payer, NOVEMBER).exact_total == 40 * (EXAMPLE_CHARGE + Decimal("0.005")) + LESS

    def test_of_one_that_was_credited_in_part_no_more_than_the_rest_is_documented(self) -> None:
        payer, invoice = invoiced()
        parts = {line.pk: line.amount for line in invoice.lines.exclude(quantity=None).exclude(meter="input")}
        credit_notes.ask(invoice_id=invoice.pk, parts=parts, reason="outage", key="k", person=OLGA, at=now())
        mend("5")
        (ending,) = rerating.preview(EVER, by_credit_note=True).endings[payer.customer.pk]
        assert (ending.note, ending.why) == (None, "only 0.300000 USD of it are left")
        assert apply().notes == []
        use(payer, IN_NOVEMBER, 40)
        assert close(payer, NOVEMBER).exact_total == 40 * (EXAMPLE_CHARGE - Decimal("0.005")) - LESS

    def test_a_paid_invoice_s_note_becomes_credit(self) -> None:
        payer, invoice = invoiced()
        record(payer, invoice, "3.55")
        mend("5")
        (note,) = apply().notes
        assert (again(invoice).status, payer.balance) == ("paid", note.total)

    def test_of_two_invoices_there_are_two_notes_and_of_an_open_month_none(self) -> None:
        payer = on_account()
        use(payer, "2026-09-15T12:00:00Z")
        first = close(payer, date(2026, 9, 1))
        use(payer, IN_OCTOBER, 40)
        second = close(payer)
        use(payer, IN_NOVEMBER, 10)
        mend("5")
        found = [(note.invoice, note.subtotal) for note in apply().notes]
        assert found == [(first, Decimal("0.50")), (second, Decimal("0.20"))]
        assert close(payer, NOVEMBER).exact_total == 10 * (EXAMPLE_CHARGE - Decimal("0.005"))

    def test_again_there_is_no_second_note_and_a_second_re_rating_has_its_own(self) -> None:
        payer, invoice = invoiced()
        mend("5")
        rating = apply().rerating
        assert rating is not None
        assert apply().notes == []
        assert rerating_notes.issue(rating, at=AT) == []
        mend("4")
        (second,) = apply().notes
        assert second.documented == EVENTS * Decimal("0.0005")
        assert {line.invoice_line.meter for line in second.lines.all() if line.invoice_line} == {"output"}
        assert again(invoice).amount_due == Decimal("3.55") - sum(
            note.total for note in CreditNote.objects.filter(customer=payer.customer)
        )

    def test_one_that_died_before_its_notes_goes_on_with_them(self, monkeypatch: pytest.MonkeyPatch) -> None:
        invoiced()
        mend("5")
        with monkeypatch.context() as broken:
            broken.setattr(rerating_notes, "issue", lambda *args, **kwargs: 1 / 0)
            with pytest.raises(ZeroDivisionError):
                apply()
        assert len(apply().notes) == 1
        assert Rerating.objects.count() == 1

    def test_what_stands_on_the_next_invoice_by_then_is_not_documented_too(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        payer, _ = invoiced()
        mend("5")
        with monkeypatch.context() as broken:
            broken.setattr(rerating_notes, "issue", lambda *args, **kwargs: 1 / 0)
            with pytest.raises(ZeroDivisionError):
                apply()
        close(payer, NOVEMBER)
        assert apply().notes == []

    def test_one_that_was_credited_altogether_has_no_note(self) -> None:
        payer, invoice = invoiced()
        credit_notes.ask(invoice_id=invoice.pk, parts=None, reason="wrong", key="k", person=OLGA, at=now())
        mend("5")
        assert rerating.preview(EVER, by_credit_note=True).left == {"invoice_void": EVENTS}
        outcome = apply()
        assert (outcome.notes, outcome.customers, payer.balance) == ([], {}, 0)

    def test_after_a_note_the_rest_can_be_voided(self) -> None:
        payer, invoice = invoiced()
        mend("5")
        apply()
        credit_notes.ask(invoice_id=invoice.pk, parts=None, reason="wrong", key="k", person=OLGA, at=now())
        assert (again(invoice).status, payer.balance, entries(payer, "tax"), entries(payer, "rounding")) == (
            "void",
            0,
            0,
            0,
        )

    def test_what_a_later_re_rating_takes_back_within_the_month_is_charged_by_the_documented_line(self) -> None:
        payer, invoice = invoiced()
        mend("5")
        apply()
        mend("15")
        assert apply().notes == []
        second = close(payer, NOVEMBER)
        assert (second.exact_total, second.lines.filter(quantity__isnull=False).count()) == (LESS, 1)
        assert again(invoice).amount_due + second.amount_due == -payer.balance

    def test_the_pdf_says_both_prices(self) -> None:
        invoiced()
        mend("5")
        (note,) = apply().notes
        text = " ".join(text_of_pdf(documents.credit_note_pdf(note)).split())
        for said in ("as charged", "rated again", "50,000 15.00", "-50,000 5.00", "0.61 USD"):
            assert said in text, (said, text)


class TestPrepaid:
    def test_a_statement_s_note_has_no_tax_and_posts_nothing(self) -> None:
        payer = make_payer()
        use(payer)
        close(payer)
        mend("5")
        (note,) = apply().notes
        assert (note.subtotal, note.tax, note.transfer_id) == (Decimal("0.50"), 0, None)
        assert payer.balance == 50 - USED + LESS
        use(payer, IN_NOVEMBER, 40)
        second = close(payer, NOVEMBER)
        assert second.exact_total == 40 * (EXAMPLE_CHARGE - Decimal("0.005"))
        assert (second.status, second.amount_due) == ("paid", 0)


class TestPreview:
    def test_says_for_each_customer_what_will_happen(self) -> None:
        payer, invoice = invoiced()
        use(payer, IN_NOVEMBER, 10)
        other = make_payer()
        use(other, IN_NOVEMBER, 1)
        mend("5")
        answer = command("--by-credit-note")
        (of_payer, of_other) = (
            next(one for one in answer["customers"] if one["customer"] == who.customer.public_id)
            for who in (payer, other)
        )
        assert of_payer["ends"] == [
            {
                "billed": "2026-10",
                "difference": "-0.500000",
                "invoice": invoice.number,
                "as": "credit_note",
                "credit_note": {"subtotal": "0.50", "tax": "0.11"},
                "why": "",
            },
            {
                "billed": "2026-11",
                "difference": "-0.050000",
                "invoice": None,
                "as": "next_invoice",
                "credit_note": None,
                "why": "the month is not invoiced yet",
            },
        ]
        assert [one["as"] for one in of_other["ends"]] == ["next_invoice"]
        assert not CreditNote.objects.exists()
        plain = command()
        assert {one["as"] for row in plain["customers"] for one in row["ends"]} == {"next_invoice"}
        applied = command("--by-credit-note", "--apply", "--reason", "a wrong price")
        assert [row["credit_notes"] for row in applied["customers"] if row["credit_notes"]] == [
            [{"number": CreditNote.objects.get().number, "total": "0.61"}]
        ]


def test_the_job_s_page_links_its_notes_and_a_note_s_page_shows_both_prices() -> None:
    invoiced()
    mend("5")
    outcome = apply()
    (note,) = outcome.notes
    assert outcome.rerating is not None
    client = log_in(make_staff(is_superuser=True))
    shown = client.get(page(Rerating, "change", outcome.rerating.pk)).content.decode()
    assert f'href="{page(CreditNote, "change", note.pk)}"' in shown
    shown = text_of(client.get(page(CreditNote, "change", note.pk)))
    for said in ("as charged", "as rated again", "15.000000 per 1,000,000", "5.000000 per 1,000,000"):
        assert said in shown
    assert note.number in text_of(client.get(page(ReratingNote, "changelist")))


def command(*more: str) -> dict[str, Any]:
    out = StringIO()
    call_command("rerate", "--start", "2026-01-01T00:00:00Z", "--end", "2027-01-01T00:00:00Z", *more, stdout=out)
    decoded: dict[str, Any] = msgspec.json.decode(out.getvalue())
    return decoded


@pytest.mark.parametrize(
    ("sql", "what"),
    [
        ("UPDATE billing_creditnote SET documented = documented + 1", "documented by"),
        ("UPDATE billing_creditnote SET documented = documented + 1", "documented, the lines of"),
        ("UPDATE billing_creditnote SET documented = documented + 1", "put back by"),
        ("UPDATE billing_creditnote SET booked_period = '2026-12-01'", "usage transfers of invoice"),
        ("UPDATE billing_creditnote SET booked_period = '2026-12-01'", "exact total of invoice"),
    ],
)
def test_what_was_changed_is_found(sql: str, what: str) -> None:
    payer, _ = invoiced()
    mend("5")
    apply()
    close(payer, NOVEMBER)
    with connection.cursor() as cursor:
        cursor.execute("SET CONSTRAINTS ALL IMMEDIATE")
        cursor.execute("ALTER TABLE billing_creditnote DISABLE TRIGGER append_only")
        cursor.execute(sql)
        found = [difference.what for _, difference in wrong()]
        cursor.execute(
            "UPDATE billing_creditnote SET booked_period = '2026-11-01',"
            " documented = (SELECT sum(amount) FROM billing_creditnoteline)"
        )
        cursor.execute("ALTER TABLE billing_creditnote ENABLE TRIGGER append_only")
    assert any(one.startswith(what) for one in found), found
    assert ReratingNote.objects.count() == 1
