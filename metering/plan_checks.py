"""When a plan, or a rule of one, needs a second look before it holds: what it makes of the prices on the list."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from decimal import Decimal

from metering.meters import NAMES
from metering.plan_terms import PlanTerms, Rule, best_rule, charge_price
from metering.price_checks import difference_text, percent_change, second_look
from metering.pricing import PriceRow, PriceTable, standard_at
from relayadmin.money import ZERO

AS_LISTED = Decimal(1)


@dataclass(frozen=True, slots=True)
class _Change:
    """What becomes of one list price; unit prices in USD. `why` it needs a second look, "" if it needs none."""

    public_id: str
    row: PriceRow
    old: Decimal
    new: Decimal
    why: str

    @property
    def width(self) -> tuple[bool, Decimal, bool, int]:
        """What is free goes first, then what changes most, then what everybody uses most."""
        is_plain = not self.row.variant and not self.row.above_prompt_tokens
        percent = abs(percent_change(self.old, self.new) or ZERO)
        return self.new == 0, percent, is_plain, -NAMES.index(self.row.meter)

    def __str__(self) -> str:
        tier = f" above {self.row.above_prompt_tokens:,}" if self.row.above_prompt_tokens else ""
        subject = " ".join(part for part in (self.public_id, self.row.variant, self.row.meter) if part)
        return f"{subject}{tier}: {difference_text(self.old, self.new)} {self.why}"


def look_at_multiplier(multiplier: Decimal, *, limit_percent: Decimal) -> str:
    """Why a plan's multiplier of all list prices needs a second look, as a sentence; "" if it needs none."""
    why = second_look(AS_LISTED, multiplier, limit_percent=limit_percent)
    return f"every list price: {difference_text(AS_LISTED, multiplier)} {why}" if why else ""


def look_at_rule(plan: PlanTerms, rule: Rule, table: PriceTable, *, limit_percent: Decimal) -> str:
    """Why a rule that comes to a plan needs a second look, as a sentence; "" if it needs none.

    Each price that it decides from its beginning on, which must be a moment, is compared with what the plan would have
    made of it without the rule. The sentence tells of the one that changes most.
    """
    changes = list(_changes(plan, rule, table, limit_percent))
    if not changes:  # It decides no price yet, and may decide some later.
        old, new = (plan.multiplier, rule.multiplier) if rule.multiplier is not None else (None, rule.unit_price)
        why = second_look(old, new, limit_percent=limit_percent)
        return f"{difference_text(old, new)} {why}" if why else ""
    doubtful = [change for change in changes if change.why]
    if not doubtful:
        return ""
    widest = max(doubtful, key=lambda change: change.width)
    others = f", and {len(doubtful) - 1:,} other prices need it too" if len(doubtful) > 1 else ""
    return f"{widest}{others}"


def _changes(plan: PlanTerms, rule: Rule, table: PriceTable, limit_percent: Decimal) -> Iterator[_Change]:
    """What the rule makes of each list price that holds when it begins, and that it decides."""
    at = rule.effective_from
    assert at is not None
    for number, model in table.catalog.models.items():
        channel_id = rule.channel_id or model.maker_channel_id
        if not rule.fits(number, model.public_id, channel_id):
            continue
        listed = table.charges.get(number, ())
        standard = standard_at(listed, at)
        before = plan.rules_for(number, model.public_id, channel_id)
        for row in listed:
            old_rule = best_rule(before, row.meter, at, standard)
            if _holds(row, rule) and best_rule((*before, rule), row.meter, at, standard) is rule:
                old, new = (charge_price(plan, one, row.meter, row.unit_price, standard) for one in (old_rule, rule))
                why = second_look(*(_compared(plan, old_rule, rule, row) or (old, new)), limit_percent=limit_percent)
                yield _Change(model.public_id, row, old, new, why)


def _holds(row: PriceRow, rule: Rule) -> bool:
    """Whether a list price is in force when the rule begins, for prompts of some size at some time of the day."""
    at = rule.effective_from
    assert at is not None
    return replace(row, above_prompt_tokens=0, daily_from=None).holds(at, 0)


def _compared(plan: PlanTerms, old_rule: Rule | None, rule: Rule, row: PriceRow) -> tuple[Decimal, Decimal] | None:
    """Multipliers are compared as such, so that no rounding of a small price makes a difference."""
    factor = plan.multiplier if old_rule is None else old_rule.multiplier
    return (factor, rule.multiplier) if row.unit_price and factor is not None and rule.multiplier is not None else None
