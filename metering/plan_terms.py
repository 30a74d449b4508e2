"""What a plan makes of list prices: its multiplier, its rules, and what it charges for what did not complete. Pure."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import ROUND_HALF_EVEN, Context, Decimal

from metering.meters import BY_NAME, PROMPT_METERS
from relayadmin.money import EXACT, to_unit_price

# A price in proportion to another is rounded once, to a unit price's 9 decimals; this is only the way there.
_RATIO = Context(prec=60, rounding=ROUND_HALF_EVEN)
_BEGINNING = datetime.min.replace(tzinfo=UTC)
KNOWN, INPUT, NOTHING = "known", "input", "nothing"


@dataclass(frozen=True, slots=True)
class Rule:
    """A plan's exception: a multiplier of the list price or a unit price (USD) of one meter. None and "" mean all."""

    id: int
    model_id: int | None
    family: str
    meter: str
    channel_id: int | None
    multiplier: Decimal | None
    unit_price: Decimal | None
    effective_from: datetime | None
    effective_until: datetime | None

    def fits(self, model_id: int, public_id: str, channel_id: int) -> bool:
        if self.model_id is not None and self.model_id != model_id:
            return False
        return public_id.startswith(self.family) and self.channel_id in {None, channel_id}

    def holds(self, at: datetime) -> bool:
        if self.effective_from is not None and at < self.effective_from:
            return False
        return self.effective_until is None or at < self.effective_until

    def covers(self, meter: str) -> bool:
        """Whether it is about a meter: named, all of them, or a cache meter, which follows the input's."""
        return self.meter in {"", meter} or (self.meter == "input" and BY_NAME[meter].is_cache)

    def rank(self, meter: str) -> tuple[bool, int, int, bool, datetime, int]:
        """Of several that fit the highest wins: model, family, meter, channel, then the one that began last."""
        named = 0 if not self.meter else 2 if self.meter == meter else 1
        return (
            self.model_id is not None,
            len(self.family),
            named,
            self.channel_id is not None,
            self.effective_from or _BEGINNING,
            self.id,
        )


@dataclass(frozen=True, slots=True)
class Policy:
    """What is charged for requests that did not complete, from a moment on: known, input or nothing."""

    effective_from: datetime | None
    aborted: str
    failed: str


@dataclass(frozen=True, slots=True)
class PlanTerms:
    """A plan: the multiplier of all list prices, its rules, and its policies in the order of their beginning."""

    id: int
    name: str
    multiplier: Decimal = Decimal(1)
    rules: tuple[Rule, ...] = ()
    policies: tuple[Policy, ...] = ()

    def rules_for(self, model_id: int, public_id: str, channel_id: int) -> tuple[Rule, ...]:
        return tuple(rule for rule in self.rules if rule.fits(model_id, public_id, channel_id))

    def charged_for(self, status: str, at: datetime) -> str:
        """known, input or nothing: what a request with this status is charged."""
        if status == "completed" or not self.policies:
            return KNOWN
        held = [one for one in self.policies if one.effective_from is None or one.effective_from <= at]
        if not held:
            return KNOWN
        return held[-1].aborted if status == "aborted" else held[-1].failed


def best_rule(rules: tuple[Rule, ...], meter: str, at: datetime) -> Rule | None:
    """The most specific of rules that fit a model on a channel, for one meter at one moment."""
    found = [rule for rule in rules if rule.covers(meter) and rule.holds(at)]
    return max(found, key=lambda rule: rule.rank(meter), default=None)


def charge_price(
    plan: PlanTerms, rule: Rule | None, meter: str, listed: Decimal, standard: Mapping[str, Decimal]
) -> Decimal:
    """A plan's unit price of a meter, USD. `listed` is the list price that holds for the request.

    `standard` are the list prices by meter of a standard request with a short prompt at the same moment: a fixed price
    stands in the place of its meter's, and tiers, variants and (for a fixed input price) cache prices keep their
    proportion to it.
    """
    if rule is None:
        return to_unit_price(EXACT.multiply(listed, plan.multiplier))
    if rule.multiplier is not None:
        return to_unit_price(EXACT.multiply(listed, rule.multiplier))
    fixed = rule.unit_price if rule.unit_price is not None else listed
    reference = standard.get(rule.meter)
    if listed == reference and rule.meter == meter:
        return fixed
    if not reference:  # What was free has no proportions.
        return fixed if rule.meter == meter else to_unit_price(EXACT.multiply(listed, plan.multiplier))
    return to_unit_price(_RATIO.divide(_RATIO.multiply(listed, fixed), reference))


def is_charged(meter: str, charged: str) -> bool:
    """Whether a meter is paid for where so much of a request is charged."""
    return charged == KNOWN or (charged == INPUT and meter in PROMPT_METERS)
