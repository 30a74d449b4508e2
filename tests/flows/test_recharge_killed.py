"""An automatic recharge that dies between any two steps, and the sweep that goes on with it: charged and told once."""

from collections.abc import Iterator
from datetime import timedelta

import pytest
from django.db import connection

from billing import credits, notices, recharge, stripe_gateway, top_up_states, top_ups
from billing.models import Notice, Recharge, TopUp
from tests.concurrency.racing import assert_books_are_right
from tests.flows.test_top_up_killed import Killed, Step, deadly
from tests.paying import now
from tests.payments_sandbox import StripeSandbox
from tests.saved_cards import DECLINES_LATER, PAYS, WANTS_ITS_OWNER, charges_of, rule_of, save_card, set_recharge
from tests.world import Payer, make_payer

pytestmark = pytest.mark.usefixtures("committed")

CHARGING = (
    (recharge, "in_transaction", 1),
    (top_ups, "open_recharge", 1),
    (TopUp, "save", 1),
    (TopUp, "save", 2),
    (stripe_gateway, "charge_saved", 1),
    (top_up_states, "apply", 1),
    (recharge, "in_transaction", 2),
    (Recharge, "save", 1),
)
PAID = (*CHARGING, (TopUp, "save", 3), (credits, "grant", 1))
LINKED = (
    *CHARGING,
    (top_ups, "start", 1),
    (top_ups, "open_checkout", 1),
    (stripe_gateway, "create_checkout", 1),
    (notices, "announce", 1),
)
DECLINED = (*CHARGING, (notices, "announce", 1))


def steps(met: tuple[tuple[object, str, int], ...]) -> list[Step]:
    return [Step(owner, name, is_after, turn) for owner, name, turn in met for is_after in (False, True)]


@pytest.fixture
def payer(committed: None) -> Iterator[Payer]:
    Recharge.objects.update(is_on=False)  # of other tests
    yield make_payer(credit="5")
    connection.close()


def die_and_go_on(payer: Payer, stripe: StripeSandbox, card: str, step: Step, patch: pytest.MonkeyPatch) -> bool:
    """Whether the process died at this step; the sweep then goes on with what it left."""
    save_card(payer, stripe, card=card)
    set_recharge(payer)
    at, has_died = now(), False
    with patch.context() as dying:
        dying.setattr(step.owner, step.name, deadly(step, getattr(step.owner, step.name)))
        try:
            recharge.sweep(at=at)
        except Killed:
            has_died = True
    connection.close()  # As a new process.
    for minutes in (1, 3, 4, 6, 7):
        recharge.sweep(at=at + timedelta(minutes=minutes))
    assert_books_are_right(payer.customer)
    return has_died


def told(payer: Payer) -> list[Notice]:
    """What the customer was told of its recharge; a key, a card or a payment of its own is told too."""
    kinds = ("authentication_required", "recharge_failed", "recharge_off")
    return list(Notice.objects.filter(customer=payer.customer, kind__in=kinds))


def charges_at(stripe: StripeSandbox) -> set[str]:
    """The keys under which cards were charged: as many as there can be payments."""
    made = [one for one in stripe.requests() if (one["method"], one["path"]) == ("POST", "/v1/payment_intents")]
    return {one["key"] for one in made}


@pytest.mark.parametrize("step", steps(PAID), ids=str)
def test_the_card_is_charged_once_and_the_credit_is_there(
    payer: Payer, stripe_sandbox: StripeSandbox, monkeypatch: pytest.MonkeyPatch, step: Step
) -> None:
    assert die_and_go_on(payer, stripe_sandbox, PAYS, step, monkeypatch)
    assert ([row.status for row in charges_of(payer)], payer.balance) == (["paid"], 55)
    assert len(charges_at(stripe_sandbox)) == 1
    assert (rule_of(payer).failures, told(payer)) == (0, [])


@pytest.mark.parametrize("step", steps(LINKED), ids=str)
def test_the_customer_is_sent_one_page(
    payer: Payer, stripe_sandbox: StripeSandbox, monkeypatch: pytest.MonkeyPatch, step: Step
) -> None:
    assert die_and_go_on(payer, stripe_sandbox, WANTS_ITS_OWNER, step, monkeypatch)
    assert ([row.status for row in charges_of(payer)], payer.balance) == (["failed"], 5)
    assert len(charges_at(stripe_sandbox)) == 1
    (page,) = TopUp.objects.filter(customer=payer.customer, origin="checkout")
    (notice,) = told(payer)
    assert (notice.kind, notice.data["checkout_url"]) == ("authentication_required", page.checkout_url)
    assert page.checkout_url


@pytest.mark.parametrize("step", steps(DECLINED), ids=str)
def test_a_decline_counts_and_is_told_once(
    payer: Payer, stripe_sandbox: StripeSandbox, monkeypatch: pytest.MonkeyPatch, step: Step
) -> None:
    assert die_and_go_on(payer, stripe_sandbox, DECLINES_LATER, step, monkeypatch)
    assert [row.status for row in charges_of(payer)] == ["failed"]
    assert (len(charges_at(stripe_sandbox)), rule_of(payer).failures) == (1, 1)
    assert [notice.kind for notice in told(payer)] == ["recharge_failed"]
    assert rule_of(payer).is_on
