"""Filters of the operator's lists."""

from collections.abc import Iterable
from datetime import UTC, date, datetime, time, timedelta
from typing import Any

from django.db.models import F, QuerySet
from django.http import HttpRequest
from unfold.contrib.filters.admin import AutocompleteSelectFilter, DropdownFilter, RangeDateFilter

from billing.models import Wallet

CustomerFilter = ("customer", AutocompleteSelectFilter)


class DaysFilter(RangeDateFilter):
    """Whole days in UTC, the last one included."""

    def queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> QuerySet[Any]:
        name = self.parameter_name
        first, last = (_day(self.used_parameters.get(f"{name}_{end}")) for end in ("from", "to"))
        if first is not None:
            queryset = queryset.filter(**{f"{name}__gte": datetime.combine(first, time.min, UTC)})
        if last is not None and last < date.max:
            queryset = queryset.filter(**{f"{name}__lt": datetime.combine(last + timedelta(days=1), time.min, UTC)})
        return queryset


def _day(text: Any) -> date | None:
    try:
        return date.fromisoformat(text) if text else None
    except ValueError:
        return None


class NamedFilter(DropdownFilter):
    """A dropdown over a plain column, with the choices that `choose` gives."""

    column = ""

    def choose(self) -> Iterable[tuple[str, str]]:
        raise NotImplementedError

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        return list(self.choose())

    def has_output(self) -> bool:
        return True

    def queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> QuerySet[Any]:
        value = self.value()
        # What no choice offers is no filter: addresses are typed by hand too.
        if value not in {str(choice) for choice, _ in self.lookup_choices}:
            return queryset
        return queryset.filter(**{self.column: value})


class DebtFilter(DropdownFilter):
    """Who owes something: customers, or their wallets."""

    title = "debt"
    parameter_name = "debt"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        return [("yes", "In debt"), ("beyond", "Beyond the credit limit")]

    def queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> QuerySet[Any]:
        wallet = "" if queryset.model is Wallet else "wallet__"
        match self.value():
            case "yes":
                return queryset.filter(**{f"{wallet}balance__lt": 0})
            case "beyond":
                return queryset.filter(**{f"{wallet}balance__lt": -F(f"{wallet}credit_limit")})
        return queryset


class PeriodFilter(NamedFilter):
    """The billing periods of two years back."""

    title = "billing period"
    parameter_name = "period"
    column = "period"

    def choose(self) -> Iterable[tuple[str, str]]:
        month = datetime.now(UTC).date().replace(day=1)
        month = (month + timedelta(days=32)).replace(day=1)
        for _ in range(25):
            yield month.isoformat(), f"{month:%Y-%m}"
            month = (month - timedelta(days=1)).replace(day=1)
