"""How fast usage is rated: a provider's decoded object → meters → rate card → amounts; one process, no database."""

import time
from datetime import UTC, datetime
from typing import Any

from metering import formats, pricing
from metering.pricing import Asked
from metering.rating import rate_in_units
from metering.variants import is_in_us, variant_of

EVENTS = 120_000

# (model, channel, format, usage): what relays report most, beside what changes a price.
_MIX: tuple[tuple[str, str, str, dict[str, Any]], ...] = (
    (
        "claude-sonnet-4-20250514",
        "anthropic",
        "anthropic.messages",
        {
            "input_tokens": 1000,
            "cache_creation_input_tokens": 3000,
            "cache_creation": {"ephemeral_5m_input_tokens": 1000, "ephemeral_1h_input_tokens": 2000},
            "cache_read_input_tokens": 10000,
            "output_tokens": 500,
        },
    ),
    (
        "claude-haiku-5-5",
        "anthropic",
        "anthropic.messages",
        {"input_tokens": 100_001, "output_tokens": 5, "service_tier": "batch", "inference_geo": "us"},
    ),
    (
        "gpt-5",
        "openai",
        "openai.responses",
        {"input_tokens": 1200, "input_tokens_details": {"cached_tokens": 800}, "output_tokens": 300},
    ),
    (
        "gemini-2.5-pro",
        "google",
        "gemini.generate",
        {"promptTokenCount": 250_000, "cachedContentTokenCount": 1000, "candidatesTokenCount": 100},
    ),
)


def measure() -> dict[str, float]:
    """`rating_events_per_s`, over the mix above in turn, with the price table warm."""
    table = pricing.current()
    named = [
        (_number(table, model), table.catalog.channels[channel], name, usage) for model, channel, name, usage in _MIX
    ]
    at = datetime.now(UTC)
    _rate(table, named, at, len(named))
    begun = time.perf_counter()
    _rate(table, named, at, EVENTS)
    return {"rating_events_per_s": round(EVENTS / (time.perf_counter() - begun))}


def _number(table: pricing.PriceTable, model: str) -> int:
    number = table.catalog.resolve(model)
    assert number is not None, model
    return number


def _rate(
    table: pricing.PriceTable, named: list[tuple[int, int, str, dict[str, Any]]], at: datetime, events: int
) -> int:
    total, plan = 0, table.list_plan
    for number in range(events):
        model_id, channel_id, name, raw = named[number % len(named)]
        usage = formats.read(name, raw)
        asked = Asked(model_id, channel_id, variant_of(usage.service_tier, usage.speed), is_in_us(usage.inference_geo))
        card = table.card(asked, plan=plan, at=at, prompt_tokens=usage.prompt_tokens)
        charge, _ = rate_in_units(usage.quantities, card)
        total += charge
    return total
