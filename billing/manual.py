"""Credits, debits and write-offs by hand: asked for with a reason; a large one is decided on by a second person.

What an adjustment does to the ledger happens once, under the wallet's lock, when it is asked for or when it is
approved. Its public id stands in its transfer's key, so that the database too refuses to post it twice.
"""

from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal

from billing import accounts, burning, credits, ledger, write_offs
from billing.models import Account, Customer, Grant, OperatorSettings, Transfer, WalletAdjustment
from relayadmin.db import in_transaction
from relayadmin.money import EXACT, ZERO, amount_text

Kind = WalletAdjustment.Kind
Status = WalletAdjustment.Status

GIFTS = (Kind.GOODWILL, Kind.PROMOTIONAL)
CREDITS = (*GIFTS, Kind.PAID, Kind.MONEY_BACK)
# What a debit may count as. Usage revenue is not among them: what is charged for usage stands on invoices.
DEBIT_ACCOUNTS = (
    Account.OTHER_REVENUE,
    Account.PROCESSING_FEES,
    Account.CASH_MANUAL,
    Account.REFUNDS_PENDING,
    Account.DISPUTES,
    Account.GOODWILL,
    Account.PROMOTIONAL_GRANTS,
    Account.TAX,
    Account.FX_DIFFERENCE,
)
# What money back may be taken from: what had been earned from the customer.
MONEY_BACK_ACCOUNTS = (Account.REVENUE, Account.OTHER_REVENUE, Account.PROCESSING_FEES, Account.TAX)
_ACCOUNTS: dict[str, tuple[Account, ...]] = {Kind.DEBIT: DEBIT_ACCOUNTS, Kind.MONEY_BACK: MONEY_BACK_ACCOUNTS}


class InvalidAdjustment(ValueError):
    """An adjustment that can't be made; `field` names what is wrong, the message says what to write instead."""

    def __init__(self, field: str, message: str) -> None:
        super().__init__(message)
        self.field = field


class AdjustmentKeyConflict(Exception):
    """The idempotency key was used for another adjustment."""


class TooLittleCredit(Exception):
    """The debit is more than the credit that is there and not held, and debt was not allowed."""

    def __init__(self, spendable: Decimal) -> None:
        super().__init__(f"only {amount_text(spendable)} USD can be debited without making debt")
        self.spendable = spendable


class UnknownAdjustment(LookupError):
    """There is no such adjustment."""


class AlreadyDecided(Exception):
    """It does not wait any more; `note` says why, if it was not posted."""

    def __init__(self, status: str, note: str = "") -> None:
        super().__init__(f"this adjustment is {status} already{note and ': '}{note}")
        self.status = status


class SamePerson(Exception):
    """Who asked for it may not approve it."""


@dataclass(frozen=True, slots=True)
class Person:
    """Who asks or decides: the user's number and name; no number for a command line."""

    user_id: int | None
    name: str


@dataclass(frozen=True, slots=True)
class Wanted:
    """An adjustment as it is asked for; amount in USD. `account` is for debits and money back only."""

    kind: str
    amount: Decimal
    reason: str
    document: str = ""
    account: str = ""
    may_make_debt: bool = False
    expires_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class _Posted:
    transfer_id: int
    amount: Decimal
    unpaid: Decimal = ZERO


def second_person_above() -> Decimal | None:
    """The amount (USD) above which a second person decides; None: never."""
    return OperatorSettings.objects.values_list("second_person_above", flat=True).get(pk=1)


def needs_second_person(amount: Decimal) -> bool:
    """Whether an amount (USD) is so large that one person may not post it."""
    limit = second_person_above()
    return limit is not None and amount > limit


def ask(*, customer_id: int, wanted: Wanted, key: str, person: Person, at: datetime) -> WalletAdjustment:
    """Adjust a wallet, once per key: at once, or pending if the amount needs a second person.

    A closed account gets no gifts. Raises InvalidAdjustment, AdjustmentKeyConflict, TooLittleCredit,
    write_offs.NothingOwed, credits.InvalidGrant, accounts.AccountClosed, ledger.UnknownCustomer.
    """
    _check(wanted, key, at)

    def work() -> WalletAdjustment:
        wallet = ledger.lock_wallets([customer_id])[customer_id]
        if Customer.objects.filter(pk=customer_id, is_house=True).exists():
            raise InvalidAdjustment("customer", "the house customer's wallet is not adjusted")
        before = WalletAdjustment.objects.filter(customer_id=customer_id, key=key).first()
        if before is not None:
            return _asked_before(before, wanted)
        if wanted.kind in GIFTS:
            accounts.check_open(customer_id)
        row = WalletAdjustment.objects.create(
            customer_id=customer_id,
            kind=wanted.kind,
            amount=wanted.amount,
            account=wanted.account,
            may_make_debt=wanted.may_make_debt,
            reason=wanted.reason,
            document=wanted.document,
            expires_at=wanted.expires_at,
            key=key,
            needs_second_person=needs_second_person(wanted.amount),
            asked_by=person.name,
            asked_by_user_id=person.user_id,
            asked_at=at,
        )
        if not row.needs_second_person:
            _post(row, wallet, person=person, at=at)
        return row

    return in_transaction(work)


def approve(*, adjustment_id: int, person: Person, at: datetime) -> WalletAdjustment:
    """Post a pending adjustment, as somebody else than who asked for it.

    Raises UnknownAdjustment, AlreadyDecided, SamePerson, and what `ask` raises when it posts; it goes on waiting then.
    """

    def work() -> WalletAdjustment:
        row, wallet = _lock(adjustment_id)
        if row.asked_by_user_id is not None and row.asked_by_user_id == person.user_id:
            raise SamePerson("a second person has to approve it")
        _post(row, wallet, person=person, at=at)
        return row

    return in_transaction(work)


def reject(*, adjustment_id: int, person: Person, note: str, at: datetime) -> WalletAdjustment:
    """Reject a pending adjustment; by who asked for it, it is withdrawn. Raises UnknownAdjustment, AlreadyDecided."""

    def work() -> WalletAdjustment:
        row, _ = _lock(adjustment_id)
        is_own = row.asked_by_user_id is not None and row.asked_by_user_id == person.user_id
        row.note = note
        _decide(row, Status.WITHDRAWN if is_own else Status.REJECTED, person=person, at=at)
        return row

    return in_transaction(work)


def withdraw_all(*, customer_id: int, note: str, actor: str, at: datetime) -> list[str]:
    """Withdraw all that waits for a second person, of a customer whose wallet is locked; returns the public ids."""
    waiting = WalletAdjustment.objects.filter(customer_id=customer_id, status=Status.PENDING)
    withdrawn = list(waiting.order_by("pk").values_list("public_id", flat=True))
    waiting.update(status=Status.WITHDRAWN, decided_by=actor, decided_at=at, note=note)
    return withdrawn


def _check(wanted: Wanted, key: str, at: datetime) -> None:
    if wanted.kind not in Kind.values:
        raise InvalidAdjustment("kind", f"kind must be one of {', '.join(Kind.values)}")
    if not wanted.amount.is_finite() or not 0 < wanted.amount <= credits.LARGEST_GRANT:
        raise InvalidAdjustment("amount", f"amount must be above zero, and at most {credits.LARGEST_GRANT:f}")
    exponent = wanted.amount.as_tuple().exponent
    if isinstance(exponent, int) and exponent < -15:
        raise InvalidAdjustment("amount", "amount must have at most 15 decimals")
    if not wanted.reason.strip():
        raise InvalidAdjustment("reason", "an adjustment needs a reason")
    for name, text, longest in (("reason", wanted.reason, 500), ("document", wanted.document, 255), ("key", key, 255)):
        if len(text) > longest or "\x00" in text:
            raise InvalidAdjustment(name, f"{name} must have at most {longest} characters, and no NUL")
    if not key:
        raise InvalidAdjustment("key", "key must have 1 to 255 characters")
    if wanted.kind == Kind.PAID and not wanted.document.strip():
        raise InvalidAdjustment("document", "paid credit needs a document, such as the bank transfer's number")
    allowed = _ACCOUNTS.get(wanted.kind, ())
    if allowed and wanted.account not in allowed:
        raise InvalidAdjustment("account", f"account must be one of {', '.join(allowed)}")
    if not allowed and wanted.account:
        raise InvalidAdjustment("account", "only a debit and money back name an account")
    if wanted.may_make_debt and wanted.kind != Kind.DEBIT:
        raise InvalidAdjustment("may_make_debt", "only a debit can make debt")
    if wanted.expires_at is not None and wanted.kind not in CREDITS:
        raise InvalidAdjustment("expires_at", "only credit expires")
    if wanted.expires_at is not None and wanted.expires_at <= at:
        raise InvalidAdjustment("expires_at", "expires_at must be in the future")


def _asked_before(row: WalletAdjustment, wanted: Wanted) -> WalletAdjustment:
    same = (wanted.kind, wanted.amount, wanted.account, wanted.may_make_debt, wanted.document, wanted.expires_at)
    if (row.kind, row.amount, row.account, row.may_make_debt, row.document, row.expires_at) != same:
        raise AdjustmentKeyConflict(f"the key {row.key!r} was used for another adjustment; choose another key")
    return row


def _lock(adjustment_id: int) -> tuple[WalletAdjustment, ledger.LockedWallet]:
    """A pending adjustment, read again under its wallet's lock."""
    customer_id = WalletAdjustment.objects.filter(pk=adjustment_id).values_list("customer_id", flat=True).first()
    if customer_id is None:
        raise UnknownAdjustment("there is no such adjustment")
    wallet = ledger.lock_wallets([customer_id])[customer_id]
    row = WalletAdjustment.objects.get(pk=adjustment_id)
    if row.status != Status.PENDING:
        raise AlreadyDecided(row.status, row.note)
    return row, wallet


def _post(row: WalletAdjustment, wallet: ledger.LockedWallet, *, person: Person, at: datetime) -> None:
    key = f"adjustment:{row.public_id}"
    actor = f"{row.asked_by} and {person.name}"[:150] if row.needs_second_person else person.name
    match row.kind:
        case Kind.DEBIT:
            posted = _debit(row, wallet, key=key, actor=actor, at=at)
        case Kind.WRITE_OFF:
            gone = write_offs.write_off(
                wallet, amount=row.amount, key=key, reason=row.reason, document=row.document, actor=actor, at=at
            )
            posted = _Posted(gone.transfer_id, gone.amount)
        case _:
            posted = _credit(row, key=key, actor=actor, at=at)
    row.transfer_id, row.posted_amount, row.unpaid = posted.transfer_id, posted.amount, posted.unpaid
    row.wallet_version = wallet.version + 1 if row.kind in CREDITS else wallet.version
    _decide(row, Status.POSTED, person=person, at=at)


def _decide(row: WalletAdjustment, status: Status, *, person: Person, at: datetime) -> None:
    row.status, row.decided_by, row.decided_by_user_id, row.decided_at = status, person.name, person.user_id, at
    row.save(
        update_fields=[
            "status",
            "decided_by",
            "decided_by_user",
            "decided_at",
            "note",
            "transfer_id",
            "posted_amount",
            "unpaid",
            "wallet_version",
        ]
    )


def _credit(row: WalletAdjustment, *, key: str, actor: str, at: datetime) -> _Posted:
    is_money_back = row.kind == Kind.MONEY_BACK
    credits.grant(
        customer_id=row.customer_id,
        amount=row.amount,
        # What comes back was the customer's own money.
        kind=Grant.Kind.PAID if is_money_back else row.kind,
        reason=row.reason,
        reference=row.document or (row.public_id if is_money_back else ""),
        key=key,
        at=at,
        actor=actor,
        expires_at=row.expires_at,
        source=Account(row.account) if is_money_back else None,
    )
    transfer = Transfer.objects.get(customer_id=row.customer_id, kind=Transfer.Kind.GRANT, key=key)
    return _Posted(transfer.pk, row.amount)


def _debit(row: WalletAdjustment, wallet: ledger.LockedWallet, *, key: str, actor: str, at: datetime) -> _Posted:
    """Take a debit off a locked wallet: its grants pay in their order, whatever their kind; the rest is debt."""
    spendable = max(ZERO, EXACT.subtract(wallet.balance, wallet.held))
    if row.amount > spendable and not row.may_make_debt:
        raise TooLittleCredit(spendable)
    parts = burning.choose(wallet, row.amount)
    posting = ledger.Posting(
        row.customer_id,
        Transfer.Kind.MANUAL.value,
        key,
        [(Account.WALLET.value, -row.amount), (row.account, row.amount)],
        reason=row.reason,
        document=row.document,
        actor=actor,
    )
    (transfer_id,) = ledger.post([posting], wallets={row.customer_id: wallet}, at=at)
    burning.burn(wallet, parts, transfer_id=transfer_id)
    return _Posted(transfer_id, row.amount, EXACT.subtract(row.amount, burning.sum_of(parts)))
