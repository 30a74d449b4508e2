"""The customer's usage: series from the hourly figures, and single events."""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cache
from typing import Any
from zoneinfo import ZoneInfo, available_timezones

from drf_spectacular.utils import extend_schema
from rest_framework.request import Request
from rest_framework.response import Response

from billing.api.base import CustomerView
from billing.api.fields import choice_param, hour_param, moment_text, text_param
from billing.api.openapi import HOURS, PAGING, answers, page_of, query
from billing.api.pagination import read_page
from billing.models import Customer
from metering import event_queries, pricing, queries
from metering.api.customer_serializers import UsageEventSerializer, UsageSerializer
from metering.meters import NAMES
from metering.models import ApiKey
from metering.time_buckets import BUCKETS, bucket_starts
from relayadmin.errors import ApiError, invalid_request
from relayadmin.money import amount_text

DEFAULT_SPAN = timedelta(days=30)
LONGEST_SPAN = {
    "hour": timedelta(days=31),
    "day": timedelta(days=366),
    "month": timedelta(days=366),
}
GROUPS = ("model", "api_key")
_zones = cache(available_timezones)
FILTERS = [
    query("model", "Only this model: an id or an alias."),
    query("api_key", "Only this key: key_…"),
]


@dataclass(frozen=True, slots=True)
class Span:
    """What series is asked for."""

    start: datetime
    end: datetime
    bucket: str
    zone: ZoneInfo


class UsageView(CustomerView):
    @extend_schema(
        operation_id="getUsage",
        tags=["usage"],
        parameters=[
            *HOURS,
            query("bucket", "The width of the rows; hours for at most 31 days.", enum=BUCKETS, default="day"),
            query("group_by", "model, api_key or both, with a comma."),
            query("timezone", "Whose days and months, such as Europe/Madrid.", default="UTC"),
            *FILTERS,
        ],
        responses=answers(UsageSerializer, 400, 404),
    )
    def get(self, request: Request) -> Response:
        """Usage by hour, day or month; the last 30 days unless `start` and `end` say otherwise, at most 366 days."""
        span = _read_span(request, at=datetime.now(UTC))
        groups = _read_groups(request)
        try:
            series = queries.usage_series(
                customer_id=self.customer.pk,
                start=span.start,
                end=span.end,
                bucket_starts=bucket_starts(span.bucket, start=span.start, end=span.end, zone=span.zone),
                by_model="model" in groups,
                by_api_key="api_key" in groups,
                **_read_filters(request, self.customer),
            )
        except queries.TooManyRows as error:
            raise invalid_request(
                f"The answer would have {error}. Ask for a shorter time, wider buckets or fewer groups.", "bucket"
            ) from error
        data = [
            {"start": moment_text(key.start), "model": key.model, "api_key": key.api_key, **_figures(figures)}
            for key, figures in series.rows
        ]
        return Response({"data": data, "total": _figures(series.total)})


class UsageEventsView(CustomerView):
    @extend_schema(
        operation_id="listUsageEvents",
        tags=["usage"],
        parameters=[*PAGING, *HOURS, *FILTERS, query("request_id", "Only the event with this id of the relay.")],
        responses=answers(page_of(UsageEventSerializer), 400, 404),
    )
    def get(self, request: Request) -> Response:
        """Single events as they count now, with their unit prices, newest first; `model` is what they count as, too."""
        page = read_page(request, event_queries.EventPlace)
        start, end = hour_param(request, "start"), hour_param(request, "end")
        if start is not None and end is not None and start >= end:
            raise invalid_request("start must be before end.", "start")
        rows = event_queries.events(
            customer_id=self.customer.pk,
            limit=page.fetch,
            before=page.after,
            start=start,
            end=end,
            request_id=text_param(request, "request_id"),
            **_read_filters(request, self.customer),
        )
        return Response(
            page.body(
                rows,
                key=lambda row: event_queries.EventPlace(row.occurred_at, row.number),
                show=lambda shown: UsageEventSerializer(shown, many=True).data,
            )
        )


def _figures(figures: queries.Figures) -> dict[str, Any]:
    return {
        "requests": figures.requests,
        "quantities": {name: figures.quantities[name] for name in NAMES if name in figures.quantities},
        "amount": amount_text(figures.amount),
        "cache_savings": amount_text(figures.cache_savings),
    }


def _read_span(request: Request, *, at: datetime) -> Span:
    bucket = choice_param(request, "bucket", BUCKETS, "day")
    zone = _read_zone(request)
    # An hour that has begun belongs to the answer.
    end = hour_param(request, "end") or at.replace(minute=0, second=0, microsecond=0) + timedelta(hours=1)
    start = hour_param(request, "start") or end - DEFAULT_SPAN
    if start >= end:
        raise invalid_request("start must be before end.", "start")
    longest = LONGEST_SPAN[bucket]
    if _local(end, zone) - _local(start, zone) > longest:
        raise invalid_request(f"From start to end it can be at most {longest.days} days by the {bucket}.", "start")
    return Span(start, end, bucket, zone)


def _local(at: datetime, zone: ZoneInfo) -> datetime:
    """By the clock on the wall, so that a month with 745 hours is no longer than others."""
    return at.astimezone(zone).replace(tzinfo=None)


def _read_zone(request: Request) -> ZoneInfo:
    name = request.query_params.get("timezone", "UTC")
    if name not in _zones():
        raise invalid_request("timezone must be a name such as Europe/Madrid or UTC.", "timezone")
    return ZoneInfo(name)


def _read_groups(request: Request) -> set[str]:
    text = request.query_params.get("group_by", "")
    groups = {part.strip() for part in text.split(",")} if text else set()
    if not groups <= set(GROUPS):
        raise invalid_request("group_by must be model, api_key or model,api_key.", "group_by")
    return groups


def _read_filters(request: Request, customer: Customer) -> dict[str, int]:
    """The rows that ?model= and ?api_key= name. Raises ApiError 404 for unknown ones."""
    found = {}
    model, api_key = text_param(request, "model"), text_param(request, "api_key")
    if model is not None:
        found["model_id"] = model_number(model)
    if api_key is not None:
        number = ApiKey.objects.filter(customer=customer, public_id=api_key).values_list("pk", flat=True).first()
        if number is None:
            raise ApiError(404, "api_key_not_found", f"There is no API key {api_key[:80]!r} here.", param="api_key")
        found["api_key_id"] = number
    return found


def model_number(name: str) -> int:
    """The row of a model by id or alias. Raises ApiError 404 `model_not_found`."""
    number = pricing.current().catalog.resolve(name)
    if number is None:
        raise ApiError(404, "model_not_found", f"The model {name[:80]!r} is not known here.", param="model")
    return number
