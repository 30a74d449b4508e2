"""A price source of one model, for importing into a book that is there already."""

from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any
from uuid import uuid4

from metering.models import Model, Price
from metering.price_book import import_prices
from metering.price_sources.book import Book, BookModel
from metering.price_sources.channels import BY_NAME
from metering.price_sources.rows import Row

NOW = datetime(2026, 11, 22, 12, tzinfo=UTC)


def plain(price: Decimal) -> str:
    return f"{price.normalize():f}"


@dataclass
class Source:
    """A price source of one model on the maker's channel, and one reseller's."""

    public_id: str
    rows: tuple[Row, ...]
    resold: tuple[Row, ...] = ()

    @property
    def book(self) -> Book:
        model = BookModel(self.public_id, "", "anthropic", None, None, Decimal(1), (f"{self.public_id}-alias",))
        costs = {("anthropic", self.public_id): self.rows}
        if self.resold:
            costs["vertex", self.public_id] = self.resold
        return Book((BY_NAME["anthropic"], BY_NAME["vertex"]), (model,), costs, ())

    def bring_in(self, *, at: datetime = NOW, approve: bool = False, dry_run: bool = False) -> tuple[int, int, int]:
        summary = import_prices(approve=approve, dry_run=dry_run, at=at, book=self.book)
        assert summary.models == Model.objects.count() + (dry_run and not self.exists)
        return summary.created, summary.unchanged, summary.pending

    @property
    def exists(self) -> bool:
        return Model.objects.filter(public_id=self.public_id).exists()

    def stored(self, kind: str = "charge", channel: str | None = None) -> list[tuple[object, ...]]:
        found = Price.objects.filter(model__public_id=self.public_id, kind=kind, channel__name=channel)
        return [
            (row.meter, row.above_prompt_tokens, plain(row.unit_price), row.effective_from, row.effective_until)
            for row in found.order_by("meter", "above_prompt_tokens", "effective_from")
        ]


def row(meter: str = "input", price: str = "3", **more: Any) -> Row:
    return Row(meter, more.pop("above", 0), Decimal(price), **more)


def new_source() -> Source:
    """Of a model that the book has not."""
    return Source(f"model-{uuid4().hex[:8]}", (row(), row("output", "15")))
