"""The notebook's pages on credit that begins and ends, and on what is done by hand: plain, as `money_reference`."""

from dataclasses import dataclass, field
from datetime import datetime, timedelta
from decimal import Decimal

from tests.flows.money_reference import ZERO, Credit, Notebook

BACK_AFTER = timedelta(minutes=1)
PAID_FOR = timedelta(days=365)
# An adjustment above this waits for a second person.
ALONE_UP_TO = Decimal(3)
HALF_A_CENT = Decimal("0.005")


@dataclass
class Asked:
    """An adjustment by hand. A debit may make debt or not."""

    kind: str
    amount: Decimal
    may_make_debt: bool


@dataclass
class FullNotebook(Notebook):
    """What waits: credit that has not begun, by when it does, and adjustments that wait for a second person."""

    scheduled: list[tuple[datetime, Credit]] = field(default_factory=list)
    waiting: dict[int, Asked] = field(default_factory=dict)

    @property
    def free(self) -> Decimal:
        """What is there and held by no running request."""
        return max(ZERO, self.balance - self.held)

    # --- credit that begins and ends ---

    def schedule(
        self, kind: str, amount: Decimal, priority: int, expires_at: datetime | None, begins: datetime
    ) -> Credit:
        credit = self.new_credit(kind, amount, priority, expires_at)
        self.scheduled.append((begins, credit))
        return credit

    def begin(self, *, at: datetime) -> None:
        for begins, credit in sorted(self.scheduled, key=lambda one: one[0]):
            if begins <= at:
                self.put(credit)
        self.scheduled = [(begins, credit) for begins, credit in self.scheduled if begins > at]

    def end_credit(self, *, at: datetime) -> None:
        """Take what has ended, but nothing that is held; what is left then is looked at a minute later."""
        due = [credit for credit in self.credits if self._has_ended(credit, at) and (credit.back_at or at) <= at]
        for credit in sorted(due, key=lambda one: (one.priority, one.expires_at or at, one.place)):
            self._take_ended(credit, at)

    @staticmethod
    def _has_ended(credit: Credit, at: datetime) -> bool:
        return credit.is_voided or (credit.expires_at is not None and credit.expires_at <= at)

    def _take_ended(self, credit: Credit, at: datetime) -> None:
        part = min(credit.left, self.free)
        if part:
            self.version += 1
            credit.left -= part
            self.book(credit.source if credit.is_voided else "breakage", part)
        credit.back_at = at + BACK_AFTER if credit.left else None

    def void(self, credit: Credit, *, at: datetime) -> str:
        """Whether it is "voided", was "voided before", or there is "nothing left"."""
        if credit.is_voided:
            return "voided before"
        if not credit.left:
            return "nothing left"
        credit.is_voided = True
        self._take_ended(credit, at)
        return "voided"

    @staticmethod
    def extend(credit: Credit, until: datetime | None, *, at: datetime) -> bool:
        if credit.is_voided or credit.expires_at is None or not credit.left:
            return False
        if until is not None and until <= max(at, credit.expires_at):
            return False
        credit.expires_at, credit.back_at = until, None
        return True

    # --- by hand ---

    def adjust(self, asked: Asked, *, at: datetime) -> str:
        """Whether it is "posted", or would take "too little" credit, or there is "nothing owed" to write off."""
        if asked.kind == "debit":
            return self._debit(asked)
        if asked.kind == "write_off":
            return self._write_off(asked.amount)
        # Money back is the customer's own money, taken off revenue.
        is_money_back = asked.kind == "money_back"
        kind = "paid" if is_money_back else asked.kind
        expires_at = at + PAID_FOR if kind == "paid" else None
        self.give(kind, asked.amount, 0, expires_at, source="revenue" if is_money_back else None)
        return "posted"

    def _debit(self, asked: Asked) -> str:
        if asked.amount > self.free and not asked.may_make_debt:
            return "too little"
        self.version += 1
        paid = sum((part.left for part in self.burn(asked.amount)), ZERO)
        self.by_hand += asked.amount - paid
        self.book("other_revenue", asked.amount)
        return "posted"

    def _write_off(self, amount: Decimal) -> str:
        cured = min(amount, self.debt)
        if not cured:
            return "nothing owed"
        self.version += 1
        self.cure(cured)
        self.write_off(cured)
        return "posted"

    # --- the account ---

    def close(self, *, is_refunded: bool, at: datetime) -> tuple[Decimal, Decimal]:
        """Nothing stays but debt; returns what is to be paid out and what is lost: what makes no cent is."""
        for name in [name for name, reserve in self.reserves.items() if reserve.status == "open"]:
            self.release(name, at=at)
        paid = [credit.left for credit in self.credits if is_refunded and credit.kind == "paid"]
        refunded = sum((left for left in paid if left >= HALF_A_CENT), ZERO)
        lost = sum((credit.left for credit in self.credits), ZERO) - refunded
        if refunded or lost:
            self.version += 1
            self.book("refunds_pending", refunded)
            self.book("breakage", lost)
        for credit in self.credits:
            credit.left = ZERO
        self.scheduled, self.credit_limit = [], ZERO
        self.waiting = {}
        return refunded, lost
