"""One customer's month: usage → lines → billing.invoicing, if usage, lines and ledger give the same figure."""

from datetime import date, datetime
from zoneinfo import ZoneInfo

from billing import correction_notes, invoice_movements, invoicing, ledger
from metering import invoice_lines
from metering.invoice_lines import PriceMissing
from relayadmin.money import amount_text, total


class FiguresDiffer(Exception):
    """The lines don't add up to what was charged; nothing is issued."""


def close_customer(*, customer_id: int, period: date, zone: ZoneInfo, at: datetime) -> bool:
    """Close one customer's month under its wallet's lock, in the caller's transaction; whether an invoice was issued.

    All that is billed after its last closed period, up to this one, stands on it, and beside it what credit notes have
    documented of that. Raises FiguresDiffer.
    """
    wallet = ledger.lock_wallets([customer_id])[customer_id]
    if wallet.closed_through is not None and wallet.closed_through >= period:
        return False
    try:
        usage = invoice_lines.read(customer_id, after=wallet.closed_through, through=period, zone=zone)
    except PriceMissing as error:
        raise FiguresDiffer(str(error)) from error
    documented = correction_notes.documented(customer_id, after=wallet.closed_through, through=period)
    if not usage.lines and not documented:
        return False
    moved = invoice_movements.read(wallet, through=period, zone=zone)
    added = total([line.amount for line in usage.lines])
    counted = amount_text(usage.charged)
    if added != usage.charged:
        raise FiguresDiffer(f"the lines add up to {amount_text(added)} USD, but {counted} USD was charged")
    if moved.charged != usage.charged:
        taken = amount_text(moved.charged)
        raise FiguresDiffer(f"{counted} USD of usage was counted, but {taken} USD was taken off the wallet")
    # The document's own month first, then earlier ones; what notes document stands below the lines of its month.
    lines = sorted([*usage.lines, *documented], key=lambda line: line.usage_period, reverse=True)
    invoicing.issue(wallet=wallet, period=period, lines=lines, moved=moved, savings=usage.savings, zone=zone, at=at)
    return True
