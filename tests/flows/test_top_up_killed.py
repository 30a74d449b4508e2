"""A top-up that dies between any two steps, and the sweep that goes on with it: always the same ledger."""

from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import pytest
from django.db import connection

from billing import credits, payment_accounts, stripe_gateway, top_ups
from billing.models import Grant, PaymentAccount, TopUp, Transfer
from tests.billing.hands import sums
from tests.concurrency.racing import assert_books_are_right
from tests.paying import now, start
from tests.payments_sandbox import StripeSandbox
from tests.world import Payer, make_payer

pytestmark = pytest.mark.usefixtures("committed")


class Killed(BaseException):
    """The process is gone: nothing catches it."""


@dataclass
class Step:
    """Where the process dies: before or after a function, the n-th time it is called."""

    owner: Any
    name: str
    is_after: bool
    left: int = 1

    def __str__(self) -> str:
        return f"{'after' if self.is_after else 'before'} {self.name} no. {self.left}"


STEPS = [
    Step(owner, name, is_after, turn)
    for owner, name, turn in (
        (stripe_gateway, "create_customer", 1),
        (PaymentAccount.objects, "get_or_create", 1),
        (stripe_gateway, "create_checkout", 1),
        (top_ups, "apply", 1),
        (stripe_gateway, "checkout", 1),
        (stripe_gateway, "payment_intent", 1),
        (top_ups, "apply", 2),
        (credits, "grant", 1),
        (TopUp, "save", 1),
        (TopUp, "save", 2),
        (top_ups, "read_session", 1),
    )
    for is_after in (False, True)
]


@pytest.fixture
def payer(committed: None) -> Iterator[Payer]:
    yield make_payer(credit="0")
    connection.close()


def deadly(step: Step, real: Callable[..., Any]) -> Callable[..., Any]:
    turns = iter(range(1, 1_000))

    def die(*args: Any, **kwargs: Any) -> Any:
        is_now = next(turns) == step.left
        if is_now and not step.is_after:
            raise Killed
        answer = real(*args, **kwargs)
        if is_now:
            raise Killed
        return answer

    return die


def go_on(row_id: int, stripe_sandbox: StripeSandbox, minutes: int) -> None:
    """What the web process and the sweeps do about one top-up: open it, and, once it was paid, look."""
    row = TopUp.objects.get(pk=row_id)
    if row.session_id is None:
        top_ups.open_checkout(top_up_id=row_id, at=now())
        row = TopUp.objects.get(pk=row_id)
    with suppress(Exception):  # Paid before.
        stripe_sandbox.pay(row.session_id or "")
    top_ups.sync(row_id, now() + timedelta(minutes=minutes))


@pytest.mark.parametrize("step", STEPS, ids=str)
def test_wherever_it_dies_the_sweep_comes_to_the_same_ledger(
    payer: Payer, stripe_sandbox: StripeSandbox, monkeypatch: pytest.MonkeyPatch, step: Step
) -> None:
    TopUp.objects.exclude(look_at=None).update(look_at=None)  # of other tests
    row = start(payer)
    with monkeypatch.context() as patch:
        patch.setattr(step.owner, step.name, deadly(step, getattr(step.owner, step.name)))
        with suppress(Killed):
            go_on(row.pk, stripe_sandbox, 1)
    connection.close()  # As a new process.

    for minutes in (10, 20, 30):
        top_ups.sweep(at=now() + timedelta(minutes=minutes))
        session_id = TopUp.objects.get(pk=row.pk).session_id
        if session_id is not None:
            with suppress(Exception):  # Paid before.
                stripe_sandbox.pay(session_id)

    row.refresh_from_db()
    assert (row.status, payer.balance) == ("paid", 10)
    assert sums(payer) == {"wallet": 10, "cash:stripe": -10}
    grant = Grant.objects.get(customer=payer.customer)
    assert (grant.pk, grant.reference, row.look_at) == (row.grant_id, row.public_id, None)
    assert Transfer.objects.filter(customer=payer.customer).count() == 1
    assert PaymentAccount.objects.filter(customer=payer.customer).count() == 1
    posted = [call for call in stripe_sandbox.requests() if call["method"] == "POST"]
    pages = [call for call in posted if call["path"] == "/v1/checkout/sessions"]
    assert {call["key"] for call in pages} == {f"topup:{row.public_id}"}
    assert payment_accounts.find(payer.customer.pk) is not None
    assert_books_are_right(payer.customer)


def test_the_steps_are_met(payer: Payer, stripe_sandbox: StripeSandbox, monkeypatch: pytest.MonkeyPatch) -> None:
    """A step at which nothing dies would test nothing."""
    met = set()
    for step in STEPS:
        if step.is_after:
            continue
        with monkeypatch.context() as patch:
            patch.setattr(step.owner, step.name, deadly(step, getattr(step.owner, step.name)))
            row = start(make_payer(credit="0"))
            try:
                go_on(row.pk, stripe_sandbox, 1)
            except Killed:
                met.add(str(step))
    assert sorted(met) == sorted(str(step) for step in STEPS if not step.is_after)
