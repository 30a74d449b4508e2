"""Whatever order webhooks come in, however often, whoever dies between two steps: the ledger ends the same."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import psycopg
import pytest
from django.db import connection
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from billing import stripe_gateway
from billing.models import Customer, Refund, TopUp
from tests.payments import (
    Books,
    assert_right,
    books,
    charge_of,
    later,
    make_poor,
    pay_only,
    receive,
    refund,
    start_top_up,
    suspend_on_dispute,
    sweep,
)
from tests.payments_sandbox import StripeSandbox
from tests.world import Payer

NEVER = 10**9
CALLS = ("create_refund", "refund", "refunds_of", "dispute", "checkout", "payment_intent")


def paid_there(stripe: StripeSandbox, payer: Payer, *, method: str = "card") -> TopUp:
    """Paid at Stripe; here nobody has heard of it. Its charge is noted on the row that is returned, not saved."""
    row = start_top_up(payer)
    before = len(stripe.all_deliveries())
    pay_only(stripe, row, method=method)
    paid = [event.object for event in stripe.all_deliveries()[before:] if event.type == "charge.succeeded"]
    row.charge_id = paid[0]["id"]
    return row


def refunded_disputed_and_won(stripe: StripeSandbox, payer: Payer) -> None:
    """Three payments: one is refunded in the dashboard in parts, one disputed and won, one disputed and lost."""
    first, second, third = (paid_there(stripe, payer) for _ in range(3))
    stripe.refund(charge_of(first), amount=333)
    stripe.refund(charge_of(first), amount=400)
    stripe.win(stripe.dispute(charge_of(second), amount=600)["id"])
    stripe.lose(stripe.dispute(charge_of(third))["id"])


def refunds_that_fail(stripe: StripeSandbox, payer: Payer) -> None:
    """A refund that fails, one that succeeds late and one that fails after it had succeeded; a dispute of the rest."""
    slow, card = paid_there(stripe, payer, method="wechat_pay"), paid_there(stripe, payer)
    stripe.settle_refund(stripe.refund(charge_of(slow), amount=100)["id"], arrives=False)
    stripe.settle_refund(stripe.refund(charge_of(slow), amount=250)["id"])
    stripe.settle_refund(stripe.refund(charge_of(card), amount=900)["id"], arrives=False)
    stripe.dispute(charge_of(card))


STORIES: dict[str, tuple[Callable[[StripeSandbox, Payer], None], dict[str, int]]] = {
    "refunded, won and lost": (refunded_disputed_and_won, {"wallet": 1267, "disputes": 1000, "cash:stripe": -2267}),
    "refunds that fail": (refunds_that_fail, {"wallet": 750, "disputes": 1000, "cash:stripe": -1750}),
}


def in_cents(found: Books) -> dict[str, int]:
    return {account: int(amount * 100) for account, amount in found.accounts.items()}


@pytest.mark.django_db
@pytest.mark.parametrize("story", STORIES)
class TestAnyOrder:
    @settings(max_examples=6, suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(data=st.data())
    def test_any_multiset_of_deliveries_in_any_order_ends_in_the_same_ledger(
        self, story: str, stripe_sandbox: StripeSandbox, data: st.DataObject
    ) -> None:
        """At the end the sweeps look at what no delivery has told of."""
        stripe_sandbox.reset()
        payer = make_poor()
        happen, expected = STORIES[story]
        happen(stripe_sandbox, payer)
        events = stripe_sandbox.all_deliveries()
        told = [event for event in events if event.type.startswith(("charge.dispute", "refund.", "charge.refunded"))]
        # At least one event of each object: of a refund or dispute made there, nothing else tells us.
        needed = list({event.object["id"]: event for event in told}.values())
        more = data.draw(st.lists(st.sampled_from(events), max_size=12))
        receive(data.draw(st.permutations([*needed, *more])))
        sweep()
        assert in_cents(books(payer)) == expected
        assert_right(payer)

    def test_told_while_it_happens_it_ends_the_same(
        self, story: str, stripe_sandbox: StripeSandbox, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        suspend_on_dispute()
        payer = make_poor()
        happen, expected = STORIES[story]
        told = stripe_sandbox._post

        def tell_at_once(path: str, body: Any = None) -> Any:
            answer = told(path, body)
            receive(stripe_sandbox.deliveries())
            return answer

        monkeypatch.setattr(stripe_sandbox, "_post", tell_at_once)
        happen(stripe_sandbox, payer)
        assert in_cents(books(payer)) == expected
        assert Customer.objects.get(pk=payer.customer.pk).status == (
            "active" if story == "refunded, won and lost" else "suspended"
        )
        assert_right(payer)


class Killed(BaseException):
    """The process is gone: nothing after this runs, and the open transaction is rolled back."""


@contextmanager
def killed_at(step: int) -> Iterator[list[int]]:
    """Die at the nth step: each statement of the database's and each call to Stripe is one, before and after it."""
    taken = [0]

    def count() -> None:
        taken[0] += 1
        if taken[0] == step:
            raise Killed

    def between(work: Callable[..., Any]) -> Callable[..., Any]:
        def counted(*told: Any, **more: Any) -> Any:
            count()
            answer = work(*told, **more)
            count()
            return answer

        return counted

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(psycopg.Cursor, "execute", between(psycopg.Cursor.execute))
        patched.setattr(psycopg.Cursor, "copy", between(psycopg.Cursor.copy))
        for name in CALLS:
            patched.setattr(stripe_gateway, name, between(getattr(stripe_gateway, name)))
        yield taken


def live_on(work: Callable[[], None], *, die_at: int) -> int:
    """Run a work that is killed at a step, then everything that takes up what is left; how many steps it got."""
    with killed_at(die_at) as taken, suppress(Killed):
        work()
    connection.close()  # as the server does with a connection whose process is gone
    sweep()
    sweep(at=later(days=2))
    return taken[0]


@pytest.mark.usefixtures("committed")
class TestKilled:
    """All steps are counted once; then it dies at many of them, evenly spread, so that each stretch is met."""

    def _at_many(self, run: Callable[[int], int], *, deaths: int) -> None:
        steps = run(NEVER)
        assert steps > deaths
        for number in range(deaths):
            die_at = 1 + number * steps // deaths
            assert run(die_at) >= die_at, "it got that far"

    def test_5_a_refund_never_runs_twice_whoever_dies(self, stripe_sandbox: StripeSandbox) -> None:
        def run(die_at: int) -> int:
            stripe_sandbox.reset()
            payer = make_poor()
            row = paid_there(stripe_sandbox, payer)
            sweep()
            assert payer.balance == 10

            def work() -> None:
                refund(payer, "4.00", key="the same")
                sweep()

            taken = live_on(work, die_at=die_at)
            refund(payer, "4.00", key="the same")  # whoever asked has got no answer, and asks again
            sweep(at=later(days=3))
            (made,) = Refund.objects.filter(customer=payer.customer)
            assert made.status == "succeeded", die_at
            assert in_cents(books(payer)) == {"wallet": 600, "cash:stripe": -600}, die_at
            at_stripe = stripe_gateway.refunds_of(str(TopUp.objects.get(pk=row.pk).payment_intent_id))
            assert [one.amount for one in at_stripe] == [4], die_at
            assert_right(payer)
            return taken

        self._at_many(run, deaths=14)

    def test_a_webhook_is_worked_off_once_whoever_dies(self, stripe_sandbox: StripeSandbox) -> None:
        def run(die_at: int) -> int:
            stripe_sandbox.reset()
            payer = make_poor()
            row = paid_there(stripe_sandbox, payer)
            stripe_sandbox.refund(charge_of(row), amount=400)
            stripe_sandbox.win(stripe_sandbox.dispute(charge_of(row))["id"])
            events = stripe_sandbox.all_deliveries()

            def work() -> None:
                receive(events)

            taken = live_on(work, die_at=die_at)
            receive(events)  # Stripe got no answer to some, and sends them again
            assert in_cents(books(payer)) == {"wallet": 600, "cash:stripe": -600}, die_at
            assert_right(payer)
            return taken

        self._at_many(run, deaths=8)
