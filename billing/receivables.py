"""Invoices of customers on account: posted when they are issued, due until paid, and what comes of not paying.

Usage is on the wallet as it happens; issuing adds tax and rounding. What no credit has paid is debt there, and is due.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import date, datetime, timedelta
from decimal import ROUND_DOWN, Context, Decimal
from zoneinfo import ZoneInfo

from billing import burning, credits, debt_parts, gift_returns, ledger, notices, open_invoices, suspension
from billing.accounts import AccountClosed
from billing.billing_profiles import profile_of
from billing.models import Account, AccountChange, CreditNote, Customer, Grant, Invoice, OperatorSettings, Transfer
from billing.notice_kinds import INVOICE_OVERDUE
from billing.periods import operator_timezone
from relayadmin.db import in_transaction, server_cursor
from relayadmin.money import CENT, EXACT, ZERO, cents_text

Status = Invoice.Status
OPEN = open_invoices.OPEN
REMINDER_DAYS = (3, 10, 20)
POLICY = "overdue policy"  # the actor of what the scheduled job does
_DOWN = Context(prec=80, rounding=ROUND_DOWN)


class NotDue(Exception):
    """Nothing is due on the invoice, or less than what is to be paid; `due` is what is (USD)."""

    def __init__(self, due: Decimal) -> None:
        super().__init__(f"{cents_text(due)} USD are due on it" if due else "nothing is due on it")
        self.due = due


def post_invoice(invoice: Invoice, wallet: ledger.LockedWallet, *, at: datetime) -> None:
    """Post an invoice's tax and rounding to its customer's locked wallet, and set what is due and until when.

    Once per invoice, by its public id, before it is saved or after: its number isn't needed, and the caller saves it.
    Sets paid_by_credit, amount_due, due_on, status, paid_at. A fraction of a cent that is owed comes with the next
    invoice. Raises ledger.AlreadyPosted.
    """
    rounding = EXACT.subtract(invoice.subtotal, invoice.exact_total)
    move(
        wallet,
        EXACT.minus(EXACT.add(invoice.tax, rounding)),
        [(Account.TAX.value, invoice.tax), (Account.ROUNDING.value, rounding)],
        kind=Transfer.Kind.INVOICE,
        key=invoice.public_id,
        reason="Tax and rounding of an invoice" if invoice.tax else "Rounding of an invoice",
        document=invoice.public_id,
        at=at,
    )
    _lower_others(wallet, at=at)
    due = min(invoice.total, _unpaid(wallet, invoice.period)).quantize(CENT, context=_DOWN)
    invoice.amount_due = max(due, CENT * 0)
    invoice.paid_by_credit = EXACT.subtract(invoice.total, invoice.amount_due)
    if invoice.amount_due:
        local = invoice.issued_at.astimezone(ZoneInfo(invoice.timezone)).date()
        invoice.status, invoice.paid_at = Status.ISSUED, None
        invoice.due_on = local + timedelta(days=profile_of(invoice.customer).payment_days)
    else:
        invoice.status, invoice.paid_at, invoice.due_on = Status.PAID, at, None


def _lower_others(wallet: ledger.LockedWallet, *, at: datetime) -> None:
    """Of invoices before this one no more is due than owed: what this one takes back has paid it."""
    debt = credits.debts([wallet])[wallet.customer_id]
    too_much = EXACT.subtract(open_invoices.due_of(wallet.customer_id), debt)
    if too_much > 0:
        open_invoices.lower(wallet, too_much, at=at, by_credit=True)


def move(
    wallet: ledger.LockedWallet,
    amount: Decimal,
    entries: Sequence[tuple[str, Decimal]],
    *,
    kind: Transfer.Kind,
    key: str,
    reason: str,
    document: str,
    actor: str = "",
    gifts: Decimal = ZERO,
    at: datetime,
) -> int | None:
    """Move a locked wallet by an amount (USD) against these entries, whose zeros are left out; the transfer's number.

    Below zero, credit pays in its order and the rest is debt; above, it fills debt, and the rest becomes paid credit,
    but for `gifts`: these the caller puts back. None if the amount is zero. Raises ledger.AlreadyPosted.
    """
    if not amount:
        return None
    debt = credits.debts([wallet])[wallet.customer_id]
    parts = burning.choose(wallet, -amount) if amount < 0 else []
    posting = ledger.Posting(
        wallet.customer_id,
        kind.value,
        key,
        [(Account.WALLET.value, amount), *((account, part) for account, part in entries if part)],
        reason=reason,
        document=document,
        actor=actor,
    )
    (transfer_id,) = ledger.post([posting], wallets={wallet.customer_id: wallet}, at=at)
    burning.burn(wallet, parts, transfer_id=transfer_id)
    fresh = EXACT.subtract(EXACT.subtract(amount, gifts), debt)
    if fresh > 0:
        credits.add_fresh(
            wallet.customer_id,
            fresh,
            transfer_id=transfer_id,
            reference=document,
            reason=reason,
            at=at,
        )
    return transfer_id


def take_back(
    note: CreditNote, invoice: Invoice, wallet: ledger.LockedWallet, usage: Decimal, *, at: datetime
) -> int | None:
    """Post a credit note that is not saved yet to a locked wallet, and lower what is due; the transfer's number.

    `usage` (USD) of the invoice, tax and rounding; what the note documents, adjustments have moved before. It is taken
    off debt, and beyond that comes back as what had paid: gifts to their grants, where they pay what debt is left as
    any new credit does, and all else as paid credit. Raises ledger.AlreadyPosted.
    """
    amount = EXACT.subtract(note.total, note.documented)
    rounding = EXACT.subtract(EXACT.add(usage, note.documented), note.subtotal)
    debt = credits.debts([wallet])[wallet.customer_id]
    other = EXACT.subtract(amount, usage)
    gifts = gift_returns.choose(invoice, usage=usage, other=other, documented=note.documented)
    money = EXACT.subtract(amount, gifts.amount)
    filled = min(gifts.amount, max(ZERO, EXACT.subtract(debt, money)))
    # Of the debt, tax that nobody pays now was tax; what else the note cures counts for usage first.
    usage_debt = debt_parts.of_usage(wallet, debt)
    untaxed = max(ZERO, min(EXACT.subtract(other, gifts.other), EXACT.subtract(debt, usage_debt)))
    filled_usage = min(filled, max(ZERO, EXACT.subtract(usage_debt, EXACT.subtract(money, untaxed))))
    promotional = EXACT.subtract(gifts.usage, filled_usage)
    transfer_id = move(
        wallet,
        amount,
        [
            (Account.REVENUE.value, EXACT.subtract(promotional, usage)),
            (Account.PROMOTIONAL_USAGE.value, EXACT.minus(promotional)),
            (Account.ROUNDING.value, rounding),
            (Account.TAX.value, EXACT.minus(note.tax)),
        ],
        kind=Transfer.Kind.CREDIT_NOTE,
        key=note.public_id,
        reason=note.reason,
        document=invoice.number,
        actor=note.actor,
        gifts=gifts.amount,
        at=at,
    )
    if transfer_id is not None and gifts.amount:
        gifts.save(wallet.customer_id, transfer_id=transfer_id)
        burning.burn(wallet, burning.choose(wallet, filled), transfer_id=transfer_id)
    cured = EXACT.add(min(debt, max(ZERO, amount)), _cured_before(note))
    open_invoices.lower_by_note(invoice, wallet, note.total, cured=cured, at=at)
    end_suspension(wallet.customer_id, at=at)
    return transfer_id


# What the adjustments that a note documents have cured of debt, and what notes before have documented of these. What a
# transfer took to a balance above zero is no debt's.
_CURED = """
SELECT coalesce((
    SELECT sum(least(e.amount, greatest(e.amount - e.balance_after, 0))) FROM billing_transfer t
    JOIN billing_entry e ON e.customer_id = t.customer_id AND e.id = t.id * 16 AND e.account = 'wallet'
    WHERE t.customer_id = %(customer)s AND t.kind = 'adjustment' AND t.period = %(booked)s AND e.amount > 0
        AND starts_with(t.key, %(source)s || ':')
), 0) - coalesce((
    SELECT sum(n.documented) FROM billing_creditnote n
    WHERE n.customer_id = %(customer)s AND n.booked_period = %(booked)s AND n.source = %(source)s
), 0)"""


def _cured_before(note: CreditNote) -> Decimal:
    """What of the debt (USD) the adjustments cured that a note, not saved yet, documents."""
    if note.booked_period is None:
        return ZERO
    with server_cursor() as cursor:
        values = {"customer": note.customer_id, "booked": note.booked_period, "source": note.source}
        cursor.execute(_CURED, values)
        (cured,) = cursor.fetchone() or (ZERO,)
    documented: Decimal = note.documented
    return min(documented, max(ZERO, Decimal(cured)))


_LATER = """
SELECT coalesce(sum(-e.amount), 0) - coalesce(sum((
    SELECT coalesce(sum(u.amount), 0) FROM billing_grantuse u
    WHERE u.customer_id = t.customer_id AND u.transfer_id = t.id
)), 0) + coalesce(sum((
    SELECT coalesce(sum(r.amount), 0) FROM billing_grantreturn r
    WHERE r.customer_id = t.customer_id AND r.used_by_id = t.id
)), 0)
FROM billing_transfer t
JOIN billing_entry e ON e.customer_id = t.customer_id AND e.id = t.id * 16 AND e.account = 'wallet'
WHERE t.customer_id = %s AND t.period > %s AND t.kind IN ('usage', 'adjustment')"""


def _unpaid(wallet: ledger.LockedWallet, period: date) -> Decimal:
    """What is owed of this period and the ones before it (USD) and due on no invoice yet.

    Of all debt: less what debits by hand, refunds and disputes made, what is due already, and the usage of later
    periods that no credit has paid. What is paid of a debt counts for the oldest first.
    """
    debt = credits.debts([wallet])[wallet.customer_id]
    if not debt:
        return ZERO
    with server_cursor() as cursor:
        cursor.execute(_LATER, [wallet.customer_id, period])
        (later,) = cursor.fetchone() or (ZERO,)
    known = EXACT.add(debt_parts.by_hand(wallet, debt), open_invoices.due_of(wallet.customer_id))
    return max(ZERO, EXACT.subtract(EXACT.subtract(debt, known), max(ZERO, Decimal(later))))


def check_payable(invoice: Invoice, amount: Decimal) -> None:
    """Raise NotDue if so much can't be paid of an invoice now."""
    if invoice.status not in OPEN or amount > invoice.amount_due:
        raise NotDue(invoice.amount_due if invoice.status in OPEN else ZERO)


def cover(
    wallet: ledger.LockedWallet,
    invoice: Invoice,
    amount: Decimal,
    *,
    source: Account,
    key: str,
    reason: str,
    actor: str,
    at: datetime,
) -> Decimal:
    """Let money of an invoice's payment (USD, on this account) fill a locked wallet's debt; returns how much did.

    Raises ledger.AlreadyPosted.
    """
    covered = min(amount, credits.debts([wallet])[wallet.customer_id])
    move(
        wallet,
        covered,
        [(source.value, -covered)],
        kind=Transfer.Kind.PAYMENT,
        key=key,
        reason=reason,
        document=invoice.number,
        actor=actor,
        at=at,
    )
    return covered


def pay(
    *,
    invoice_id: int,
    amount: Decimal,
    payment: str,
    source: Account,
    reason: str,
    actor: str = "",
    at: datetime,
) -> Grant | None:
    """Put money that came in for an invoice (USD) on its customer's locked wallet, and take it off what is due.

    `payment` is the public id of what it came with, and posts once. Money beyond what is due becomes paid credit: that
    grant is returned. Raises ledger.AlreadyPosted.
    """
    customer_id = Invoice.objects.values_list("customer_id", flat=True).get(pk=invoice_id)
    wallet = ledger.lock_wallets([customer_id])[customer_id]
    invoice = Invoice.objects.get(pk=invoice_id)
    part = min(amount, invoice.amount_due) if invoice.status in OPEN else ZERO
    covered = cover(wallet, invoice, part, source=source, key=payment, reason=reason, actor=actor, at=at)
    if part:
        open_invoices.settle(invoice, part, at=at)
    rest = EXACT.subtract(amount, covered)
    made = None
    if rest:
        made = credits.find(
            credits.grant(
                customer_id=customer_id,
                amount=rest,
                kind=Grant.Kind.PAID,
                reason=f"More than was due on {invoice.number}",
                reference=payment,
                key=payment,
                at=at,
                actor=actor,
                source=source,
            ).grant
        )
    end_suspension(customer_id, at=at)
    return made


def end_suspension(customer_id: int, *, at: datetime) -> bool:
    """End a suspension for overdue invoices, of a customer whose wallet is locked, if none is overdue any more.

    Whether the customer is active now and was not before.
    """
    customer = Customer.objects.get(pk=customer_id)
    if customer.status != Customer.Status.SUSPENDED or _overdue(customer_id):
        return False
    return suspension.resume(
        customer_id=customer_id,
        causes=[AccountChange.Cause.OVERDUE],
        reason="No invoice is overdue any more",
        actor=POLICY,
        at=at,
    )


def _overdue(customer_id: int) -> bool:
    return Invoice.objects.filter(customer_id=customer_id, status=Status.OVERDUE).exists()


@dataclass(frozen=True, slots=True)
class Chased:
    """What one run found: invoices that became overdue, reminders told, customers suspended, and resumed."""

    overdue: int = 0
    reminded: int = 0
    suspended: int = 0
    resumed: int = 0


_RESUMABLE = """
SELECT c.id FROM billing_customer c
WHERE c.status = 'suspended' AND (
    SELECT a.kind FROM billing_accountchange a WHERE a.customer_id = c.id AND a.cause = 'overdue'
    ORDER BY a.id DESC LIMIT 1
) = 'suspended' AND NOT EXISTS (SELECT FROM billing_invoice i WHERE i.customer_id = c.id AND i.status = 'overdue')
ORDER BY c.id"""


def chase(*, at: datetime) -> Chased:
    """Mark what is overdue, remind of it on the days after, and suspend by the operator's policy; each once.

    Whom credit has freed of what was overdue is resumed; payments and credit notes do so themselves. Days are the
    operator's. Of reminders that were missed only the newest is told. Any number may run at once.
    """
    today = at.astimezone(operator_timezone()).date()
    days = OperatorSettings.objects.values_list("suspend_overdue_days", flat=True).get(pk=1)
    found = Chased()
    late = Invoice.objects.filter(status__in=OPEN, due_on__lt=today).order_by("customer_id", "pk")
    for invoice_id, customer_id in late.values_list("pk", "customer_id"):
        one = in_transaction(lambda: _chase(invoice_id, customer_id, today, days, at))  # noqa: B023
        found = Chased(found.overdue + one.overdue, found.reminded + one.reminded, found.suspended + one.suspended)
    return replace(found, resumed=sum(_resume(customer_id, at) for customer_id in _resumable()))


def _resumable() -> list[int]:
    with server_cursor() as cursor:
        cursor.execute(_RESUMABLE)
        return [customer_id for (customer_id,) in cursor.fetchall()]


def _resume(customer_id: int, at: datetime) -> bool:
    def work() -> bool:
        ledger.lock_wallets([customer_id])
        return end_suspension(customer_id, at=at)

    return in_transaction(work)


def _chase(invoice_id: int, customer_id: int, today: date, days: int | None, at: datetime) -> Chased:
    ledger.lock_wallets([customer_id])
    invoice = Invoice.objects.get(pk=invoice_id)
    if invoice.status not in OPEN or invoice.due_on is None or invoice.due_on >= today:
        return Chased()
    late_days = (today - invoice.due_on).days
    is_new = invoice.status == Status.ISSUED
    reminders = sum(1 for day in REMINDER_DAYS if day <= late_days)
    is_reminded = reminders > invoice.reminders
    if is_new or is_reminded:
        invoice.status = Status.OVERDUE
        if is_reminded:
            invoice.reminders, invoice.reminded_at = reminders, at
            _remind(invoice, late_days, at)
        invoice.save(update_fields=["status", "reminders", "reminded_at"])
    is_suspended = days is not None and late_days >= days and _suspend(invoice, late_days, at)
    return Chased(int(is_new), int(is_reminded), int(is_suspended))


def _remind(invoice: Invoice, late_days: int, at: datetime) -> None:
    assert invoice.due_on is not None
    notices.announce(
        customer_id=invoice.customer_id,
        kind=INVOICE_OVERDUE,
        key=f"{invoice.public_id}:{invoice.reminders}",
        data={
            "invoice": invoice.public_id,
            "number": invoice.number,
            "reminder": invoice.reminders,
            "amount_due": cents_text(invoice.amount_due),
            "due_on": invoice.due_on.isoformat(),
            "days": late_days,
        },
        at=at,
    )


def _suspend(invoice: Invoice, late_days: int, at: datetime) -> bool:
    try:
        return suspension.suspend(
            customer_id=invoice.customer_id,
            cause=AccountChange.Cause.OVERDUE,
            reason=f"{invoice.number} is {late_days} days overdue",
            actor=POLICY,
            at=at,
        )
    except AccountClosed:
        return False
