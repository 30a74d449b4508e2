"""Whatever relays and customers do one after the other, and the limits: the money is what a notebook says.

Hypothesis makes up the story, and after each step everything is compared: wallets, what is left of each grant, holds,
spend counters, the sums of the accounts. A step that is refused must leave all of it as it was.
"""

from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from itertools import zip_longest
from typing import Any

import pytest
import time_machine
from django.db.models import Sum
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from billing import credits, holds, spending
from billing.models import Entry, Grant, Hold, SpendCounter, SpendLimit, Wallet
from billing.models.spending import Span
from metering import keys, spend
from relayadmin import ids
from tests.concurrency.racing import assert_books_are_right
from tests.flows.credit_reference import FullNotebook
from tests.flows.money_reference import CUSTOMER, ZERO, Credit, LimitName, Reported, Reserve
from tests.world import Payer, Relay, make_event, make_payer

BEGIN = datetime(2026, 11, 20, 12, tzinfo=UTC)
LEASE_GRACE = timedelta(seconds=900)
OF_TOKEN = {"input_tokens": Decimal(3).scaleb(-6), "output_tokens": Decimal(15).scaleb(-6)}

payers = keys_of_payer = st.integers(0, 1)
picks = st.integers(0, 30)
tokens = st.tuples(st.sampled_from([1_000, 0, 30_000]), st.sampled_from([500, 0, 4_000]))
usd = st.sampled_from(["10", "1", "0.25", "3.3", "0.01", "0.000000000000001"]).map(Decimal)
draws = st.tuples(payers, keys_of_payer, tokens, st.none() | picks, st.sampled_from(["final", "more", "estimate"]))
scopes = st.sampled_from([CUSTOMER, "key 0", "key 1"])
owners = st.sampled_from(["operator", "customer"])


def cost(spent: tuple[int, int]) -> Decimal:
    return sum((count * price for count, price in zip(spent, OF_TOKEN.values(), strict=True)), ZERO)


def usage(spent: tuple[int, int]) -> dict[str, int]:
    return dict(zip(OF_TOKEN, spent, strict=True))


@dataclass
class Party:
    """A customer, its notebook, and what its relay remembers: bodies and ids of holds, events as they were sent.

    `numbers` are its grants' by their place in the notebook.
    """

    payers: list[Payer]  # one for each key
    book: FullNotebook
    numbers: dict[int, int] = field(default_factory=dict)
    asked: dict[str, dict[str, Any]] = field(default_factory=dict)
    hold_ids: dict[str, str] = field(default_factory=dict)
    events: dict[str, dict[str, Any]] = field(default_factory=dict)

    @property
    def number(self) -> int:
        return self.payers[0].customer.pk

    def scope_of(self, scope: str) -> str:
        return CUSTOMER if scope == CUSTOMER else spend.key_scope(self.payers[int(scope[-1])].key.pk)


class Story(RuleBasedStateMachine):
    """Two customers with two keys each; the clock stands still between the steps that move it."""

    def __init__(self) -> None:
        super().__init__()
        self.traveller = time_machine.travel(BEGIN, tick=False)
        self.clock = self.traveller.start()
        self.relay = Relay()
        self.names = 0
        self.parties = [self._party(credit_limit) for credit_limit in (ZERO, Decimal("0.05"))]

    def teardown(self) -> None:
        # Still at the story's moment: what was too old then to be counted by day and month is not in those counters.
        try:
            assert_books_are_right(*(party.payers[0].customer for party in self.parties))
        finally:
            self.traveller.stop()

    @property
    def has_holds(self) -> bool:
        return any(party.asked for party in self.parties)

    @property
    def has_events(self) -> bool:
        return any(party.book.usages for party in self.parties)

    @property
    def now(self) -> datetime:
        return datetime.now(UTC)

    def _party(self, credit_limit: Decimal) -> Party:
        first = make_payer(credit="0")
        key, secret = keys.create_api_key(customer=first.customer, name="second", at=self.now)
        Wallet.objects.filter(customer=first.customer).update(credit_limit=credit_limit)
        second = Payer(first.customer, key, secret, first.access_token)
        return Party([first, second], FullNotebook(credit_limit=credit_limit))

    def _name(self, kind: str) -> str:
        self.names += 1
        return f"{kind} {self.names}"

    # --- credit ---

    @initialize(first=st.sampled_from([Decimal(10), Decimal(1)]), second=usd, days=st.sampled_from([30, 1, None]))
    def begin(self, first: Decimal, second: Decimal, days: int | None) -> None:
        expires_at = None if days is None else self.now + timedelta(days=days)
        for party, amount in zip(self.parties, (first, second), strict=True):
            self._give(party, self._name("grant"), "paid", amount, priority=0, expires_at=expires_at)

    @rule(
        who=payers,
        kind=st.sampled_from(["paid", "promotional", "goodwill"]),
        amount=usd,
        priority=st.sampled_from([-1, 0, 0, 1]),
        days=st.sampled_from([1, None, 30, 365]),
    )
    def grant(self, who: int, kind: str, amount: Decimal, priority: int, days: int | None) -> None:
        party, key = self.parties[who], self._name("grant")
        expires_at = None if days is None else self.now + timedelta(days=days)
        given = self._give(party, key, kind, amount, priority=priority, expires_at=expires_at)
        assert self._grant(party, key, kind, amount, priority, expires_at) == given, "a repeat is told the same"
        with pytest.raises(credits.GrantKeyConflict):
            self._grant(party, key, kind, amount + 1, priority, expires_at)
        with pytest.raises(credits.InvalidGrant):
            self._grant(party, self._name("grant"), kind, ZERO, priority, expires_at)

    def _give(
        self, party: Party, key: str, kind: str, amount: Decimal, *, priority: int, expires_at: datetime | None
    ) -> credits.Granted:
        given = self._grant(party, key, kind, amount, priority, expires_at)
        self._note(party, given.grant, party.book.give(kind, amount, priority, expires_at))
        return given

    @staticmethod
    def _note(party: Party, public_id: str, credit: Credit) -> None:
        """Remember which grant stands where in the notebook."""
        _, party.numbers[credit.place] = ids.parse_hot_id(Grant.PREFIX, public_id) or (0, 0)

    def _grant(
        self,
        party: Party,
        key: str,
        kind: str,
        amount: Decimal,
        priority: int,
        expires_at: datetime | None,
        effective_at: datetime | None = None,
    ) -> credits.Granted:
        return credits.grant(
            customer_id=party.number,
            amount=amount,
            kind=kind,
            reason="story",
            reference="r",
            key=key,
            at=self.now,
            priority=priority,
            effective_at=effective_at,
            expires_at=expires_at,
            never_expires=expires_at is None,
        )

    # --- holds ---

    @rule(who=payers, key=keys_of_payer, most=tokens, ttl_s=st.sampled_from([60, 900, 86_400]))
    def authorize(self, who: int, key: int, most: tuple[int, int], ttl_s: int) -> None:
        body = {"model": "claude-sonnet-4-20250514", "input_tokens": most[0], "max_output_tokens": most[1]}
        expires_at = self.now + timedelta(seconds=ttl_s)
        reserve = Reserve("", f"key {key}", cost(most), cost(most), self.now, expires_at)
        self._ask(self.parties[who], key, {**body, "ttl_seconds": ttl_s}, reserve, minimum=cost(most))

    @rule(who=payers, key=keys_of_payer, most=tokens, spent=tokens, more=st.booleans(), estimated=st.booleans())
    def request(
        self, who: int, key: int, most: tuple[int, int], spent: tuple[int, int], more: bool, estimated: bool
    ) -> None:
        """What a relay does all day: ask, and report."""
        party = self.parties[who]
        before = len(party.asked)
        self.authorize(who=who, key=key, most=most, ttl_s=900)
        if len(party.asked) > before:
            self._settle(party, list(party.asked)[-1], key, spent, more=more, estimated=estimated)

    @rule(who=payers, key=keys_of_payer, amount=usd, least=usd, seconds=st.sampled_from([1, 60, 300]))
    def lease(self, who: int, key: int, amount: Decimal, least: Decimal, seconds: int) -> None:
        minimum = min(amount, least)
        terms = {"amount": f"{amount:f}", "minimum": f"{minimum:f}", "seconds": seconds}
        until = self.now + timedelta(seconds=seconds)
        reserve = Reserve("", f"key {key}", amount, amount, self.now, until + LEASE_GRACE, admits_until=until)
        self._ask(self.parties[who], key, {"lease": terms}, reserve, minimum=minimum)

    def _ask(self, party: Party, key: int, body: dict[str, Any], reserve: Reserve, *, minimum: Decimal) -> None:
        reserve.request_id = self._name("request")
        asked = {"api_key": party.payers[key].api_key, "request_id": reserve.request_id, **body}
        answer = self.relay.post("authorizations", asked)
        told = party.book.place(reserve, minimum=minimum, at=self.now)
        if told == "placed":
            assert answer.status == 201, answer.body
            assert Decimal(answer.body["amount"]) == reserve.amount
            party.asked[reserve.request_id] = asked
            party.hold_ids[reserve.request_id] = answer.body["id"]
        else:
            assert (answer.status, answer.code) == (402, told)

    def _picked(self, pick: int) -> tuple[Party, str]:
        """A hold of anybody's: the last of one customer, the last of the other, the one before, …"""
        found = [[(party, name) for name in reversed(party.asked)] for party in self.parties]
        mixed = [hold for pair in zip_longest(*found) for hold in pair if hold is not None]
        return mixed[pick % len(mixed)]

    @precondition(lambda self: self.has_holds)
    @rule(pick=picks)
    def ask_again(self, pick: int) -> None:
        party, request_id = self._picked(pick)
        answer = self.relay.post("authorizations", party.asked[request_id])
        status = party.book.reserves[request_id].seen_at(self.now)
        if status == "open":
            assert (answer.status, answer.body["id"]) == (200, party.hold_ids[request_id])
        else:
            assert (answer.status, answer.code) == (409, f"authorization_{status}")
        other = self.relay.post("authorizations", {**party.asked[request_id], "client_ip": "203.0.113.9"})
        assert (other.status, other.code) == (409, "request_id_conflict")

    @precondition(lambda self: self.has_holds)
    @rule(pick=picks)
    def release(self, pick: int) -> None:
        party, request_id = self._picked(pick)
        answer = self.relay.release(party.hold_ids[request_id])
        if party.book.release(request_id, at=self.now) == "settled":
            assert (answer.status, answer.code) == (409, "authorization_settled")
        else:
            assert (answer.status, answer.body["status"]) == (200, party.book.reserves[request_id].status)

    @rule(
        step=st.sampled_from(
            [timedelta(seconds=2), timedelta(minutes=2), timedelta(minutes=16), timedelta(hours=13), timedelta(days=12)]
        ),
        does_sweep=st.booleans(),
    )
    def wait(self, step: timedelta, does_sweep: bool) -> None:
        """What is overdue expires with the sweep, and blocks what does not fit beside it until then."""
        self.clock.shift(step)
        if does_sweep:
            self.run_jobs()

    def run_jobs(self) -> None:
        while holds.expire(at=self.now):
            pass
        for party in self.parties:
            party.book.expire(at=self.now)

    # --- usage ---

    def _event(
        self, party: Party, key: int, spent: tuple[int, int], at: datetime, **changes: Any
    ) -> tuple[dict[str, Any], Reported]:
        """An event as the relay sends it, and what it is to the notebook; `hold` is a request id."""
        hold = changes.pop("hold", None)
        event = make_event(
            party.payers[key],
            id=self._name("event"),
            usage=usage(spent),
            occurred_at=at.isoformat(),
            authorization=None if hold is None else party.hold_ids[hold],
            **changes,
        )
        party.events[event["id"]] = event
        reported = Reported(
            event["id"],
            f"key {key}",
            cost(spent),
            at,
            hold,
            changes.get("more", False),
            changes.get("estimated", False),
        )
        return event, reported

    def _send(self, *events: dict[str, Any], accepted: int) -> None:
        answer = self.relay.report(*events)
        told = {"accepted": accepted, "duplicates": len(events) - accepted, "parked": 0, "rejected": []}
        assert answer.body == told

    @precondition(lambda self: self.has_holds)
    @rule(pick=picks, key=st.sampled_from([None, 0, 1]), spent=tokens, more=st.booleans(), estimated=st.booleans())
    def settle(self, pick: int, key: int | None, spent: tuple[int, int], more: bool, estimated: bool) -> None:
        """One event on one hold, whatever has become of that: within it, beyond it, or of another key."""
        party, request_id = self._picked(pick)
        key = int(party.book.reserves[request_id].key[-1]) if key is None else key
        self._settle(party, request_id, key, spent, more=more, estimated=estimated)

    def _settle(
        self, party: Party, request_id: str, key: int, spent: tuple[int, int], *, more: bool, estimated: bool
    ) -> None:
        status = "aborted" if estimated else "completed"
        event, reported = self._event(
            party, key, spent, self.now, hold=request_id, more=more, estimated=estimated, status=status
        )
        self._send(event, accepted=1)
        assert party.book.report([reported], at=self.now) == 1

    @rule(
        spent=st.lists(
            st.tuples(payers, keys_of_payer, tokens, st.none() | picks, st.booleans()), min_size=1, max_size=6
        )
    )
    def batch(self, spent: list[tuple[int, int, tuple[int, int], int | None, str]]) -> None:
        """Events of both customers, with and without holds, each of them twice."""
        sent: list[dict[str, Any]] = []
        reported: tuple[list[Reported], list[Reported]] = [], []
        for who, key, used, pick, kind in spent:
            party = self.parties[who]
            hold = None if pick is None or not party.asked else list(party.asked)[-1 - pick % len(party.asked)]
            event, one = self._event(
                party, key, used, self.now, hold=hold, more=kind == "more", estimated=kind == "estimate"
            )
            sent.append(event)
            reported[who].append(one)
        self._send(*sent, *sent, accepted=len(sent))
        for party, events in zip(self.parties, reported, strict=True):
            assert party.book.report(events, at=self.now) == len(events)

    @rule(who=payers, key=keys_of_payer, spent=tokens, days=st.sampled_from([1, 25, 70]))
    def report_late(self, who: int, key: int, spent: tuple[int, int], days: int) -> None:
        party = self.parties[who]
        event, reported = self._event(party, key, spent, self.now - timedelta(days=days))
        self._send(event, accepted=1)
        party.book.report([reported], at=self.now)

    @precondition(lambda self: self.has_events)
    @rule(pick=picks)
    def repeat(self, pick: int) -> None:
        events = [event for party in self.parties for event in party.events.values()]
        event = events[-1 - pick % len(events)]
        self._send(event, {**event, "usage": usage((7, 7))}, accepted=0)

    @precondition(lambda self: self.has_events)
    @rule(pick=picks, spent=tokens, estimated=st.booleans())
    def correct(self, pick: int, spent: tuple[int, int], estimated: bool) -> None:
        """What an estimate becomes; a second correction, or one of what was no estimate, changes nothing."""
        charged = [(party, usage) for party in self.parties for usage in party.book.usages.values()]
        estimates = [one for one in charged if one[1].is_estimated and not one[1].is_replaced]
        # Every third time whatever there is.
        chosen = estimates if estimates and pick % 3 else charged
        party, old = chosen[-1 - pick % len(chosen)]
        key = int(old.key[-1])
        event, reported = self._event(party, key, spent, self.now, replaces=old.event_id, estimated=estimated)
        is_charged = party.book.replace(old.event_id, reported, at=self.now)
        self._send(event, accepted=int(is_charged))

    @rule(who=payers, pick=picks)
    def report_nonsense(self, who: int, pick: int) -> None:
        party = self.parties[who]
        hold = list(party.hold_ids.values())[-1 - pick % len(party.hold_ids)] if party.hold_ids else None
        event = make_event(party.payers[0], authorization=hold, usage={"input_tokens": -1_000_000, "output_tokens": 1})
        assert [one["code"] for one in self.relay.report(event).body["rejected"]] == ["invalid_usage"]

    # --- limits ---

    @rule(who=payers, scope=scopes, span=st.sampled_from(Span), owner=owners, is_hard=st.booleans(), amount=usd)
    def set_limit(self, who: int, scope: str, span: Span, owner: str, is_hard: bool, amount: Decimal) -> None:
        party = self.parties[who]
        self._limit(party, scope, span, owner, is_hard, amount)
        party.book.set_limit(LimitName(scope, str(span), owner, is_hard), amount, at=self.now)
        with pytest.raises(spending.InvalidLimit):
            self._limit(party, scope, span, owner, is_hard, -amount)

    def _limit(self, party: Party, scope: str, span: Span, owner: str, is_hard: bool, amount: Decimal) -> None:
        limit = spend.Limit(span, amount, is_hard=is_hard, api_key_id=self._key_id(party, scope))
        spend.set_limit(party.number, limit, owner=SpendLimit.Owner(owner), actor="", at=self.now)

    @staticmethod
    def _key_id(party: Party, scope: str) -> int | None:
        return None if scope == CUSTOMER else party.payers[int(scope[-1])].key.pk

    @precondition(lambda self: any(party.book.limits for party in self.parties))
    @rule(who=payers, scope=scopes, owner=owners)
    def remove_limits(self, who: int, scope: str, owner: str) -> None:
        party = self.parties[who]
        spend.replace_limits(
            party.number,
            [],
            owner=SpendLimit.Owner(owner),
            api_key_id=self._key_id(party, scope),
            actor="",
            at=self.now,
        )
        party.book.remove_limits(scope, owner)

    # --- what holds after each step ---

    @invariant()
    def everything_is_as_noted(self) -> None:
        for party in self.parties:
            book, of_customer = party.book, {"customer_id": party.number}
            wallet = Wallet.objects.get(**of_customer)
            assert (wallet.balance, wallet.held, wallet.version) == (book.balance, book.held, book.version)
            left = dict(Grant.objects.filter(**of_customer).values_list("id", "remaining"))
            assert left == {party.numbers[credit.place]: credit.left for credit in book.credits}
            found = Hold.objects.filter(**of_customer).values_list(
                "request_id", "status", "amount", "remaining", "settled"
            )
            assert {row[0]: row[1:] for row in found} == {
                name: (one.status, one.amount, one.left, one.settled) for name, one in book.reserves.items()
            }
            assert self._counters(party) == {
                (party.scope_of(scope), span, starts_on): (counter.spent, counter.held)
                for (scope, span, starts_on), counter in book.counters.items()
                if counter.spent or counter.held
            }

    @staticmethod
    def _counters(party: Party) -> dict[tuple[str, str, Any], tuple[Decimal, Decimal]]:
        rows = SpendCounter.objects.filter(customer_id=party.number)
        return {(row.scope, row.span, row.starts_on): (row.spent, row.held) for row in rows if row.spent or row.held}

    @invariant()
    def nothing_comes_from_nowhere(self) -> None:
        for party in self.parties:
            book, of_customer = party.book, {"customer_id": party.number}
            sums = dict(Entry.objects.filter(**of_customer).values_list("account").annotate(Sum("amount")).order_by())
            assert sum(sums.values()) == 0
            expected = {**book.accounts, "wallet": book.balance}
            assert {name: amount for name, amount in sums.items() if amount} == {
                name: amount for name, amount in expected.items() if amount
            }

    @invariant()
    def nothing_is_negative(self) -> None:
        for party in self.parties:
            wallet = Wallet.objects.get(customer_id=party.number)
            left = Grant.objects.filter(customer_id=party.number).aggregate(left=Sum("remaining"))["left"] or ZERO
            held = Hold.objects.filter(customer_id=party.number, status="open").aggregate(held=Sum("remaining"))["held"]
            entries = Entry.objects.filter(customer_id=party.number, account="wallet").aggregate(sum=Sum("amount"))
            debt = left - wallet.balance
            assert wallet.balance == (entries["sum"] or ZERO)
            assert wallet.held == (held or ZERO) >= 0
            assert debt >= 0
            assert not (debt and left), "nobody owes money and has some"
