"""setup_demo: log-ins and two weeks of usage, once, and never on somebody's own servers."""

from io import StringIO
from typing import Any

import msgspec
import pytest
from django.contrib.auth import authenticate
from django.contrib.auth.models import User
from django.core.management import CommandError, call_command
from pytest_django import Settings

from billing.models import Customer, Wallet
from metering.models import UsageEvent
from metering.verification import verify_books
from tests.world import SONNET, Relay

pytestmark = pytest.mark.django_db


@pytest.fixture(autouse=True)
def _embedded(settings: Settings) -> None:
    settings.EMBEDDED = True


def set_up() -> dict[str, Any]:
    out = StringIO()
    call_command("setup_demo", stdout=out)
    return dict(msgspec.json.decode(out.getvalue()))


def test_its_log_ins_work() -> None:
    made = set_up()
    operator = authenticate(username=made["operator"]["username"], password=made["operator"]["password"])
    assert isinstance(operator, User)
    assert (operator.username, operator.is_superuser, operator.is_staff) == ("admin", True, True)
    member = authenticate(username=made["customer"]["username"], password=made["customer"]["password"])
    assert isinstance(member, User)
    assert not member.is_staff
    customer = Customer.objects.get(public_id=made["customer"]["id"])
    assert list(customer.members.all()) == [member]
    answer = Relay(made["relay_token"]).post(
        "authorizations",
        {
            "api_key": made["customer"]["api_key"],
            "model": SONNET,
            "request_id": "req_first",
            "input_tokens": 1200,
            "max_output_tokens": 500,
        },
    )
    assert (answer.status, answer.body["amount"]) == (201, "0.011100")


def test_there_is_something_to_see() -> None:
    made = set_up()
    customer = Customer.objects.get(public_id=made["customer"]["id"])
    events = UsageEvent.objects.filter(customer=customer)
    # One or two of a day's three batches fall into its busy hours, by the hour at which the demo is made.
    assert 200 <= events.count() <= 350
    assert len(set(events.values_list("model_id", flat=True))) == 3
    assert len(set(events.values_list("occurred_at__date", flat=True))) >= 14
    assert 30 < Wallet.objects.get(customer=customer).balance < 50
    assert verify_books(full=True, at=customer.created_at).differences == []


def test_the_second_time_nothing_happens_whatever_was_renamed() -> None:
    set_up()
    Customer.objects.filter(public_id="cus_demo").update(name="Renamed")
    User.objects.filter(username="admin").update(username="root")
    before = (UsageEvent.objects.count(), Customer.objects.count(), User.objects.count())
    assert set_up() == {}
    assert (UsageEvent.objects.count(), Customer.objects.count(), User.objects.count()) == before


def test_an_admin_who_is_there_already_keeps_the_password() -> None:
    User.objects.create_user("admin", password="my own long password")
    made = set_up()
    assert made["operator"]["username"] != "admin"
    assert authenticate(username="admin", password="my own long password") is not None


def test_it_refuses_servers_that_are_not_embedded(settings: Settings) -> None:
    settings.EMBEDDED = False
    with pytest.raises(CommandError, match="embedded servers only"):
        set_up()
    assert not Customer.objects.filter(public_id="cus_demo").exists()
