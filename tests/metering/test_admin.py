"""What an operator does with keys, the price book, usage and the events that wait."""

import re
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest
from django.contrib.admin.models import LogEntry
from django.test import Client

from metering.models import (
    ApiKey,
    Channel,
    CustomerPlan,
    EventConflict,
    EventKey,
    Model,
    ModelAlias,
    ParkedEvent,
    Plan,
    Price,
    PriceBookVersion,
    PriceSet,
    QuarantinedEvent,
    RelayToken,
    UnclaimedEvent,
    UsageEvent,
    UsageHour,
)
from tests.operator import fill, log_in, make_staff, page, text_of
from tests.world import SONNET, Relay, make_event, make_payer

pytestmark = pytest.mark.django_db

NO_RULES = {f"{rows}-{count}_FORMS": 0 for rows in ("rules", "policies") for count in ("TOTAL", "INITIAL")}


@pytest.fixture
def operator() -> Client:
    return log_in(make_staff(is_superuser=True))


def rows_of(client: Client, listed: type[Any], /, **query: object) -> list[Any]:
    """The rows that a list shows."""
    answer = client.get(page(listed, "changelist"), query)
    assert answer.status_code == 200
    return list(answer.context["cl"].result_list)


def version() -> int:
    return PriceBookVersion.objects.get().version


def key_form(**changes: str) -> dict[str, str]:
    return {"name": "ci", "allowed_models": "", "allowed_networks": "", "expires_at": "", **changes}


def test_a_new_api_keys_secret_is_shown_once_and_kept_nowhere(operator: Client) -> None:
    payer, relay = make_payer(), Relay()
    form = key_form(
        customer=str(payer.customer.pk), allowed_models=f"{SONNET}\n\n gpt-4o ", allowed_networks="10.0.0.0/8"
    )
    answer = operator.post(page(ApiKey, "add"), form)
    secrets = re.findall(r"sk-[A-Za-z0-9]{40,}", answer.content.decode())
    assert len(secrets) == 1
    assert "no-store" in answer.headers["Cache-Control"]
    assert "messages" not in answer.cookies
    key = ApiKey.objects.get(customer=payer.customer, name="ci")
    assert (key.allowed_models, key.allowed_networks) == ([SONNET, "gpt-4o"], ["10.0.0.0/8"])
    assert relay.authorize(payer, api_key=secrets[0], client_ip="10.1.2.3").status == 201
    for address in (page(ApiKey, "changelist"), page(ApiKey, "change", key.pk)):
        shown = operator.get(address).content.decode()
        assert secrets[0] not in shown
        assert key.digest.hex() not in shown


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"name": ""}, "This field is required"),
        ({"name": "   "}, "This field is required"),
        ({"customer": ""}, "This field is required"),
        ({"customer": "999999999"}, "Select a valid choice"),
        ({"allowed_networks": "10.0.0.0/33"}, "does not appear to be an IPv4 or IPv6 network"),
        ({"allowed_models": "a\x00b"}, "Null characters are not allowed"),
        ({"expires_at": "2020-01-01T00:00"}, "must be in the future"),
    ],
)
def test_a_wrong_key_is_refused_with_a_reason(operator: Client, changes: dict[str, str], said: str) -> None:
    payer = make_payer()
    answer = operator.post(page(ApiKey, "add"), {**key_form(customer=str(payer.customer.pk)), **changes})
    assert answer.status_code == 200
    assert said in text_of(answer)
    assert ApiKey.objects.filter(customer=payer.customer).count() == 1


def test_a_key_is_changed_but_stays_with_its_customer(operator: Client) -> None:
    payer, other = make_payer(), make_payer()
    until = datetime.now(UTC) - timedelta(days=1)
    ApiKey.objects.filter(pk=payer.key.pk).update(expires_at=until)
    form = key_form(name="renamed", customer=str(other.customer.pk), expires_at=until.strftime("%Y-%m-%dT%H:%M:%S"))
    assert operator.post(page(ApiKey, "change", payer.key.pk), form).status_code == 302
    key = ApiKey.objects.get(pk=payer.key.pk)
    assert (key.name, key.customer_id) == ("renamed", payer.customer.pk)


def test_revoking_asks_first_then_ends_the_key_and_leaves_a_trace(operator: Client) -> None:
    payer, relay = make_payer(), Relay()
    address = page(ApiKey, "revoke", payer.key.pk)
    assert "stops working at once" in text_of(operator.get(address))
    assert relay.authorize(payer).status == 201
    assert "is revoked" in text_of(operator.post(address, follow=True))
    assert relay.authorize(payer).code == "invalid_api_key"
    revoked_at = ApiKey.objects.get(pk=payer.key.pk).revoked_at
    assert operator.post(address).status_code == 302
    assert ApiKey.objects.get(pk=payer.key.pk).revoked_at == revoked_at
    assert LogEntry.objects.filter(object_id=str(payer.key.pk)).count() == 1
    assert operator.post(page(ApiKey, "change", payer.key.pk), key_form(name="back")).status_code == 403


def test_keys_are_revoked_from_the_list(operator: Client) -> None:
    payers = [make_payer(), make_payer()]
    answer = operator.post(
        page(ApiKey, "changelist"),
        {"action": "revoke_selected", "_selected_action": [payer.key.pk for payer in payers]},
        follow=True,
    )
    assert "2 revoked" in text_of(answer)
    assert not ApiKey.objects.filter(revoked_at=None).exists()


def test_only_who_may_change_keys_revokes_them() -> None:
    payer = make_payer()
    client = log_in(make_staff(permissions=["metering.view_apikey"]))
    address = page(ApiKey, "revoke", payer.key.pk)
    assert client.get(address).status_code == 403
    assert client.post(address).status_code == 403
    client.post(page(ApiKey, "changelist"), {"action": "revoke_selected", "_selected_action": payer.key.pk})
    assert ApiKey.objects.get(pk=payer.key.pk).revoked_at is None
    allowed = log_in(make_staff(permissions=["metering.change_apikey", "metering.view_apikey"]))
    assert allowed.post(address).status_code == 302
    assert ApiKey.objects.get(pk=payer.key.pk).revoked_at is not None


def test_a_relay_token_is_made_used_and_revoked(operator: Client) -> None:
    payer = make_payer()
    answer = operator.post(page(RelayToken, "add"), {"name": "eu-1", "scopes": ["authorize"]})
    (secret,) = re.findall(r"rl_[A-Za-z0-9]{40,}", answer.content.decode())
    token = RelayToken.objects.get(name="eu-1")
    assert token.scopes == ["authorize"]
    assert Relay(secret).authorize(payer).status == 201
    operator.post(page(RelayToken, "revoke", token.pk))
    assert Relay(secret).authorize(payer).code == "invalid_relay_token"
    assert operator.post(page(RelayToken, "delete", token.pk), {"post": "yes"}).status_code == 403


def test_every_change_of_the_price_book_gives_it_a_new_version(operator: Client) -> None:
    channel = Channel.objects.get(name="anthropic")
    model = Model.objects.get(public_id=SONNET)
    model_form = {
        "label": "Sonnet 4",
        "maker": channel.pk,
        "context_window": "200000",
        "max_output_tokens": "64000",
        "us_multiplier": "1.1",
    }
    saves: list[tuple[str, dict[str, object]]] = [
        (page(Channel, "change", channel.pk), {"label": "Anthropic PBC", "source_names": "anthropic"}),
        (page(Channel, "add"), {"name": "own", "label": "Our own", "source_names": ""}),
        (page(Model, "change", model.pk), dict(model_form)),
        (page(Model, "add"), {**model_form, "public_id": "house-1"}),
        (page(ModelAlias, "add"), {"name": "our-sonnet", "model": model.pk}),
        (page(Plan, "add"), {"name": "resale", "multiplier": "1.2", **NO_RULES}),
    ]
    for address, form in saves:
        before = version()
        assert operator.post(address, form).status_code == 302, address
        assert version() == before + 1, address
    before, alias = version(), ModelAlias.objects.get(name="our-sonnet")
    assert operator.post(page(ModelAlias, "delete", alias.pk), {"post": "yes"}).status_code == 302
    assert version() == before + 1
    operator.post(
        page(ModelAlias, "changelist"),
        {
            "action": "delete_selected",
            "_selected_action": ModelAlias.objects.filter(model=model)[0].pk,
            "post": "yes",
        },
    )
    assert version() == before + 2


def test_a_new_alias_counts_from_the_next_event_on(operator: Client) -> None:
    payer, relay = make_payer(), Relay()
    relay.report(make_event(payer, model="our-sonnet"))
    operator.post(page(ModelAlias, "add"), {"name": "our-sonnet", "model": Model.objects.get(public_id=SONNET).pk})
    assert relay.report(make_event(payer, model="our-sonnet")).body["accepted"] == 1


def test_what_usage_points_at_is_never_deleted(operator: Client) -> None:
    for model in (Model, Channel):
        row = model._default_manager.first()
        assert row is not None
        assert operator.post(page(model, "delete", row.pk), {"post": "yes"}).status_code == 403


def test_the_plan_of_list_prices_stays_as_it_is(operator: Client) -> None:
    plan = Plan.objects.get(name="list")
    assert operator.post(page(Plan, "change", plan.pk), {"name": "list", "multiplier": "2"}).status_code == 403
    assert operator.post(page(Plan, "delete", plan.pk), {"post": "yes"}).status_code == 403


def test_a_customer_is_put_on_a_plan_and_pays_its_prices(operator: Client) -> None:
    payer, relay = make_payer(), Relay()
    operator.post(page(Plan, "add"), {"name": "resale", "multiplier": "1.2", **NO_RULES})
    plan = Plan.objects.get(name="resale")
    form = {"customer": payer.customer.pk, "plan": plan.pk}
    assert operator.post(page(CustomerPlan, "add"), form).status_code == 302
    relay.report(make_event(payer))
    assert str(UsageEvent.objects.get().charge.normalize()) == "0.0351"


def test_a_usage_events_page_recomputes_every_meter(operator: Client) -> None:
    payer, relay = make_payer(), Relay()
    relay.report(make_event(payer, metadata={"team": "search"}))
    event = UsageEvent.objects.get()
    answer = operator.get(page(UsageEvent, "change", event.public_id))
    shown = text_of(answer)
    for said in (
        "Cache writes, 1 hour 2,000 6.000000 per 1,000,000 0.012000",
        "Cache reads 10,000 0.300000 per 1,000,000 0.003000",
        "Sum 0.029250 0.029250 0.000000",
        "cache_read_input_tokens",
        "search",
    ):
        assert said in shown, said


def test_usage_of_an_hour_shows_its_meters(operator: Client) -> None:
    fill()
    hour = UsageHour.objects.latest("id")
    shown = text_of(operator.get(page(UsageHour, "change", hour.public_id)))
    assert "Output tokens" in shown
    assert "Sum" in shown


def test_usage_is_found_by_customer_key_model_and_the_relays_id(operator: Client) -> None:
    payer = fill()
    event = UsageEvent.objects.filter(customer=payer.customer).latest("id")
    customer = payer.customer.pk
    assert len(rows_of(operator, UsageEvent)) == 8
    assert len(rows_of(operator, UsageEvent, q="northwind")) == 5
    assert rows_of(operator, UsageEvent, q=event.public_id) == [event]
    assert rows_of(operator, UsageEvent, customer__id__exact=customer, q=event.event_id) == [event]
    assert rows_of(operator, UsageEvent, customer__id__exact=customer, q="req_unknown") == []
    assert len(rows_of(operator, UsageEvent, customer__id__exact=customer, key=payer.key.pk)) == 5
    assert len(rows_of(operator, UsageEvent, model="sonnet-4")) == 8
    assert rows_of(operator, UsageEvent, model="gemini") == []
    assert rows_of(operator, UsageEvent, status__exact="failed") == []
    keys = rows_of(operator, EventKey, customer__id__exact=customer, q=event.event_id)
    assert [key.pk for key in keys] == [event.pk]
    assert "evt_" in text_of(operator.get(page(EventKey, "change", event.public_id)))


def test_a_list_of_many_rows_takes_no_more_queries_than_one_of_few(
    operator: Client, django_assert_max_num_queries: Any
) -> None:
    payers, relay = [make_payer() for _ in range(5)], Relay()
    relay.report(*[make_event(payer) for payer in payers for _ in range(4)])
    for model in (UsageEvent, UsageHour, ApiKey, EventKey):
        with django_assert_max_num_queries(14):
            assert len(rows_of(operator, model)) >= 5


def test_open_events_are_listed_first_and_counted_by_reason(operator: Client) -> None:
    fill()
    parked = ParkedEvent.objects.get()
    assert rows_of(operator, ParkedEvent) == [parked]
    assert rows_of(operator, ParkedEvent, reason="unknown_model") == [parked]
    assert rows_of(operator, ParkedEvent, reason="no_price") == []
    assert rows_of(operator, ParkedEvent, state="done") == []
    assert "unknown_model (1 open)" in operator.get(page(ParkedEvent, "changelist")).content.decode()


def test_parked_events_are_settled_once_what_was_missing_is_there(operator: Client) -> None:
    payer, relay = make_payer(credit="1.00"), Relay()
    relay.report(make_event(payer, model="our-sonnet"))
    parked = ParkedEvent.objects.get()
    settle = {"action": "settle_now", "_selected_action": parked.pk}
    address = page(ParkedEvent, "changelist")
    assert "1 still can't be settled" in text_of(operator.post(address, settle, follow=True))
    operator.post(page(ModelAlias, "add"), {"name": "our-sonnet", "model": Model.objects.get(public_id=SONNET).pk})
    assert "1 settled." in text_of(operator.post(address, settle, follow=True))
    assert payer.balance == Decimal("0.97075")
    assert rows_of(operator, ParkedEvent) == []
    assert rows_of(operator, ParkedEvent, state="done") == [parked]
    event = UsageEvent.objects.get()
    assert "Parked before it was settled" in text_of(operator.get(page(UsageEvent, "change", event.public_id)))


def test_the_sweep_asks_first_and_says_what_it_did(operator: Client) -> None:
    payer, relay = make_payer(), Relay()
    relay.report(make_event(payer, model="our-sonnet"), make_event(None, api_key_id="key_0000000000000000"))
    operator.post(page(ModelAlias, "add"), {"name": "our-sonnet", "model": Model.objects.get(public_id=SONNET).pk})
    for model in (ParkedEvent, UnclaimedEvent):
        assert "Tries the oldest" in text_of(operator.get(page(model, "sweep_all")))
    assert ParkedEvent.objects.get().resolved_at is None
    answer = operator.post(page(ParkedEvent, "sweep_all"), follow=True)
    assert "1 parked events settled, 0 unclaimed events attributed; 1 still wait." in text_of(answer)


@pytest.mark.parametrize("model", [EventConflict, QuarantinedEvent])
def test_what_was_looked_into_is_marked_and_leaves_the_list(model: type[Any], operator: Client) -> None:
    fill()
    row = model._default_manager.get()
    assert rows_of(operator, model) == [row]
    assert "Mark as dealt with" in text_of(operator.get(page(model, "deal_with", row.pk)))
    operator.post(page(model, "deal_with", row.pk))
    assert rows_of(operator, model) == []
    model._default_manager.update(resolved_at=None)
    operator.post(page(model, "changelist"), {"action": "mark_dealt_with", "_selected_action": row.pk})
    assert rows_of(operator, model) == []
    assert LogEntry.objects.filter(object_id=str(row.pk), change_message="Marked as dealt with.").count() == 2


@pytest.mark.parametrize(
    ("model", "action", "of_list"),
    [
        (ParkedEvent, "settle_now", "sweep_all"),
        (UnclaimedEvent, None, "sweep_all"),
        (EventConflict, "mark_dealt_with", None),
        (QuarantinedEvent, "mark_dealt_with", None),
    ],
)
def test_who_may_only_look_works_through_nothing(model: type[Any], action: str | None, of_list: str | None) -> None:
    fill()
    name = model._meta.model_name
    client = log_in(make_staff(permissions=[f"metering.view_{name}"]))
    row = model._default_manager.get()
    if action:
        client.post(page(model, "changelist"), {"action": action, "_selected_action": row.pk})
    if of_list:
        assert client.post(page(model, of_list)).status_code == 403
    else:
        assert client.post(page(model, "deal_with", row.pk)).status_code == 403
    assert model._default_manager.get().resolved_at is None


def test_quarantine_shows_no_secret(operator: Client) -> None:
    payer, relay = make_payer(), Relay()
    relay.report(make_event(payer, usage={"input_tokens": -1, "output_tokens": 1}, metadata={"k": payer.api_key}))
    row = QuarantinedEvent.objects.get()
    shown = text_of(operator.get(page(QuarantinedEvent, "change", row.pk)))
    assert payer.api_key not in shown
    assert "input_tokens" in shown


def test_prices_are_found_by_model_and_shown_with_how_they_came(operator: Client) -> None:
    model = Model.objects.get(public_id=SONNET)
    prices = rows_of(operator, Price, model__id__exact=model.pk, kind__exact="charge", when="now")
    assert {price.meter for price in prices} >= {"input", "output", "cache_read", "cache_write_5m"}
    shown = text_of(operator.get(page(Model, "change", model.pk)))
    assert "3.750000 per 1,000,000" in shown
    for query in ({"when": "announced"}, {"when": "over"}, {"how": "derived"}, {"how": "given"}):
        rows_of(operator, Price, **query)


def test_a_price_set_links_to_the_rows_it_came_from(operator: Client) -> None:
    payer, relay = make_payer(), Relay()
    relay.report(make_event(payer))
    prices = PriceSet.objects.latest("id")
    assert rows_of(operator, PriceSet, q=str(prices.pk)) == [prices]
    assert prices in rows_of(operator, PriceSet, q=SONNET)
    shown = operator.get(page(PriceSet, "change", prices.pk)).content.decode()
    row = prices.content["meters"]["input"]["charge_price"]
    assert page(Price, "change", row) in shown
