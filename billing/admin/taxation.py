"""Rates of tax, and who customers are on documents."""

from typing import Any

from django import forms
from django.contrib import admin
from django.http import HttpRequest
from django.utils import timezone
from unfold.decorators import display
from unfold.widgets import (
    UnfoldAdminSelectWidget,
    UnfoldAdminTextInputWidget,
)

from billing import taxes
from billing.admin import html
from billing.admin.base import OperatorAdmin, ReadOnlyAdmin
from billing.admin.filters import CustomerFilter
from billing.admin.forms import AmountFormField
from billing.admin.ledger import CustomerColumn
from billing.admin.profile_forms import country_choices, number_text, percent
from billing.countries import names
from billing.models import BillingProfile, Invoice, InvoiceTax, TaxRate

TERMS_TONES = {"prepaid": "info", "on_account": "warning"}


class TaxRateForm(forms.ModelForm):
    country = forms.ChoiceField(widget=UnfoldAdminSelectWidget)
    rate = AmountFormField(label="Rate", max_length=10, help_text="As a share: 0.21 is 21 %.")
    valid_from = forms.DateField(
        label="Holds from",
        widget=UnfoldAdminTextInputWidget(attrs={"type": "date"}),
        help_text="It ends the country's rate before it. What is issued or paid already stays as it is.",
    )

    class Meta:
        model = TaxRate
        fields = ("country", "name", "rate", "valid_from", "reverse_charge", "note")

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if "country" in self.fields:  # Not where a rate is only shown.
            self.fields["country"].choices = country_choices("Choose a country")  # type: ignore[attr-defined]
            self.fields["rate"].widget.attrs["placeholder"] = "0.21"

    def clean(self) -> dict[str, Any]:
        cleaned: dict[str, Any] = super().clean() or {}
        if not self.errors:
            told = {name: cleaned[name] for name in ("country", "name", "rate", "valid_from", "note")}
            try:
                taxes.check_rate(**told, at=timezone.now())
            except taxes.InvalidRate as error:
                self.add_error(error.field, f"{str(error)[:1].upper()}{str(error)[1:]}.")
        return cleaned


@admin.register(TaxRate)
class TaxRateAdmin(OperatorAdmin):
    """Rates are added, never changed: documents keep theirs."""

    form = TaxRateForm
    empty_text = "No rates yet, so nobody is taxed. Add the rate of each country that you owe tax in."
    list_display = ("country_name", "name", "percentage", "valid_from", "reverse_charge", "created_by", "created_at")
    list_filter = ("reverse_charge",)
    search_fields = ("country", "name")
    search_help_text = "Two letters of the country, or the tax's name"
    sortable_by = ()

    def get_fields(self, request: HttpRequest, obj: Any = None) -> Any:
        asked = ("country", "name", "rate", "valid_from", "reverse_charge", "note")
        if obj is None:
            return asked
        return ("country_name", "name", "percentage", *asked[3:], "created_by", "created_at")

    def get_readonly_fields(self, request: HttpRequest, obj: Any = None) -> Any:
        return () if obj is None else self.get_fields(request, obj)

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def save_model(self, request: HttpRequest, obj: TaxRate, form: forms.ModelForm, change: bool) -> None:
        made = taxes.add_rate(**form.cleaned_data, actor=request.user.get_username(), at=timezone.now())
        obj.__dict__.update(made.__dict__)

    @display(description="Country", ordering="country")
    def country_name(self, obj: TaxRate) -> str:
        return f"{names().get(obj.country, obj.country)} ({obj.country})"

    @display(description="Rate")
    def percentage(self, obj: TaxRate) -> str:
        return percent(obj.rate)


@admin.register(BillingProfile)
class BillingProfileAdmin(CustomerColumn, ReadOnlyAdmin):
    empty_text = "No profile yet: “Billing profile…” on a customer's page writes one. Who has none is prepaid."
    list_display = (
        "name_on_documents",
        "customer_link",
        "terms_badge",
        "country",
        "number",
        "language",
        "payment_days",
    )
    list_filter = ("terms", "country", "language", CustomerFilter)
    list_select_related = ("customer",)
    search_fields = ("legal_name", "tax_number__iexact", "customer__name", "customer__public_id__exact")
    search_help_text = "Name, tax number or cus_… id"
    sortable_by = ()
    fields = (
        ("customer_link", "terms_badge"),
        "legal_name",
        "address",
        ("country", "number"),
        ("order_reference", "payment_days"),
        ("language", "paper"),
    )

    @display(description="Name on documents")
    def name_on_documents(self, obj: BillingProfile) -> str:
        return obj.legal_name or obj.customer.name

    @display(description="Terms", label=TERMS_TONES)
    def terms_badge(self, obj: BillingProfile) -> str:
        return obj.terms

    @display(description="Tax number")
    def number(self, obj: BillingProfile) -> str:
        return number_text(obj) or html.NOTHING


@admin.register(InvoiceTax)
class InvoiceTaxAdmin(ReadOnlyAdmin):
    list_display = ("invoice_link", "name", "percentage", "base_amount", "tax_amount", "is_reverse_charge", "note")
    list_filter = ("name", "is_reverse_charge")
    list_select_related = ("invoice",)
    search_fields = ("invoice__number__iexact", "invoice__public_id__exact")
    search_help_text = "Invoice number or inv_… id"
    fields = ("invoice_link", "name", "percentage", "base_amount", "tax_amount", "is_reverse_charge", "note")
    sortable_by = ()

    @display(description="Invoice")
    def invoice_link(self, obj: InvoiceTax) -> str:
        return html.link(html.object_url(Invoice, obj.invoice_id), obj.invoice.number)

    @display(description="Rate")
    def percentage(self, obj: InvoiceTax) -> str:
        return percent(obj.rate)

    @display(description="Of")
    def base_amount(self, obj: InvoiceTax) -> str:
        return html.amount(obj.base)

    @display(description="Tax")
    def tax_amount(self, obj: InvoiceTax) -> str:
        return html.amount(obj.amount)
