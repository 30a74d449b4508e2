"""Who a customer is on documents: the form, and what pages show of it and of tax."""

from typing import Any

from django import forms
from django.http import HttpRequest
from django.utils import timezone
from unfold.widgets import UnfoldAdminSelectWidget, UnfoldAdminTextareaWidget, UnfoldAdminTextInputWidget

from billing import billing_profiles, taxes
from billing.accounts import InvalidChange
from billing.admin import html
from billing.admin.base import Panel
from billing.countries import names
from billing.models import BillingProfile, Customer, OperatorSettings, TaxRate

ROWS = 10


def country_choices(empty: str) -> list[tuple[str, str]]:
    """Countries by name, for a form."""
    return [
        ("", empty),
        *sorted(((code, f"{name} ({code})") for code, name in names().items()), key=lambda one: one[1]),
    ]


def percent(rate: Any) -> str:
    """0.21 as a person writes it: 21 %."""
    return f"{rate.scaleb(2).normalize():f} %"


def number_text(row: BillingProfile) -> str:
    """A tax number with what is known of it."""
    if not row.tax_number:
        return ""
    return f"{row.tax_number} ({'checked' if row.tax_number_checked_at else 'not checked'})"


class ProfileForm(forms.Form):
    """A customer's profile; terms only for who may set them."""

    terms = forms.ChoiceField(choices=BillingProfile.Terms.choices, widget=UnfoldAdminSelectWidget)
    legal_name = forms.CharField(
        required=False,
        max_length=200,
        widget=UnfoldAdminTextInputWidget,
        help_text="As it stands on documents; empty: the customer's name.",
    )
    address = forms.CharField(
        required=False,
        max_length=500,
        widget=UnfoldAdminTextareaWidget(attrs={"rows": 4}),
        help_text="Line by line, without the country.",
    )
    country = forms.ChoiceField(required=False, widget=UnfoldAdminSelectWidget, help_text="Says which tax is owed.")
    tax_number = forms.CharField(
        required=False,
        max_length=30,
        widget=UnfoldAdminTextInputWidget,
        help_text="Form and check digits are checked; nobody is asked over the network.",
    )
    order_reference = forms.CharField(
        required=False, max_length=100, widget=UnfoldAdminTextInputWidget, help_text="The customer's own order number."
    )
    payment_days = forms.IntegerField(
        min_value=0,
        max_value=billing_profiles.PAYMENT_DAYS_MAX,
        widget=UnfoldAdminTextInputWidget(attrs={"inputmode": "numeric"}),
        help_text="Days from issue until an invoice on account is due.",
    )
    language = forms.ChoiceField(choices=BillingProfile.Language.choices, widget=UnfoldAdminSelectWidget)
    paper = forms.ChoiceField(choices=BillingProfile.Paper.choices, widget=UnfoldAdminSelectWidget)

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.fields["country"].choices = country_choices("Not known: no tax")  # type: ignore[attr-defined]


def update_profile(request: HttpRequest, customer: Customer, form: ProfileForm) -> str:
    """Do what a valid form asks for; returns what to say. Raises accounts.InvalidChange."""
    try:
        row = billing_profiles.update(
            customer_id=customer.pk,
            changes=form.cleaned_data,
            actor=request.user.get_username(),
            at=timezone.now(),
            may_set_terms=request.user.has_perm("billing.set_terms"),
        )
    except billing_profiles.NotAllowed as error:
        raise InvalidChange("terms", "you may not change the terms: it needs its own permission") from error
    number = f" Tax number: {number_text(row)}." if row.tax_number else ""
    return f"The profile holds for documents from now on: {row.get_terms_display()}.{number}"


def profile_panel(customer: Customer) -> Panel:
    """How a customer pays and is taxed; on account without a credit line nothing can be used."""
    row = billing_profiles.profile_of(customer)
    rate = taxes.rate_of(row, on=timezone.now().date())
    tax = "no tax" if rate is None else f"{rate.name} {percent(rate.rate)}"
    where = names().get(row.country, "no country")
    needs_line = row.terms == BillingProfile.Terms.ON_ACCOUNT and not customer.wallet.credit_limit
    number = f" Tax number: {number_text(row)}." if row.tax_number else ""
    body = f"{row.legal_name or customer.name}, {where}: {tax}.{number}"
    if needs_line:
        body += " On account, but without a credit limit: set one, or nothing fits beyond the credit that is there."
    return Panel(
        title=f"Billing profile: {row.get_terms_display()}",
        headers=(),
        rows=(),
        body=body,
        tone="warning" if needs_line else "",
    )


def untaxed_panel() -> Panel | None:
    """Customers that no rate is known for; None if there are none, or the operator has no tax number."""
    if not OperatorSettings.objects.values_list("tax_number", flat=True).get(pk=1):
        return None
    found = taxes.untaxed_countries()
    if not found:
        return None
    rows = [
        (
            f"{names().get(country, country)} ({country})" if country else "Country not known",
            f"{count:,}",
            html.link(html.list_url(BillingProfile, f"country={country}"), "Profiles"),
        )
        for country, count in found[:ROWS]
    ]
    return Panel(
        title="Customers who pay no tax, for want of a rate",
        headers=("Country", "Customers", ""),
        rows=rows,
        numbers=frozenset({1}),
        url=html.list_url(TaxRate),
        note="Right where you owe none there; else add the country's rate.",
    )
