"""CSV of an invoice's lines and of a wallet's statement: written while it is read, in flat memory."""

from collections.abc import Iterator
from typing import Any

from billing import queries
from billing.models import Invoice, InvoiceLine
from relayadmin.csv import csv_lines

LINE_COLUMNS = (
    "invoice",
    "position",
    "usage_period",
    "model",
    "meter",
    "description",
    "note",
    "quantity",
    "unit_price",
    "per",
    "multiplier",
    "amount",
    "currency",
)
STATEMENT_COLUMNS = (
    "version",
    "id",
    "created_at",
    "kind",
    "amount",
    "balance_after",
    "currency",
    "period",
    "reason",
    "document",
    "grant",
    "invoice",
)


def invoice_lines(invoice: Invoice) -> Iterator[bytes]:
    """The lines of an invoice, the rounding line with them: their amounts add up to the subtotal."""
    return csv_lines(LINE_COLUMNS, (_line(invoice, line) for line in invoice.lines.all()))


def _line(invoice: Invoice, line: InvoiceLine) -> tuple[Any, ...]:
    return (
        invoice.number,
        line.position,
        f"{line.usage_period:%Y-%m}" if line.usage_period else None,
        line.model,
        line.meter,
        line.description,
        line.note,
        line.quantity,
        line.unit_price,
        line.per,
        line.multiplier,
        line.amount,
        invoice.currency,
    )


def statement(*, customer_id: int, only: queries.StatementFilter, with_actor: bool = False) -> Iterator[bytes]:
    """A wallet's transfers, newest first, however many; who did them only where the operator reads it."""
    rows = queries.whole_statement(customer_id=customer_id, only=only)
    columns = (*STATEMENT_COLUMNS, "actor") if with_actor else STATEMENT_COLUMNS
    return csv_lines(columns, (_movement(row, with_actor) for row in rows))


def _movement(row: queries.StatementRow, with_actor: bool) -> tuple[Any, ...]:
    return (
        row.version,
        row.id,
        row.created_at,
        row.kind,
        row.amount,
        row.balance_after,
        "USD",
        f"{row.period:%Y-%m}" if row.period else None,
        row.reason,
        row.document,
        row.grant,
        row.invoice,
        *((row.actor,) if with_actor else ()),
    )
