"""The operator's side of a soak, and the look at the books after it. Imported once Django is set up."""

import random
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import TypeVar
from uuid import uuid4

from django.db import InterfaceError, OperationalError, connection
from django.db.models import F, Sum

from bench.fire import ZERO, Account, Expected, Shift
from billing import credits, holds
from billing.models import Customer, Grant, Hold, JobRun, SpendCounter, SpendLimit, Wallet
from billing.models.spending import Span
from metering import keys, spend
from metering.models import ApiKey, ParkedEvent, QuarantinedEvent, UsageAdjustment, UsageEvent
from metering.onboarding import onboard_customer
from metering.verification import verify_books

T = TypeVar("T")
RICH, TIGHT, LIMITED = 24, 6, 4
LIMIT = HARDLY_ANY = Decimal("0.30")
CHECK_EVERY_S = 10.0
JOBS = ("billing.expire_holds",)  # every 15 s, by beat, queue and worker


def open_accounts() -> tuple[list[Account], str]:
    """Customers of three kinds: with credit enough, with hardly any, and with a spend limit; and a relay token."""
    rich = [_open(Decimal(10_000)) for _ in range(RICH)]
    tight = [_open(HARDLY_ANY, is_exact=True) for _ in range(TIGHT)]
    limited = [_open(Decimal(10_000), is_exact=True) for _ in range(LIMITED)]
    for place, account in enumerate(limited):
        limit = spend.Limit(Span.DAY, LIMIT, api_key_id=account.api_key_pk if place % 2 else None)
        _set(account, limit, SpendLimit.Owner.OPERATOR)
    token = keys.create_relay_token(name="soak")[1]
    connection.close()  # It would not live through what comes.
    return [*rich, *tight, *limited], token


def _open(credit: Decimal, *, is_exact: bool = False) -> Account:
    made = onboard_customer(name="Soak", email="", credit=credit, plan="list", key_name="default", at=datetime.now(UTC))
    key = ApiKey.objects.get(public_id=made.api_key_id)
    return Account(key.customer_id, key.pk, made.api_key_id, made.api_key, credit, is_exact)


def _set(account: Account, limit: spend.Limit, owner: SpendLimit.Owner) -> None:
    spend.set_limit(account.customer_id, limit, owner=owner, actor="soak", at=datetime.now(UTC))


class Office:
    """Grants credit, sets limits, sweeps and checks the books while all goes on, on a connection of its own."""

    def __init__(self, shift: Shift, seed: int) -> None:
        self._shift, self._chance = shift, random.Random(seed)
        self._accounts = [account for account in shift.accounts if not account.is_exact]
        self.checks = 0

    def run(self) -> None:
        """Work until told to stop; a grant that was not acknowledged is given again under its key."""
        check_at = time.monotonic() + CHECK_EVERY_S
        try:
            while not self._shift.stop.wait(0.05):
                self._chance.choice((self._grant, self._grant, self._limit, self._sweep))()
                if time.monotonic() >= check_at:
                    self._check()
                    check_at = time.monotonic() + CHECK_EVERY_S
        finally:
            connection.close()

    def _insist(self, work: Callable[[], T]) -> T:
        until = time.monotonic() + self._shift.patience_s
        while True:
            try:
                return work()
            except (OperationalError, InterfaceError) as error:
                connection.close()
                if time.monotonic() > until:
                    self._shift.expected.surprise(f"the office gave up: {error}")
                    raise
                time.sleep(0.2)

    def _grant(self) -> None:
        account, key = self._chance.choice(self._accounts), uuid4().hex
        amount, kind = Decimal(self._chance.randrange(1, 1_000)).scaleb(-3), self._chance.choice(Grant.Kind.values)

        def give() -> credits.Granted:
            return credits.grant(
                customer_id=account.customer_id,
                amount=amount,
                kind=kind,
                reason="soak",
                reference="soak",
                key=key,
                at=datetime.now(UTC),
            )

        given = self._insist(give)
        with self._shift.expected.lock:
            self._shift.expected.grants[account.customer_id, given.grant] = amount

    def _limit(self) -> None:
        account = self._chance.choice(self._accounts)
        key, owner = self._chance.choice([None, account.api_key_pk]), SpendLimit.Owner.CUSTOMER
        if self._chance.random() < 0.6:
            limit = spend.Limit(self._chance.choice(list(Span)), Decimal(5_000), api_key_id=key)
            self._insist(lambda: _set(account, limit, owner))
        else:
            self._insist(
                lambda: spend.replace_limits(
                    account.customer_id, [], owner=owner, api_key_id=key, actor="soak", at=datetime.now(UTC)
                )
            )

    def _sweep(self) -> None:
        self._insist(lambda: holds.expire(at=datetime.now(UTC), limit=self._chance.choice([5, 500])))

    def _check(self) -> None:
        found = self._insist(lambda: verify_books(full=False, at=datetime.now(UTC)))
        self.checks += 1
        for customer, item in found.differences[:20]:
            self._shift.expected.surprise(f"under load: {customer}, {item.what}: {item.expected}, not {item.found}")


def jobs_that_do_not_run(*, within_s: float) -> list[str]:
    """The scheduled jobs that nobody runs any more after all that: each must end a run from now on."""
    since, until = datetime.now(UTC), time.monotonic() + within_s
    left = set(JOBS)
    while left and time.monotonic() < until:
        time.sleep(1.0)
        ended = JobRun.objects.filter(job__in=left, started_at__gte=since, duration_ms__isnull=False, error="")
        left -= set(ended.values_list("job", flat=True))
    return [f"no run of {job} has ended within {within_s:g} s" for job in sorted(left)]


def differences(accounts: Sequence[Account], expected: Expected) -> list[str]:
    """What is not in the database as it was acknowledged: events, grants, wallets, floors and limits."""
    while holds.expire(at=datetime.now(UTC) + timedelta(days=2)):
        pass
    numbers = [account.customer_id for account in accounts]
    found = [
        *compare("event", expected.charges, _charges(numbers)),
        *compare("grant", expected.grants, _grants(numbers)),
    ]
    balances = {account.customer_id: account.credit for account in accounts}
    for (number, _), amount in expected.grants.items():
        balances[number] += amount
    for (number, _), charge in expected.charges.items():
        balances[number] -= charge
    wallets = {wallet.customer_id: wallet for wallet in Wallet.objects.filter(customer__in=numbers)}
    for account in accounts:
        wallet = wallets[account.customer_id]
        if (wallet.balance, wallet.held) != (balances[account.customer_id], 0):
            found.append(
                f"customer number {account.customer_id} has {wallet.balance:f} and {wallet.held:f} held,"
                f" not {balances[account.customer_id]:f} and nothing"
            )
        if account.is_exact and wallet.balance < 0:
            found.append(f"customer number {account.customer_id} was let below zero: {wallet.balance:f}")
    return [*found, *_leftovers(numbers)]


def compare(
    kind: str, expected: Mapping[tuple[int, str], Decimal], found: Mapping[tuple[int, str], Decimal]
) -> list[str]:
    """Name what is missing, what nobody sent, and what stands at another amount."""
    return [
        f"{kind} {name} of customer number {number}: {_amount(expected.get((number, name)))} expected,"
        f" {_amount(found.get((number, name)))} found"
        for number, name in sorted(expected.keys() | found.keys())
        if expected.get((number, name)) != found.get((number, name))
    ]


def _amount(amount: Decimal | None) -> str:
    return "nothing" if amount is None else f"{amount:f}"


def _charges(numbers: Sequence[int]) -> dict[tuple[int, str], Decimal]:
    """What each event counts for now. An id that were stored twice would not fit its primary key; its sum shows."""
    charges: dict[tuple[int, str], Decimal] = {}
    events = UsageEvent.objects.filter(customer__in=numbers).values_list("customer_id", "id", "event_id", "charge")
    adjusted: dict[tuple[int, int], Decimal] = {}
    for number, event, change in UsageAdjustment.objects.filter(customer__in=numbers).values_list(
        "customer_id", "event_number", F("new_charge") - F("old_charge")
    ):
        adjusted[number, event] = adjusted.get((number, event), ZERO) + change
    for number, event, name, charge in events.iterator():
        key = (number, name)
        charges[key] = charges.get(key, ZERO) + charge + adjusted.get((number, event), ZERO)
    return charges


def _grants(numbers: Sequence[int]) -> dict[tuple[int, str], Decimal]:
    rows = Grant.objects.filter(customer__in=numbers, reason="soak")
    return {(row.customer_id, row.public_id): row.amount for row in rows}


def _leftovers(numbers: Sequence[int]) -> list[str]:
    """What must not be there at all: open holds, limits that were passed, events that wait or were rejected."""
    found = []
    customers = Customer.objects.filter(pk__in=numbers)
    if count := Hold.objects.filter(customer__in=customers, status=Hold.Status.OPEN).count():
        found.append(f"{count} holds are still open")
    limited = set(
        SpendLimit.objects.filter(customer__in=customers, owner=SpendLimit.Owner.OPERATOR).values_list(
            "customer_id", "scope"
        )
    )
    for counter in SpendCounter.objects.filter(customer__in=customers):
        is_judged = (counter.customer_id, counter.scope) in limited and counter.span == Span.DAY
        if is_judged and counter.spent + counter.held > LIMIT:
            found.append(f"customer number {counter.customer_id} was let past its limit: {counter.spent:f}")
    if count := ParkedEvent.objects.filter(customer__in=customers).count():
        found.append(f"{count} events wait")
    if count := QuarantinedEvent.objects.count():
        found.append(f"{count} events were rejected")
    total = SpendCounter.objects.filter(customer__in=customers, held__gt=0).aggregate(held=Sum("held"))["held"]
    if total:
        found.append(f"spend counters hold {total:f} while nothing is held")
    return found
