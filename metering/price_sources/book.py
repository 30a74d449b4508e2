"""The whole price book as the source has it now: channels, models with their names, cost rows. Pure.

One model may be sold on many channels and go by many names. What a maker sells on its own channel is a model; names on
other channels are led back to it. A model that no maker's own channel sells is `vendor/name` if its name says whose it
is (so that hosts can share it), else `channel/name`, and its list price is that of the first channel, in the order of
`channels.CHANNELS`, that sells it. A model already in the book keeps its public id and its maker.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from decimal import Decimal

from metering.price_sources import model_facts
from metering.price_sources.bedrock import bedrock_models
from metering.price_sources.channels import BY_NAME, CHANNELS, ChannelSpec
from metering.price_sources.genai import Provider, SourceModel
from metering.price_sources.naming import MAKER_CHANNELS, fold, is_full_name, read_name, unique
from metering.price_sources.rows import SPLIT_OUTPUT_UNITS, UNIT_METERS, Row, price_rows

Pair = tuple[str, str]  # channel name, model's public id


@dataclass(frozen=True, slots=True)
class BookModel:
    public_id: str
    label: str
    maker: str
    context_window: int | None
    max_output_tokens: int | None
    us_multiplier: Decimal
    aliases: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Book:
    channels: tuple[ChannelSpec, ...]
    models: tuple[BookModel, ...]
    costs: Mapping[Pair, tuple[Row, ...]]
    notes: tuple[str, ...]


@dataclass(slots=True)
class _Draft:
    public_id: str
    vendor: str
    maker: str
    label: str = ""
    context_window: int | None = None
    claims: set[str] = field(default_factory=set)  # by its maker, exactly
    weak_claims: set[str] = field(default_factory=set)


def build_book(providers: Mapping[str, Provider], known: Mapping[str, str] | None = None) -> Book:
    """Make the book. `known` are the models already there: {public id: maker's channel}."""
    return _Builder(providers, known or {}).build()


class _Builder:
    def __init__(self, providers: Mapping[str, Provider], known: Mapping[str, str]) -> None:
        self.providers = providers
        self.known = known
        self.drafts: dict[str, _Draft] = {}
        self.by_key: dict[tuple[str, str], str | None] = {}  # (vendor, folded name) → public id; None: contested
        self.costs: dict[Pair, tuple[Row, ...]] = {}
        self.origins: dict[Pair, SourceModel] = {}
        self.notes: list[str] = []

    def build(self) -> Book:
        channels = tuple(channel for channel in CHANNELS if channel.provider in self.providers)
        for channel in channels:
            if channel.vendor:
                self._own_models(channel)
        for channel in channels:
            self._resold_models(channel)
        for channel in channels:
            if not channel.vendor:
                self._fallback_prices(channel)
        aliases = self._aliases()
        models = tuple(
            BookModel(
                public_id=draft.public_id,
                label=draft.label,
                maker=draft.maker,
                context_window=draft.context_window,
                max_output_tokens=model_facts.max_output_tokens(draft.public_id),
                us_multiplier=model_facts.us_multiplier(draft.public_id),
                aliases=tuple(sorted(aliases[draft.public_id])),
            )
            for draft in self.drafts.values()
        )
        return Book(channels, models, self.costs, tuple(self.notes))

    # --- what makers sell themselves

    def _own_models(self, channel: ChannelSpec) -> None:
        for source in self.providers[channel.provider].models:
            if not channel.makes(source.id) or not self._is_priceable(channel, source):
                continue
            public_id = self._spelled(model_facts.PUBLIC_IDS.get(source.id, source.id))
            draft = self.drafts.get(public_id)
            if draft is not None:
                self.notes.append(f"{channel.name}: {source.id} is already {draft.maker}'s model")
                continue
            draft = self._draft(public_id, channel.vendor, channel.name, source)
            draft.claims |= {source.id, *source.exact, *model_facts.CLAUDE_NAMES.get(source.id, ())}
            draft.weak_claims |= set(filter(is_full_name, source.partial))
            self._sell(channel, public_id, source)
        for draft in list(self.drafts.values()):
            if draft.vendor == channel.vendor:
                for name in (draft.public_id, *sorted(draft.claims)):
                    self._index(channel.vendor, name, draft.public_id)
        for draft in list(self.drafts.values()):
            if draft.vendor == channel.vendor:
                for name in sorted(draft.weak_claims):
                    self.by_key.setdefault((channel.vendor, fold(name)), draft.public_id)

    def _draft(self, public_id: str, vendor: str, maker: str, source: SourceModel) -> _Draft:
        draft = _Draft(
            public_id, vendor, self.known.get(public_id, maker), source.label, source.context_window
        )
        self.drafts[public_id] = draft
        return draft

    def _spelled(self, public_id: str) -> str:
        """The spelling under which the book already has it, if it does."""
        if public_id in self.known or not self.known:
            return public_id
        return next((known for known in self.known if fold(known) == fold(public_id)), public_id)

    def _index(self, vendor: str, name: str, public_id: str) -> None:
        key = (vendor, fold(name))
        self.by_key[key] = public_id if self.by_key.get(key, public_id) == public_id else None

    # --- what clouds, hosts and gateways sell

    def _resold_models(self, channel: ChannelSpec) -> None:
        claims: dict[str, list[tuple[bool, SourceModel]]] = defaultdict(list)
        loose: list[SourceModel] = []
        for source in self._sold_on(channel):
            if not self._is_priceable(channel, source):
                continue
            found = self._targets(channel, source)
            for public_id in found:
                names_it = read_name(channel.name, source.id).key[1] == fold(public_id.rpartition("/")[2])
                claims[public_id].append((not names_it, source))
            if not found:
                loose.append(source)
        placed: dict[str, SourceModel] = {}
        for public_id, sources in claims.items():
            # A name of its own goes before a mention, and a name with its vendor before one without.
            ranked = sorted(sources, key=lambda claim: (claim[0], "/" not in claim[1].id))
            self._sell(channel, public_id, ranked[0][1])
            self._claim_names(channel, public_id, ranked[0][1])
            placed[ranked[0][1].id] = ranked[0][1]
            for is_mention, source in ranked[1:]:
                if self._rows(public_id, source) == self.costs[(channel.name, public_id)]:
                    self._claim_names(channel, public_id, source)
                elif is_mention and source.id not in placed:
                    loose.append(source)
                else:
                    self.notes.append(f"{channel.name}: {source.id} has another price than {public_id}; left out")
        for source in loose:
            if source.id not in placed:
                self._host_model(channel, source)

    def _sold_on(self, channel: ChannelSpec) -> Iterable[SourceModel]:
        models = self.providers[channel.provider].models
        if channel.provider == "aws":
            return bedrock_models(models, regional=channel.name == "bedrock-regional")
        if channel.vendor:
            is_shared = channel.name == "google"  # what is not Gemini there is Vertex's
            return [m for m in models if not channel.makes(m.id) and not is_shared]
        return models

    def _targets(self, channel: ChannelSpec, source: SourceModel) -> tuple[str, ...]:
        """The models that the source's names certainly mean."""
        found: list[str] = []
        for name in (source.id, *source.exact, *filter(is_full_name, source.partial)):
            read = read_name(channel.name, name)
            vendors = [read.vendor] if read.vendor else list(MAKER_CHANNELS)
            hits = {hit for vendor in vendors if (hit := self.by_key.get((vendor, fold(read.rest))))}
            if len(hits) == 1:
                found.append(hits.pop())
        return unique(found)

    def _host_model(self, channel: ChannelSpec, source: SourceModel) -> None:
        read = read_name(channel.name, source.id)
        public_id = f"{read.vendor}/{read.rest}" if read.is_certain else f"{channel.name}/{source.id}"
        public_id = self._spelled(public_id)
        if (channel.name, public_id) in self.costs:
            self.notes.append(f"{channel.name}: {source.id} has another price than {public_id}; left out")
            return
        if public_id not in self.drafts:
            self._draft(public_id, read.vendor if read.is_certain else "", channel.name, source)
            if read.is_certain:
                self.by_key.setdefault(read.key, public_id)
        self._sell(channel, public_id, source)
        self._claim_names(channel, public_id, source)

    def _claim_names(self, channel: ChannelSpec, public_id: str, source: SourceModel) -> None:
        """Names by which this source means this model: those that lead here, or nowhere."""
        weak = self.drafts[public_id].weak_claims
        for name in (source.id, *source.exact, *filter(is_full_name, source.partial)):
            read = read_name(channel.name, name)
            target = self.by_key.get((read.vendor or self.drafts[public_id].vendor, fold(read.rest)), public_id)
            if target == public_id:
                weak.add(name)

    def _fallback_prices(self, channel: ChannelSpec) -> None:
        """A cloud that genai-prices prices like the maker where it has no price of the cloud's own."""
        for provider in self.providers[channel.provider].fallbacks:
            makers = [spec for spec in CHANNELS if spec.provider == provider and spec.vendor]
            for maker in makers:
                for draft in self.drafts.values():
                    rows = self.costs.get((maker.name, draft.public_id))
                    if rows is None or draft.vendor != maker.vendor:
                        continue
                    marked = tuple(replace(row, derived=f"price on {maker.name}") for row in rows)
                    self.costs.setdefault((channel.name, draft.public_id), marked)

    # --- prices and names

    def _is_priceable(self, channel: ChannelSpec, source: SourceModel) -> bool:
        if source.problem:
            self.notes.append(f"{channel.name}: {source.id} left out: {source.problem}")
        elif source.units & SPLIT_OUTPUT_UNITS:
            self.notes.append(f"{channel.name}: {source.id} left out: output is priced by kind")
        return not source.problem and not source.units & SPLIT_OUTPUT_UNITS and bool(source.units & set(UNIT_METERS))

    def _rows(self, public_id: str, source: SourceModel) -> tuple[Row, ...]:
        return price_rows(source.segments, model_facts.family(public_id, self.drafts[public_id].vendor))

    def _sell(self, channel: ChannelSpec, public_id: str, source: SourceModel) -> None:
        self.costs[(channel.name, public_id)] = self._rows(public_id, source)

    def _aliases(self) -> dict[str, set[str]]:
        """Who gets which name: a maker's own claim first; a name that two still want goes to neither."""
        wanted: dict[str, tuple[set[str], set[str]]] = defaultdict(lambda: (set(), set()))
        for draft in self.drafts.values():
            for strength, names in enumerate((draft.claims, draft.weak_claims)):
                for name in names:
                    wanted[name][strength].add(draft.public_id)
        granted: dict[str, set[str]] = defaultdict(set)
        for name, levels in sorted(wanted.items()):
            if name in self.drafts:
                if levels[0] | levels[1] != {name}:
                    self.notes.append(f"alias {name}: is a model's public id")
                continue
            contenders = levels[0] or levels[1]
            if len(contenders) == 1:
                granted[next(iter(contenders))].add(name)
            else:
                self.notes.append(f"alias {name}: claimed by {', '.join(sorted(contenders))}; nobody has it")
        return granted
