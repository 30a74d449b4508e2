"""The list of customers narrowed to those whose usage should be on an invoice by now and is not."""

from typing import Any

from django.db.models import QuerySet
from django.http import HttpRequest
from django.utils import timezone
from unfold.contrib.filters.admin import DropdownFilter

from metering import uninvoiced

NOT_INVOICED = "not_invoiced"
NOT_INVOICED_ADVICE = (
    "Their month was not closed, or its figures did not agree: see the job “close last month” and its runs."
)


class NotInvoicedFilter(DropdownFilter):
    title = "usage"
    parameter_name = NOT_INVOICED

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        return [("yes", "Not invoiced though it is time")]

    def queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> QuerySet[Any]:
        if self.value() != "yes":
            return queryset
        return queryset.filter(pk__in=uninvoiced.look(at=timezone.now()).customers)
