"""Plans, rules, policies, contracts and the story of a price, as the operator meets them in the admin."""

from datetime import timedelta
from decimal import Decimal
from typing import Any

import pytest
from django.contrib.auth import get_user_model
from django.test import Client
from django.utils import timezone

from metering import pricing
from metering.models import (
    Channel,
    CustomerPlan,
    Model,
    Plan,
    PlanPolicy,
    PlanRule,
    PriceBookSettings,
    UpstreamAccount,
    UpstreamTerms,
    UsageEvent,
)
from tests.operator import log_in, make_staff, page, text_of
from tests.world import EXAMPLE_USAGE, SONNET, Payer, Relay, make_event, make_payer

pytestmark = pytest.mark.django_db


@pytest.fixture
def operator() -> Client:
    return log_in(make_staff(is_superuser=True))


def username_of(client: Client) -> str:
    return get_user_model().objects.get(pk=client.session["_auth_user_id"]).get_username()


def form(rules: list[dict[str, Any]] | None = None, policies: list[dict[str, Any]] | None = None, **fields: Any) -> Any:
    """A plan's page as a browser sends it."""
    data: dict[str, Any] = {"name": "resale", "multiplier": "1.2", **fields}
    for prefix, rows in (("rules", rules or []), ("policies", policies or [])):
        old = sum("id" in row for row in rows)
        data |= {f"{prefix}-TOTAL_FORMS": len(rows), f"{prefix}-INITIAL_FORMS": old}
        for place, row in enumerate(rows):
            data |= {f"{prefix}-{place}-{name}": value for name, value in row.items()}
    return data


def split(prefix: str, moment: Any) -> dict[str, str]:
    """A moment as the admin's two fields."""
    return {f"{prefix}_0": f"{moment:%Y-%m-%d}", f"{prefix}_1": f"{moment:%H:%M:%S}"}


def made_plan(operator: Client, **more: Any) -> Plan:
    assert operator.post(page(Plan, "add"), form(**more)).status_code == 302
    return Plan.objects.get(name="resale")


def put_on(payer: Payer, plan: Plan) -> None:
    CustomerPlan.objects.create(customer=payer.customer, plan=plan)
    pricing.bump_version()


class TestAPlan:
    def test_is_made_with_its_rules_and_policies_in_one_go(self, operator: Client) -> None:
        model = Model.objects.get(public_id=SONNET)
        plan = made_plan(
            operator,
            rules=[{"model": model.pk, "meter": "output", "multiplier": "1.4", "reason": "dear to serve"}],
            policies=[{"aborted": "input", "failed": "nothing"}],
        )
        rule, policy = PlanRule.objects.get(plan=plan), PlanPolicy.objects.get(plan=plan)
        assert (rule.multiplier, rule.effective_from, rule.created_by) == (Decimal("1.4"), None, username_of(operator))
        assert (policy.aborted, policy.failed) == ("input", "nothing")
        payer = make_payer()
        put_on(payer, plan)
        Relay().report(make_event(payer))
        assert UsageEvent.objects.get().charge == Decimal("0.02175") * Decimal("1.2") + Decimal("0.0075") * Decimal(
            "1.4"
        )

    @pytest.mark.parametrize(
        ("rule", "complaint"),
        [
            ({"multiplier": "2", "unit_price": "3", "meter": "input"}, "either a multiplier or a unit price"),
            ({}, "either a multiplier or a unit price"),
            ({"unit_price": "3"}, "A unit price is that of one meter"),
            ({"multiplier": "-1"}, "It can't be below zero"),
            ({"family": "claude-", "model": "SONNET", "multiplier": "1"}, "Name a model or a family"),
        ],
    )
    def test_says_what_is_wrong_with_a_rule(self, operator: Client, rule: dict[str, Any], complaint: str) -> None:
        if rule.get("model"):
            rule = {**rule, "model": Model.objects.get(public_id=SONNET).pk}
        answer = operator.post(page(Plan, "add"), form(rules=[{"reason": "x", **rule}]))
        assert answer.status_code == 200
        assert complaint in text_of(answer)
        assert not Plan.objects.filter(name="resale").exists()

    def test_in_use_takes_new_rules_from_now_on_and_none_from_before(self, operator: Client) -> None:
        plan, now = made_plan(operator), timezone.now()
        put_on(make_payer(), plan)
        address = page(Plan, "change", plan.pk)
        past = {"multiplier": "2", **split("effective_from", now - timedelta(days=1))}
        answer = operator.post(address, form(rules=[past]))
        assert "can't begin in the past" in text_of(answer)
        assert operator.post(address, form(rules=[{"multiplier": "1.3"}])).status_code == 302
        assert now <= PlanRule.objects.get().effective_from <= timezone.now()  # type: ignore[operator]

    def test_s_rule_can_be_ended_and_not_changed(self, operator: Client) -> None:
        plan = made_plan(operator, rules=[{"multiplier": "2", "is_confirmed": "on"}])
        put_on(make_payer(), plan)
        rule = PlanRule.objects.get()
        address = page(Plan, "change", plan.pk)
        kept = {"id": rule.pk, "plan": plan.pk, "multiplier": "2.000000"}
        answer = operator.post(address, form(rules=[{**kept, "multiplier": "3"}]))
        assert "What has begun can" in text_of(answer)
        later = (timezone.now() + timedelta(days=1)).replace(microsecond=0)
        assert operator.post(address, form(rules=[{**kept, **split("effective_until", later)}])).status_code == 302
        rule.refresh_from_db()
        assert (rule.multiplier, rule.effective_until) == (2, later)

    def test_in_use_keeps_its_multiplier_and_can_not_be_deleted(self, operator: Client) -> None:
        plan = made_plan(operator)
        put_on(make_payer(), plan)
        operator.post(page(Plan, "change", plan.pk), form(multiplier="5"))
        plan.refresh_from_db()
        assert plan.multiplier == Decimal("1.2")
        assert operator.post(page(Plan, "delete", plan.pk), {"post": "yes"}).status_code == 403


class TestASecondLook:
    """Of a plan with a markup of 20 per cent; sonnet 4 costs 3 / 15 on the list, haiku 5.5 five times more if long."""

    @pytest.mark.parametrize(
        ("rule", "doubt"),
        [
            ({"model": SONNET, "multiplier": "0"}, "input: 3.6 → 0 (-100.0 %) would be free"),
            ({"model": SONNET, "meter": "output", "unit_price": "0"}, f"{SONNET} output: 18 → 0 (-100.0 %) would be"),
            ({"model": SONNET, "meter": "output", "multiplier": "1.51"}, "18 → 22.65 (+25.8 %) changes by more than"),
            ({"model": SONNET, "meter": "output", "unit_price": "1"}, f"{SONNET} output: 18 → 1 (-94.4 %)"),
            ({"family": "claude-haiku-5-5", "meter": "input", "unit_price": "1"}, "0.12 → 1 (+733.3 %)"),
            ({"multiplier": "0"}, "other prices need it too"),
            ({"family": "nobody-makes-it", "multiplier": "0"}, "1.2 → 0 (-100.0 %) would be free"),
            ({"family": "nobody-makes-it", "meter": "input", "unit_price": "0"}, "nothing → 0 would be free"),
        ],
    )
    def test_is_asked_for_a_rule_that_makes_a_price_free_or_quite_another(
        self, operator: Client, rule: dict[str, Any], doubt: str
    ) -> None:
        if "model" in rule:
            rule = {**rule, "model": Model.objects.get(public_id=rule["model"]).pk}
        plan = made_plan(operator)
        address = page(Plan, "change", plan.pk)

        shown = text_of(operator.post(address, form(rules=[rule])))

        assert "Look again: " in shown
        assert doubt in shown
        assert "Tick this if it is right." in shown
        assert not PlanRule.objects.exists()
        assert operator.post(address, form(rules=[{**rule, "is_confirmed": "on"}])).status_code == 302
        assert PlanRule.objects.filter(plan=plan).count() == 1

    @pytest.mark.parametrize(
        "rule", [{"multiplier": "1.5"}, {"multiplier": "0.9"}, {"model": SONNET, "meter": "output", "unit_price": "16"}]
    )
    def test_is_not_asked_up_to_the_limit(self, operator: Client, rule: dict[str, Any]) -> None:
        if "model" in rule:
            rule = {**rule, "model": Model.objects.get(public_id=rule["model"]).pk}
        assert made_plan(operator, rules=[rule]).rules.count() == 1

    def test_is_not_asked_for_prices_that_a_more_specific_rule_decides(self, operator: Client) -> None:
        sonnet = Model.objects.get(public_id=SONNET).pk
        plan = made_plan(operator, rules=[{"model": sonnet, "multiplier": "3", "is_confirmed": "on"}])
        address = page(Plan, "change", plan.pk)
        kept = {"id": plan.rules.get().pk, "plan": plan.pk, "model": sonnet, "multiplier": "3.000000"}
        assert operator.post(address, form(rules=[kept, {"multiplier": "1.3"}])).status_code == 302

    def test_follows_the_limit_that_the_operator_has_set(self, operator: Client) -> None:
        PriceBookSettings.objects.update(second_look_percent=Decimal(100))
        assert made_plan(operator, rules=[{"multiplier": "2.4"}]).rules.count() == 1

    def test_is_asked_for_a_plan_that_makes_everything_free_or_quite_another_price(self, operator: Client) -> None:
        for multiplier, doubt in (
            ("0", "0 (-100.0 %) would be free"),
            ("1.3", "1.3 (+30.0 %) changes by more than 25 %"),
        ):
            shown = text_of(operator.post(page(Plan, "add"), form(multiplier=multiplier)))
            assert f"every list price: 1 → {doubt}" in shown
        assert not Plan.objects.filter(name="resale").exists()
        plan = made_plan(operator, multiplier="0", is_confirmed="on")
        assert operator.post(page(Plan, "change", plan.pk), form(name="gift", multiplier="0")).status_code == 302

    def test_s_tick_is_shown_to_who_may_use_it(self, operator: Client) -> None:
        plan = made_plan(operator, rules=[{"multiplier": "1"}])
        viewer = log_in(make_staff(permissions=["metering.view_plan", "metering.view_planrule"]))
        assert "I have looked twice" in text_of(operator.get(page(Plan, "change", plan.pk)))
        assert "I have looked twice" not in text_of(viewer.get(page(Plan, "change", plan.pk)))


class TestACustomersPlan:
    def test_counts_from_the_beginning_for_who_has_used_nothing(self, operator: Client) -> None:
        payer, plan = make_payer(), made_plan(operator)
        operator.post(page(CustomerPlan, "add"), {"customer": payer.customer.pk, "plan": plan.pk})
        assert CustomerPlan.objects.get().effective_from is None

    def test_counts_from_now_on_for_who_has(self, operator: Client) -> None:
        payer, plan, now = make_payer(), made_plan(operator), timezone.now()
        Relay().report(make_event(payer))
        operator.post(page(CustomerPlan, "add"), {"customer": payer.customer.pk, "plan": plan.pk})
        assert CustomerPlan.objects.get().effective_from >= now  # type: ignore[operator]
        past = {"customer": payer.customer.pk, "plan": plan.pk, **split("effective_from", now - timedelta(days=1))}
        assert "in the past" in text_of(operator.post(page(CustomerPlan, "add"), past))

    def test_that_is_announced_can_be_called_off(self, operator: Client) -> None:
        payer, plan = make_payer(), made_plan(operator)
        row = CustomerPlan.objects.create(
            customer=payer.customer, plan=plan, effective_from=timezone.now() + timedelta(days=1)
        )
        assert operator.post(page(CustomerPlan, "delete", row.pk), {"post": "yes"}).status_code == 302
        row = CustomerPlan.objects.create(customer=payer.customer, plan=plan)
        assert operator.post(page(CustomerPlan, "delete", row.pk), {"post": "yes"}).status_code == 403


def test_a_contract_upstream_is_entered_and_costs_follow_it(operator: Client) -> None:
    data = {
        "name": "main",
        "channel": Channel.objects.get(name="anthropic").pk,
        "terms-TOTAL_FORMS": 1,
        "terms-INITIAL_FORMS": 0,
        "terms-0-multiplier": "0.8",
    }
    assert operator.post(page(UpstreamAccount, "add"), data).status_code == 302
    assert UpstreamTerms.objects.get().effective_from is None
    payer = make_payer()
    Relay().report(make_event(payer, upstream_account="main"))
    event = UsageEvent.objects.get()
    assert event.cost == event.charge * Decimal("0.8")
    assert "× 0.8" in text_of(operator.get(page(UpstreamAccount, "changelist")))
    story = text_of(operator.get(page(UsageEvent, "change", event.public_id)))
    assert "Bought through the upstream account main: the channel's prices × 0.8." in story


def test_an_event_s_page_tells_by_which_price_and_rule(operator: Client) -> None:
    """Row 33: nobody can see why a line costs 1.25×."""
    payer, plan = make_payer(), Plan.objects.create(name="partners", multiplier=Decimal("1.1"))
    rule = PlanRule.objects.create(plan=plan, meter="output", multiplier=Decimal("1.25"))
    PlanPolicy.objects.create(plan=plan, aborted="input")
    put_on(payer, plan)
    relay = Relay()
    relay.report(make_event(payer), make_event(payer, status="aborted"))
    done, aborted = UsageEvent.objects.get(status="completed"), UsageEvent.objects.get(status="aborted")
    story = text_of(operator.get(page(UsageEvent, "change", done.public_id)))
    assert f"partners, rule {rule.pk}: × 1.25 18.750000 per 1,000,000" in story
    assert "Input tokens 3.000000 per 1,000,000 partners: × 1.1 3.300000 per 1,000,000" in story
    assert "waives" not in story
    story = text_of(operator.get(page(UsageEvent, "change", aborted.public_id)))
    assert "The plan waives a part: aborted: only the input side is charged." in story


def test_a_response_of_several_calls_shows_each_by_its_own_model(operator: Client) -> None:
    payer = make_payer()
    usage = {
        **EXAMPLE_USAGE,
        "iterations": [
            {"type": "message", **EXAMPLE_USAGE},
            {"type": "advisor_message", "model": "claude-opus-5-5", "input_tokens": 1000, "output_tokens": 100},
        ],
    }
    answer = Relay().report(make_event(payer, usage=usage)).body
    assert answer["accepted"] == 1, answer
    event = UsageEvent.objects.get()
    assert event.charge == Decimal("0.02925") + Decimal("0.004") + Decimal("0.002")
    story = text_of(operator.get(page(UsageEvent, "change", event.public_id)))
    assert "message: claude-sonnet-4-20250514" in story
    assert "advisor_message: claude-opus-5-5" in story


def test_an_ended_rule_is_not_revived_and_a_stored_moment_stays_to_the_microsecond(operator: Client) -> None:
    plan, now = made_plan(operator), timezone.now()
    put_on(make_payer(), plan)
    ended = PlanRule.objects.create(
        plan=plan, multiplier=2, effective_from=now - timedelta(days=2), effective_until=now - timedelta(days=1)
    )
    held = PlanRule.objects.create(plan=plan, multiplier=2, effective_from=now - timedelta(days=2))
    address = page(Plan, "change", plan.pk)

    def kept(rule: PlanRule, **changes: Any) -> dict[str, Any]:
        row = {"id": rule.pk, "plan": plan.pk, "multiplier": "2.000000"}
        row |= split("effective_from", rule.effective_from)
        return {**row, **(split("effective_until", rule.effective_until) if rule.effective_until else {}), **changes}

    revived = kept(ended, effective_until_0="", effective_until_1="")
    assert "It has ended" in text_of(operator.post(address, form(rules=[revived])))
    later = (now + timedelta(days=1)).replace(microsecond=0)
    ending = kept(held, **split("effective_until", later))
    assert operator.post(address, form(rules=[ending])).status_code == 302
    before = held.effective_from
    held.refresh_from_db()
    assert (held.effective_from, held.effective_until) == (before, later)


def test_what_is_announced_can_be_called_off_and_what_has_begun_can_not(operator: Client) -> None:
    plan, now = made_plan(operator), timezone.now()
    put_on(make_payer(), plan)
    ahead = PlanPolicy.objects.create(plan=plan, failed="nothing", effective_from=now + timedelta(days=1))
    begun = PlanPolicy.objects.create(plan=plan, failed="nothing", effective_from=now - timedelta(days=1))
    address = page(Plan, "change", plan.pk)

    def delete(policy: PlanPolicy) -> Any:
        row = {"id": policy.pk, "plan": plan.pk, "aborted": "known", "failed": "nothing", "DELETE": "on"}
        return operator.post(address, form(policies=[{**row, **split("effective_from", policy.effective_from)}]))

    assert "What has begun can't be deleted" in text_of(delete(begun))
    assert delete(ahead).status_code == 302
    assert list(PlanPolicy.objects.values_list("pk", flat=True)) == [begun.pk]
