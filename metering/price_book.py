"""Importing the price book: models, their names, and effective-dated price rows, from a price source.

What the book does not have yet, a model or a channel that sells one, is taken in at once and from the beginning of
time. A price it has changes only with approval (`price_imports`, or `approve` at once), and only from that moment on; a
first price of a meter or a variant waits for approval too, and then reaches back to the usage that waits for it. Rows
of the past are never touched, and neither are prices that an operator has entered.
"""

from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime, time

from metering import price_imports
from metering.models.catalog import Channel, Model, ModelAlias
from metering.models.prices import Price
from metering.price_changes import Changes, Held, Owner, Term, approved, compare, unfit
from metering.price_sources.book import Book, BookModel, build_book
from metering.price_sources.channels import ChannelSpec
from metering.price_sources.genai import read_providers
from metering.price_sources.rows import Row
from metering.price_writing import Written, create_rows, end_rows, record_change, take_lock
from relayadmin.db import in_transaction

SOURCE = "genai-prices"


@dataclass(frozen=True, slots=True)
class Summary:
    """`models` the book knows after the import; `created`, `unchanged` and `pending` count price rows.

    `second_looks` counts changed prices, approved or pending, that change by much or would be free or end. `unfit`
    names prices that are left out, approved or not: they, or one that they belong to, are below zero. `notes` are
    sentences for the operator: what else was left out and why.
    """

    models: int
    created: int
    unchanged: int
    pending: int
    second_looks: int = 0
    notes: tuple[str, ...] = ()
    unfit: tuple[str, ...] = ()


def import_prices(
    *, approve: bool, dry_run: bool, at: datetime, book: Book | None = None, who: str = "command line"
) -> Summary:
    """Bring the price book up to the source's; one transaction, one import at a time.

    `approve` lets changed prices take effect at `at`; without it they are kept as a pending import, for an operator to
    look at, and so are those that can't hold in any case. `dry_run` counts and writes nothing. `book` stands in for the
    source. Raises django.db.Error when the database refuses; nothing is written then.
    """
    providers = read_providers() if book is None else {}

    def work() -> Summary:
        take_lock()
        makers = dict(Model.objects.order_by().values_list("public_id", "maker__name"))
        wanted = book or build_book(providers, makers)
        shelf = _read_shelf()
        additions = _missing(wanted, shelf)
        if dry_run:
            shelf.add_stand_ins(additions)
        else:
            _add(additions, shelf)
        changes = compare(_owned(wanted, shelf, makers), _stored(), at=at)
        create, end = approved(changes.differences if approve else (), at)
        waiting = unfit(changes.differences) if approve else changes.differences
        shown = [difference for difference in changes.differences if difference not in waiting] if approve else waiting
        if not dry_run:
            _write(additions, [*changes.create, *create], end, at=at, who=who)
            price_imports.keep_pending(waiting, source=SOURCE, at=at, who=who)
        return Summary(
            models=len(shelf.models),
            created=len(changes.create) + len(create),
            unchanged=changes.unchanged,
            pending=len(waiting),
            second_looks=price_imports.second_looks(shown),
            notes=wanted.notes,
            unfit=_unfit_prices(changes, shelf),
        )

    return in_transaction(work)


def _write(
    additions: "_Additions", create: list[tuple[Owner, Term]], end: list[int], *, at: datetime, who: str
) -> None:
    """Write rows, and give the book a new version if anything in it is new or ends."""
    ended, withdrawn = end_rows(end, at)
    written = Written(create_rows(create, source=SOURCE), ended, withdrawn)
    if written.is_any or additions.is_any:
        summary = f"Import: {len(additions.models):,} new models, {len(additions.aliases):,} new names"
        record_change(who=who, source=SOURCE, summary=summary, written=written)


@dataclass(slots=True)
class _Additions:
    channels: list[ChannelSpec]
    models: list[BookModel]
    aliases: list[tuple[str, str]]  # name, public id

    @property
    def is_any(self) -> bool:
        return bool(self.channels or self.models or self.aliases)


@dataclass(slots=True)
class _Shelf:
    """What the book has: ids of channels by name and of models by public id, and every name taken."""

    channels: dict[str, int]
    models: dict[str, int]
    aliases: set[str]

    def add_stand_ins(self, additions: _Additions) -> None:
        """Numbers that no row has, for counting without writing."""
        self.channels |= {channel.name: -number for number, channel in enumerate(additions.channels, 1)}
        self.models |= {model.public_id: -number for number, model in enumerate(additions.models, 1)}


def _read_shelf() -> _Shelf:
    return _Shelf(
        channels=dict(Channel.objects.order_by().values_list("name", "id")),
        models=dict(Model.objects.order_by().values_list("public_id", "id")),
        aliases=set(ModelAlias.objects.order_by().values_list("name", flat=True)),
    )


def _missing(wanted: Book, shelf: _Shelf) -> _Additions:
    """What the source has and the book has not. A name that anybody has, wherever it leads, stays where it is."""
    models = [model for model in wanted.models if model.public_id not in shelf.models]
    taken = shelf.aliases | shelf.models.keys() | {model.public_id for model in models}
    return _Additions(
        channels=[channel for channel in wanted.channels if channel.name not in shelf.channels],
        models=models,
        aliases=[(name, model.public_id) for model in wanted.models for name in model.aliases if name not in taken],
    )


def _add(additions: _Additions, shelf: _Shelf) -> None:
    channels = Channel.objects.bulk_create(
        Channel(name=channel.name, label=channel.label, source_names=[channel.provider])
        for channel in additions.channels
    )
    shelf.channels |= {channel.name: channel.pk for channel in channels}
    models = Model.objects.bulk_create(
        Model(
            public_id=model.public_id,
            label=model.label,
            maker_id=shelf.channels[model.maker],
            context_window=model.context_window,
            max_output_tokens=model.max_output_tokens,
            us_multiplier=model.us_multiplier,
        )
        for model in additions.models
    )
    shelf.models |= {model.public_id: model.pk for model in models}
    ModelAlias.objects.bulk_create(
        ModelAlias(name=name, model_id=shelf.models[public_id]) for name, public_id in additions.aliases
    )


def _owned(wanted: Book, shelf: _Shelf, makers: Mapping[str, str]) -> Iterator[tuple[Owner, list[Term]]]:
    """The source's prices by owner; a model's list price is its maker's cost."""
    makers = {model.public_id: model.maker for model in wanted.models} | dict(makers)
    for (channel, public_id), rows in wanted.costs.items():
        terms = [_term(row) for row in rows]
        yield Owner(shelf.channels[channel], shelf.models[public_id]), terms
        if makers[public_id] == channel:
            yield Owner(None, shelf.models[public_id]), terms


def _unfit_prices(changes: Changes, shelf: _Shelf) -> tuple[str, ...]:
    """What is left out for a price below zero, each as "model on channel, batch input above 200,000: -1"."""
    channels = {number: name for name, number in shelf.channels.items()}
    models = {number: name for name, number in shelf.models.items()}
    pending = [(difference.owner, difference.new) for difference in unfit(changes.differences)]
    said = []
    for owner, term in [*changes.left_out, *pending]:
        assert term is not None
        where = "on the list" if owner.channel_id is None else f"on {channels[owner.channel_id]}"
        tier = f" above {term.above_prompt_tokens:,}" if term.above_prompt_tokens else ""
        what = " ".join(part for part in (term.variant, term.meter) if part)
        said.append(f"{models[owner.model_id]} {where}, {what}{tier}: {term.unit_price.normalize():f}")
    return tuple(said)


def _term(row: Row) -> Term:
    return Term(
        variant=row.variant,
        meter=row.meter,
        above_prompt_tokens=row.above_prompt_tokens,
        unit_price=row.unit_price,
        per=row.per,
        effective_from=_midnight(row.effective_from),
        effective_until=_midnight(row.effective_until),
        daily_from=row.daily_from,
        daily_until=row.daily_until,
        derived=row.derived,
    )


def _midnight(day: date | None) -> datetime | None:
    return None if day is None else datetime.combine(day, time(), UTC)


def _stored() -> dict[Owner, list[Held]]:
    columns = ("id", "source", "channel_id", "model_id", *Term.__dataclass_fields__)
    found: dict[Owner, list[Held]] = defaultdict(list)
    for number, source, channel_id, model_id, *rest in Price.objects.order_by().values_list(*columns):
        found[Owner(channel_id, model_id)].append(Held(number, Term(*rest), source == SOURCE))
    return found
