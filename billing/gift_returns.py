"""What gifts have paid of an invoice on account, and what a credit note gives back of that, to the grants it came from.

Gifts pay usage as it happens, tax and rounding when the invoice is posted, and later what stood as debt. A note takes
usage and the rest (tax, rounding) back, each by what had paid it: first what no gift has, gifts last. So a part never
gives back more gift than is needed, notes together never more than gifts had paid, and the last one all of it.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from decimal import Decimal

from django.db.models import Sum

from billing import burning
from billing.adjustments import LAST_BURNT_FIRST, USES_LEFT, Use
from billing.models import CreditNote, CreditNoteLine, Invoice
from billing.open_invoices import COVERED_BEFORE
from relayadmin.db import server_cursor
from relayadmin.money import EXACT, ZERO, total


@dataclass(slots=True)
class Back:
    """What a note gives back of gifts (USD): for usage, and for the rest; by (transfer that used it, grant)."""

    usage: Decimal = ZERO
    other: Decimal = ZERO
    taken: dict[tuple[int, int], Decimal] = field(default_factory=dict)

    @property
    def amount(self) -> Decimal:
        return EXACT.add(self.usage, self.other)

    def save(self, customer_id: int, *, transfer_id: int) -> None:
        """Give it back, as a transfer that has been posted to the locked wallet does."""
        burning.put_back(
            burning.Return(customer_id, used_by, grant_id, transfer_id, amount)
            for (used_by, grant_id), amount in sorted(self.taken.items())
        )

    def take(self, uses: Iterable[Use], amount: Decimal) -> Decimal:
        """Undo these uses in turn, up to an amount (USD); returns the rest."""
        for use in uses:
            part = min(use.left, amount)
            if part > 0:
                use.left, amount = EXACT.subtract(use.left, part), EXACT.subtract(amount, part)
                key = (use.transfer_id, use.grant_id)
                self.taken[key] = EXACT.add(self.taken.get(key, ZERO), part)
        return amount


def choose(invoice: Invoice, *, usage: Decimal, other: Decimal, documented: Decimal = ZERO) -> Back:
    """What gifts had paid of what a note takes back of a locked wallet's invoice: usage, and tax and rounding (USD).

    Before the note is saved. `documented` is usage that adjustments have put back before, with its gifts.
    """
    back = Back()
    if EXACT.add(usage, other) <= 0:
        return back
    usage_left, other_left = _left_of(invoice, documented)
    own, posted, filled = _uses(invoice)
    of_own, of_filled = _sum(own), min(_sum(filled), _filled_at_most(invoice))
    # What gifts have paid of a debt counts for usage first, as it was posted.
    usage_gifts = max(ZERO, min(usage_left, EXACT.add(of_own, of_filled)))
    filled_usage = max(ZERO, EXACT.subtract(usage_gifts, of_own))
    filled_other = EXACT.subtract(of_filled, filled_usage)
    other_gifts = max(ZERO, min(other_left, EXACT.add(_sum(posted), filled_other)))
    back.other = _beyond(other, other_left, other_gifts)
    # Rounding that takes more than the note has tax lowers the whole.
    back.usage = min(_beyond(usage, usage_left, usage_gifts), EXACT.subtract(EXACT.add(usage, other), back.other))
    for amount, of_debt, uses in ((back.usage, filled_usage, own), (back.other, filled_other, posted)):
        debt = min(amount, of_debt)
        rest = back.take(uses, EXACT.add(EXACT.subtract(amount, debt), back.take(filled, debt)))
        assert not rest, f"of gifts {rest} USD come back that none has paid"
    return back


def _beyond(part: Decimal, left: Decimal, gifts: Decimal) -> Decimal:
    """Of a part of what is left of something: what is more than was paid otherwise than by gifts."""
    return min(gifts, max(ZERO, EXACT.subtract(part, EXACT.subtract(left, gifts))))


def _left_of(invoice: Invoice, documented: Decimal) -> tuple[Decimal, Decimal]:
    """What is left of an invoice's usage, and of its tax and rounding (USD)."""
    lines = CreditNoteLine.objects.filter(credit_note__invoice=invoice, invoice_line__quantity__isnull=False)
    taken = lines.aggregate(sum=Sum("amount"))["sum"] or ZERO
    credited = CreditNote.objects.filter(invoice=invoice).aggregate(sum=Sum("total"))["sum"] or ZERO
    left = EXACT.subtract(EXACT.subtract(invoice.exact_total, taken), documented)
    whole = EXACT.subtract(EXACT.subtract(invoice.total, credited), documented)
    return left, EXACT.subtract(whole, left)


# The transfers that charged an invoice's usage, and the one that posted its tax and rounding.
_OWN = f"""
WITH own AS MATERIALIZED (
    SELECT t.customer_id, t.id, t.kind FROM billing_transfer t
    WHERE t.customer_id = %(customer)s AND t.kind IN ('usage', 'adjustment') AND t.period <= %(period)s
        AND t.period > {COVERED_BEFORE}
    UNION ALL
    SELECT t.customer_id, t.id, t.kind FROM billing_transfer t
    WHERE t.customer_id = %(customer)s AND t.kind = 'invoice' AND t.key = %(invoice)s
)"""

# Their uses of gifts, and those of gifts that have filled debt since.
_USES = f"""{_OWN}, paying AS (
    SELECT customer_id, id, CASE kind WHEN 'invoice' THEN 'posted' ELSE 'own' END AS what FROM own
    UNION ALL
    SELECT t.customer_id, t.id, 'filled' FROM billing_transfer t
    WHERE t.customer_id = %(customer)s AND t.kind IN ('grant', 'credit_note') AND t.id > (SELECT min(id) FROM own)
)
{USES_LEFT}, p.what FROM paying p
JOIN billing_grantuse u ON u.customer_id = p.customer_id AND u.transfer_id = p.id
JOIN billing_grant g ON g.customer_id = u.customer_id AND g.id = u.grant_id AND g.kind <> 'paid'
ORDER BY {LAST_BURNT_FIRST}"""

# Credit paid what is paid by it: as the usage was charged and the invoice posted, or since. Which credit paid which
# invoice since is not kept, so this is the most that gifts can have; less what notes have given back of it.
_FILLED = f"""{_OWN}
SELECT coalesce((
    SELECT sum(u.amount) FROM own o JOIN billing_grantuse u ON u.customer_id = o.customer_id AND u.transfer_id = o.id
), 0) - coalesce((
    SELECT sum(r.amount) FROM own o JOIN billing_grantreturn r ON r.customer_id = o.customer_id AND r.transfer_id = o.id
), 0) + coalesce((
    SELECT sum(r.amount) FROM billing_creditnote n
    JOIN billing_grantreturn r ON r.customer_id = n.customer_id AND r.transfer_id = n.transfer_id
    JOIN billing_transfer t ON t.customer_id = r.customer_id AND t.id = r.used_by_id
    WHERE n.customer_id = %(customer)s AND n.invoice_id = %(number)s AND t.kind IN ('grant', 'credit_note')
), 0)"""


def _filled_at_most(invoice: Invoice) -> Decimal:
    """The most that gifts can have paid of an invoice as debt, and that no note of it has given back (USD)."""
    with server_cursor() as cursor:
        cursor.execute(_FILLED, _values(invoice))
        (otherwise,) = cursor.fetchone() or (ZERO,)
    return max(ZERO, EXACT.subtract(invoice.paid_by_credit, Decimal(otherwise)))


def _uses(invoice: Invoice) -> tuple[list[Use], list[Use], list[Use]]:
    """What is left of gifts' uses, the last burnt first: by an invoice's usage, by its posting, and for debt since."""
    found: dict[str, list[Use]] = {"own": [], "posted": [], "filled": []}
    with server_cursor() as cursor:
        cursor.execute(_USES, _values(invoice))
        for _, transfer_id, grant_id, kind, left, what in cursor.fetchall():
            found[what].append(Use(transfer_id, grant_id, kind, left))
    return found["own"], found["posted"], found["filled"]


def _values(invoice: Invoice) -> dict[str, object]:
    return {
        "customer": invoice.customer_id,
        "period": invoice.period,
        "invoice": invoice.public_id,
        "number": invoice.pk,
    }


def _sum(uses: Sequence[Use]) -> Decimal:
    return total([ZERO, *(use.left for use in uses)])
