"""Documents to print: invoices with lines that recompute, as closing a month makes them, and what is in a PDF."""

from datetime import UTC, date, datetime
from decimal import Decimal
from io import BytesIO
from typing import Any

from pypdf import PdfReader

from billing.models import Customer, Invoice, InvoiceLine, InvoiceTax
from relayadmin.money import line_amount, to_cents, total

NOVEMBER, OCTOBER = date(2026, 11, 1), date(2026, 10, 1)
ISSUED = datetime(2026, 12, 1, 10, 0, tzinfo=UTC)
# (meter, unit price, per, multiplier of the input price, note)
METERS = (
    ("input", "3", 1_000_000, None, ""),
    ("cache_read", "0.3", 1_000_000, "0.1", ""),
    ("cache_write_5m", "3.75", 1_000_000, "1.25", ""),
    ("output", "15", 1_000_000, None, ""),
    ("web_search", "10", 1_000, None, ""),
)
PARTIES = {
    "supplier_name": "Relay GmbH",
    "supplier_address": "Musterstraße 5\n10115 Berlin",
    "supplier_tax_number": "DE136695976",
    "supplier_email": "billing@relay.example",
    "customer_name": "Northwind S.L.",
    "customer_email": "ap@northwind.example",
    "customer_address": "Calle Mayor 12, 3.º\n28013 Madrid",
    "customer_country": "ES",
    "customer_tax_number": "ESB58378431",
}


def make_invoice(
    customer: Customer,
    *,
    models: int = 1,
    meters: int = len(METERS),
    earlier: int = 0,
    rate: str | None = None,
    number: int = 1,
    names: str = "claude-sonnet-4-{:03d}",
    **changes: Any,
) -> Invoice:
    """An issued document over so many models × meters, `earlier` of them used a month before; `changes` its fields."""
    rows = _rows(models, meters, earlier, names)
    exact = total([row.amount for row in rows])
    subtotal = to_cents(exact)
    tax = to_cents(subtotal * Decimal(rate)) if rate is not None else Decimal(0)
    is_on_account = changes.get("terms") == "on_account"
    fields: dict[str, Any] = {
        "customer": customer,
        "series": "INV",
        "year": 2026,
        "sequence": number,
        "number": f"INV-2026-{number:06d}",
        "status": "issued" if is_on_account else "paid",
        "period": NOVEMBER,
        "period_start": "2026-11-01T00:00Z",
        "period_end": "2026-12-01T00:00Z",
        "issued_at": ISSUED,
        "exact_total": exact,
        "subtotal": subtotal,
        "tax": tax,
        "total": subtotal + tax,
        "paid_by_credit": 0 if is_on_account else subtotal + tax,
        "amount_due": subtotal + tax if is_on_account else 0,
        "due_on": date(2026, 12, 15) if is_on_account else None,
        "opening_balance": Decimal("120.5"),
        "topped_up": Decimal(250),
        "other_movements": Decimal("-0.25"),
        "closing_balance": Decimal("370.25") - exact,
        "savings": Decimal("1.234567"),
        "paid_by_promotional": Decimal(0),
        **PARTIES,
        **changes,
    }
    invoice = Invoice.objects.create(**fields)
    if subtotal != exact:
        rows.append(InvoiceLine(position=len(rows) + 1, description="Rounding to the cent", amount=subtotal - exact))
    for row in rows:
        row.invoice = invoice
    InvoiceLine.objects.bulk_create(rows)
    if rate is not None:
        InvoiceTax.objects.create(invoice=invoice, name="IVA", rate=Decimal(rate), base=subtotal, amount=tax)
    return Invoice.objects.get(pk=invoice.pk)


def _rows(models: int, meters: int, earlier: int, names: str) -> list[InvoiceLine]:
    rows = []
    for model in range(models):
        for place, (meter, price, per, multiplier, note) in enumerate(METERS[:meters]):
            quantity = Decimal((model + 1) * 12_345 + place * 1_000_003)
            rows.append(
                InvoiceLine(
                    position=len(rows) + 1,
                    usage_period=NOVEMBER if model < models - earlier else OCTOBER,
                    description=f"{names.format(model)}: {meter}",
                    model=names.format(model),
                    meter=meter,
                    note=note,
                    quantity=quantity,
                    unit_price=Decimal(price),
                    per=per,
                    multiplier=None if multiplier is None else Decimal(multiplier),
                    amount=line_amount(quantity, Decimal(price), per),
                )
            )
    return rows


def pages_of(pdf: bytes) -> list[str]:
    """The text of each page, as a reader would copy it, with single spaces."""
    found = [page.extract_text() for page in PdfReader(BytesIO(pdf)).pages]
    return [" ".join(text.replace("\u2007", " ").replace("\u200b", "").split()) for text in found]


def text_of_pdf(pdf: bytes) -> str:
    return " ".join(pages_of(pdf))
