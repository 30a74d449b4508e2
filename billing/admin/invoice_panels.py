"""What stands on an invoice, below its figures: lines by month, taxes, who paid, and the balances."""

from collections import defaultdict
from datetime import date
from decimal import Decimal
from itertools import groupby

from billing.admin import html
from billing.admin.base import Panel
from billing.models import CreditNote, Invoice, InvoiceLine, TopUp
from relayadmin.money import EXACT, ZERO, to_unit_price, total

ROWS = 20


def panels(invoice: Invoice) -> list[Panel]:
    lines = InvoiceLine.objects.filter(invoice_id=invoice.pk).order_by("position")
    by_month = [(month, list(rows)) for month, rows in groupby(lines, key=lambda line: line.usage_period)]
    return [
        *[_lines(invoice, month, rows) for month, rows in by_month if month is not None],
        _sums(invoice, [line for month, rows in by_month if month is None for line in rows]),
        *_taxes(invoice),
        _who_paid(invoice),
        _balances(invoice),
    ]


def _lines(invoice: Invoice, month: date, lines: list[InvoiceLine]) -> Panel:
    own = month == invoice.period
    return Panel(
        title=f"Usage of {month:%B %Y}" + ("" if own else ", billed now"),
        headers=("No.", "Description", "Quantity", "Unit price", "× input", "Amount"),
        rows=[
            (
                line.position,
                line.description,
                html.quantity(line.quantity),
                html.unit_price(line.unit_price, line.per),
                html.NOTHING if line.multiplier is None else html.number(f"{line.multiplier.normalize():f} ×"),
                html.amount(line.amount),
            )
            for line in lines
        ],
        numbers=frozenset({2, 3, 4, 5}),
        total=("", "Sum", "", "", "", html.amount(total([line.amount for line in lines]))),
        note="Quantity × unit price is the amount, exactly." if own else "",
    )


def _sums(invoice: Invoice, others: list[InvoiceLine]) -> Panel:
    rows: list[tuple[str, str]] = [("All usage, exactly", html.amount(invoice.exact_total))]
    rows += [(line.description, html.amount(line.amount)) for line in others]
    rows += [("Subtotal", html.amount(invoice.subtotal)), ("Tax", html.amount(invoice.tax))]
    return Panel(
        title="From the lines to the total",
        headers=("", f"{invoice.currency}"),
        rows=rows,
        numbers=frozenset({1}),
        total=("Total", html.amount(invoice.total)),
    )


def _taxes(invoice: Invoice) -> list[Panel]:
    taxes = list(invoice.taxes.order_by("pk"))
    if not taxes:
        return []
    rows = [
        (
            html.lines(tax.name, tax.note),
            html.number(f"{to_unit_price(tax.rate * 100).normalize():f} %"),
            html.amount(tax.base),
            html.amount(tax.amount),
        )
        for tax in taxes
    ]
    return [Panel(title="Taxes", headers=("Tax", "Rate", "On", "Amount"), rows=rows, numbers=frozenset({1, 2, 3}))]


def _who_paid(invoice: Invoice) -> Panel:
    return Panel(
        title="What the usage was paid with, when it was used",
        headers=("", invoice.currency),
        rows=[
            ("Paid credit", html.amount(invoice.paid_by_paid)),
            ("Promotional and goodwill credit", html.amount(invoice.paid_by_promotional)),
            ("No credit: debt, which later payments pay first", html.amount(invoice.charged_as_debt)),
        ],
        numbers=frozenset({1}),
        total=("All usage, exactly", html.amount(invoice.exact_total)),
    )


def _balances(invoice: Invoice) -> Panel:
    other = EXACT.subtract(invoice.other_movements, invoice.charged_elsewhen)
    elsewhen = (
        [
            (
                "This usage charged outside the period, less other usage charged inside",
                html.amount(invoice.charged_elsewhen),
            )
        ]
        if invoice.charged_elsewhen
        else []
    )
    return Panel(
        title="The wallet in the period",
        headers=("", invoice.currency),
        rows=[
            ("Opening balance", html.amount(invoice.opening_balance)),
            ("Topped up", html.amount(invoice.topped_up)),
            ("Gifts, refunds, expiry and other movements", html.amount(other)),
            *elsewhen,
            ("Usage on this document", html.amount(EXACT.minus(invoice.exact_total))),
        ],
        numbers=frozenset({1}),
        total=("Closing balance", html.amount(invoice.closing_balance)),
    )


def payments(invoice: Invoice) -> list[Panel]:
    """What was paid for it by name; nothing where nothing was."""
    back: dict[int, Decimal] = defaultdict(lambda: ZERO)
    for number, amount, returned in invoice.reopenings.values_list("top_up", "amount", "returned"):
        back[number] = EXACT.add(back[number], EXACT.subtract(amount, returned))
    rows = [
        (
            html.link(html.object_url(TopUp, row.pk), row.public_id),
            row.get_status_display(),
            html.amount(row.amount),
            html.amount(back[row.pk]) if back[row.pk] else html.NOTHING,
            row.get_origin_display(),
            row.reference or row.method_detail or html.NOTHING,
            html.moment(row.paid_at or row.created_at),
        )
        for row in TopUp.objects.filter(invoice=invoice)[:ROWS]
    ]
    headers = ("Payment", "Status", "USD", "Went back", "How", "Reference", "At")
    return [Panel(title="Payments", headers=headers, rows=rows, numbers=frozenset({2, 3}))] if rows else []


def credit_notes(invoice: Invoice) -> list[Panel]:
    """What was taken back of it; nothing where nothing was."""
    rows = [
        (
            html.link(html.object_url(CreditNote, note.pk), note.number),
            html.amount(note.total),
            note.reason,
            note.actor or html.NOTHING,
            html.moment(note.issued_at),
        )
        for note in invoice.credit_notes.order_by("-pk")[:ROWS]
    ]
    headers = ("Credit note", "Taken back", "Reason", "By", "At")
    return [Panel(title="Credit notes", headers=headers, rows=rows, numbers=frozenset({1}))] if rows else []
