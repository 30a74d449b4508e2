"""A receipt as PDF, laid out as the other documents are; the tax invoice of a top-up where tax was charged."""

from decimal import Decimal
from zoneinfo import ZoneInfo

from billing.receipts import Figures
from billing.receipts import Party as Named
from billing.typesetting import Document, Group, Lines, Pair, Party, Row, Section, typeset
from billing.words import Words, words

_USD = "USD"


def render(figures: Figures) -> bytes:
    """The PDF; the same bytes for the same figures."""
    say, zone = words(figures.language), ZoneInfo(figures.timezone)
    return typeset(
        Document(
            title=say.text("invoice" if figures.tax_name else "receipt"),
            number=figures.number,
            at=figures.issued_at,
            lang=say.lang,
            region=say.region,
            paper=figures.paper,
            mark=say.text("sandbox_mark") if figures.is_sandbox else "",
            banners=[say.text("sandbox_payment")] if figures.is_sandbox else [],
            footer=say.text("days_of", timezone=figures.timezone),
            supplier=Party(figures.supplier.name, _lines(figures.supplier, say)),
            customer=Party(figures.customer.name, _lines(figures.customer, say), label=say.text("received_from")),
            facts=[
                Pair(say.text("paid_on"), say.day(figures.paid_at, zone)),
                Pair(say.text("issued_on"), say.day(figures.issued_at, zone)),
                Pair(say.text("paid_with"), figures.paid_with),
                *([Pair(say.text("reference"), figures.reference)] if figures.reference else []),
                Pair(say.text("payment" if figures.invoice_number else "top_up"), figures.top_up),
            ],
            lines=Lines([say.text("for"), say.text("amount")], [Section("", [Group("", _rows(figures, say))])]),
            totals=_totals(figures, say),
            notes=[
                *([figures.tax_note] if figures.tax_note else []),
                *([say.text("proof_of_payment", number=figures.invoice_number)] if figures.invoice_number else []),
                say.text("paid_back_later"),
            ],
        )
    )


def _rows(figures: Figures, say: Words) -> list[Row]:
    """What it was paid for: an invoice, and credit."""
    rows = []
    if figures.invoice_number:
        paid = _money(figures.invoice_paid, _USD, say)
        rows.append(Row(say.text("payment_of", number=figures.invoice_number), [paid]))
    if not figures.invoice_number or Decimal(figures.credited):
        credited = _money(figures.credited, _USD, say)
        rows.append(Row(say.text("credit_in_advance"), [credited], note=say.text("credit_added", amount=credited)))
    return rows


def _totals(figures: Figures, say: Words) -> list[Pair]:
    totals = []
    if figures.tax_name:
        totals += [
            Pair(say.text("subtotal"), _money(figures.credited, _USD, say)),
            Pair(f"{figures.tax_name} {figures.tax_rate}", _money(figures.tax, _USD, say)),
            Pair(say.text("total"), _money(figures.paid_usd, _USD, say)),
        ]
    if figures.currency != _USD:
        totals.append(Pair(say.text("exchange_rate", currency=figures.currency), say.number(Decimal(figures.rate))))
    return [*totals, Pair(say.text("paid"), _money(figures.paid, figures.currency, say), strong=True)]


def _money(text: str, currency: str, say: Words) -> str:
    """An amount of the figures, with the decimals that it has there."""
    return say.money(Decimal(text), currency, at_least=len(text.partition(".")[2]))


def _lines(party: Named, say: Words) -> list[str]:
    number = party.tax_number
    return [
        *(line.strip() for line in party.address.splitlines() if line.strip()),
        *([party.country] if party.country else []),
        *([say.text("tax_number", number=number)] if number else []),
        *(line for line in (party.email, party.id) if line),
    ]
