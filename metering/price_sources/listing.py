"""Which source model is sold as which of our models, on which channel, at which prices. Pure."""

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

from metering.price_sources import model_facts
from metering.price_sources.amendments import amended
from metering.price_sources.bedrock import bedrock_models
from metering.price_sources.channels import CHANNELS, ChannelSpec
from metering.price_sources.genai import Provider, SourceModel
from metering.price_sources.naming import Name, fold, is_full_name, plain, read_name, unique
from metering.price_sources.rows import BATCH, SPLIT_OUTPUT_UNITS, UNIT_METERS, Row, halved_batches, price_rows

Pair = tuple[str, str]  # channel name, model's public id
Origin = tuple[str, str]  # the source's ids of a provider and of a model of it


@dataclass(slots=True)
class Draft:
    """A model in the making. `own_names` are its maker's exact names, `other_names` what else means it."""

    public_id: str
    vendor: str
    label: str
    context_window: int | None
    titles: set[str]  # folded: what a source calls it whose main subject it is
    own_names: set[str] = field(default_factory=set)
    other_names: set[str] = field(default_factory=set)


class Listing:
    """Filled once by `fill`: first what makers sell themselves, then everybody else, names with a vendor first."""

    def __init__(self, providers: Mapping[str, Provider], known: Iterable[str]) -> None:
        self.providers = providers
        self.channels = [channel for channel in CHANNELS if channel.provider in providers]
        self.drafts: dict[str, Draft] = {}
        self.costs: dict[Pair, tuple[Row, ...]] = {}
        self.origins: dict[Pair, Origin] = {}
        self.notes: list[str] = []
        self._known = {fold(public_id): public_id for public_id in known}
        self._by_key: dict[tuple[str, str], str] = {}
        self._by_rest: dict[str, set[str]] = defaultdict(set)
        self._sold: set[Pair] = set()  # channel name, source id

    def fill(self) -> None:
        for channel in self.channels:
            if channel.vendor:
                self._add_own(channel)
        resold = {channel.name: self._resold(channel) for channel in self.channels}
        for has_vendor in (True, False):
            for channel in self.channels:
                named = [s for s in resold[channel.name] if bool(read_name(channel.name, s.id).vendor) is has_vendor]
                self._place(channel, named)
        for channel in self.channels:
            if not channel.vendor:
                self._add_fallbacks(channel)

    # --- what makers sell themselves

    def _add_own(self, channel: ChannelSpec) -> None:
        added: list[Draft] = []
        for source in self.providers[channel.provider].models:
            if not channel.makes(source.id) or not self._is_priceable(channel, source):
                continue
            public_id = self._spelled(model_facts.PUBLIC_IDS.get(source.id, source.id))
            if public_id in self.drafts:
                self.notes.append(f"{channel.name}: {source.id} is another maker's model already; left out")
                continue
            draft = self._draft(public_id, channel.vendor, source)
            draft.own_names |= {source.id, *source.exact, *model_facts.MAKER_NAMES.get(source.id, ())}
            draft.other_names |= set(filter(is_full_name, source.partial))
            self._sell(channel, draft, source)
            added.append(draft)
        # A model's own id first, then its maker's exact names, then the literals of looser rules.
        for draft in added:
            self._index(Name(channel.vendor, draft.public_id), draft)
        for draft in added:
            for name in sorted(draft.own_names):
                self._index(Name(channel.vendor, name), draft)
        for draft in added:
            for name in sorted(draft.other_names):
                self._index(Name(channel.vendor, name), draft)

    # --- what clouds, hosts and gateways sell

    def _resold(self, channel: ChannelSpec) -> list[SourceModel]:
        models: Iterable[SourceModel] = self.providers[channel.provider].models
        if channel.provider == "aws":
            models = bedrock_models(models, regional=channel.name == "bedrock-regional")
        elif channel.name == "google":  # what is not Google's own there is sold by Vertex
            models = ()
        elif channel.vendor:
            models = (model for model in models if not channel.makes(model.id))
        return [model for model in models if self._is_priceable(channel, model)]

    def _place(self, channel: ChannelSpec, sources: list[SourceModel]) -> None:
        """Sell each source as all the models its names mean, or as a new one. Main subjects go before mentions."""
        offers: dict[str, list[SourceModel]] = defaultdict(list)
        for source in sources:
            for public_id in self._targets(channel, source) or (self._new(channel, source),):
                offers[public_id].append(source)
        losers: list[tuple[SourceModel, Draft]] = []
        for public_id, rivals in offers.items():
            draft = self.drafts[public_id]
            for source in sorted(rivals, key=lambda source: not self._is_main(channel, source, draft)):
                held = self.costs.get((channel.name, public_id))
                if held is None or held == self._rows(channel, draft, source):
                    self._sell(channel, draft, source)
                    self._learn_names(channel, draft, source)
                else:
                    losers.append((source, draft))
        for source, draft in losers:
            if (channel.name, source.id) in self._sold:
                continue
            if self._is_main(channel, source, draft):
                self.notes.append(f"{channel.name}: {source.id} has another price than {draft.public_id}; left out")
                continue
            own = self.drafts[self._new(channel, source)]
            self._sell(channel, own, source)
            self._learn_names(channel, own, source)

    def _targets(self, channel: ChannelSpec, source: SourceModel) -> tuple[str, ...]:
        """The models that the source's names certainly mean."""
        found: list[str] = []
        for name in _names(source):
            read = read_name(channel.name, name)
            if read.vendor:
                hits = {self._by_key[read.key]} if read.key in self._by_key else set()
            else:
                hits = self._by_rest.get(fold(read.rest), set())
            if len(hits) == 1:
                found += hits
        return unique(found)

    def _new(self, channel: ChannelSpec, source: SourceModel) -> str:
        read = read_name(channel.name, source.id)
        own_id = source.id if source.id.startswith(f"{channel.name}/") else f"{channel.name}/{source.id}"
        public_id = self._spelled(read.public_id if read.vendor else own_id)
        if public_id not in self.drafts:
            draft = self._draft(public_id, read.vendor, source)
            if read.vendor:
                self._index(read, draft)
        return public_id

    def _is_main(self, channel: ChannelSpec, source: SourceModel, draft: Draft) -> bool:
        return plain(read_name(channel.name, source.id).rest) in draft.titles

    def _learn_names(self, channel: ChannelSpec, draft: Draft, source: SourceModel) -> None:
        """The source's names that lead to this model, or to none."""
        for name in _names(source):
            read = read_name(channel.name, name)
            if self._by_key.get((read.vendor or draft.vendor, fold(read.rest)), draft.public_id) == draft.public_id:
                draft.other_names.add(name)

    def _add_fallbacks(self, channel: ChannelSpec) -> None:
        """Where a cloud has no price of its own, genai-prices takes the maker's standard price; the rows say so."""
        fallbacks = self.providers[channel.provider].fallbacks
        for maker in self.channels:
            if not maker.vendor or maker.provider not in fallbacks:
                continue
            for draft in self.drafts.values():
                pair = (channel.name, draft.public_id)
                rows = self.costs.get((maker.name, draft.public_id))
                if rows is not None and draft.vendor == maker.vendor and pair not in self.costs:
                    mark = f"price on {maker.name}"
                    standard = tuple(replace(row, derived=mark) for row in rows if row.variant == "")
                    self.costs[pair] = self._with_batches(channel, draft, standard)
                    self.origins[pair] = self.origins[maker.name, draft.public_id]

    # --- drafts and prices

    def _draft(self, public_id: str, vendor: str, source: SourceModel) -> Draft:
        titles = {plain(public_id), plain(public_id.rpartition("/")[2]), plain(source.id)}
        draft = Draft(public_id, vendor, source.label, None, titles)
        self.drafts[public_id] = draft
        return draft

    def _index(self, name: Name, draft: Draft) -> None:
        if self._by_key.setdefault(name.key, draft.public_id) == draft.public_id:
            self._by_rest[fold(name.rest)].add(draft.public_id)

    def _spelled(self, public_id: str) -> str:
        """The spelling under which the book already has it, if it does."""
        return self._known.get(fold(public_id), public_id)

    def _is_priceable(self, channel: ChannelSpec, source: SourceModel) -> bool:
        if source.problem:
            self.notes.append(f"{channel.name}: {source.id} left out: {source.problem}")
            return False
        if source.units & SPLIT_OUTPUT_UNITS:
            self.notes.append(f"{channel.name}: {source.id} left out: its output is priced by kind")
            return False
        return bool(source.units & UNIT_METERS.keys())

    def _rows(self, channel: ChannelSpec, draft: Draft, source: SourceModel) -> tuple[Row, ...]:
        segments, note = amended(channel.name, source)
        if note and note not in self.notes:
            self.notes.append(note)
        family = model_facts.family(draft.public_id, draft.vendor)
        return self._with_batches(channel, draft, price_rows(segments, family, source.variants))

    def _with_batches(self, channel: ChannelSpec, draft: Draft, rows: tuple[Row, ...]) -> tuple[Row, ...]:
        """The rows, and where the maker's general rule holds, those of batches that the source does not price."""
        family = model_facts.family(draft.public_id, draft.vendor)
        has_batch_price = any(row.variant == BATCH for row in rows)
        if model_facts.halves_batches(channel.name, family, has_batch_price=has_batch_price):
            return (*rows, *halved_batches(rows))
        return rows

    def _sell(self, channel: ChannelSpec, draft: Draft, source: SourceModel) -> None:
        self.costs[channel.name, draft.public_id] = self._rows(channel, draft, source)
        self.origins[channel.name, draft.public_id] = (source.provider, source.id)
        self._sold.add((channel.name, source.id))
        self.notes += unique(
            note for text in source.notes if (note := f"{channel.name}: {source.id}: {text}") not in self.notes
        )
        draft.context_window = draft.context_window or source.context_window
        draft.label = draft.label or source.label


def _names(source: SourceModel) -> tuple[str, ...]:
    return unique((source.id, *source.exact, *filter(is_full_name, source.partial)))
