"""What a plan makes of list prices: its multiplier, its rules, and what it charges for what did not complete. Pure."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from decimal import ROUND_HALF_EVEN, Context, Decimal

from metering.meters import PLAIN_METER, PROMPT_METERS
from relayadmin.money import EXACT, to_unit_price

# A price in proportion to another is rounded once, to a unit price's 9 decimals; this is only the way there.
_RATIO = Context(prec=60, rounding=ROUND_HALF_EVEN)
_BEGINNING = datetime.min.replace(tzinfo=UTC)
_ONE = Decimal(1)
KNOWN, INPUT, NOTHING = "known", "input", "nothing"


@dataclass(frozen=True, slots=True)
class Standard:
    """What a standard request with a short prompt pays on the list at a moment, by meter: unit prices in USD.

    `taken_from` names the meter whose price stands there where the list has none of the meter's own.
    """

    prices: Mapping[str, Decimal] = field(default_factory=dict)
    taken_from: Mapping[str, str] = field(default_factory=dict)

    def followed(self, meter: str) -> tuple[str, ...]:
        """The meters whose rules are about a meter, the nearest first, itself at the head.

        Cached tokens follow what they would have counted as without a cache. A price that was taken over follows the
        one that it was taken from, and so do the cached tokens of that meter.
        """
        own = (meter, PLAIN_METER[meter]) if meter in PLAIN_METER else (meter,)
        return tuple(dict.fromkeys((*own, *(self.taken_from[name] for name in own if name in self.taken_from))))


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

    def covers(self, followed: Sequence[str]) -> bool:
        """Whether it is about a meter that follows these: it names one of them, or is about all meters."""
        return not self.meter or self.meter in followed

    def rank(self, followed: Sequence[str]) -> tuple[bool, int, int, bool, datetime, int]:
        """Of several that fit the highest wins: model, family, meter, channel, then the one that began last.

        Of those that name a meter, the one whose meter is the nearest of the `followed`.
        """
        named = len(followed) - followed.index(self.meter) if self.meter else 0
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


def best_rule(rules: tuple[Rule, ...], meter: str, at: datetime, standard: Standard) -> Rule | None:
    """The most specific of rules that fit a model on a channel, for one meter at one moment of the list."""
    if not rules:
        return None
    followed = standard.followed(meter)
    found = [rule for rule in rules if rule.covers(followed) and rule.holds(at)]
    return max(found, key=lambda rule: rule.rank(followed), default=None)


def charge_price(
    plan: PlanTerms, rule: Rule | None, meter: str, listed: Decimal, standard: Standard, *, factor: Decimal = _ONE
) -> Decimal:
    """A plan's unit price of a meter, USD, times a factor, rounded once. `listed` is what the list has for the request.

    A fixed price stands in the place of what `standard`, of the same moment, has for its meter: tiers, variants and the
    meters that follow it keep their proportion to that.
    """
    if rule is None or rule.unit_price is None:
        multiplier = plan.multiplier if rule is None or rule.multiplier is None else rule.multiplier
        return to_unit_price(EXACT.multiply(EXACT.multiply(listed, multiplier), factor))
    fixed = EXACT.multiply(rule.unit_price, factor)
    reference = standard.prices.get(rule.meter)
    if reference:
        return to_unit_price(_RATIO.divide(EXACT.multiply(listed, fixed), reference))
    if rule.meter == meter:
        return to_unit_price(fixed)
    return to_unit_price(EXACT.multiply(EXACT.multiply(listed, plan.multiplier), factor))  # Free has no proportions.


def is_charged(meter: str, charged: str) -> bool:
    """Whether a meter is paid for where so much of a request is charged."""
    return charged == KNOWN or (charged == INPUT and meter in PROMPT_METERS)
