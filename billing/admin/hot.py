"""Lists and pages of the hot tables.

Their primary keys start with the customer; a number alone is found through a block-range index only. So a row's address
carries its public id, and a list that names no customer shows the newest rows.
"""

from collections.abc import Sequence
from typing import Any

from django.contrib.admin.utils import quote, unquote
from django.db import connection
from django.db.models import Model, QuerySet
from django.http import HttpRequest, HttpResponse

from billing.admin import html
from billing.admin.base import BoundedPaginator, OperatorChangeList, ReadOnlyAdmin, attach
from billing.models import Customer
from relayadmin import ids

NEWEST = 5_000
ENOUGH = 100
SMALL_BYTES = 64 * 1024 * 1024
CUSTOMER_PARAMETER = "customer__id__exact"
MOST_CUSTOMERS = 20


def last_number(table: str) -> int:
    """The last number a table's sequence gave out: one look at the sequence, whatever the table's size."""
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT coalesce(pg_sequence_last_value(pg_get_serial_sequence(%s, 'id')::regclass), 0)", [table]
        )
        row = cursor.fetchone()
    return int(row[0]) if row else 0


def is_small(table: str) -> bool:
    """Whether a table can be read through while a person waits."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_relation_size(%s::regclass) <= %s", [table, SMALL_BYTES])
        row = cursor.fetchone()
    return bool(row and row[0])


class HotPaginator(BoundedPaginator):
    most = 10_000


class HotChangeList(OperatorChangeList):
    """All rows of a customer, or the newest of the table."""

    result_list: Any

    def is_narrowed(self, request: HttpRequest) -> bool:
        return bool(self.query.strip() or request.GET.get(CUSTOMER_PARAMETER))

    def get_ordering(self, request: HttpRequest, queryset: QuerySet[Any]) -> list[str]:
        if self.is_narrowed(request):
            return list(self.model_admin.customer_ordering)
        return list(self.model_admin.newest_ordering)

    def get_queryset(self, request: HttpRequest, exclude_parameters: Any = None) -> QuerySet[Any]:
        queryset: QuerySet[Any] = super().get_queryset(request, exclude_parameters)
        if self.is_narrowed(request):
            return queryset
        if not self.model_admin.has_newest and is_small(self.opts.db_table):
            return queryset
        if not self.model_admin.has_newest:
            self.note = f"Choose a customer in the filters, or search for {self.model_admin.search_words}."
            return queryset.none()
        return self.newest(queryset)

    def newest(self, queryset: QuerySet[Any]) -> QuerySet[Any]:
        """The newest NEWEST numbers; more of them while they hold few rows, for numbers have gaps."""
        last = last_number(self.model_admin.sequence_table or self.opts.db_table)
        window = queryset
        for factor in self.model_admin.widenings:
            floor = last - NEWEST * factor
            if floor <= 0:
                self.note = ""
                return queryset
            self.note = (
                "The newest rows only. Choose a customer in the filters, or search for"
                f" {self.model_admin.search_words}, to see all of a customer's rows."
            )
            window = queryset.filter(id__gt=floor)
            if window.order_by()[:ENOUGH].count() == ENOUGH:
                break
        return window

    def get_results(self, request: HttpRequest) -> None:
        super().get_results(request)
        self.result_list = list(self.result_list)
        attach(self.result_list, self.model_admin.lookups)

    def url_for_result(self, result: Any) -> str:
        return html.object_url(self.model, result.public_id)


class HotModelAdmin(ReadOnlyAdmin):
    """Read-only pages of a hot table, in an order and with a search that its keys serve."""

    paginator = HotPaginator
    list_select_related = ("customer",)
    sortable_by = ()
    # Only to have a search box: get_search_results looks nowhere but in keys.
    search_fields = ("customer__name",)
    search_words = "a customer's name, a cus_… id or this table's own id"
    customer_ordering: Sequence[str] = ("-id",)
    newest_ordering: Sequence[str] = ("-id",)
    # False where no index finds the newest rows; once such a table is large, its list is empty until it is narrowed.
    has_newest = True
    widenings: Sequence[int] = (1, 10, 100)
    sequence_table = ""
    # Columns that hold another row's number, and where that row is.
    lookups: dict[str, type[Model]] = {}
    # Prefixes of other public ids that can be searched for, and the column that holds their number.
    search_ids: dict[str, str] = {}
    # Searched for exactly once a customer is chosen.
    search_column = ""

    @property
    def search_help_text(self) -> str:
        return self.search_words[0].upper() + self.search_words[1:]

    def get_changelist(self, request: HttpRequest, **kwargs: Any) -> type[OperatorChangeList]:
        return HotChangeList

    def get_search_results(
        self, request: HttpRequest, queryset: QuerySet[Any], search_term: str
    ) -> tuple[QuerySet[Any], bool]:
        term = search_term.strip()
        if not term or "\x00" in term:
            return (queryset.none() if term else queryset), False
        for prefix, column in {self.model.PREFIX: "id", **self.search_ids}.items():
            parsed = ids.parse_hot_id(prefix, term)
            if parsed is not None:
                return queryset.filter(**{"customer_id": parsed[0], column: parsed[1]}), False
        return self.search_text(request, queryset, term), False

    def search_text(self, request: HttpRequest, queryset: QuerySet[Any], term: str) -> QuerySet[Any]:
        """Rows of the customers that a text names; inside one customer, the row with that key of somebody else's."""
        if self.search_column and request.GET.get(CUSTOMER_PARAMETER):
            return queryset.filter(**{self.search_column: term})
        return queryset.filter(customer_id__in=customers_named(term))

    def get_object(self, request: HttpRequest, object_id: str, from_field: str | None = None) -> Any:
        # Addresses of actions carry it as the admin escapes it, with capitals that no public id has.
        parsed = ids.parse_hot_id(self.model.PREFIX, object_id) or ids.parse_hot_id(
            self.model.PREFIX, unquote(object_id)
        )
        if parsed is None:
            return None
        customer_id, number = parsed
        row = self.get_queryset(request).select_related("customer").filter(**self.key_of(customer_id, number)).first()
        if row is not None:
            attach([row], self.lookups)
        return row

    def key_of(self, customer_id: int, number: int) -> dict[str, Any]:
        """What finds a row through an index."""
        return {"customer_id": customer_id, "id": number}

    def change_view(self, request: HttpRequest, object_id: str, *args: Any, **kwargs: Any) -> HttpResponse:
        # The admin takes "_23" in an address for an escaped character; a public id may hold that as it is.
        response: HttpResponse = super().change_view(request, quote(object_id), *args, **kwargs)
        return response


def customers_named(term: str) -> list[int]:
    """Numbers of the customers that a cus_ id or a part of a name means, a few at most."""
    if term.startswith("cus_"):
        found = Customer.objects.filter(public_id=term)
    else:
        found = Customer.objects.filter(name__icontains=term)
    return list(found.order_by("-id").values_list("pk", flat=True)[:MOST_CUSTOMERS])
