"""How often the price of plain input is in a cache price, for many price rows in one query."""

from datetime import datetime, timedelta
from decimal import ROUND_HALF_UP, Context

from django.db.models import Case, CharField, DateTimeField, F, OuterRef, Q, QuerySet, Subquery, Value, When

from billing.admin import html
from metering.meters import PLAIN_METER
from metering.models import Price

_RATIO = Context(prec=6, rounding=ROUND_HALF_UP)


def with_input_price(prices: QuerySet[Price], now: datetime) -> QuerySet[Price]:
    """Each row with `input_price`: what input costs beside it, now, when it begins, or just before it ended.

    Beside a cache price it is the input of the same kind: text, audio or images.
    """
    moment = Case(
        When(effective_until__lte=now, then=F("effective_until") - timedelta(microseconds=1)),
        When(effective_from__gt=now, then=F("effective_from")),
        default=Value(now),
        output_field=DateTimeField(),
    )
    plain = Case(
        *(When(meter=meter, then=Value(plain)) for meter, plain in PLAIN_METER.items()),
        default=Value("input"),
        output_field=CharField(),
    )
    beside = (
        Price.objects.filter(
            Q(channel_id=OuterRef("channel_id")) | Q(kind=Price.Kind.CHARGE),
            Q(variant="") | Q(variant=OuterRef("variant")),
            Q(effective_from=None) | Q(effective_from__lte=OuterRef("looked_at")),
            Q(effective_until=None) | Q(effective_until__gt=OuterRef("looked_at")),
            Q(daily_from=None) | Q(daily_from=OuterRef("daily_from")),
            kind=OuterRef("kind"),
            model_id=OuterRef("model_id"),
            meter=OuterRef("plain_meter"),
            above_prompt_tokens__lte=OuterRef("above_prompt_tokens"),
        )
        .order_by("-variant", F("daily_from").desc(nulls_last=True), "-above_prompt_tokens")
        .values("unit_price")[:1]
    )
    return prices.alias(looked_at=moment, plain_meter=plain).annotate(input_price=Subquery(beside))


def multiple_of_input(price: Price) -> str:
    """The multiple of a cache price that `with_input_price` has read: "0.1 ×", "0.1 × audio input"; or a dash."""
    beside = getattr(price, "input_price", None)
    plain = PLAIN_METER.get(price.meter)
    if plain is None or not beside:
        return html.NOTHING
    kind = "" if plain == "input" else f" {plain.replace('_', ' ')}"
    return f"{_RATIO.divide(price.unit_price, beside).normalize():f} ×{kind}"
