"""Importing the price book: models, their names, and effective-dated price rows, from a price source.

What the book does not have yet, a model or a channel that sells one, is taken in at once and from the beginning of
time. A price it has changes only with approval, and only from the moment of the approved import on; rows of the past
are never touched, and neither are prices that an operator has entered.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime, time
from decimal import Decimal

from django.db import connection
from django.db.models import F
from django.utils import timezone

from metering.models.catalog import Channel, Model, ModelAlias
from metering.models.prices import Price, PriceBookVersion
from metering.price_sources.book import Book, build_book
from metering.price_sources.genai import read_providers
from metering.price_sources.rows import Row
from relayadmin.db import in_transaction

SOURCE = "genai-prices"
LOCK = 7_246_011_907  # pg_advisory_xact_lock: one import at a time


@dataclass(frozen=True, slots=True)
class Summary:
    """`models` the book knows after the import; `created`, `unchanged` and `pending` count price rows.

    `notes` are sentences for the operator: what was left out and why.
    """

    models: int
    created: int
    unchanged: int
    pending: int
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Owner:
    """Whose prices: a channel's cost of a model, or (no channel) the model's list price."""

    channel_id: int | None
    model_id: int

    @property
    def kind(self) -> str:
        return Price.Kind.CHARGE if self.channel_id is None else Price.Kind.COST


@dataclass(frozen=True, slots=True)
class Term:
    """A price row as the book compares it; moments are UTC datetimes, None without a bound."""

    meter: str
    above_prompt_tokens: int
    unit_price: Decimal
    per: int
    effective_from: datetime | None
    effective_until: datetime | None
    daily_from: time | None
    daily_until: time | None
    derived: str

    def from_now_on(self, at: datetime) -> "Term | None":
        """What of it lies at or after `at`; None if it is over."""
        if self.effective_until is not None and self.effective_until <= at:
            return None
        began = self.effective_from is None or self.effective_from <= at
        return replace(self, effective_from=None) if began else self


@dataclass(slots=True)
class Changes:
    """What an import would write."""

    create: list[tuple[Owner, Term]]
    end: list[int]
    withdraw: list[int]  # announced for later and taken back; they were never in force
    unchanged: int = 0
    pending: int = 0


def import_prices(*, approve: bool, dry_run: bool, at: datetime, book: Book | None = None) -> Summary:
    """Bring the price book up to the source's; one transaction, one import at a time.

    `approve` lets changed prices take effect at `at`; `dry_run` counts and writes nothing. `book` replaces the source
    (tests). Raises django.db.Error when the database refuses; nothing is written then.
    """
    providers = read_providers() if book is None else {}

    def work() -> Summary:
        with connection.cursor() as cursor:
            cursor.execute("SELECT pg_advisory_xact_lock(%s)", [LOCK])
        known = dict(Model.objects.order_by().values_list("public_id", "maker__name"))
        wanted = book or build_book(providers, known)
        if dry_run:
            return _dry_run(wanted, approve=approve, at=at)
        channel_ids, wrote_channels = _add_channels(wanted)
        model_ids, wrote_models = _add_models(wanted, channel_ids)
        wrote_aliases = _add_aliases(wanted, model_ids)
        changes = _compare(_owned(wanted, channel_ids, model_ids, known), approve=approve, at=at)
        _write(changes, at)
        if wrote_channels or wrote_models or wrote_aliases or changes.create or changes.end or changes.withdraw:
            PriceBookVersion.objects.update(version=F("version") + 1, changed_at=timezone.now())
        return Summary(
            models=len(model_ids),
            created=len(changes.create),
            unchanged=changes.unchanged,
            pending=changes.pending,
            notes=wanted.notes,
        )

    return in_transaction(work)


def _dry_run(wanted: Book, *, approve: bool, at: datetime) -> Summary:
    """Count with stand-in numbers, below zero, for what is not there yet."""
    channel_ids = dict(Channel.objects.order_by().values_list("name", "id"))
    model_ids = dict(Model.objects.order_by().values_list("public_id", "id"))
    known = dict(Model.objects.order_by().values_list("public_id", "maker__name"))
    for number, channel in enumerate(wanted.channels, 1):
        channel_ids.setdefault(channel.name, -number)
    for number, model in enumerate(wanted.models, 1):
        model_ids.setdefault(model.public_id, -number)
    changes = _compare(_owned(wanted, channel_ids, model_ids, known), approve=approve, at=at)
    return Summary(len(model_ids), len(changes.create), changes.unchanged, changes.pending, wanted.notes)


def _add_channels(wanted: Book) -> tuple[dict[str, int], bool]:
    ids = dict(Channel.objects.order_by().values_list("name", "id"))
    new = [
        Channel(name=channel.name, label=channel.label, source_names=[channel.provider])
        for channel in wanted.channels
        if channel.name not in ids
    ]
    ids |= {channel.name: channel.id for channel in Channel.objects.bulk_create(new)}
    return ids, bool(new)


def _add_models(wanted: Book, channel_ids: Mapping[str, int]) -> tuple[dict[str, int], bool]:
    ids = dict(Model.objects.order_by().values_list("public_id", "id"))
    new = [
        Model(
            public_id=model.public_id,
            label=model.label,
            maker_id=channel_ids[model.maker],
            context_window=model.context_window,
            max_output_tokens=model.max_output_tokens,
            us_multiplier=model.us_multiplier,
        )
        for model in wanted.models
        if model.public_id not in ids
    ]
    ids |= {model.public_id: model.id for model in Model.objects.bulk_create(new)}
    return ids, bool(new)


def _add_aliases(wanted: Book, model_ids: Mapping[str, int]) -> bool:
    """Names that nobody has yet; an alias that an operator moved stays where it is."""
    taken = {*ModelAlias.objects.order_by().values_list("name", flat=True), *model_ids}
    new = [
        ModelAlias(name=name, model_id=model_ids[model.public_id])
        for model in wanted.models
        for name in model.aliases
        if name not in taken
    ]
    ModelAlias.objects.bulk_create(new, batch_size=5_000)
    return bool(new)


def _owned(
    wanted: Book, channel_ids: Mapping[str, int], model_ids: Mapping[str, int], known: Mapping[str, str]
) -> Iterator[tuple[Owner, list[Term]]]:
    """The source's prices by owner; a model's list price is its maker's cost."""
    makers = {model.public_id: model.maker for model in wanted.models} | dict(known)
    for (channel, public_id), rows in wanted.costs.items():
        terms = [_term(row) for row in rows]
        yield Owner(channel_ids[channel], model_ids[public_id]), terms
        if makers[public_id] == channel:
            yield Owner(None, model_ids[public_id]), terms


def _term(row: Row) -> Term:
    return Term(
        meter=row.meter,
        above_prompt_tokens=row.above_prompt_tokens,
        unit_price=row.unit_price,
        per=row.per,
        effective_from=row.effective_from and datetime.combine(row.effective_from, time(), UTC),
        effective_until=row.effective_until and datetime.combine(row.effective_until, time(), UTC),
        daily_from=row.daily_from,
        daily_until=row.daily_until,
        derived=row.derived,
    )


@dataclass(frozen=True, slots=True)
class _Stored:
    id: int
    term: Term
    is_ours: bool


def _stored() -> dict[Owner, list[_Stored]]:
    columns = ("id", "source", "channel_id", "model_id", *Term.__dataclass_fields__)
    found: dict[Owner, list[_Stored]] = defaultdict(list)
    for number, source, channel_id, model_id, *rest in Price.objects.order_by().values_list(*columns):
        found[Owner(channel_id, model_id)].append(_Stored(number, Term(*rest), source == SOURCE))
    return found


def _compare(wanted: Iterable[tuple[Owner, list[Term]]], *, approve: bool, at: datetime) -> Changes:
    """What differs from `at` on. Meters that an operator has priced are the operator's."""
    stored = _stored()
    changes = Changes([], [], [])
    for owner, terms in wanted:
        if owner not in stored:
            changes.create += [(owner, term) for term in terms]
            continue
        by_hand = {held.term.meter for held in stored[owner] if not held.is_ours and held.term.from_now_on(at)}
        ours = {
            rest: held
            for held in stored[owner]
            if held.is_ours and held.term.meter not in by_hand and (rest := held.term.from_now_on(at))
        }
        new: list[Term] = []
        for term in terms:
            rest = term.from_now_on(at)
            if rest is None or term.meter in by_hand or ours.pop(rest, None):
                changes.unchanged += 1
            else:
                new.append(replace(term, effective_from=rest.effective_from or at))
        gone = list(ours.values())
        if approve:
            changes.create += [(owner, term) for term in new]
            for held in gone:
                is_future = held.term.effective_from is not None and held.term.effective_from >= at
                (changes.withdraw if is_future else changes.end).append(held.id)
        else:
            replaced = {(term.meter, term.above_prompt_tokens, term.daily_from) for term in new}
            changes.pending += len(new) + sum(
                (held.term.meter, held.term.above_prompt_tokens, held.term.daily_from) not in replaced for held in gone
            )
    return changes


def _write(changes: Changes, at: datetime) -> None:
    Price.objects.filter(id__in=changes.withdraw).delete()
    Price.objects.filter(id__in=changes.end).update(effective_until=at)
    Price.objects.bulk_create(
        [
            Price(
                kind=owner.kind, channel_id=owner.channel_id, model_id=owner.model_id, source=SOURCE, **asdict(term)
            )
            for owner, term in changes.create
        ],
        batch_size=2_000,
    )
