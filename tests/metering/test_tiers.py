"""Usage tiers: the sample, promotion by top-ups, pinning; and the operator's pages for them."""

from datetime import UTC, datetime, timedelta
from decimal import Decimal
from uuid import uuid4

import pytest
from django.contrib.admin.models import LogEntry
from django.db import IntegrityError, transaction
from django.test import Client

from billing import credits, grant_changes
from billing.models import Customer, Grant, SpendLimit
from metering import tasks, tiers
from metering.models import ApiKey, CustomerTier, UsageTier
from tests.billing.hands import adjust
from tests.operator import log_in, make_staff, page, text_of
from tests.world import CustomerApi, Payer, Relay, make_payer

pytestmark = pytest.mark.django_db


def now() -> datetime:
    return datetime.now(UTC)


def top_up(payer: Payer, amount: str, kind: str = "paid") -> None:
    credits.grant(
        customer_id=payer.customer.pk,
        amount=Decimal(amount),
        kind=kind,
        reason="",
        reference="bank 1",
        key=uuid4().hex,
        at=now(),
    )


def tier_of(payer: Payer) -> str | None:
    """The name of the payer's tier; None without a row, "" for a row without a tier."""
    has = CustomerTier.objects.filter(customer=payer.customer).select_related("tier").first()
    return None if has is None else has.tier.name if has.tier else ""


def switch(*names: str, is_on: bool = True) -> None:
    numbers = list(UsageTier.objects.filter(name__in=names).values_list("pk", flat=True))
    tiers.switch(tier_ids=numbers or None, is_on=is_on, at=now())


class TestTheSample:
    def test_is_what_is_published_and_switched_off(self) -> None:
        assert tiers.load_sample() == 4
        rows = UsageTier.objects.values_list(
            "name", "top_ups_from", "requests_per_minute", "tokens_per_minute", "spend_per_month", "is_on"
        )
        assert list(rows) == [
            ("Tier 1", 5, 50, 40_000, 100, False),
            ("Tier 2", 40, 1_000, 80_000, 500, False),
            ("Tier 3", 200, 2_000, 160_000, 1_000, False),
            ("Tier 4", 400, 4_000, 400_000, 5_000, False),
        ]

    def test_loaded_again_leaves_what_the_operator_has_changed(self) -> None:
        tiers.load_sample()
        UsageTier.objects.filter(name="Tier 1").update(requests_per_minute=7)
        UsageTier.objects.filter(name="Tier 4").delete()
        assert tiers.load_sample() == 1
        assert UsageTier.objects.get(name="Tier 1").requests_per_minute == 7

    def test_limits_nobody_until_it_is_switched_on(self) -> None:
        payer = make_payer()
        top_up(payer, "50")
        tiers.load_sample()
        assert tasks.promote_customers() is None
        assert tier_of(payer) is None
        assert not any(name.startswith("x-ratelimit") for name in Relay().authorize(payer).headers)
        switch()
        assert tier_of(payer) == "Tier 2"
        assert Relay().authorize(payer).headers["x-ratelimit-limit-requests"] == "1000"


class TestPromotion:
    @pytest.fixture(autouse=True)
    def sample(self) -> None:
        tiers.load_sample()
        switch()

    @pytest.mark.parametrize(
        ("top_ups", "tier"),
        [
            ((), None),
            (("4.999999",), None),
            (("5",), "Tier 1"),
            (("20", "19.999999"), "Tier 1"),
            (("20", "20"), "Tier 2"),
            (("399",), "Tier 3"),
            (("1000000",), "Tier 4"),
        ],
    )
    def test_goes_by_all_that_was_paid_in(self, top_ups: tuple[str, ...], tier: str | None) -> None:
        payer = make_payer()
        for amount in top_ups:
            top_up(payer, amount)
        tiers.promote(at=now())
        assert tier_of(payer) == tier

    def test_gifts_are_no_top_ups(self) -> None:
        payer = make_payer(credit="500")
        top_up(payer, "500", kind="promotional")
        assert tiers.promote(at=now()) == 0
        assert tier_of(payer) is None

    def test_what_was_voided_or_came_back_is_no_top_up(self) -> None:
        payer = make_payer()
        top_up(payer, "4000")
        typed_wrong = Grant.objects.get(customer=payer.customer, kind="paid")
        grant_changes.void(customer_id=payer.customer.pk, number=typed_wrong.pk, reason="40.00", actor="olga", at=now())
        top_up(payer, "40")
        adjust(payer, "money_back", "500")
        tiers.promote(at=now())
        assert tier_of(payer) == "Tier 2"
        assert tiers.top_ups_of(payer.customer.pk) == 40

    def test_happens_with_the_scheduled_job_and_once(self) -> None:
        payer, at = make_payer(), now()
        top_up(payer, "5")
        assert tasks.promote_customers() == {"promoted": 1, "limited": 1}
        assert tasks.promote_customers() is None
        since = CustomerTier.objects.get(customer=payer.customer).since
        assert at <= since <= now()
        top_up(payer, "35")
        assert tasks.promote_customers() == {"promoted": 1, "limited": 1}
        assert tier_of(payer) == "Tier 2"
        assert CustomerTier.objects.get(customer=payer.customer).since > since

    def test_lifts_the_limit_from_the_next_request_on(self) -> None:
        payer, relay = make_payer(), Relay()
        top_up(payer, "5")
        tiers.promote(at=now())
        assert relay.authorize(payer, input_tokens=50_000).status == 429
        top_up(payer, "35")
        tiers.promote(at=now())
        assert relay.authorize(payer, input_tokens=50_000).status == 201

    def test_never_puts_anybody_down(self) -> None:
        payer = make_payer()
        top_up(payer, "40")
        tiers.promote(at=now())
        UsageTier.objects.filter(name="Tier 2").update(top_ups_from=50)
        tiers.promote(at=now())
        assert tier_of(payer) == "Tier 2"

    def test_but_from_a_tier_that_is_off_to_the_highest_that_is_on(self) -> None:
        payer = make_payer()
        top_up(payer, "400")
        tiers.promote(at=now())
        switch("Tier 4", "Tier 3", is_on=False)
        assert tier_of(payer) == "Tier 2"
        switch("Tier 4")
        assert tier_of(payer) == "Tier 4"

    def test_a_tier_from_0_is_everybody_s_but_the_house_s(self) -> None:
        payer = make_payer()
        UsageTier.objects.create(name="Free", top_ups_from=0, requests_per_minute=5, is_on=True)
        tiers.promote(at=now())
        assert tier_of(payer) == "Free"
        assert not CustomerTier.objects.filter(customer__is_house=True).exists()

    def test_leaves_pinned_tiers_alone_until_they_are_unpinned(self) -> None:
        payer = make_payer()
        top_up(payer, "400")
        tiers.pin(customer_id=payer.customer.pk, tier_id=UsageTier.objects.get(name="Tier 1").pk, at=now())
        assert tiers.promote(at=now()) == 0
        assert tier_of(payer) == "Tier 1"
        CustomerTier.objects.filter(customer=payer.customer).update(is_pinned=False)
        assert tiers.promote(at=now()) == 1
        assert tier_of(payer) == "Tier 4"

    def test_leaves_who_is_pinned_to_none_unlimited(self) -> None:
        payer = make_payer()
        top_up(payer, "400")
        tiers.promote(at=now())
        tiers.pin(customer_id=payer.customer.pk, tier_id=None, at=now())
        assert tiers.promote(at=now()) == 0
        assert tier_of(payer) == ""
        assert "x-ratelimit-limit-requests" not in Relay().authorize(payer).headers


class TestSpendPerMonth:
    def test_limits_who_has_the_tier_while_it_is_on(self) -> None:
        payer, other = make_payer(), make_payer()
        tiers.load_sample()
        tier = UsageTier.objects.get(name="Tier 3")
        tiers.pin(customer_id=payer.customer.pk, tier_id=tier.pk, at=now())
        assert tiers.limit_spend(at=now()) == 0
        switch()
        assert tiers.limit_spend(at=now()) == 1
        limit = SpendLimit.objects.get()
        assert (limit.customer_id, limit.owner, limit.span, limit.amount) == (payer.customer.pk, "tier", "month", 1000)
        assert not other.wallet.counts_spend
        UsageTier.objects.update(spend_per_month=Decimal("0.01"))
        assert tiers.limit_spend(at=now()) == 1
        assert Relay().authorize(payer, input_tokens=1000).code == "spend_limit_reached"
        tiers.pin(customer_id=payer.customer.pk, tier_id=None, at=now())
        assert tiers.limit_spend(at=now()) == 1
        assert not SpendLimit.objects.exists()
        assert tiers.limit_spend(at=now()) == 0


@pytest.mark.parametrize(
    "wrong",
    [{"top_ups_from": -1}, {"requests_per_minute": 0}, {"tokens_per_minute": 0}, {"spend_per_month": 0}],
)
def test_the_database_refuses_a_tier_that_makes_no_sense(wrong: dict[str, int]) -> None:
    with pytest.raises(IntegrityError), transaction.atomic():
        UsageTier.objects.create(**{"name": "odd", "top_ups_from": 1, **wrong})


@pytest.fixture
def operator() -> Client:
    return log_in(make_staff(is_superuser=True))


class TestTheOperator:
    def test_loads_the_sample_and_switches_it_on_each_asked_first(self, operator: Client) -> None:
        payer = make_payer()
        top_up(payer, "5")
        assert "published for Claude" in text_of(operator.get(page(UsageTier, "load_sample")))
        assert not UsageTier.objects.exists()
        assert "4 tiers added" in text_of(operator.post(page(UsageTier, "load_sample"), follow=True))
        assert "already" in text_of(operator.post(page(UsageTier, "load_sample"), follow=True))
        assert "from their next request on" in text_of(operator.get(page(UsageTier, "switch_all_on")))
        assert not UsageTier.objects.filter(is_on=True).exists()
        shown = text_of(operator.post(page(UsageTier, "switch_all_on"), follow=True))
        assert "Switched 4 tiers on. 1 customer is limited by a tier now." in shown
        assert LogEntry.objects.filter(change_message="Switched on.").count() == 4
        assert tier_of(payer) == "Tier 1"
        operator.post(page(UsageTier, "switch_all_off"), follow=True)
        assert Relay().authorize(payer, input_tokens=50_000).status == 201

    def test_switches_single_tiers(self, operator: Client) -> None:
        tiers.load_sample()
        chosen = UsageTier.objects.filter(name__in=("Tier 1", "Tier 2"))
        form = {"action": "switch_on", "_selected_action": [str(tier.pk) for tier in chosen]}
        operator.post(page(UsageTier, "changelist"), form)
        assert set(UsageTier.objects.filter(is_on=True)) == set(chosen)

    def test_makes_a_tier_that_holds_at_once(self, operator: Client) -> None:
        payer = make_payer()
        form = {"name": "Free", "top_ups_from": "0", "requests_per_minute": "2", "is_on": "on"}
        assert operator.post(page(UsageTier, "add"), form).status_code == 302
        assert tier_of(payer) == "Free"

    @pytest.mark.parametrize(
        ("field", "value", "said"),
        [
            ("top_ups_from", "-1", "below zero"),
            ("top_ups_from", "1e3", "plain decimal"),
            ("spend_per_month", "0", "above zero"),
            ("requests_per_minute", "0", "greater than or equal to 1"),
            ("tokens_per_minute", "-5", "greater than or equal to"),
        ],
    )
    def test_is_told_what_is_wrong_with_a_tier(self, operator: Client, field: str, value: str, said: str) -> None:
        answer = operator.post(page(UsageTier, "add"), {"name": "odd", "top_ups_from": "1", field: value})
        assert answer.status_code == 200
        assert said in text_of(answer)

    def test_cannot_delete_a_tier_that_customers_have(self, operator: Client) -> None:
        tiers.load_sample()
        first, second = UsageTier.objects.filter(name__in=("Tier 1", "Tier 2"))
        tiers.pin(customer_id=make_payer().customer.pk, tier_id=first.pk, at=now())
        assert operator.post(page(UsageTier, "delete", first.pk), {"post": "yes"}).status_code == 403
        assert operator.post(page(UsageTier, "delete", second.pk), {"post": "yes"}).status_code == 302

    def test_pins_a_customer_s_tier_on_its_page(self, operator: Client) -> None:
        payer = make_payer()
        tiers.load_sample()
        tier = UsageTier.objects.get(name="Tier 3")
        form = customer_form(payer.customer)
        prefix = next(name.removesuffix("-TOTAL_FORMS") for name in form if "tier" in name and "TOTAL" in name)
        told = {**form, f"{prefix}-TOTAL_FORMS": "1", f"{prefix}-0-tier": str(tier.pk)}
        assert operator.post(page(Customer, "change", payer.customer.pk), told).status_code == 302
        has = CustomerTier.objects.get(customer=payer.customer)
        assert (has.tier, has.is_pinned) == (tier, True)
        assert now() - has.since < timedelta(minutes=1)
        shown = text_of(operator.get(page(Customer, "change", payer.customer.pk)))
        assert "no limit: the tier is off" in shown

    def test_unpins_it_and_promotion_goes_on(self, operator: Client) -> None:
        payer = make_payer()
        top_up(payer, "40")
        tiers.load_sample()
        switch()
        tiers.pin(customer_id=payer.customer.pk, tier_id=UsageTier.objects.get(name="Tier 1").pk, at=now())
        has = CustomerTier.objects.get(customer=payer.customer)
        assert operator.post(page(CustomerTier, "change", has.pk), {"tier": str(has.tier_id)}).status_code == 302
        assert tasks.promote_customers() == {"promoted": 1, "limited": 1}
        assert tier_of(payer) == "Tier 2"

    def test_saves_a_customer_without_a_tier_and_none_appears(self, operator: Client) -> None:
        payer = make_payer()
        assert (
            operator.post(page(Customer, "change", payer.customer.pk), customer_form(payer.customer)).status_code == 302
        )
        assert tier_of(payer) is None

    def test_gives_a_key_limits_of_its_own(self, operator: Client) -> None:
        payer, relay = make_payer(), Relay()
        form = {"name": "ci", "allowed_models": "", "allowed_networks": "", "expires_at": ""}
        address = page(ApiKey, "change", payer.key.pk)
        assert operator.post(address, {**form, "requests_per_minute": "1"}).status_code == 302
        assert [relay.authorize(payer).status for _ in range(2)] == [201, 429]
        assert "1 requests a minute" in text_of(operator.get(page(ApiKey, "changelist")))
        refused = operator.post(address, {**form, "requests_per_minute": "0"})
        assert "greater than or equal to 1" in text_of(refused)
        assert operator.post(address, {**form, "requests_per_minute": ""}).status_code == 302
        assert relay.authorize(payer).status == 201


def customer_form(customer: Customer) -> dict[str, str]:
    """A customer's page as it is sent without a change: no row of any inline."""
    client = log_in(make_staff(is_superuser=True))
    formsets = client.get(page(Customer, "change", customer.pk)).context["inline_admin_formsets"]
    form = {"name": customer.name, "email": customer.email, "status": customer.status}
    for formset in formsets:
        prefix = formset.formset.prefix
        form |= {f"{prefix}-TOTAL_FORMS": "0", f"{prefix}-INITIAL_FORMS": "0"}
    return form


def test_a_customer_cannot_raise_a_limit_of_its_own_key() -> None:
    payer = make_payer()
    ApiKey.objects.filter(pk=payer.key.pk).update(requests_per_minute=1)
    CustomerApi(payer).send("PATCH", f"api-keys/{payer.key.public_id}", {"requests_per_minute": 1_000})
    assert ApiKey.objects.get(pk=payer.key.pk).requests_per_minute == 1
