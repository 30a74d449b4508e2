"""Up to where each customer's ledger was last found right: to look at."""

from django.contrib import admin
from unfold.decorators import display

from billing.admin import html
from billing.admin.base import ReadOnlyAdmin
from billing.admin.filters import CustomerFilter, DaysFilter
from billing.admin.ledger import CustomerColumn
from billing.models import Transfer
from billing.models.verification import VerifiedWallet


@admin.register(VerifiedWallet)
class VerifiedWalletAdmin(CustomerColumn, ReadOnlyAdmin):
    empty_text = "No check has run yet; “python manage.py check_ledger” runs one now."
    list_display = ("verified_at", "customer_link", "version", "last_transfer", "used_amount")
    list_filter = (CustomerFilter, ("verified_at", DaysFilter))
    list_select_related = ("customer",)
    ordering = ("-verified_at",)
    search_fields = ("customer__name", "customer__public_id__exact")
    search_help_text = "Customer's name or cus_… id"
    fields = (("customer_link", "verified_at"), ("version", "last_transfer"), "used_amount")

    @display(description="Last transfer")
    def last_transfer(self, obj: VerifiedWallet) -> str:
        return html.hot_link(Transfer, obj.customer_id, obj.transfer_number or None)

    @display(description="Used of its grants", ordering="used")
    def used_amount(self, obj: VerifiedWallet) -> str:
        return html.amount(obj.used)
