"""What the price source does not say about models: public ids, dated names, output limits, US multiplier. Pure.

From the makers' model pages and packages, November 2026.
"""

import re
from decimal import Decimal

from metering.price_sources.rows import Family

# Sold under their dated names; the source lists them under another.
PUBLIC_IDS = {
    "claude-opus-4-0": "claude-opus-4-20250514",
    "claude-sonnet-4-0": "claude-sonnet-4-20250514",
    "claude-3-5-haiku-latest": "claude-3-5-haiku-20241022",
    "claude-3-5-sonnet": "claude-3-5-sonnet-20241022",
}

# By the source's id: names that the maker has given the model and the source's rules only imply.
MAKER_NAMES = {
    "claude-2": ("claude-2.0", "claude-2.1"),
    "claude-3-haiku": ("claude-3-haiku-20240307", "claude-3-haiku-latest"),
    "claude-3-sonnet": ("claude-3-sonnet-20240229", "claude-3-sonnet-latest"),
    "claude-3-opus-latest": ("claude-3-opus-20240229", "claude-3-opus"),
    "claude-3-5-haiku-latest": ("claude-3-5-haiku-20241022", "claude-3-5-haiku", "claude-3.5-haiku"),
    "claude-3-5-sonnet": (
        "claude-3-5-sonnet-20241022",
        "claude-3-5-sonnet-20240620",
        "claude-3-5-sonnet-latest",
        "claude-3-5-sonnet-v2",
        "claude-3.5-sonnet",
    ),
    "claude-3-7-sonnet-latest": ("claude-3-7-sonnet-20250219", "claude-3-7-sonnet", "claude-3.7-sonnet"),
    "claude-opus-4-0": ("claude-opus-4-20250514", "claude-opus-4"),
    "claude-sonnet-4-0": ("claude-sonnet-4-20250514", "claude-sonnet-4"),
    "claude-opus-4-1": ("claude-opus-4-1-20250805",),
    "claude-sonnet-4-5": ("claude-sonnet-4-5-20250929",),
    "claude-haiku-4-5": ("claude-haiku-4-5-20251001",),
    "claude-opus-4-5": ("claude-opus-4-5-20251101",),
    "computer-use": ("computer-use-preview",),
    "gemini-1.5-flash": ("gemini-1.5-flash-001", "gemini-1.5-flash-002"),
    "gemini-1.5-pro": ("gemini-1.5-pro-001", "gemini-1.5-pro-002"),
    "gemini-2.0-flash": ("gemini-2.0-flash-001", "gemini-2.0-flash-exp"),
    "gemini-2.0-flash-lite": ("gemini-2.0-flash-lite-001",),
    "gemini-2.5-flash-lite": (
        "gemini-2.5-flash-lite-preview-06-17",
        "gemini-2.5-flash-lite-preview-09-2025",
    ),
    "gemini-2.5-pro": (
        "gemini-2.5-pro-preview-03-25",
        "gemini-2.5-pro-preview-05-06",
        "gemini-2.5-pro-preview-06-05",
    ),
    "magistral-medium": ("magistral-medium-2506", "magistral-medium-2507", "magistral-medium-2509"),
    "magistral-small": ("magistral-small-2506", "magistral-small-2507", "magistral-small-2509"),
}

# The most output tokens of one request. First match counts; without one, nothing is claimed.
MAX_OUTPUT_TOKENS = tuple(
    (re.compile(pattern), limit)
    for pattern, limit in (
        (r"^claude-opus-4(-1)?(-20\d{6})?$", 32_000),
        (r"^claude-(sonnet-4(-5)?|opus-4-5|haiku-4-5)(-20\d{6})?$", 64_000),
        (r"^claude-((opus|sonnet)-4-[6-8]|(opus|sonnet|haiku|fable)-5(-\d)?)$", 128_000),
        (r"^claude-3-7-sonnet", 64_000),
        (r"^claude-3-5-(haiku|sonnet)", 8_192),
        (r"^claude-3-(haiku|sonnet|opus)", 4_096),
        (r"^gpt-4o(-mini|-search-preview)?$", 16_384),
        (r"^gpt-4\.1(-mini|-nano)?$", 32_768),
        (r"^gpt-5-pro$", 272_000),
        (r"^gpt-5(\.[1245])?(-mini|-nano|-pro)?$", 128_000),
        (r"^gpt-(5\.6|6|6\.1)-(luna|sol|terra|astra)$", 128_000),
        (r"^(o1|o1-pro|o3|o3-mini|o3-pro|o3-deep-research|o4-mini|o4-mini-deep-research)$", 100_000),
        (r"^gemini-2\.5-(pro|flash|flash-lite)$", 65_536),
        (r"^gemini-3(\.[15678])?-(pro-preview|flash|flash-preview|flash-lite)$", 65_536),
    )
)

# Where Claude's batches cost half of what single requests do there.
CLAUDE_BATCH_CHANNELS = frozenset({"anthropic", "bedrock", "bedrock-regional", "vertex"})

# Claude from 4.6 on costs more where inference is kept in the US.
US_PREMIUM = Decimal("1.1")
NO_PREMIUM = Decimal(1)
_CLAUDE_VERSION = re.compile(r"claude-(?:opus|sonnet|haiku|fable|mythos)-(\d)(?:[-.](\d)(?!\d))?")


def family(public_id: str, vendor: str) -> Family:
    if vendor == "anthropic" or re.search(r"(^|/)claude-", public_id):
        return Family.CLAUDE
    if vendor == "google" and public_id.startswith("gemini-"):
        return Family.GEMINI
    return Family.OPENAI if vendor == "openai" else Family.OTHER


def halves_batches(channel: str, kind: Family, *, has_batch_price: bool) -> bool:
    """Whether batches cost half the standard price by the maker's general rule, where the source has no price.

    Anthropic's rule holds for every Claude model, OpenAI's for the models it sells in batches.
    """
    if kind is Family.CLAUDE:
        return channel in CLAUDE_BATCH_CHANNELS
    return kind is Family.OPENAI and channel == "openai" and has_batch_price


def max_output_tokens(public_id: str) -> int | None:
    return next((limit for pattern, limit in MAX_OUTPUT_TOKENS if pattern.search(public_id)), None)


def us_multiplier(public_id: str) -> Decimal:
    found = _CLAUDE_VERSION.search(public_id)
    if found is None:
        return NO_PREMIUM
    version = (int(found[1]), int(found[2] or 0))
    return US_PREMIUM if version >= (4, 6) else NO_PREMIUM
