"""Up to where each customer's usage was last found right: to look at."""

from django.contrib import admin
from unfold.decorators import display

from billing.admin import html
from billing.admin.base import ReadOnlyAdmin
from billing.admin.filters import CustomerFilter, DaysFilter
from billing.admin.ledger import CustomerColumn
from billing.models import Transfer
from metering.models import UsageEvent
from metering.models.verification import VerifiedUsage


@admin.register(VerifiedUsage)
class VerifiedUsageAdmin(CustomerColumn, ReadOnlyAdmin):
    empty_text = "No check has run yet; “python manage.py check_ledger” runs one now."
    list_display = ("verified_at", "customer_link", "last_event", "last_transfer", "charge_amount")
    list_filter = (CustomerFilter, ("verified_at", DaysFilter))
    list_select_related = ("customer",)
    ordering = ("-verified_at",)
    search_fields = ("customer__name", "customer__public_id__exact")
    search_help_text = "Customer's name or cus_… id"
    fields = (("customer_link", "verified_at"), ("last_event", "last_transfer"), "charge_amount")

    @display(description="Last event")
    def last_event(self, obj: VerifiedUsage) -> str:
        return html.hot_link(UsageEvent, obj.customer_id, obj.event_number or None)

    @display(description="Last transfer")
    def last_transfer(self, obj: VerifiedUsage) -> str:
        return html.hot_link(Transfer, obj.customer_id, obj.transfer_number or None)

    @display(description="Charge of all hours", ordering="charge")
    def charge_amount(self, obj: VerifiedUsage) -> str:
        return html.amount(obj.charge)
