"""What usage costs and brings, and by which prices: the tables of events, of their adjustments and of hours."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from billing.admin import html
from billing.admin.base import Figure, Panel
from billing.models import Transfer
from metering.admin.price_set import meter_rows
from metering.admin.price_story import story_panel
from metering.models import PriceSet, Rerating, UsageAdjustment, UsageEvent
from relayadmin.money import EXACT, amount_text

OLD, NEW = "old", "new"


@dataclass(frozen=True, slots=True)
class Side:
    """An event's figures at one time: as it came, or before or after an adjustment."""

    price_set_id: int
    quantities: Mapping[str, int]
    parts: Sequence[Mapping[str, Any]]
    charge: Decimal
    cost: Decimal


def first_side(event: UsageEvent) -> Side:
    return Side(event.price_set_id, event.quantities, event.parts or (), event.charge, event.cost)


def adjusted_side(adjustment: UsageAdjustment, side: str) -> Side | None:
    """Before (OLD) or after (NEW) an adjustment; None where it took the event back."""
    price_set_id, quantities, parts, charge, cost = (
        getattr(adjustment, f"{side}_{name}") for name in ("price_set_id", "quantities", "parts", "charge", "cost")
    )
    return None if price_set_id is None else Side(price_set_id, quantities, parts or (), charge, cost)


def money_figures(
    charge: Decimal, cost: Decimal, *, when: str = "", hint: str = "what the customer pays, USD", url: str = ""
) -> list[Figure]:
    """Charge, cost and margin; `when` says of which time, `url` leads to what made them so."""
    margin = EXACT.subtract(charge, cost)
    behind = f" {when}" if when else ""
    return [
        Figure(f"Charge{behind}", amount_text(charge), hint, url),
        Figure(f"Cost{behind}", amount_text(cost), "what the channel charges us, USD", url),
        Figure(f"Margin{behind}", amount_text(margin), "charge − cost", url, tone="danger" if margin < 0 else ""),
    ]


def price_panels(side: Side, *, when: str = "") -> list[Panel]:
    """The amounts by meter and how their prices came about, for each call that the response holds."""
    sets = PriceSet.objects.in_bulk({side.price_set_id, *(call["price_set_id"] for call in side.parts)})
    if not side.parts:
        prices = sets.get(side.price_set_id)
        model = prices.content["model"] if prices and when else ""
        return [
            meters_panel(side.quantities, prices, title=_title(when, model) or "Meters"),
            story_panel(prices, side.quantities, title=_title(when, "how the prices came about")),
        ]
    panels = [_calls_panel(side, sets, when)]
    for call in side.parts:
        used = sets.get(call["price_set_id"])
        title = _title(when, _call_name(call, used))
        panels += [
            meters_panel(call["quantities"], used, title=title),
            story_panel(used, call["quantities"], title=_title(title, "how the prices came about")),
        ]
    return panels


def _title(*parts: str) -> str:
    text = " · ".join(part for part in parts if part)
    return text[:1].upper() + text[1:]


def _call_name(call: Mapping[str, Any], used: PriceSet | None) -> str:
    return f"{call['kind']}: {used.content['model'] if used else call['model_id']}"


def _calls_panel(side: Side, sets: Mapping[int, PriceSet], when: str) -> Panel:
    return Panel(
        title=_title(when, "calls in this response"),
        headers=("Call", "Charge", "Cost", "Margin"),
        rows=[
            (
                _call_name(call, sets.get(call["price_set_id"])),
                *_money(Decimal(call["charge"]), Decimal(call["cost"])),
            )
            for call in side.parts
        ],
        numbers=frozenset({1, 2, 3}),
        total=("Sum", *_money(side.charge, side.cost)),
        note="The response held several calls, each at the prices of its own model; its tables follow.",
    )


def _money(charge: Decimal, cost: Decimal) -> tuple[str, str, str]:
    return html.amount(charge), html.amount(cost), html.amount(EXACT.subtract(charge, cost))


def meters_panel(quantities: Mapping[str, int], prices: PriceSet | None, *, title: str = "Meters") -> Panel:
    rows, (charge, cost) = meter_rows(quantities, prices)
    return Panel(
        title=title,
        headers=("Meter", "Quantity", "Unit price", "Charge", "Unit cost", "Cost", "Margin"),
        rows=rows,
        numbers=frozenset({1, 2, 3, 4, 5, 6}),
        total=("Sum", "", "", html.amount(charge), "", html.amount(cost), html.amount(charge - cost)),
        note="Quantity × unit price ÷ 1,000,000 tokens (or 1,000 calls) is the amount, exactly.",
        empty="Nothing was counted: this call cost nothing.",
    )


def cause_link(adjustment: UsageAdjustment) -> str:
    """The job that rated the event again, or the event that stands in its place."""
    if adjustment.rerating_id is None:
        return html.hot_link(UsageEvent, adjustment.customer_id, adjustment.replaced_by)
    return html.link(html.object_url(Rerating, adjustment.rerating_id), f"re-rating {adjustment.rerating_id}")


def steps_panel(steps: Sequence[UsageAdjustment]) -> Panel:
    """How an event was put right, step by step."""
    return Panel(
        title="Put right since",
        headers=(
            *("Adjustment", "Why", "Charge before", "Charge after", "Cost before", "Cost after", "Booked in"),
            *("Transfer", "Reason"),
        ),
        rows=[
            (
                html.hot_link(UsageAdjustment, step.customer_id, step.pk),
                html.lines(step.get_kind_display(), cause_link(step)),
                html.amount(step.old_charge),
                html.amount(step.new_charge),
                html.amount(step.old_cost),
                html.amount(step.new_cost),
                f"{step.period:%Y-%m}",
                html.hot_link(Transfer, step.customer_id, step.transfer_id),
                step.reason or html.NOTHING,
            )
            for step in steps
        ],
        numbers=frozenset({2, 3, 4, 5}),
        note="The event stays as it was charged at first; it counts as the last step says.",
    )


def replaced_panel(adjustment: UsageAdjustment) -> Panel:
    """On a correction's page: the estimate it was reported for."""
    return Panel(
        title="It corrects an estimate",
        headers=("Estimate", "Taken back by", "Had been charged", "Had cost"),
        rows=[
            (
                html.hot_link(UsageEvent, adjustment.customer_id, adjustment.event_number),
                html.hot_link(UsageAdjustment, adjustment.customer_id, adjustment.pk),
                html.amount(adjustment.old_charge),
                html.amount(adjustment.old_cost),
            )
        ],
        numbers=frozenset({2, 3}),
    )


def taken_back_panel(adjustment: UsageAdjustment, *, when: str) -> Panel:
    """In the place of prices where an adjustment has left none."""
    return Panel(
        title=_title(when),
        headers=("Counts for", "In its place stands"),
        rows=[("Nothing: it was taken back", cause_link(adjustment))],
    )


def counted_panels(event: UsageEvent) -> list[Panel]:
    """What an event counts for now, by which prices; what was put right, and the prices that it came with before."""
    steps = list(UsageAdjustment.objects.filter(customer_id=event.customer_id, event_number=event.pk).order_by("step"))
    first = first_side(event)
    replaced = UsageAdjustment.objects.filter(customer_id=event.customer_id, replaced_by=event.pk).first()
    panels = [] if replaced is None else [replaced_panel(replaced)]
    if not steps:
        return [*price_panels(first), *panels]
    now = adjusted_side(steps[-1], NEW)
    return [
        steps_panel(steps),
        *panels,
        *([taken_back_panel(steps[-1], when="now")] if now is None else price_panels(now, when="now")),
        *price_panels(first, when="at first"),
    ]
