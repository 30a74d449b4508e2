"""The form in which an operator enters a price, for one that the book has or for a new one."""

from decimal import Decimal
from typing import Any

from django import forms
from django.core.exceptions import ValidationError
from django.http import HttpRequest
from django.utils import timezone
from unfold.widgets import UnfoldAdminSelectWidget, UnfoldAdminTextInputWidget, UnfoldBooleanSwitchWidget

from billing.admin.forms import AmountFormField, MomentField
from metering import price_entry
from metering.catalog import Catalog
from metering.meters import BY_NAME
from metering.models import Channel, Price
from metering.models.prices import METER_CHOICES, VARIANTS
from metering.price_changes import Owner, Term
from metering.price_writing import Written
from relayadmin.money import to_unit_price

_MOST = Decimal(10) ** 9
_LIST = "list"


class SecondLookField(forms.BooleanField):
    """The tick that a price wants which is easily wrong; without it the form is shown again, with what is doubtful."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(
            label="I have looked twice",
            required=False,
            widget=UnfoldBooleanSwitchWidget,
            help_text="Needed for a price of zero, and for a change above the limit in the price book settings.",
            **kwargs,
        )


class PriceForm(forms.Form):
    """Another price in place of a row of the book."""

    unit_price = AmountFormField(
        label="Unit price (USD)", max_length=40, help_text="Per million tokens or 1,000 calls."
    )
    effective_from = MomentField(
        label="From (UTC)", help_text="Empty: now. In the past only where usage has always waited for such a price."
    )
    effective_until = MomentField(
        label="Until (UTC)",
        help_text="Empty: until the next price that is announced. What held before goes on afterwards.",
    )
    is_confirmed = SecondLookField()

    def __init__(self, *args: Any, row: Price | None = None, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.row = row

    def clean_unit_price(self) -> Decimal:
        price: Decimal = self.cleaned_data["unit_price"]
        if not 0 <= price < _MOST:
            raise ValidationError("A price is zero or more, and below 1,000,000,000.")
        if price != to_unit_price(price):
            raise ValidationError("A unit price has at most 9 decimals.")
        return price

    def enter(self, request: HttpRequest) -> Written | None:
        """Enter what the valid form says; None with errors on the form if it is refused."""
        try:
            return price_entry.enter(
                self.owner(),
                self.term(),
                who=request.user.get_username(),
                at=timezone.now(),
                is_confirmed=self.cleaned_data["is_confirmed"],
            )
        except price_entry.CannotEnter as error:
            self.add_error(error.field or None, str(error))
        return None

    def owner(self) -> Owner:
        assert self.row is not None
        return Owner(self.row.channel_id, self.row.model_id)

    def term(self) -> Term:
        assert self.row is not None
        return Term(
            variant=self.row.variant,
            meter=self.row.meter,
            above_prompt_tokens=self.row.above_prompt_tokens,
            per=self.row.per,
            daily_from=self.row.daily_from,
            daily_until=self.row.daily_until,
            **self.entered(),
        )

    def entered(self) -> dict[str, Any]:
        told = self.cleaned_data
        return {name: told[name] for name in ("unit_price", "effective_from", "effective_until")} | {"derived": ""}


class NewPriceForm(PriceForm):
    """A price of any meter of any model."""

    model = forms.CharField(
        max_length=255, widget=UnfoldAdminTextInputWidget, help_text="A model's id, or a name relays report."
    )
    sold = forms.ChoiceField(label="For", widget=UnfoldAdminSelectWidget)
    variant = forms.ChoiceField(
        label="Kind of request", choices=list(VARIANTS.items()), required=False, widget=UnfoldAdminSelectWidget
    )
    meter = forms.ChoiceField(choices=METER_CHOICES, widget=UnfoldAdminSelectWidget)
    above_prompt_tokens = forms.IntegerField(
        label="For prompts above",
        initial=0,
        min_value=0,
        max_value=2**31 - 1,
        widget=UnfoldAdminTextInputWidget,
        help_text="Tokens; 0 holds for every prompt.",
    )
    field_order = ("model", "sold", "variant", "meter", "above_prompt_tokens")

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        channels = Channel.objects.values_list("pk", "name")
        sold: Any = self.fields["sold"]
        sold.choices = [(_LIST, "list price"), *((str(pk), f"cost at {name}") for pk, name in channels)]

    def clean_model(self) -> int:
        found = Catalog.load().resolve(self.cleaned_data["model"])
        if found is None:
            raise ValidationError("There is no such model. Add it first, under Models.")
        return found

    def owner(self) -> Owner:
        sold = self.cleaned_data["sold"]
        return Owner(None if sold == _LIST else int(sold), self.cleaned_data["model"])

    def term(self) -> Term:
        told = self.cleaned_data
        return Term(
            variant=told["variant"],
            meter=told["meter"],
            above_prompt_tokens=told["above_prompt_tokens"],
            per=BY_NAME[told["meter"]].per,
            daily_from=None,
            daily_until=None,
            **self.entered(),
        )
