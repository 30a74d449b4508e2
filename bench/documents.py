"""How fast documents are typeset, and that memory stays flat: usage statements of 25 lines, each another one."""

import os
import time
from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path

from billing import documents
from billing.models import Customer, Invoice, InvoiceLine
from relayadmin.money import line_amount, to_cents, total

WARM_UP, MEASURED, WATCHED = 20, 200, 500
# The month is one that no other benchmark closes.
_MONTH = date(2001, 1, 1)
_METERS = (("input", "3"), ("cache_read", "0.3"), ("cache_write_5m", "3.75"), ("cache_write_1h", "6"), ("output", "15"))
_LANGUAGES = ("en", "en", "es", "zh-hans")


def measure() -> dict[str, float]:
    """`pdf_per_s` of one process, rows read and all; `pdf_memory_growth_mb` from the 20th to the 500th document."""
    invoices = [_invoice(number) for number in range(40)]
    _make(invoices, WARM_UP)
    begun_mb = _resident_mb()
    begun = time.perf_counter()
    _make(invoices, MEASURED)
    seconds = time.perf_counter() - begun
    _make(invoices, WATCHED - MEASURED - WARM_UP)
    return {
        "pdf_per_s": round(MEASURED / seconds, 1),
        "pdf_memory_growth_mb": round(_resident_mb() - begun_mb, 1),
    }


def _make(invoices: list[int], count: int) -> None:
    for number in range(count):
        invoice = Invoice.objects.get(pk=invoices[number % len(invoices)])
        # No document is the same as another, as in a month's closing: nothing comes out of a memory of the compiler's.
        invoice.order_reference = f"{time.perf_counter_ns()}"
        assert documents.invoice_pdf(invoice).startswith(b"%PDF")


def _invoice(number: int) -> int:
    customer = Customer.objects.create(name=f"Bench {number} GmbH")
    lines = [
        InvoiceLine(
            position=place * len(_METERS) + at,
            usage_period=_MONTH,
            description=meter,
            model=f"claude-bench-{place}-{number}",
            meter=meter,
            quantity=Decimal(10_007 * (number + 1) + 997 * place),
            unit_price=Decimal(price),
            per=1_000_000,
            multiplier=Decimal(price) / 3 if meter.startswith("cache") else None,
            amount=line_amount(10_007 * (number + 1) + 997 * place, Decimal(price), 1_000_000),
        )
        for place in range(5)
        for at, (meter, price) in enumerate(_METERS, start=1)
    ]
    exact = total([line.amount for line in lines])
    subtotal = to_cents(exact)
    invoice = Invoice.objects.create(
        customer=customer,
        series="BENCH",
        year=2001,
        sequence=customer.pk,
        number=f"BENCH-2001-{customer.pk:06d}",
        status=Invoice.Status.PAID,
        period=_MONTH,
        period_start=datetime(2001, 1, 1, tzinfo=UTC),
        period_end=datetime(2001, 2, 1, tzinfo=UTC),
        issued_at=datetime(2001, 2, 1, tzinfo=UTC),
        supplier_name="Relay GmbH",
        supplier_address="Musterstraße 5\n10115 Berlin",
        customer_name=customer.name,
        customer_address="Calle Mayor 12\n28013 Madrid",
        customer_country="ES",
        language=_LANGUAGES[number % len(_LANGUAGES)],
        exact_total=exact,
        subtotal=subtotal,
        tax=0,
        total=subtotal,
        paid_by_credit=subtotal,
        amount_due=0,
    )
    for line in lines:
        line.invoice = invoice
    InvoiceLine.objects.bulk_create(lines)
    return invoice.pk


def _resident_mb() -> float:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20
