"""What customers are told: to look at."""

from django.contrib import admin
from unfold.decorators import display

from billing.admin import html
from billing.admin.base import ReadOnlyAdmin
from billing.admin.filters import CustomerFilter, DaysFilter
from billing.admin.ledger import CustomerColumn
from billing.models import Notice


@admin.register(Notice)
class NoticeAdmin(CustomerColumn, ReadOnlyAdmin):
    empty_text = "No customer had to be told anything yet."
    list_display = ("created_at", "customer_link", "kind", "says")
    list_filter = (CustomerFilter, ("created_at", DaysFilter))
    list_select_related = ("customer",)
    sortable_by = ()
    search_fields = ("customer__name", "customer__public_id__exact", "kind__exact")
    search_help_text = "Customer's name or cus_… id, or a kind"
    fields = (("customer_link", "created_at"), ("kind", "key"), "what_it_says")

    @display(description="Says")
    def says(self, obj: Notice) -> str:
        return ", ".join(f"{name} {value}" for name, value in obj.data.items())[:200]

    @display(description="Says")
    def what_it_says(self, obj: Notice) -> str:
        return html.pretty_json(obj.data)
