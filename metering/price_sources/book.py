"""The whole price book as the source has it now: channels, models with their names, cost rows. Pure.

One model may be sold on many channels and go by many names. What a maker sells on its own channel is a model; names on
other channels are led back to it (`naming`). A model that no maker's own channel sells is `vendor/name` if its name
says whose it is, so that hosts share it, and `channel/name` otherwise; its list price is that of the first cloud, host
or gateway, in the order of `channels.CHANNELS`, that sells it. A model already in the book keeps its public id and its
maker.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from decimal import Decimal

from metering.price_sources import model_facts
from metering.price_sources.aliases import grant_names
from metering.price_sources.channels import CHANNELS, ChannelSpec
from metering.price_sources.genai import Provider
from metering.price_sources.listing import Listing, Origin, Pair
from metering.price_sources.rows import Row


@dataclass(frozen=True, slots=True)
class BookModel:
    """A model; `maker` is the channel whose price is the list price. Limits are in tokens, None when not known."""

    public_id: str
    label: str
    maker: str
    context_window: int | None
    max_output_tokens: int | None
    us_multiplier: Decimal
    aliases: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Book:
    """`costs` are the price rows per (channel name, public id), `origins` whose prices in the source they are.

    `notes` say what was left out, and why.
    """

    channels: tuple[ChannelSpec, ...]
    models: tuple[BookModel, ...]
    costs: Mapping[Pair, tuple[Row, ...]]
    notes: tuple[str, ...]
    origins: Mapping[Pair, Origin] = field(default_factory=dict)


def build_book(providers: Mapping[str, Provider], known: Mapping[str, str] | None = None) -> Book:
    """Make the book. `known` are the models already there: {public id: maker's channel}."""
    known = known or {}
    listing = Listing(providers, known)
    listing.fill()
    names, refusals = grant_names(listing.drafts.values())
    makers = _makers(listing)
    models = tuple(
        BookModel(
            public_id=draft.public_id,
            label=draft.label,
            maker=known.get(draft.public_id, makers[draft.public_id]),
            context_window=draft.context_window,
            max_output_tokens=model_facts.max_output_tokens(draft.public_id),
            us_multiplier=model_facts.us_multiplier(draft.public_id),
            aliases=tuple(sorted(names[draft.public_id])),
        )
        for draft in listing.drafts.values()
        if draft.public_id in makers
    )
    return Book(tuple(listing.channels), models, listing.costs, (*listing.notes, *refusals), listing.origins)


def _makers(listing: Listing) -> dict[str, str]:
    """The channel of each model's list price: its vendor's own, else the first reseller, else whoever sells it."""
    makers: dict[str, str] = {}
    resellers_first = sorted(CHANNELS, key=lambda channel: bool(channel.vendor))
    rank = {channel.name: number for number, channel in enumerate(resellers_first)}
    own = {(channel.name, channel.vendor) for channel in CHANNELS if channel.vendor}
    for channel, public_id in sorted(listing.costs, key=lambda pair: rank[pair[0]]):
        makers.setdefault(public_id, channel)
    for channel, public_id in listing.costs:
        if (channel, listing.drafts[public_id].vendor) in own:
            makers[public_id] = channel
    return makers
