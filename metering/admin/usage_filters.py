"""Filters of usage lists: by key, model and channel."""

from collections.abc import Iterable
from typing import Any

from django.db.models import Exists, OuterRef, Q, QuerySet
from django.http import HttpRequest
from unfold.contrib.filters.admin import TextFilter

from billing.admin.filters import NamedFilter
from billing.admin.hot import CUSTOMER_PARAMETER
from metering.models import ApiKey, Channel, Model, UsageAdjustment


class ModelFilter(TextFilter):
    """A part of a model's id. A thousand choices would take longer to draw than the list itself."""

    title = "model"
    parameter_name = "model"

    def queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> QuerySet[Any]:
        part = (self.value() or "").replace("\x00", "").strip()
        if not part:
            return queryset
        named = Model.objects.filter(public_id__icontains=part).order_by().values_list("id", flat=True)
        return self.of_models(queryset, list(named))

    def of_models(self, queryset: QuerySet[Any], models: list[int]) -> QuerySet[Any]:
        return queryset.filter(model_id__in=models)


class EventModelFilter(ModelFilter):
    """Events that came as a model or count as it now: the list shows both."""

    def of_models(self, queryset: QuerySet[Any], models: list[int]) -> QuerySet[Any]:
        since = UsageAdjustment.objects.filter(
            customer_id=OuterRef("customer_id"),
            event_number=OuterRef("id"),
            is_other_model=True,
            new_model_id__in=models,
        )
        return queryset.filter(Q(model_id__in=models) | Exists(since))


class ChannelFilter(NamedFilter):
    title = "channel"
    parameter_name = "channel"
    column = "channel_id"

    def choose(self) -> Iterable[tuple[str, str]]:
        return [(str(number), name) for number, name in Channel.objects.values_list("id", "name")]


class KeyFilter(NamedFilter):
    """The keys of the chosen customer; no filter until one is chosen."""

    title = "API key (once a customer is chosen)"
    parameter_name = "key"
    column = "api_key_id"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        chosen = request.GET.get(CUSTOMER_PARAMETER, "")
        if not chosen.isdecimal() or len(chosen) > 18:
            return []
        found = ApiKey.objects.filter(customer_id=int(chosen)).values_list("id", "name", "last4")
        return [(str(number), f"{name} …{last4}") for number, name, last4 in found]
