"""What refunds and disputes share: what went back of a top-up, at its rate, and which grants it is taken of."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import ROUND_HALF_UP, Context, Decimal, DivisionByZero, InvalidOperation, Overflow

from billing import burning, credits, ledger, top_up_bonus
from billing.models import Account, Dispute, Grant, GrantUse, Refund, TopUp, Transfer
from relayadmin.db import server_cursor, text_array
from relayadmin.money import EXACT, ZERO, currency_decimals, payable_decimals, total

# Credit that comes back after its own expiry can be used at least this long.
TIME_AGAIN = timedelta(days=30)
_CREDIT_DECIMALS, _TAX_DECIMALS = 6, 2
_ROUNDING = Context(prec=80, rounding=ROUND_HALF_UP, traps=[InvalidOperation, DivisionByZero, Overflow])


@dataclass(slots=True)
class Gone:
    """What has gone back of a top-up, or is on its way: credit and tax (USD), and what that was in its currency."""

    amount: Decimal = ZERO
    tax: Decimal = ZERO
    pay: Decimal = ZERO

    def add(self, amount: Decimal, tax: Decimal, pay: Decimal) -> None:
        self.amount, self.tax = EXACT.add(self.amount, amount), EXACT.add(self.tax, tax)
        self.pay = EXACT.add(self.pay, pay)


@dataclass(frozen=True, slots=True)
class Share:
    """What falls on a part of what was paid: credit and tax (USD)."""

    amount: Decimal
    tax: Decimal


def gone_of(top_up: TopUp) -> Gone:
    """What refunds that did not fail and disputes that were not returned have of a top-up."""
    gone = Gone()
    refunds = Refund.objects.filter(top_up=top_up).exclude(status=Refund.Status.FAILED)
    for amount, tax, pay in refunds.values_list("amount", "tax", "pay_amount"):
        gone.add(amount, tax, pay)
    for dispute in Dispute.objects.filter(top_up=top_up):
        taken = EXACT.subtract(dispute.taken, dispute.returned)
        if taken:
            share = _share(top_up.pay_amount, taken, top_up.credited, currency_decimals(top_up.currency))
            tax = EXACT.subtract(dispute.taken_tax, dispute.returned_tax)
            gone.add(taken, tax, share if dispute.returned else dispute.pay_amount)
    return gone


def take_bonus_back(top_up: TopUp, *, at: datetime) -> None:
    """Once all of a top-up has gone back, refunded or disputed, take what is left of the bonus that came with it."""
    refunds = Refund.objects.filter(top_up=top_up, status=Refund.Status.SUCCEEDED).values_list("amount", flat=True)
    disputes = Dispute.objects.filter(top_up=top_up).values_list("taken", "returned")
    taken = [EXACT.subtract(taken, returned) for taken, returned in disputes]
    if total([*refunds, *taken]) >= top_up.credited:
        top_up_bonus.take_back(top_up, reason="The payment that it came with has gone back", at=at)


def pay_of(top_up: TopUp, amount: Decimal, gone: Gone) -> Decimal:
    """What goes back for a part (USD) of a top-up, in its currency: at its rate, and the last part is the rest."""
    rest = max(ZERO, EXACT.subtract(top_up.pay_amount, gone.pay))
    if amount == EXACT.subtract(top_up.credited, gone.amount):
        return rest
    return min(rest, _share(top_up.pay_amount, amount, top_up.credited, payable_decimals(top_up.currency)))


def tax_of(top_up: TopUp, amount: Decimal, gone: Gone) -> Decimal:
    """The tax (USD) that goes back with a part of a top-up's credit: in proportion, to the cent; the last has the rest.

    What was credited and has gone already has no tax left.
    """
    rest = max(ZERO, EXACT.subtract(top_up.tax, gone.tax))
    if amount >= EXACT.subtract(top_up.credited, gone.amount):
        return rest
    return min(rest, _share(top_up.tax, amount, top_up.credited, _TAX_DECIMALS))


def share_of(top_up: TopUp, pay: Decimal, gone: Gone) -> Share:
    """What was credited, and taxed, for a part of what was paid: at the top-up's rate; the last part is the rest."""
    rest = EXACT.subtract(top_up.credited, gone.amount)
    if pay == EXACT.subtract(top_up.pay_amount, gone.pay) and rest > 0:
        return Share(rest, max(ZERO, EXACT.subtract(top_up.tax, gone.tax)))
    tax = min(
        max(ZERO, EXACT.subtract(top_up.tax, gone.tax)), _share(top_up.tax, pay, top_up.pay_amount, _TAX_DECIMALS)
    )
    return Share(EXACT.subtract(_share(top_up.amount, pay, top_up.pay_amount, _CREDIT_DECIMALS), tax), tax)


def _share(whole: Decimal, part: Decimal, of: Decimal, decimals: int) -> Decimal:
    if part == of:
        return whole
    share = _ROUNDING.divide(_ROUNDING.multiply(whole, part), of)
    return share.quantize(Decimal(1).scaleb(-decimals), context=_ROUNDING)


def left_of(customer_id: int, references: Collection[str], *, at: datetime) -> dict[str, list[burning.Part]]:
    """By top-up, what is left of the paid grants that name it and may go back, in the order in which they are used."""
    with server_cursor() as cursor:
        cursor.execute(
            "SELECT reference, id, kind, remaining, is_refundable FROM billing_grant"
            " WHERE customer_id = %s AND reference = ANY (%s::text[]) AND kind = 'paid' AND remaining > 0"
            "   AND is_refundable AND voided_at IS NULL AND (expires_at IS NULL OR expires_at > %s)"
            " ORDER BY priority, expires_at NULLS LAST, id",
            [customer_id, text_array(references), at],
        )
        found: dict[str, list[burning.Part]] = {}
        for reference, *part in cursor.fetchall():
            found.setdefault(reference, []).append(burning.Part(*part))
        return found


@dataclass(frozen=True, slots=True)
class Taken:
    """The transfer's number, and which parts (USD) were taken of `first`, and which no credit was left for."""

    transfer_id: int
    own: Decimal
    unpaid: Decimal


def take(
    wallet: ledger.LockedWallet,
    amount: Decimal,
    *,
    first: Sequence[burning.Part],
    kind: Transfer.Kind,
    account: Account,
    key: str,
    reason: str,
    document: str,
    tax: Decimal = ZERO,
    actor: str = "",
    at: datetime,
) -> Taken:
    """Take an amount (USD) off a locked wallet: these parts first, then any credit in its order; the rest is debt.

    `tax` that goes back with it is taken off the tax account, into the same account. Raises ledger.AlreadyPosted.
    """
    parts: list[burning.Part] = []
    rest = amount
    own = {part.grant_id for part in first}
    for part in (*first, *(part for part in burning.left(wallet) if part.grant_id not in own)):
        taken = min(part.amount, rest)
        if not taken:
            break
        rest = EXACT.subtract(rest, taken)
        parts.append(burning.Part(part.grant_id, part.kind, taken, part.is_refundable))
    posting = ledger.Posting(
        wallet.customer_id,
        kind.value,
        key,
        [
            (Account.WALLET.value, -amount),
            (account.value, EXACT.add(amount, tax)),
            *([(Account.TAX.value, -tax)] if tax else []),
        ],
        reason=reason,
        document=document,
        actor=actor,
    )
    (transfer_id,) = ledger.post([posting], wallets={wallet.customer_id: wallet}, at=at)
    burning.burn(wallet, parts, transfer_id=transfer_id)
    return Taken(transfer_id, total([ZERO, *(part.amount for part in parts if part.grant_id in own)]), rest)


def give_back(
    *,
    customer_id: int,
    amount: Decimal,
    taken_by: Sequence[int],
    reference: str,
    source: Account,
    key: str,
    reason: str,
    is_gift: bool = False,
    tax: Decimal = ZERO,
    actor: str = "",
    at: datetime,
) -> None:
    """Put money that was taken by these transfers back as paid credit, once per key; it fills debt first; its tax too.

    A gift comes back as promotional credit. Nothing does, where an invoice has had all of it.

    It expires with the last of such grants that it was taken of, or a month from now if that has passed.
    """
    if not amount:
        return
    uses = GrantUse.objects.filter(customer_id=customer_id, transfer_id__in=taken_by).values("grant_id")
    grants = Grant.objects.filter(customer_id=customer_id, pk__in=uses)
    such = grants.exclude(kind=Grant.Kind.PAID) if is_gift else grants.filter(kind=Grant.Kind.PAID)
    ends = list(such.values_list("expires_at", flat=True))
    last = None if not ends or None in ends else max(end for end in ends if end)
    credits.grant(
        customer_id=customer_id,
        amount=amount,
        kind=Grant.Kind.PROMOTIONAL if is_gift else Grant.Kind.PAID,
        reason=reason,
        reference=reference,
        key=key,
        at=at,
        actor=actor,
        expires_at=None if last is None else last if last > at else at + TIME_AGAIN,
        never_expires=bool(ends) and last is None,
        source=source,
        tax=tax,
    )


def gifts_of(customer_id: int, transfers: Sequence[int]) -> Decimal:
    """What these transfers took of grants that nobody had paid for (USD)."""
    uses = GrantUse.objects.filter(customer_id=customer_id, transfer_id__in=transfers)
    paid = Grant.objects.filter(customer_id=customer_id, kind=Grant.Kind.PAID)
    return total(list(uses.exclude(grant_id__in=paid.values("pk")).values_list("amount", flat=True)))
