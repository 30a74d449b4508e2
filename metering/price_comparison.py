"""Our price book beside LiteLLM's price table: a second opinion, from a file that the operator brings.

LiteLLM prices one token or one search, ours a million or a thousand; both are brought to ours, at 9 decimals, because
many of LiteLLM's figures carry the noise of binary fractions. Only what its table says is compared: each figure with
what the book takes for such a request on that channel now, at cost.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal
from typing import Any

from metering.meters import BY_NAME
from metering.price_sources.bedrock import REGIONS
from metering.pricing import Asked, PriceTable
from metering.rating import Unrateable
from relayadmin.money import EXACT, POWERS, to_unit_price

# LiteLLM's providers by our channels; what is not here is a channel we have not.
CHANNELS = {
    "anthropic": "anthropic",
    "azure": "azure",
    "azure_ai": "azure",
    "baseten": "baseten",
    "bedrock": "bedrock",
    "bedrock_converse": "bedrock",
    "cerebras": "cerebras",
    "cloudflare": "cloudflare",
    "cohere": "cohere",
    "cohere_chat": "cohere",
    "deepseek": "deepseek",
    "fireworks_ai": "fireworks",
    "gemini": "google",
    "groq": "groq",
    "meta_llama": "meta",
    "minimax": "minimax",
    "mistral": "mistral",
    "moonshot": "moonshot",
    "novita": "novita",
    "openai": "openai",
    "openrouter": "openrouter",
    "perplexity": "perplexity",
    "text-completion-openai": "openai",
    "together_ai": "together",
    "vertex_ai": "vertex",
    "voyage": "voyage",
    "xai": "xai",
    "zai": "zai",
}
_METERS = {
    "input_cost_per_token": "input",
    "output_cost_per_token": "output",
    "cache_read_input_token_cost": "cache_read",
    "cache_creation_input_token_cost": "cache_write_5m",
    "cache_creation_input_token_cost_above_1hr": "cache_write_1h",
    "input_cost_per_audio_token": "audio_input",
    "output_cost_per_audio_token": "audio_output",
    "input_cost_per_image_token": "image_input",
    "output_cost_per_image_token": "image_output",
}
_VARIANTS = {"batches": "batch", "flex": "flex", "priority": "priority"}
_FIELD = re.compile(
    rf"(?P<unit>{'|'.join(_METERS)})(?:_above_(?P<thousands>\d{{1,6}})k_tokens)?(?:_(?P<variant>{'|'.join(_VARIANTS)}))?",
    re.ASCII,
)
_REGIONAL = re.compile(rf"(?:{'|'.join(REGIONS)})\.")
_NOT_MODELS = frozenset({"sample_spec", "fallback_generalizations"})
_MOST = Decimal(1_000)  # USD for one token or search: whatever costs more is a slip


@dataclass(frozen=True, slots=True)
class Figure:
    """One price of LiteLLM's, in our terms: USD per million tokens or thousand searches."""

    variant: str
    meter: str
    above_prompt_tokens: int
    unit_price: Decimal


@dataclass(frozen=True, slots=True)
class Disagreement:
    """`ours` is None where the book has no such price: usage of it would wait."""

    model: str
    channel: str
    name: str
    figure: Figure
    ours: Decimal | None


@dataclass(slots=True)
class Comparison:
    """`models` are LiteLLM's entries that were compared, `figures` their prices, `unknown` names that we have not.

    `elsewhere` counts entries of providers without a channel here, and of models that we don't have on that channel.
    """

    models: int = 0
    figures: int = 0
    unknown: int = 0
    elsewhere: int = 0
    disagreements: list[Disagreement] = field(default_factory=list)


def compare(document: Mapping[str, Any], table: PriceTable, *, at: datetime) -> Comparison:
    """Compare the whole table. `document` is the file as JSON with numbers as Decimal or int."""
    found = Comparison()
    said: set[tuple[str, str, Figure]] = set()
    for name, entry in document.items():
        if name in _NOT_MODELS or not isinstance(entry, dict):
            continue
        channel = _channel(name, str(entry.get("litellm_provider", "")))
        if channel not in table.catalog.channels:
            found.elsewhere += 1
            continue
        number = _resolve(name, table)
        if number is None:
            found.unknown += 1
            continue
        asked = Asked(number, table.catalog.channels[channel])
        if (asked.model_id, asked.channel_id) not in table.costs:
            found.elsewhere += 1
            continue
        found.models += 1
        model = table.catalog.models[number].public_id
        for figure in figures(entry):
            found.figures += 1
            ours = _our_price(table, asked, figure, at)
            if ours != figure.unit_price and (model, channel, figure) not in said:
                said.add((model, channel, figure))
                found.disagreements.append(Disagreement(model, channel, name, figure, ours))
    found.disagreements.sort(key=_place)
    return found


def figures(entry: Mapping[str, Any]) -> Iterator[Figure]:
    """The prices of one entry that have a meter here; what is no price is passed over."""
    for key, value in entry.items():
        read = _FIELD.fullmatch(key)
        price = _per_one(value)
        if read is not None and price is not None:
            yield Figure(
                variant=_VARIANTS.get(read["variant"] or "", ""),
                meter=_METERS[read["unit"]],
                above_prompt_tokens=int(read["thousands"] or 0) * 1_000,
                unit_price=_ours(price, _METERS[read["unit"]]),
            )
    searches = entry.get("search_context_cost_per_query")
    price = _per_one(searches.get("search_context_size_medium")) if isinstance(searches, dict) else None
    if price is not None:
        yield Figure("", "web_search", 0, _ours(price, "web_search"))


def _per_one(value: object) -> Decimal | None:
    if isinstance(value, bool) or not isinstance(value, int | Decimal) or not 0 <= value < _MOST:
        return None
    return Decimal(value)


def _ours(price: Decimal, meter: str) -> Decimal:
    return to_unit_price(EXACT.scaleb(price, POWERS[BY_NAME[meter].per]))


def _channel(name: str, provider: str) -> str:
    """Our channel; "" if we have none. LiteLLM has one provider for Bedrock's endpoints and several for Vertex."""
    channel = CHANNELS.get(provider) or CHANNELS.get(provider.partition("-")[0], "")
    if channel == "bedrock" and _REGIONAL.match(name):
        return "bedrock-regional"
    return channel


def _resolve(name: str, table: PriceTable) -> int | None:
    """The model, by the name as it is or without the provider before it."""
    found = table.catalog.resolve(name)
    prefix, _, rest = name.partition("/")
    return table.catalog.resolve(rest) if found is None and rest and prefix in CHANNELS else found


def _our_price(table: PriceTable, asked: Asked, figure: Figure, at: datetime) -> Decimal | None:
    """What the book takes at cost, in the tier just above the figure's mark; None if it has no price."""
    prompt_tokens = figure.above_prompt_tokens + 1 if figure.above_prompt_tokens else 0
    try:
        card = table.card(
            asked._replace(variant=figure.variant), plan=table.list_plan, at=at, prompt_tokens=prompt_tokens
        )
    except Unrateable:
        return None
    price = card.meters.get(figure.meter)
    return None if price is None else price.cost


def _place(found: Disagreement) -> tuple[str, str, str, str, int, str]:
    figure = found.figure
    return (found.model, found.channel, figure.variant, figure.meter, figure.above_prompt_tokens, found.name)
