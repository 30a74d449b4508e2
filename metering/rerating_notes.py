"""Where a re-rating ends for each customer: on the next invoice, or as a credit note of the invoice that it lowers.

A note is issued for usage of an invoice that is issued, if the customer's charge got lower and the operator chose so.
What can't be documented so, it says why, stays on the next invoice, as what got dearer does.
"""

from bisect import bisect_left
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from datetime import date, datetime
from decimal import Decimal
from typing import NamedTuple

from django.db.models import Max

from billing import correction_notes, ledger
from billing.correction_notes import Part
from billing.credit_notes import InvalidCreditNote
from billing.models import CreditNote, Invoice, InvoiceLine
from metering import invoice_lines
from metering.models import Rerating, ReratingNote
from relayadmin.db import in_transaction, server_cursor
from relayadmin.money import EXACT, ZERO, line_amount

LONGEST_REASON = 470  # of a note's, which has the re-rating's number after it


@dataclass(frozen=True, slots=True)
class Ending:
    """What becomes of a customer's difference (USD, below zero: less to pay) of one billing period.

    `note` is what a credit note would say; without one the difference stands on the invoice to come, because of `why`.
    """

    billed: date
    difference: Decimal
    invoice: Invoice | None
    note: correction_notes.Quote | None
    why: str


class _Key(NamedTuple):
    """What one line is about."""

    month: date
    model: str
    meter: str
    note: str
    unit_price: Decimal
    per: int


def foresee(customer_id: int, differences: Mapping[date, Decimal], *, by_credit_note: bool) -> list[Ending]:
    """What would become of these differences (USD, by the period that was billed), if they were applied now."""
    invoices = _invoices(customer_id)
    sums: dict[date, Decimal] = defaultdict(lambda: ZERO)
    for billed, difference in differences.items():
        invoice = _covering(invoices, billed)
        period = billed if invoice is None else invoice.period
        sums[period] = EXACT.add(sums[period], difference)
    endings = []
    for period, difference in sorted(sums.items()):
        invoice, note, why = _covering(invoices, period), None, ""
        if invoice is None:
            why = "the month is not invoiced yet"
        elif not by_credit_note:
            why = "no credit note was asked for"
        elif difference >= 0:
            why = "it got no cheaper"
        else:
            try:
                note = correction_notes.quote(invoice, EXACT.minus(difference))
            except InvalidCreditNote as error:
                why = str(error)
        endings.append(Ending(period, difference, invoice, note, why))
    return endings


def void_periods(customers: Collection[int]) -> dict[int, list[tuple[date, date]]]:
    """By customer, after and through which billing periods its void invoices reach: their usage was credited."""
    found: dict[int, list[tuple[date, date]]] = {}
    void = Invoice.objects.filter(customer_id__in=customers, status=Invoice.Status.VOID)
    for customer_id in sorted(set(void.values_list("customer_id", flat=True))):
        before = date.min
        for invoice in _invoices(customer_id):
            if invoice.status == Invoice.Status.VOID:
                found.setdefault(customer_id, []).append((before, invoice.period))
            before = invoice.period
    return found


def issue(rerating: Rerating, *, at: datetime) -> list[CreditNote]:
    """Issue what a re-rating's customers are due in credit notes, each customer in a transaction of its own.

    What was documented before, or stands on an invoice by now, is left out, so it can be done any number of times.
    """
    made: list[CreditNote] = []
    for customer_id in _customers(rerating.pk):
        made += in_transaction(lambda: _issue(rerating, customer_id, at))  # noqa: B023
    return made


def _customers(rerating_id: int) -> list[int]:
    with server_cursor() as cursor:
        cursor.execute(
            "SELECT DISTINCT customer_id FROM metering_usageadjustment WHERE rerating_id = %s ORDER BY 1", [rerating_id]
        )
        return [customer_id for (customer_id,) in cursor.fetchall()]


def _issue(rerating: Rerating, customer_id: int, at: datetime) -> list[CreditNote]:
    wallet = ledger.lock_wallets([customer_id])[customer_id]
    known = ReratingNote.objects.filter(rerating=rerating, credit_note__customer_id=customer_id)
    after = known.aggregate(last=Max("last_adjustment"))["last"] or 0
    sides = _sides(rerating.pk, customer_id, after=after, open_after=wallet.closed_through)
    invoices = _invoices(customer_id)
    by_invoice: dict[int, list[_Side]] = defaultdict(list)
    for side in sides:
        invoice = _covering(invoices, side.billed)
        if invoice is not None:
            by_invoice[invoice.pk].append(side)
    made = []
    last = max((side.last for side in sides), default=0)
    for invoice in invoices:
        if invoice.pk not in by_invoice:
            continue
        try:
            made.append(_document(rerating, invoice, by_invoice[invoice.pk], wallet, last, at))
        except InvalidCreditNote:
            continue  # it stays on the invoice to come
    return made


def _document(
    rerating: Rerating, invoice: Invoice, sides: list["_Side"], wallet: ledger.LockedWallet, last: int, at: datetime
) -> CreditNote:
    (booked,) = {side.booked for side in sides}
    note = correction_notes.issue(
        invoice=invoice,
        wallet=wallet,
        parts=_parts(invoice, sides),
        booked=booked,
        source=f"rerating:{rerating.pk}",
        key=f"rerating:{rerating.pk}:{invoice.public_id}:{last}",
        reason=f"{rerating.reason[:LONGEST_REASON]} (re-rating {rerating.pk})",
        actor=rerating.actor,
        at=at,
    )
    ReratingNote.objects.create(rerating=rerating, credit_note=note, last_adjustment=last)
    return note


def _invoices(customer_id: int) -> list[Invoice]:
    rows = Invoice.objects.filter(customer_id=customer_id).exclude(status=Invoice.Status.DRAFT)
    return list(rows.order_by("period"))


def _covering(invoices: list[Invoice], billed: date) -> Invoice | None:
    """The invoice of a billing period: the first that reaches it."""
    place = bisect_left([invoice.period for invoice in invoices], billed)
    return invoices[place] if place < len(invoices) else None


class _Side(NamedTuple):
    """What adjustments take off (-1) or add (+1) of one meter; `last` is the highest number of an adjustment."""

    billed: date
    booked: date
    month: date
    sign: int
    model: str
    price_set_id: int
    meter: str
    quantity: Decimal
    last: int


# Of usage that is on an issued invoice, booked in a period that is not.
_SIDES = """
WITH changed AS MATERIALIZED (
    SELECT a.*, e.period AS billed,
           date_trunc('month', e.occurred_at AT TIME ZONE i.timezone)::date AS month
    FROM metering_usageadjustment a
    JOIN metering_usageevent e ON e.customer_id = a.customer_id AND e.id = a.event_number
    CROSS JOIN LATERAL (
        SELECT i.timezone FROM billing_invoice i
        WHERE i.customer_id = a.customer_id AND i.period >= e.period AND i.status <> 'draft' ORDER BY i.period LIMIT 1
    ) i
    WHERE a.customer_id = %(customer)s AND a.rerating_id = %(rerating)s AND a.id > %(after)s AND a.period <> e.period
        AND a.period > coalesce(%(open_after)s::date, '-infinity')
), calls AS (
    SELECT c.billed, c.period, c.month, c.id, s.sign, p.model_id, p.price_set_id, p.quantities
    FROM changed c CROSS JOIN LATERAL (VALUES
        (-1, c.old_model_id, c.old_price_set_id, c.old_quantities, c.old_parts),
        (1, c.new_model_id, c.new_price_set_id, c.new_quantities, c.new_parts)
    ) s (sign, model_id, price_set_id, quantities, parts)
    CROSS JOIN LATERAL (
        SELECT s.model_id, s.price_set_id, s.quantities WHERE s.parts IS NULL
        UNION ALL
        SELECT (one->>'model_id')::bigint, (one->>'price_set_id')::bigint, one->'quantities'
        FROM jsonb_array_elements(s.parts) one
    ) p
    WHERE s.price_set_id IS NOT NULL
)
SELECT c.billed, c.period, c.month, c.sign, m.public_id, c.price_set_id, q.key, sum(q.value::numeric), max(c.id)
FROM calls c CROSS JOIN LATERAL jsonb_each_text(c.quantities) q JOIN metering_model m ON m.id = c.model_id
GROUP BY 1, 2, 3, 4, 5, 6, 7 ORDER BY 3, 5, 7, 4, 6"""


def _sides(rerating_id: int, customer_id: int, *, after: int, open_after: date | None) -> list[_Side]:
    with server_cursor() as cursor:
        values = {"customer": customer_id, "rerating": rerating_id, "after": after, "open_after": open_after}
        cursor.execute(_SIDES, values)
        return [_Side(*row) for row in cursor.fetchall()]


def _parts(invoice: Invoice, sides: Iterable[_Side]) -> list[Part]:
    """The lines of a note: as charged above zero, as rated again below. Raises InvalidCreditNote."""
    sides = list(sides)
    terms = invoice_lines.terms_of({side.price_set_id for side in sides})
    sums: dict[_Key, Decimal] = defaultdict(lambda: ZERO)
    for side in sides:
        said = terms[side.price_set_id]
        price, per = said.prices[side.meter]
        key = _Key(side.month, side.model, side.meter, said.notes[side.meter], price, per)
        # What is the same before and after is not part of it.
        sums[key] = EXACT.subtract(sums[key], side.sign * side.quantity)
    changed = {key: quantity for key, quantity in sums.items() if quantity}
    lines = list(invoice.lines.exclude(quantity=None).order_by("position"))
    tied = {key: _line_of(key, lines) for key in changed}
    biggest = max(
        (key for key, quantity in changed.items() if quantity > 0 and tied[key] is not None),
        key=lambda key: line_amount(changed[key], key.unit_price, key.per),
        default=None,
    )
    if biggest is None:
        raise InvalidCreditNote("lines", "it has no line of this usage")
    return [_part(key, quantity, tied[key] or tied[biggest], invoice) for key, quantity in changed.items()]


def _part(key: _Key, quantity: Decimal, line: InvoiceLine | None, invoice: Invoice) -> Part:
    assert line is not None
    said = "as charged" if quantity > 0 else "as rated again"
    return Part(
        invoice_line=line.pk,
        description=f"{invoice_lines.describe(key.model, key.meter, key.note, key.month, invoice.period)}, {said}",
        model=key.model,
        meter=key.meter,
        quantity=quantity,
        unit_price=key.unit_price,
        per=key.per,
        amount=line_amount(quantity, key.unit_price, key.per),
    )


def _line_of(key: _Key, lines: list[InvoiceLine]) -> InvoiceLine | None:
    """The line of an invoice that usage stands on: at its price, or where it was put right before, of its meter."""
    of_meter = [
        line for line in lines if (line.usage_period, line.model, line.meter) == (key.month, key.model, key.meter)
    ]
    exact = [line for line in of_meter if (line.unit_price, line.per, line.note) == (key.unit_price, key.per, key.note)]
    return next(iter(exact or of_meter), None)
