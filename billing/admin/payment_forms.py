"""The forms of payments: what came in by bank transfer or in cash, a currency, a rate."""

from typing import Any

from django import forms
from django.core.validators import RegexValidator
from django.utils import timezone
from unfold.widgets import (
    UnfoldAdminCheckboxSelectMultipleWidget,
    UnfoldAdminSelectWidget,
    UnfoldAdminTextInputWidget,
)

from billing import exchange, manual, received
from billing.admin.forms import AmountFormField, MomentField
from billing.models import Customer, ExchangeRate, PayCurrency, TopUp, Wallet
from billing.periods import operator_timezone
from relayadmin.money import amount_text, currency_text

METHODS = (("card", "Card"), ("alipay", "Alipay"), ("wechat_pay", "WeChat Pay"))


class ReceivedForm(forms.Form):
    kind = forms.ChoiceField(
        label="How it came",
        choices=[(kind.value, TopUp.Origin(kind).label) for kind in received.KINDS],
        widget=UnfoldAdminSelectWidget,
    )
    pay_amount = AmountFormField(label="Amount that came in", max_length=40)
    currency = forms.ChoiceField(widget=UnfoldAdminSelectWidget)
    rate = AmountFormField(
        label="Rate",
        max_length=40,
        required=False,
        help_text="Units of the currency for 1 USD. Empty: the present one, its margin included.",
    )
    reference = forms.CharField(
        max_length=255,
        widget=UnfoldAdminTextInputWidget,
        help_text="The transfer's or the receipt's number; each is recorded once for a customer.",
    )
    received_on = forms.DateField(
        label="Came in on",
        widget=UnfoldAdminTextInputWidget(attrs={"type": "date"}),
        initial=lambda: timezone.now().astimezone(operator_timezone()).date(),
    )

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        codes = PayCurrency.objects.values_list("code", flat=True)
        self.fields["rate"].widget.attrs["placeholder"] = "7.2"
        self.fields["currency"].choices = [  # type: ignore[attr-defined]
            (code, code) for code in sorted(codes, key=lambda code: (code != exchange.USD, code))
        ]

    def payment(self) -> received.Payment:
        """What the valid form tells."""
        return received.Payment(**self.cleaned_data)


class ReceivedFromForm(ReceivedForm):
    """The same, for a customer who is to be named."""

    customer = forms.CharField(
        max_length=32, widget=UnfoldAdminTextInputWidget, help_text="Whose money it is: cus_…, as on its page."
    )
    field_order = ("customer",)

    def clean_customer(self) -> Customer:
        public_id = self.cleaned_data["customer"].strip()
        customer = Customer.objects.filter(public_id=public_id, is_house=False).first()
        if customer is None:
            raise forms.ValidationError(f"There is no customer {public_id}.")
        return customer

    def payment(self) -> received.Payment:
        told = {name: value for name, value in self.cleaned_data.items() if name != "customer"}
        return received.Payment(**told)


class SettledForm(forms.Form):
    note = forms.CharField(
        label="What was done",
        max_length=300,
        widget=UnfoldAdminTextInputWidget,
        help_text="Such as: refunded in Stripe's dashboard.",
    )


class PayCurrencyForm(forms.ModelForm):
    code = forms.CharField(
        max_length=3,
        widget=UnfoldAdminTextInputWidget,
        validators=[RegexValidator(r"\A[A-Z]{3}\Z", "Write three capitals, such as CNY.")],
        help_text="ISO 4217, such as CNY.",
    )
    methods = forms.MultipleChoiceField(
        choices=METHODS,
        widget=UnfoldAdminCheckboxSelectMultipleWidget,
        help_text="The payment page leaves out what the currency or your account doesn't allow.",
    )

    class Meta:
        model = PayCurrency
        fields = ("code", "is_offered", "methods")


class ExchangeRateForm(forms.ModelForm):
    per_usd = AmountFormField(label="Units for 1 USD", max_length=40, help_text="Such as 7.2 for CNY.")
    margin = AmountFormField(
        label="Margin", max_length=10, initial="0", help_text="Added to the rate: 0.02 makes it 2 % dearer."
    )
    effective_from = MomentField(label="Holds from (UTC)", help_text="Empty: from now on.")

    class Meta:
        model = ExchangeRate
        fields = ("currency", "per_usd", "margin", "effective_from")

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if "per_usd" in self.fields:  # Not where a rate is only shown.
            self.fields["per_usd"].widget.attrs["placeholder"] = "7.2"

    def clean(self) -> dict[str, Any]:
        cleaned: dict[str, Any] = super().clean() or {}
        if not self.errors:
            try:
                exchange.check_rate(
                    currency=cleaned["currency"].code,
                    per_usd=cleaned["per_usd"],
                    margin=cleaned["margin"],
                    effective_from=cleaned["effective_from"],
                    at=timezone.now(),
                )
            except exchange.InvalidRate as error:
                self.add_error(error.field, f"{str(error)[:1].upper()}{str(error)[1:]}.")
        return cleaned


def record_received(person: manual.Person, customer_id: int, form: ReceivedForm) -> TopUp:
    """Record what a valid form tells. Raises what received.record raises."""
    return received.record(customer_id=customer_id, payment=form.payment(), person=person, at=timezone.now())


def received_text(row: TopUp) -> str:
    """What became of a payment by hand, for the operator."""
    came = f"{currency_text(row.pay_amount, row.currency)} {row.currency} ({row.reference})"
    if row.status == TopUp.Status.WAITING:
        return f"{came} is recorded as {row.public_id}, and waits for a second person to approve it."
    if row.status != TopUp.Status.PAID:
        return f"{came} is struck; nothing is credited."
    balance = Wallet.objects.get(pk=row.customer_id).balance
    if row.invoice is not None:
        return f"{came} has paid {amount_text(row.amount)} USD of {row.invoice.number}: {row.invoice.status} now."
    tax = f" {amount_text(row.tax)} USD of it are tax." if row.tax else ""
    return f"{came} is credited: {amount_text(row.credited)} USD.{tax} The balance is {amount_text(balance)} USD."
