"""One request from authorization to balance."""

from decimal import Decimal

import pytest

from metering.models import UsageEvent, UsageHour
from tests.world import EXAMPLE_CHARGE, Relay, make_event, make_payer

pytestmark = pytest.mark.django_db


def test_the_worked_example_costs_exactly_what_it_should_everywhere() -> None:
    payer, relay = make_payer(credit="50.00"), Relay()
    granted = relay.authorize(payer)
    assert granted.status == 201
    assert granted.body["amount"] == "0.011100"
    assert payer.wallet.held == Decimal("0.0111")

    answer = relay.report(make_event(payer, authorization=granted.body["id"]))

    assert answer.body == {"accepted": 1, "duplicates": 0, "parked": 0, "rejected": []}
    assert payer.balance == Decimal(50) - EXAMPLE_CHARGE
    assert payer.wallet.held == 0
    event = UsageEvent.objects.get(customer=payer.customer)
    assert (event.charge, event.cost) == (EXAMPLE_CHARGE, EXAMPLE_CHARGE)
    hour = UsageHour.objects.get(customer=payer.customer)
    assert hour.charge == EXAMPLE_CHARGE
    assert hour.quantities == {
        "input": 1000,
        "cache_read": 10000,
        "cache_write_5m": 1000,
        "cache_write_1h": 2000,
        "output": 500,
    }
