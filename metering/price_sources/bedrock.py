"""Amazon Bedrock's models, by endpoint. Pure.

genai-prices lists `global.…` (the global endpoint), `regional.…` (ten per cent dearer for recent models) and plain
ids. A model listed one way only is sold at that one price on both of our channels.
"""

import re
from collections.abc import Iterable
from dataclasses import replace

from metering.price_sources.genai import SourceModel
from metering.price_sources.naming import BEDROCK_REGION, BEDROCK_VERSION, unique

REGIONS = ("us", "eu", "apac", "au", "jp", "in", "us-gov")
USUAL_REGIONS = ("us", "eu", "apac")


def bedrock_models(models: Iterable[SourceModel], *, regional: bool) -> list[SourceModel]:
    """One entry per model: the one of this endpoint, else the plain one, else the other endpoint's."""
    kinds = ("regional.", "", "global.") if regional else ("global.", "", "regional.")
    best: dict[str, tuple[int, SourceModel]] = {}
    for model in models:
        prefix = re.match(r"^(global|regional)\.", model.id)
        rank = kinds.index(prefix[0] if prefix else "")
        base = BEDROCK_VERSION.sub("", model.id[prefix.end() :] if prefix else model.id)
        if base not in best or rank < best[base][0]:
            best[base] = (rank, model)
    return [replace(model, exact=_names(base, model), partial=()) for base, (_, model) in best.items()]


def _names(base: str, model: SourceModel) -> tuple[str, ...]:
    """Names a relay may report: with and without version, plain and with each region the source mentions."""
    tail = BEDROCK_REGION.sub("", model.id)
    said = (*model.exact, *model.partial)
    regions = [region for region in REGIONS if any(re.search(rf"(^|/){region}\.", text) for text in said)]
    if model.id.startswith(("global.", "regional.")):
        regions = ["global", *(regions or USUAL_REGIONS)]
    elif model.partial:  # the source takes the id with anything before it
        regions = [*USUAL_REGIONS]
    tails = unique([tail, base, f"{base}-v1", f"{base}-v1:0"])
    return unique([*tails, *(f"{region}.{name}" for region in regions for name in tails)])
