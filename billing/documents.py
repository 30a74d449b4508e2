"""Invoices, usage statements and credit notes as PDF: drawn from the document's own rows, and from nothing else."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from decimal import Decimal
from itertools import groupby
from zoneinfo import ZoneInfo

from django.db.models import prefetch_related_objects

from billing.models import BillingProfile, CreditNote, CreditNoteLine, Invoice, InvoiceLine, InvoiceTax
from billing.typesetting import Document, Group, Lines, Pair, Party, Row, Section, Summary, typeset
from billing.words import Words, decimals, words
from relayadmin.money import EXACT, total

_ON_ACCOUNT = BillingProfile.Terms.ON_ACCOUNT
_MILLION = 1_000_000
CREDIT_NOTES = "CN"
# As notes of lines, which the table of texts says in each language.
AS_CHARGED, RATED_AGAIN = "as charged", "rated again"
# As the API writes amounts and unit prices.
_AMOUNT_DECIMALS = 6
_PRICE_DECIMALS = 2


@dataclass(frozen=True, slots=True)
class _Shown:
    """A line of either kind of document, as the table shows it; a part of a line has no quantity and no unit price."""

    usage_period: date | None
    model: str
    meter: str
    description: str
    note: str
    quantity: Decimal | None
    unit_price: Decimal | None
    per: int
    multiplier: Decimal | None
    amount: Decimal


def invoice_pdf(invoice: Invoice) -> bytes:
    """The PDF of an invoice or usage statement, in its own language and on its own paper. At most three queries."""
    prefetch_related_objects([invoice], "lines", "taxes", "customer")
    say, zone = words(invoice.language), ZoneInfo(invoice.timezone)
    lines, rounding = _split(list(invoice.lines.all()))
    taxes = list(invoice.taxes.all())
    mark, banners = _state(invoice, say, zone)
    return typeset(
        Document(
            title=say.text("invoice" if invoice.terms == _ON_ACCOUNT else "usage_statement"),
            number=invoice.number,
            at=invoice.issued_at,
            lang=say.lang,
            region=say.region,
            paper=invoice.paper,
            mark=mark,
            banners=banners,
            footer=say.text("days_of", timezone=invoice.timezone),
            supplier=_supplier(invoice, say),
            customer=_customer(invoice, say),
            facts=_invoice_facts(invoice, say, zone),
            lines=_table([_shown(line) for line in lines], say, invoice.currency, period=invoice.period),
            totals=_totals(invoice, rounding, taxes, say),
            summaries=_summaries(invoice, say),
            request=_request(invoice, say),
            notes=_notes(invoice, taxes, say, zone),
        )
    )


def credit_note_pdf(note: CreditNote) -> bytes:
    """The PDF of a credit note; supplier, customer and language are those of the invoice that it takes back from."""
    prefetch_related_objects([note], "lines__invoice_line", "invoice__taxes", "invoice__customer")
    invoice = note.invoice
    say, zone = words(invoice.language), ZoneInfo(invoice.timezone)
    lines = [_credited(line) for line in note.lines.all() if not _is_rounding(line)]
    exact = total([line.amount for line in lines])
    money = _money(say, invoice.currency)
    taxes = list(invoice.taxes.all())
    sums = [
        Pair(say.text("exact_total"), say.money(exact, invoice.currency, at_least=_AMOUNT_DECIMALS)),
        *_rounding(EXACT.subtract(note.subtotal, exact), say, invoice.currency),
        Pair(say.text("subtotal"), money(note.subtotal)),
        Pair(_credited_tax_label(note, taxes, say), money(note.tax)),
        Pair(say.text("total_credited"), money(note.total), strong=True),
    ]
    moved = say.text("put_back") if note.transfer_id is None else say.text("lowers_due", number=invoice.number)
    return typeset(
        Document(
            title=say.text("credit_note"),
            number=note.number,
            at=note.issued_at,
            lang=say.lang,
            region=say.region,
            paper=invoice.paper,
            mark=say.text("sandbox_mark") if invoice.is_sandbox else "",
            banners=[say.text("sandbox")] if invoice.is_sandbox else [],
            footer=say.text("days_of", timezone=invoice.timezone),
            supplier=_supplier(invoice, say),
            customer=_customer(invoice, say),
            facts=[
                Pair(say.text("issued_on"), say.day(note.issued_at, zone)),
                Pair(say.text("of_invoice"), f"{invoice.number}, {say.day(invoice.issued_at, zone)}"),
                Pair(say.text("period"), _period(invoice, say, zone)),
                Pair(say.text("reason"), note.reason),
                *_order(invoice, say),
                Pair(say.text("customer_number"), invoice.customer.public_id),
            ],
            lines=_table(lines, say, invoice.currency, period=invoice.period),
            totals=sums,
            notes=[moved, *_tax_notes(taxes, say)],
        )
    )


def _supplier(invoice: Invoice, say: Words) -> Party:
    number = invoice.supplier_tax_number
    return Party(
        name=invoice.supplier_name,
        lines=[
            *_address(invoice.supplier_address),
            *([say.text("tax_number", number=number)] if number else []),
            *([invoice.supplier_email] if invoice.supplier_email else []),
        ],
    )


def _customer(invoice: Invoice, say: Words) -> Party:
    country, number = invoice.customer_country, invoice.customer_tax_number
    return Party(
        label=say.text("bill_to"),
        name=invoice.customer_name,
        lines=[
            *_address(invoice.customer_address),
            *([say.country(country)] if country else []),
            *([say.text("tax_number", number=number)] if number else []),
            *([invoice.customer_email] if invoice.customer_email else []),
        ],
    )


def _address(text: str) -> list[str]:
    return [line.strip() for line in text.splitlines() if line.strip()]


def _state(invoice: Invoice, say: Words, zone: ZoneInfo) -> tuple[str, list[str]]:
    """What stands across each page, and on top of the first, of a document that is not simply valid."""
    marks, banners = [], []
    if invoice.is_sandbox:
        marks.append(say.text("sandbox_mark"))
        banners.append(say.text("sandbox"))
    if invoice.status == Invoice.Status.DRAFT:
        marks.append(say.text("draft_mark"))
        banners.append(say.text("draft"))
    if invoice.status == Invoice.Status.VOID:
        marks.append(say.text("void_mark"))
        day = say.day(invoice.voided_at, zone) if invoice.voided_at else "—"
        banners.append(say.text("void", day=day, reason=invoice.voided_because or "—"))
    return (marks or [""])[-1], banners


def _invoice_facts(invoice: Invoice, say: Words, zone: ZoneInfo) -> list[Pair]:
    facts = [
        Pair(say.text("issued_on"), say.day(invoice.issued_at, zone)),
        Pair(say.text("period"), _period(invoice, say, zone)),
    ]
    if invoice.terms == _ON_ACCOUNT:
        if invoice.due_on is not None:
            facts.append(Pair(say.text("due_on"), say.day(invoice.due_on)))
        facts.append(Pair(say.text("payment_reference"), invoice.number))
    return [*facts, *_order(invoice, say), Pair(say.text("customer_number"), invoice.customer.public_id)]


def _order(invoice: Invoice, say: Words) -> list[Pair]:
    return [Pair(say.text("order_reference"), invoice.order_reference)] if invoice.order_reference else []


def _period(invoice: Invoice, say: Words, zone: ZoneInfo) -> str:
    """Its first and last day in the operator's time zone."""
    last = invoice.period_end - timedelta(microseconds=1)
    return f"{say.day(invoice.period_start, zone)} – {say.day(last, zone)}"


def _split(lines: Sequence[InvoiceLine]) -> tuple[list[InvoiceLine], Decimal]:
    """The lines of usage, and the sum of those that only round."""
    usage = [line for line in lines if line.quantity is not None]
    return usage, total([line.amount for line in lines if line.quantity is None])


def _is_rounding(line: CreditNoteLine) -> bool:
    return line.invoice_line is not None and line.invoice_line.quantity is None


def _shown(line: InvoiceLine) -> _Shown:
    return _Shown(
        usage_period=line.usage_period,
        model=line.model,
        meter=line.meter,
        description=line.description,
        note=line.note,
        quantity=line.quantity,
        unit_price=line.unit_price,
        per=line.per or _MILLION,
        multiplier=line.multiplier,
        amount=line.amount,
    )


def _credited(line: CreditNoteLine) -> _Shown:
    of = line.invoice_line
    return _Shown(
        usage_period=of.usage_period if of else None,
        model=line.model or (of.model if of else ""),
        meter=line.meter or (of.meter if of else ""),
        description=line.description,
        note=_rated(line) if line.meter else of.note if of else "",
        quantity=line.quantity,
        unit_price=line.unit_price,
        per=line.per or _MILLION,
        multiplier=of.multiplier if of and line.quantity is not None and not line.meter else None,
        amount=line.amount,
    )


def _rated(line: CreditNoteLine) -> str:
    """Which of the two lines of usage that was rated again it is."""
    return AS_CHARGED if line.amount > 0 else RATED_AGAIN


def _table(lines: Sequence[_Shown], say: Words, currency: str, *, period: date) -> Lines:
    """Lines by the month of their use, then by model; a multiplier's column only where there is one."""
    has_multipliers = any(line.multiplier is not None for line in lines)
    widths = (
        decimals([line.unit_price for line in lines if line.unit_price is not None], at_least=_PRICE_DECIMALS),
        decimals([line.multiplier for line in lines if line.multiplier is not None], at_least=0),
        decimals([line.amount for line in lines], at_least=_AMOUNT_DECIMALS),
    )
    columns = [
        say.text("meter"),
        say.text("quantity"),
        say.text("unit_price", currency=currency),
        *([say.text("multiplier")] if has_multipliers else []),
        say.text("amount_in", currency=currency),
    ]

    def row(line: _Shown) -> Row:
        price_width, multiplier_width, amount_width = widths
        price, multiple = line.unit_price, line.multiplier
        return Row(
            text=say.text_or("documented" if _is_documented(line) else f"meter.{line.meter}", line.description),
            note=_remark(line, say),
            cells=[
                "" if line.quantity is None else say.number(line.quantity),
                "" if price is None else say.number(price, at_least=_PRICE_DECIMALS, width=price_width),
                *(["" if multiple is None else say.number(multiple, width=multiplier_width)] * has_multipliers),
                say.number(line.amount, at_least=_AMOUNT_DECIMALS, width=amount_width),
            ],
        )

    sections = [
        Section(
            heading=_month_heading(month, period, say),
            groups=[
                Group(heading=model, rows=[row(line) for line in of_model])
                for model, of_model in groupby(of_month, key=lambda line: line.model)
            ],
        )
        for month, of_month in groupby(lines, key=lambda line: line.usage_period)
    ]
    return Lines(columns=columns, sections=sections)


def _month_heading(month: date | None, period: date, say: Words) -> str:
    if month is None:
        return ""
    return say.text("used_in" if month >= period else "used_earlier", month=say.month(month))


def _is_documented(line: _Shown) -> bool:
    """Whether it is what a credit note, which its note names, has documented of the lines above it."""
    return not line.meter and line.note.startswith(f"{CREDIT_NOTES}-")


def _remark(line: _Shown, say: Words) -> str:
    """Why its price is another one than usual, what it is a price of, and whether it takes usage back."""
    if _is_documented(line):
        return line.note
    parts = [say.text_or(f"note.{part}", part) for part in line.note.split(", ") if part]
    if line.per != _MILLION:
        parts.append(say.text("priced_per", per=say.number(line.per)))
    if line.quantity is None:
        parts.append(say.text("in_part"))
    elif line.quantity < 0 and line.note != RATED_AGAIN:
        parts.append(say.text("taken_back"))
    return ", ".join(parts)


def _money(say: Words, currency: str) -> "_Money":
    return _Money(say, currency)


@dataclass(frozen=True, slots=True)
class _Money:
    say: Words
    currency: str

    def __call__(self, amount: Decimal) -> str:
        return self.say.money(amount, self.currency)


def _rounding(amount: Decimal, say: Words, currency: str) -> list[Pair]:
    if not amount:
        return []
    return [Pair(say.text("rounding"), say.money(amount, currency, at_least=_AMOUNT_DECIMALS))]


def _totals(invoice: Invoice, rounding: Decimal, taxes: Sequence[InvoiceTax], say: Words) -> list[Pair]:
    money = _money(say, invoice.currency)
    exact = say.money(invoice.exact_total, invoice.currency, at_least=_AMOUNT_DECIMALS)
    since = EXACT.subtract(EXACT.subtract(invoice.total, invoice.paid_by_credit), invoice.amount_due)
    return [
        Pair(say.text("exact_total"), exact),
        *_rounding(rounding, say, invoice.currency),
        Pair(say.text("subtotal"), money(invoice.subtotal)),
        *(Pair(_tax_label(tax, say, invoice.currency), money(tax.amount)) for tax in taxes),
        *([] if taxes else [Pair(say.text("tax"), money(invoice.tax))]),
        Pair(say.text("total"), money(invoice.total), strong=True),
        Pair(say.text("paid_by_credit"), money(invoice.paid_by_credit)),
        *([Pair(say.text("settled_since"), money(since))] if since else []),
        Pair(say.text("amount_due"), money(invoice.amount_due), strong=True),
    ]


def _tax_label(tax: InvoiceTax, say: Words, currency: str) -> str:
    base = say.money(tax.base, currency)
    if tax.is_reverse_charge:
        return say.text("reverse_charged", name=tax.name, base=base)
    return say.text("tax_at", name=tax.name, rate=say.percent(tax.rate), base=base)


def _credited_tax_label(note: CreditNote, taxes: Sequence[InvoiceTax], say: Words) -> str:
    if len(taxes) != 1:
        return say.text("tax")
    if taxes[0].is_reverse_charge:
        base = say.money(note.subtotal, note.invoice.currency)
        return say.text("reverse_charged", name=taxes[0].name, base=base)
    return f"{taxes[0].name} {say.percent(taxes[0].rate)}"


def _summaries(invoice: Invoice, say: Words) -> list[Summary]:
    def pair(name: str, amount: Decimal) -> Pair:
        return Pair(say.text(name), say.money(amount, invoice.currency, at_least=_AMOUNT_DECIMALS))

    found = [
        Summary(
            say.text("account"),
            [
                pair("opening_balance", invoice.opening_balance),
                pair("topped_up", invoice.topped_up),
                pair("usage", EXACT.minus(invoice.exact_total)),
                pair("other_movements", invoice.other_movements),
                pair("closing_balance", invoice.closing_balance),
            ],
        )
    ]
    if invoice.paid_by_promotional or invoice.charged_as_debt:
        rows = [
            pair("paid_credit", invoice.paid_by_paid),
            pair("promotional_credit", invoice.paid_by_promotional),
            *([pair("as_debt", invoice.charged_as_debt)] if invoice.charged_as_debt else []),
        ]
        found.append(Summary(say.text("paid_by"), rows))
    if invoice.savings:
        found.append(Summary(say.text("caching"), [pair("savings", invoice.savings)]))
    return found


def _request(invoice: Invoice, say: Words) -> str:
    """How to pay what is due."""
    if invoice.amount_due <= 0 or invoice.status in {Invoice.Status.VOID, Invoice.Status.DRAFT}:
        return ""
    amount = say.money(invoice.amount_due, invoice.currency)
    if invoice.due_on is None:
        return say.text("please_pay_on_receipt", amount=amount, number=invoice.number)
    return say.text("please_pay", amount=amount, day=say.day(invoice.due_on), number=invoice.number)


def _notes(invoice: Invoice, taxes: Sequence[InvoiceTax], say: Words, zone: ZoneInfo) -> list[str]:
    notes = [say.text("recompute")]
    if invoice.terms == _ON_ACCOUNT:
        notes += [say.text("paid_at", day=say.day(invoice.paid_at, zone))] if invoice.paid_at else []
    else:
        debt = say.money(invoice.charged_as_debt, invoice.currency, at_least=_AMOUNT_DECIMALS)
        paid = say.text("nothing_due_here", amount=debt) if invoice.charged_as_debt > 0 else say.text("nothing_due")
        notes += [paid, say.text("tax_with_top_ups")]
    return [*_tax_notes(taxes, say), *notes]


def _tax_notes(taxes: Sequence[InvoiceTax], say: Words) -> list[str]:
    """What the law wants to be said about a tax; each once."""
    said = [tax.note or (say.text("reverse_charge") if tax.is_reverse_charge else "") for tax in taxes]
    return [note for note in dict.fromkeys(said) if note]
