"""Usage of issued invoices that adjustments have lowered since: it is back already, so credit notes leave it alone."""

from decimal import Decimal

from django.db.models import Sum

from billing.models import CreditNote, Invoice
from billing.open_invoices import COVERED_BEFORE
from relayadmin.db import server_cursor
from relayadmin.money import EXACT, ZERO

# Events that the invoice charged, by adjustments that a later document has.
_LOWERED = f"""
SELECT coalesce(sum(a.old_charge - a.new_charge), 0)
FROM metering_usageadjustment a
JOIN metering_usageevent e ON e.customer_id = a.customer_id AND e.id = a.event_number
WHERE a.customer_id = %(customer)s AND a.period > %(period)s AND e.period <= %(period)s
    AND e.period > {COVERED_BEFORE}"""


def lowered_since(invoice: Invoice) -> Decimal:
    """By how much less (USD) an issued invoice's usage counts now, beyond what credit notes of it document."""
    with server_cursor() as cursor:
        cursor.execute(_LOWERED, {"customer": invoice.customer_id, "period": invoice.period})
        (lowered,) = cursor.fetchone() or (ZERO,)
    documented = CreditNote.objects.filter(invoice=invoice).aggregate(sum=Sum("documented"))["sum"] or ZERO
    return EXACT.subtract(Decimal(lowered), documented)
