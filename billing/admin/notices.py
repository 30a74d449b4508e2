"""What customers are told: to look at."""

from collections.abc import Sequence
from typing import Any

from django.contrib import admin
from django.http import HttpRequest
from unfold.decorators import display

from billing.admin import html
from billing.admin.base import OperatorChangeList, ReadOnlyAdmin
from billing.admin.filters import CustomerFilter, DaysFilter
from billing.admin.ledger import CustomerColumn
from billing.admin.notice_texts import texts
from billing.models import Notice


def put_into_words(notices: Sequence[Notice]) -> None:
    """Keep beside notices what they say."""
    for notice, text in zip(notices, texts(notices), strict=True):
        notice.__dict__["text"] = text


class NoticeChangeList(OperatorChangeList):
    result_list: Any

    def get_results(self, request: HttpRequest) -> None:
        super().get_results(request)
        self.result_list = list(self.result_list)
        put_into_words(self.result_list)


@admin.register(Notice)
class NoticeAdmin(CustomerColumn, ReadOnlyAdmin):
    empty_text = "No customer had to be told anything yet."
    list_display = ("created_at", "customer_link", "kind", "says")
    list_filter = (CustomerFilter, ("created_at", DaysFilter))
    list_select_related = ("customer",)
    sortable_by = ()
    search_fields = ("customer__name", "customer__public_id__exact", "kind__exact")
    search_help_text = "Customer's name or cus_… id, or a kind"
    fields = (("customer_link", "created_at"), ("kind", "key"), "says", "data_json")

    def get_changelist(self, request: HttpRequest, **kwargs: Any) -> type[OperatorChangeList]:
        return NoticeChangeList

    def get_object(self, request: HttpRequest, object_id: str, from_field: str | None = None) -> Notice | None:
        notice: Notice | None = super().get_object(request, object_id, from_field)
        if notice is not None:
            put_into_words([notice])
        return notice

    @display(description="Says")
    def says(self, obj: Any) -> str:
        return str(obj.text)

    @display(description="Data")
    def data_json(self, obj: Notice) -> str:
        return html.pretty_json(obj.data)
