"""Events as they count now in a list: what the last adjustments say, looked up once for all rows."""

from collections.abc import Sequence
from decimal import Decimal

from django.utils.html import format_html

from billing.admin import html
from metering.adjustments import LastStep, last_steps
from metering.models import Model, PriceSet, UsageEvent
from relayadmin.money import amount_text


def attach_last_steps(events: Sequence[UsageEvent]) -> None:
    """Fetch what was put right, one query and one for models that were mistaken, and keep it beside the rows."""
    steps = last_steps([(event.customer_id, event.pk) for event in events])
    found = [(event, steps.get((event.customer_id, event.pk))) for event in events]
    others = {step.model_id for event, step in found if step is not None and step.model_id != event.model_id}
    models = Model.objects.in_bulk(others) if others else {}
    for event, step in found:
        event.__dict__["last_step"] = step
        event.__dict__["other_model"] = None if step is None else models.get(step.model_id)


def last_step(event: UsageEvent) -> LastStep | None:
    """What `attach_last_steps` found; None for an event that counts as it came."""
    step: LastStep | None = event.__dict__["last_step"]
    return step


def model_cell(event: UsageEvent, first: str) -> str:
    """The model that an event counts as, linked; below it the one it came as, if that was another."""
    step = last_step(event)
    if step is None or step.model_id == event.model_id:
        return first
    return html.lines(html.row_link(event.__dict__["other_model"], step.model_id), format_html("at first {}", first))


def price_set_cell(event: UsageEvent) -> str:
    """The prices that an event counts at; below them those it came with."""
    step = last_step(event)
    first = _price_set(event.price_set_id)
    if step is None or step.price_set_id == event.price_set_id:
        return first
    now = "none: it was taken back" if step.price_set_id is None else _price_set(step.price_set_id)
    return html.lines(now, format_html("at first {}", first))


def _price_set(number: int) -> str:
    return html.link(html.object_url(PriceSet, number), f"price set {number}")


def charge_and_cost(event: UsageEvent) -> tuple[Decimal, Decimal]:
    """What an event counts for now."""
    step = last_step(event)
    return (event.charge, event.cost) if step is None else (step.charge, step.cost)


def charge_cell(event: UsageEvent) -> str:
    """The charge that counts; below it what it was at first, if that was another."""
    step = last_step(event)
    if step is None:
        return html.amount(event.charge)
    is_taken_back = step.price_set_id is None
    return html.lines(
        html.amount(step.charge),
        "taken back" if is_taken_back else "",
        f"at first {amount_text(event.charge)}" if is_taken_back or step.charge != event.charge else "",
    )


def cost_cell(event: UsageEvent) -> str:
    step = last_step(event)
    cost = event.cost if step is None else step.cost
    return html.lines(html.amount(cost), f"at first {amount_text(event.cost)}" if cost != event.cost else "")
