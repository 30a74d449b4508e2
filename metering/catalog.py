"""Which model a reported name means, and the channels by name. Loaded once per price book version; then no queries."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Self

from metering.models.catalog import Channel, Model, ModelAlias

# What may follow a known name, before a deployment version: a date, "latest", or Vertex's "@default". No more.
DATE = r"20\d{2}(?:0[1-9]|1[0-2])(?:0[1-9]|[12]\d|3[01])"
DASHED_DATE = r"20\d{2}-(?:0[1-9]|1[0-2])-(?:0[1-9]|[12]\d|3[01])"
DATED = re.compile(rf"(?P<name>.+?)(?:[-@](?:{DATE}|latest)|-{DASHED_DATE}|@default)", re.ASCII)
VERSION = re.compile(r"-v\d+(?::\d+)?\Z", re.ASCII)


@dataclass(frozen=True, slots=True)
class CatalogModel:
    """What authorization and settlement need to know of a model. Limits are in tokens; None when unknown."""

    id: int
    public_id: str
    maker_channel_id: int
    max_output_tokens: int | None
    context_window: int | None
    us_multiplier: Decimal


@dataclass(frozen=True, slots=True)
class Catalog:
    """Models by id, channels both ways, and `resolve`."""

    models: Mapping[int, CatalogModel]
    channels: Mapping[str, int]
    channel_names: Mapping[int, str]
    names: Mapping[str, int]
    lowered: Mapping[str, int]

    @classmethod
    def build(
        cls,
        models: Iterable[CatalogModel],
        aliases: Iterable[tuple[str, int]],
        channels: Iterable[tuple[str, int]],
    ) -> Self:
        """From rows: models, (alias, model id), (channel name, channel id). A public id goes before an alias."""
        by_id = {model.id: model for model in models}
        names = dict(aliases) | {model.public_id: model.id for model in by_id.values()}
        lowered: dict[str, int | None] = {}
        for name, model_id in names.items():
            low = name.lower()
            lowered[low] = model_id if lowered.get(low, model_id) == model_id else None
        by_name = dict(channels)
        return cls(
            models=by_id,
            channels=by_name,
            channel_names={number: name for name, number in by_name.items()},
            names=names,
            lowered={name: model_id for name, model_id in lowered.items() if model_id is not None},
        )

    @classmethod
    def load(cls) -> Self:
        """Read it from the database: three queries."""
        fields = ("id", "public_id", "maker_id", "max_output_tokens", "context_window", "us_multiplier")
        return cls.build(
            models=(CatalogModel(*row) for row in Model.objects.order_by().values_list(*fields)),
            aliases=ModelAlias.objects.order_by().values_list("name", "model_id"),
            channels=Channel.objects.order_by().values_list("name", "id"),
        )

    def resolve(self, name: str) -> int | None:
        """The id of the model that `name` means, None if unknown.

        A public id or alias, as spelled or else in lower case; else the same without a date (`-20250929`,
        `-2025-09-29`, `@20250929`), `-latest`, `@latest` or `@default` at its end, a deployment version (`-v1:0`)
        after it aside.
        """
        found = self._known(name)
        if found is not None:
            return found
        dated = DATED.fullmatch(VERSION.sub("", name))
        return self._known(dated["name"]) if dated else None

    def _known(self, name: str) -> int | None:
        found = self.names.get(name)
        return self.lowered.get(name.lower()) if found is None else found
