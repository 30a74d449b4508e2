"""The story goes on: credit begins, ends and is taken back, and operators do things by hand."""

from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from decimal import Decimal
from typing import Any
from uuid import uuid4

import pytest
from django.contrib.auth.models import User
from hypothesis import strategies as st
from hypothesis.stateful import precondition, rule

from billing import closing, credit_lines, expiry, grant_changes, manual, redemption, scheduled_grants, write_offs
from billing.accounts import AccountClosed
from billing.models import Grant, WalletAdjustment
from tests.flows.credit_reference import ALONE_UP_TO, Asked
from tests.flows.money_reference import ZERO, Credit
from tests.flows.money_story import OF_TOKEN, Party, Story, keys_of_payer, payers, picks, usd
from tests.redemption import make_codes

gifts = st.sampled_from(["promotional", "goodwill"])
kinds = st.sampled_from(["paid", "promotional", "goodwill"])
lifetimes = st.sampled_from([None, timedelta(minutes=2), timedelta(days=1), timedelta(days=30)])
by_hand = st.sampled_from(["debit", "write_off", "goodwill", "promotional", "paid", "money_back"])
MICROSECOND = timedelta(microseconds=1)
LEAST = Decimal("0.000000000000001")
ACCOUNTS = {"debit": "other_revenue", "money_back": "revenue"}
REFUSALS: dict[str, type[Exception]] = {
    "too little": manual.TooLittleCredit,
    "nothing owed": write_offs.NothingOwed,
}


class CreditStory(Story):
    """Grants that begin later, end, are voided or extended; codes."""

    @property
    def grants(self) -> list[tuple[Party, Credit]]:
        """Those that have begun, the ones with something left first."""
        found = [(party, credit) for party in self.parties for credit in reversed(party.book.credits)]
        return sorted(found, key=lambda one: not one[1].left)

    @property
    def spendable(self) -> list[tuple[Party, Credit]]:
        return [one for one in self.grants if one[1].left]

    @rule(who=payers, kind=kinds, amount=usd, delay=st.sampled_from([60, 86_400]), lifetime=lifetimes)
    def schedule(self, who: int, kind: str, amount: Decimal, delay: int, lifetime: timedelta | None) -> None:
        party = self.parties[who]
        # No two at the same moment: it is nobody's business which of them would be first.
        begins = self.now + timedelta(seconds=delay) + len(party.numbers) * MICROSECOND
        expires_at = None if lifetime is None else begins + lifetime
        key = self._name("grant")
        given = self._grant(party, key, kind, amount, 0, expires_at, begins)
        self._note(party, given.grant, party.book.schedule(kind, amount, 0, expires_at, begins))
        assert self._grant(party, key, kind, amount, 0, expires_at, begins) == given

    @property
    def next_end(self) -> timedelta:
        """How long until the next credit ends that is left of somebody's; a minute if none does."""
        ends = [credit.expires_at - self.now for _, credit in self.grants if credit.left and credit.expires_at]
        return min((wait for wait in ends if wait > timedelta(0)), default=timedelta(minutes=1))

    @rule(step=st.sampled_from([None, timedelta(0), timedelta(minutes=1), timedelta(hours=25)]), is_twice=st.booleans())
    def begin_and_end_credit(self, step: timedelta | None, is_twice: bool) -> None:
        """The jobs of every minute, later or earlier than they should run, or just when some credit ends."""
        self.clock.shift(self.next_end if step is None else step)
        for _ in range(1 + is_twice):
            self._begin_and_end_credit()

    @rule(who=payers, key=keys_of_payer)
    def hold_until_credit_ends(self, who: int, key: int) -> None:
        """A lease over all there is, still held when the job comes for what it is held in."""
        free = self.parties[who].book.free
        if free:
            self.lease(who=who, key=key, amount=free, least=LEAST, seconds=300)
            self.begin_and_end_credit(step=None, is_twice=False)

    def run_jobs(self) -> None:
        super().run_jobs()
        self._begin_and_end_credit()

    def _begin_and_end_credit(self) -> None:
        while scheduled_grants.post_due(at=self.now):
            pass
        while expiry.sweep(at=self.now).looked_at:
            pass
        for party in self.parties:
            party.book.begin(at=self.now)
            party.book.end_credit(at=self.now)

    @precondition(lambda self: any(party.book.held for party in self.parties) or len(self.spendable) > 2)
    @rule(pick=picks)
    def void(self, pick: int) -> None:
        party, credit = self.grants[pick % len(self.grants)]
        of_grant: dict[str, Any] = {"customer_id": party.number, "number": party.numbers[credit.place]}
        before = credit.left
        told = party.book.void(credit, at=self.now)
        if told == "nothing left":
            with pytest.raises(grant_changes.CannotChange):
                grant_changes.void(**of_grant, reason="story", actor="ada", at=self.now)
        else:
            voided = grant_changes.void(**of_grant, reason="story", actor="ada", at=self.now)
            assert voided == grant_changes.Voided(before - credit.left, credit.left, is_new=told == "voided")

    @precondition(lambda self: self.grants)
    @rule(pick=picks, lifetime=lifetimes, is_later=st.booleans())
    def extend(self, pick: int, lifetime: timedelta | None, is_later: bool) -> None:
        """Credit that ends, or has ended and is not taken yet; every third time whatever there is."""
        ending = [one for one in self.spendable if one[1].expires_at]
        chosen = ending if ending and pick % 3 else self.grants
        party, credit = chosen[pick % len(chosen)]
        start = max(self.now, credit.expires_at or self.now) if is_later else self.now
        until = None if lifetime is None else start + lifetime
        asked: dict[str, Any] = {
            "customer_id": party.number,
            "number": party.numbers[credit.place],
            "expires_at": until,
            "reason": "story",
            "actor": "ada",
            "key": self._name("change"),
        }
        if party.book.extend(credit, until, at=self.now):
            assert grant_changes.extend(**asked, at=self.now)
            assert not grant_changes.extend(**asked, at=self.now), "a repeat extends nothing"
        else:
            with pytest.raises(grant_changes.CannotChange):
                grant_changes.extend(**asked, at=self.now)

    @rule(who=payers, kind=gifts, amount=usd, days=st.sampled_from([None, 1, 30]), is_bound=st.booleans())
    def redeem(self, who: int, kind: str, amount: Decimal, days: int | None, is_bound: bool) -> None:
        party, other = self.parties[who], self.parties[1 - who]
        terms: dict[str, Any] = {"kind": kind, "amount": amount, "credit_days": days, "at": self.now}
        terms["customer_id"] = party.number if is_bound else None
        if amount > ALONE_UP_TO:
            with pytest.raises(redemption.CannotMake):
                make_codes(**terms)
            return
        (shown,) = make_codes(**terms)
        code = redemption.read_code(shown)
        if is_bound:
            with pytest.raises(redemption.CodeNotFound):
                redemption.redeem(customer_id=other.number, code=code, at=self.now)
        grant = redemption.redeem(customer_id=party.number, code=code, at=self.now)
        expires_at = None if days is None else self.now + timedelta(days=days)
        self._note(party, grant.public_id, party.book.give(kind, amount, 0, expires_at))
        with pytest.raises(redemption.CodeRedeemed):
            redemption.redeem(customer_id=party.number, code=code, at=self.now)


class WholeStory(CreditStory):
    """What operators do by hand, small things alone and large ones in pairs; and closing."""

    def __init__(self) -> None:
        super().__init__()
        self.was_closed = False
        users = [User.objects.create(username=f"story-{uuid4().hex}", is_staff=True) for _ in range(2)]
        self.asking, self.deciding = [manual.Person(user.pk, user.username) for user in users]

    @property
    def waiting(self) -> list[tuple[Party, int]]:
        return [(party, number) for party in self.parties for number in party.book.waiting]

    @rule(who=payers, kind=by_hand, amount=usd, may_make_debt=st.booleans())
    def adjust(self, who: int, kind: str, amount: Decimal, may_make_debt: bool) -> None:
        party, key = self.parties[who], self._name("adjustment")
        asked = Asked(kind, amount, may_make_debt and kind == "debit")
        if amount > ALONE_UP_TO:
            row = self._ask_by_hand(party, asked, key)
            assert row.status == "pending"
            party.book.waiting[row.pk] = asked
        elif not self._post(party, asked, lambda: self._ask_by_hand(party, asked, key)):
            return
        with pytest.raises(manual.AdjustmentKeyConflict):
            self._ask_by_hand(party, replace(asked, amount=amount + 1), key)

    def _ask_by_hand(self, party: Party, asked: Asked, key: str) -> WalletAdjustment:
        wanted = manual.Wanted(
            kind=asked.kind,
            amount=asked.amount,
            reason="story",
            document="wire 1",
            account=ACCOUNTS.get(asked.kind, ""),
            may_make_debt=asked.may_make_debt,
        )
        return manual.ask(customer_id=party.number, wanted=wanted, key=key, person=self.asking, at=self.now)

    def _post(self, party: Party, asked: Asked, do: Callable[[], WalletAdjustment]) -> bool:
        """Adjust as the notebook says, or be refused as it says; whether it was posted."""
        told = party.book.adjust(asked, at=self.now)
        if told in REFUSALS:
            with pytest.raises(REFUSALS[told]):
                do()
            return False
        row = do()
        assert row.status == told == "posted"
        if asked.kind in manual.CREDITS:
            grant = Grant.objects.get(customer_id=party.number, transfer_id=row.transfer_id)
            self._note(party, grant.public_id, party.book.credits[-1])
        return True

    @precondition(lambda self: self.waiting)
    @rule(pick=picks, decision=st.sampled_from(["approve", "approve", "reject", "withdraw"]))
    def decide(self, pick: int, decision: str) -> None:
        """A second person decides, or who asked withdraws it; what does not fit any more goes on waiting."""
        party, number = self.waiting[pick % len(self.waiting)]
        with pytest.raises(manual.SamePerson):
            manual.approve(adjustment_id=number, person=self.asking, at=self.now)
        if decision == "approve":
            if not self._post(party, party.book.waiting[number], lambda: self._approve(number)):
                return
        else:
            person = self.deciding if decision == "reject" else self.asking
            row = manual.reject(adjustment_id=number, person=person, note="", at=self.now)
            assert row.status == {"reject": "rejected", "withdraw": "withdrawn"}[decision]
        del party.book.waiting[number]
        with pytest.raises(manual.AlreadyDecided):
            self._approve(number)

    def _approve(self, number: int) -> WalletAdjustment:
        return manual.approve(adjustment_id=number, person=self.deciding, at=self.now)

    @rule(who=payers, key=keys_of_payer, excess=st.sampled_from([2_000, 0, 200_000]), is_estimated=st.booleans())
    def overrun(self, who: int, key: int, excess: int, is_estimated: bool) -> None:
        """Usage without a hold that costs all that is there, and more."""
        party = self.parties[who]
        left = sum((credit.left for credit in party.book.credits), ZERO)
        spent = (0, int(left / OF_TOKEN["output_tokens"]) + excess)
        event, reported = self._event(party, key, spent, self.now, estimated=is_estimated)
        self._send(event, accepted=1)
        party.book.report([reported], at=self.now)

    @rule(who=payers, key=keys_of_payer)
    def give_up(self, who: int, key: int) -> None:
        """An estimate that nobody paid is written off: a correction finds that it had cost less."""
        self.overrun(who=who, key=key, excess=100_000, is_estimated=True)
        self.adjust(who=who, kind="write_off", amount=ALONE_UP_TO, may_make_debt=False)

    @rule(who=payers, limit=st.sampled_from(["0", "0.05", "3"]).map(Decimal))
    def set_credit_limit(self, who: int, limit: Decimal) -> None:
        """Also below what is owed already."""
        party = self.parties[who]
        credit_lines.set_credit_limit(customer_id=party.number, limit=limit, reason="story", actor="ada", at=self.now)
        party.book.credit_limit = limit

    @precondition(lambda self: not self.was_closed)
    @rule(who=payers, is_refunded=st.booleans(), late=st.none() | usd)
    def close_and_reopen(self, who: int, is_refunded: bool, late: Decimal | None) -> None:
        """While it is closed nothing is authorized, given or approved; a late payment still comes in.

        Once in a story, since little is left to tell of that customer.
        """
        party, self.was_closed = self.parties[who], True
        book, waited = party.book, list(party.book.waiting)
        if any(reserve.expires_at > self.now for reserve in book.open):
            with pytest.raises(closing.HoldsOpen):
                self._close(party, is_refunded, release_holds=False)
        refunded, lost = book.close(is_refunded=is_refunded, at=self.now)
        closed = self._close(party, is_refunded, release_holds=True)
        assert (closed.refunded, closed.expired, closed.debt) == (refunded, lost, book.debt)
        assert (closed.withdrawn, closed.is_new) == (len(waited), True)
        assert not self._close(party, not is_refunded, release_holds=True).is_new
        assert self.relay.authorize(party.payers[0]).status == 403
        for number in waited:
            with pytest.raises(manual.AlreadyDecided):
                self._approve(number)
        for begins in (None, self.now + timedelta(days=1)):
            with pytest.raises(AccountClosed):
                self._grant(party, self._name("grant"), "goodwill", Decimal(1), 0, None, begins)
        if late is not None:
            self._give(party, self._name("grant"), "paid", late, priority=0, expires_at=None)
        closing.reopen(customer_id=party.number, reason="story", actor="ada", at=self.now)

    def _close(self, party: Party, is_refunded: bool, *, release_holds: bool) -> closing.Closed:
        return closing.close(
            customer_id=party.number,
            paid_credit=closing.PaidCredit.REFUND if is_refunded else closing.PaidCredit.EXPIRE,
            release_holds=release_holds,
            reason="story",
            actor="ada",
            at=self.now,
        )
