"""How the prices of an event came about: the list row, the plan's rule, the channel's row, and what changed them."""

from collections.abc import Mapping
from typing import Any

from billing.admin import html
from billing.admin.base import Panel
from metering.admin.price_set import meter_label, price_row
from metering.explanations import waiver_note
from metering.meters import NAMES
from metering.models import Plan, PlanRule, Price, PriceSet


def story_panel(
    prices: PriceSet | None, quantities: Mapping[str, int], *, title: str = "How the prices came about"
) -> Panel:
    """A row for each meter that was used: list price, what the plan made of it and by which rule, and the cost."""
    content = {} if prices is None else prices.content
    meters = content.get("meters", {})
    used = [name for name in NAMES if name in quantities and name in meters]
    numbers = {meters[name][kind] for name in used for kind in ("charge_price", "cost_price")}
    rows = Price.with_superseded.in_bulk(numbers - {None})
    rules = PlanRule.objects.in_bulk({meters[name].get("rule") for name in used} - {None})
    plan = Plan.objects.filter(name=content.get("plan", "")).first()
    return Panel(
        title=title,
        headers=("Meter", "List price", "Plan", "Unit price", "Channel's price", "Unit cost"),
        rows=[_row(name, meters[name], rows, rules, plan) for name in used],
        numbers=frozenset({1, 3, 4, 5}),
        note=_note(content),
        empty="Nothing was counted, so no price was needed.",
    )


def _row(
    name: str, price: Mapping[str, Any], rows: Mapping[int, Price], rules: Mapping[int, PlanRule], plan: Plan | None
) -> tuple[object, ...]:
    return (
        meter_label(name),
        _listed(price.get("charge_price"), rows),
        _by(price.get("rule"), rules, plan),
        html.unit_price(price["charge"], price["per"]),
        _listed(price.get("cost_price"), rows),
        html.unit_price(price["cost"], price["per"]),
    )


def _listed(number: int | None, rows: Mapping[int, Price]) -> object:
    """A price row's own price, linked to it."""
    row = None if number is None else rows.get(number)
    if row is None:
        return price_row(number)
    return html.link(html.object_url(Price, row.pk), html.unit_price(row.unit_price, row.per))


def _by(number: int | None, rules: Mapping[int, PlanRule], plan: Plan | None) -> object:
    if plan is None:
        return html.NOTHING
    rule = None if number is None else rules.get(number)
    if rule is None:
        return html.link(html.object_url(Plan, plan.pk), f"{plan.name}:\u00a0×\u00a0{plan.multiplier.normalize():f}")
    says = rule.says().replace("× ", "×\u00a0")
    return html.link(html.object_url(PlanRule, rule.pk), f"{plan.name}, rule {rule.pk}: {says}")


def _note(content: Mapping[str, Any]) -> str:
    said = []
    if content.get("variant"):
        said.append(f"A {content['variant']} request: its own prices where there are any.")
    if "geo" in content:
        said.append(f"Inference was kept in the US: token prices × {content['geo']}.")
    if "account" in content:
        said.append(
            f"Bought through the upstream account {content['account']}: the channel's prices × {content['contract']}."
        )
    waived = waiver_note(content)
    if waived is not None:
        said.append(f"The plan waives a part: {waived}.")
    return " ".join(said)
