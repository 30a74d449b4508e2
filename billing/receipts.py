"""Receipts: one for each paid top-up and each payment of an invoice, frozen, with numbers that have no gaps.

They are made after the money is credited, by a job or by whoever asks first: the series' lock is held while a number is
given out, and crediting must not queue for it.
"""

from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal
from zoneinfo import ZoneInfo

from django.db.models import QuerySet

from billing.billing_profiles import profile_of
from billing.countries import names
from billing.invoice_payments import paid_of_invoice
from billing.models import Customer, OperatorSettings, Receipt, TopUp
from relayadmin.db import in_transaction, server_cursor
from relayadmin.money import EXACT, currency_decimals

# Test payments have numbers of their own: they would be gaps among those that count.
SERIES, SANDBOX_SERIES = "RCP", "TEST"
# Where the frequent job looks; the daily one looks everywhere.
RECENT = timedelta(days=2)
BATCH = 200
_METHODS = {
    "card": "Card",
    "alipay": "Alipay",
    "wechat_pay": "WeChat Pay",
    "bank_transfer": "Bank transfer",
    "cash": "Cash",
}


class NotPaid(Exception):
    """The top-up is not paid, so there is no receipt for it."""


@dataclass(frozen=True, slots=True)
class Party:
    """Supplier or customer as a receipt shows them; what is not known is empty."""

    name: str
    email: str
    address: str = ""
    country: str = ""
    tax_number: str = ""
    id: str = ""


@dataclass(frozen=True, slots=True)
class Figures:
    """What stands on a receipt, as text: the same in the PDF and in the API.

    Where tax was charged, or reversed, it is the invoice: `tax` is of `tax_rate` on `credited`, `paid_usd` is both. Of
    a payment of an invoice, `invoice_paid` has paid the invoice of that number, and `credited` is what became credit.
    `paid` is in `currency`, `credited` in USD, `rate` in units of the currency for 1 USD. Days are the operator's.
    """

    id: str
    number: str
    top_up: str
    issued_at: datetime
    paid_at: datetime
    issued_on: str
    paid_on: str
    timezone: str
    supplier: Party
    customer: Party
    paid_with: str
    reference: str
    currency: str
    paid: str
    credited: str
    invoice_number: str
    invoice_paid: str
    title: str
    tax_name: str
    tax_rate: str
    tax: str
    tax_note: str
    paid_usd: str
    rate: str
    is_sandbox: bool
    language: str = "en"
    paper: str = "a4"


def issue_missing(*, at: datetime, since: datetime | None = None) -> int:
    """Make the receipts of top-ups that were paid and have none, the first paid first; returns how many.

    Only of those paid since a moment, if one is given. Any number may run at once: they take turns.
    """
    made = 0
    while batch := in_transaction(lambda: _issue(_without(since)[:BATCH], at)):
        made += len(batch)
    return made


def of(top_up: TopUp, *, at: datetime) -> Receipt:
    """The receipt of a paid top-up, made now if the job has not been there yet. Raises NotPaid."""
    if top_up.status != TopUp.Status.PAID:
        raise NotPaid(f"{top_up.public_id} is {top_up.status}; there is a receipt once it is paid")
    found = Receipt.objects.select_related("customer", "top_up").filter(top_up_id=top_up.pk).first()
    if found is None:
        in_transaction(lambda: _issue(_without(None).filter(pk=top_up.pk), at))
        found = Receipt.objects.select_related("customer", "top_up").get(top_up_id=top_up.pk)
    return found


def _without(since: datetime | None) -> QuerySet[TopUp]:
    paid = TopUp.objects.filter(status=TopUp.Status.PAID, paid_at__isnull=False, receipt=None)
    if since is not None:
        paid = paid.filter(paid_at__gte=since)
    return paid.select_related("customer", "invoice").order_by("paid_at", "pk")


def _issue(wanted: QuerySet[TopUp], at: datetime) -> list[Receipt]:
    """Make receipts in one transaction; the series are locked before anybody looks which are missing."""
    supplier = OperatorSettings.objects.get(pk=1)
    year = at.astimezone(ZoneInfo(supplier.timezone)).year
    last = {series: _lock_series(series, year) for series in sorted((SERIES, SANDBOX_SERIES))}
    rows = []
    for top_up in wanted:
        series = SANDBOX_SERIES if top_up.is_sandbox else SERIES
        last[series] += 1
        rows.append(_receipt(top_up, supplier, series, year, last[series], at))
    if rows:
        Receipt.objects.bulk_create(rows)
        for series, number in last.items():
            _save_last(series, year, number)
    return rows


def _receipt(top_up: TopUp, supplier: OperatorSettings, series: str, year: int, sequence: int, at: datetime) -> Receipt:
    customer: Customer = top_up.customer
    profile = profile_of(customer)
    assert top_up.paid_at is not None
    return Receipt(
        customer=customer,
        top_up=top_up,
        series=series,
        year=year,
        sequence=sequence,
        number=f"{series}-{year}-{sequence:06d}",
        issued_at=at,
        paid_at=top_up.paid_at,
        timezone=supplier.timezone,
        supplier_name=supplier.name,
        supplier_address=supplier.address,
        supplier_tax_number=supplier.tax_number,
        supplier_email=supplier.email,
        customer_name=profile.legal_name or customer.name,
        customer_address=profile.address,
        customer_country=profile.country,
        customer_tax_number=profile.tax_number,
        customer_email=customer.email,
        origin=top_up.origin,
        method=top_up.method,
        method_detail=top_up.method_detail,
        reference=top_up.reference,
        currency=top_up.currency,
        pay_amount=top_up.pay_amount,
        amount=top_up.credited,
        tax=top_up.tax,
        tax_name=top_up.tax_name,
        tax_rate=top_up.tax_rate,
        tax_note=top_up.tax_note,
        language=profile.language,
        paper=profile.paper,
        rate=top_up.rate,
        is_sandbox=top_up.is_sandbox,
        invoice_number="" if top_up.invoice is None else top_up.invoice.number,
        invoice_part=paid_of_invoice(top_up),
    )


def _lock_series(series: str, year: int) -> int:
    """Lock the year's series for the rest of the transaction; the last number given out in it."""
    with server_cursor() as cursor:
        cursor.execute(
            "INSERT INTO billing_invoiceseries AS s (series, year, last_number) VALUES (%s, %s, 0)"
            " ON CONFLICT (series, year) DO UPDATE SET last_number = s.last_number RETURNING last_number",
            [series, year],
        )
        row = cursor.fetchone()
    assert row is not None
    return int(row[0])


def _save_last(series: str, year: int, number: int) -> None:
    with server_cursor() as cursor:
        cursor.execute(
            "UPDATE billing_invoiceseries SET last_number = %s WHERE series = %s AND year = %s", [number, series, year]
        )


def figures(receipt: Receipt) -> Figures:
    """What stands on a receipt, as text."""
    zone = ZoneInfo(receipt.timezone)
    return Figures(
        id=receipt.public_id,
        number=receipt.number,
        top_up=receipt.top_up.public_id,
        issued_at=receipt.issued_at,
        paid_at=receipt.paid_at,
        issued_on=f"{receipt.issued_at.astimezone(zone):%Y-%m-%d}",
        paid_on=f"{receipt.paid_at.astimezone(zone):%Y-%m-%d}",
        timezone=receipt.timezone,
        supplier=Party(
            name=receipt.supplier_name,
            email=receipt.supplier_email,
            address=receipt.supplier_address,
            tax_number=receipt.supplier_tax_number,
        ),
        customer=Party(
            name=receipt.customer_name,
            email=receipt.customer_email,
            address=receipt.customer_address,
            country=names().get(receipt.customer_country, ""),
            tax_number=receipt.customer_tax_number,
            id=receipt.customer.public_id,
        ),
        paid_with=_paid_with(receipt),
        reference=receipt.reference,
        currency=receipt.currency,
        paid=_text(receipt.pay_amount, receipt.currency),
        credited=_text(EXACT.subtract(receipt.amount, receipt.invoice_part), "USD"),
        invoice_number=receipt.invoice_number,
        invoice_paid=_text(receipt.invoice_part, "USD"),
        title="Invoice" if receipt.tax_name else "Receipt",
        tax_name=receipt.tax_name,
        tax_rate=f"{receipt.tax_rate.scaleb(2).normalize():f} %" if receipt.tax_name else "",
        tax=_text(receipt.tax, "USD"),
        tax_note=receipt.tax_note,
        paid_usd=_text(EXACT.add(receipt.amount, receipt.tax), "USD"),
        rate=f"{receipt.rate.normalize():f}",
        is_sandbox=receipt.is_sandbox,
        language=receipt.language,
        paper=receipt.paper,
    )


def _paid_with(receipt: Receipt) -> str:
    if not receipt.method:
        return str(TopUp.Origin(receipt.origin).label)
    method = _METHODS.get(receipt.method, receipt.method)
    return f"{method}, {receipt.method_detail}" if receipt.method_detail else method


def _text(amount: Decimal, currency: str) -> str:
    """An amount with its currency's decimals: "72.50", "1500" (JPY); with more where it has more."""
    whole, _, fraction = f"{amount:f}".partition(".")
    fraction = fraction.rstrip("0").ljust(currency_decimals(currency), "0")
    return f"{whole}.{fraction}" if fraction else whole
