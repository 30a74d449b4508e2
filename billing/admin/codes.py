"""Redemption codes: made and shown once, withdrawn; and who has tried too many in vain."""

import base64
import secrets
from typing import Any

from django import forms
from django.contrib import admin, messages
from django.contrib.admin.helpers import ACTION_CHECKBOX_NAME
from django.core.validators import RegexValidator
from django.db.models import QuerySet
from django.http import HttpRequest, HttpResponse
from django.template.response import TemplateResponse
from django.utils import timezone
from unfold.contrib.filters.admin import DropdownFilter
from unfold.decorators import action, display
from unfold.widgets import UnfoldAdminIntegerFieldWidget, UnfoldAdminSelectWidget, UnfoldAdminTextInputWidget

from billing import redemption
from billing.admin import html
from billing.admin.base import ReadOnlyAdmin, WorkAdmin, see_other
from billing.admin.filters import CustomerFilter, DaysFilter
from billing.admin.forms import AmountFormField, MomentField
from billing.admin.grant_forms import ReasonForm
from billing.admin.ledger import CustomerColumn
from billing.models import Customer, Grant, RedemptionCode, RedemptionGuesses
from relayadmin.money import amount_text

CODE_TONES = {"good": "success", "redeemed": "info", "expired": "warning", "void": "danger"}


class CodesForm(forms.Form):
    """`key` is made when the form is shown, so a double click or a reload makes the codes once."""

    count = forms.IntegerField(
        label="How many", min_value=1, max_value=redemption.MOST_AT_ONCE, widget=UnfoldAdminIntegerFieldWidget
    )
    amount = AmountFormField(label="Amount of each (USD)", max_length=40)
    kind = forms.ChoiceField(choices=RedemptionCode.Kind.choices, widget=UnfoldAdminSelectWidget)
    campaign = forms.CharField(
        max_length=100, widget=UnfoldAdminTextInputWidget, help_text="What they are for; stands on statements."
    )
    customer = forms.CharField(
        max_length=32,
        required=False,
        widget=UnfoldAdminTextInputWidget,
        help_text="cus_… of who alone may redeem them; empty: whoever has one.",
    )
    expires_at = MomentField(label="Codes end (UTC)", help_text="Empty: never.")
    credit_expires_at = MomentField(label="Their credit ends (UTC)", help_text="Empty: never, or by the days below.")
    credit_days = forms.IntegerField(
        label="Or days after redemption",
        min_value=1,
        max_value=redemption.LONGEST_CREDIT_DAYS,
        required=False,
        widget=UnfoldAdminIntegerFieldWidget,
    )
    key = forms.CharField(widget=forms.HiddenInput, validators=[RegexValidator(r"\A[A-Za-z0-9_-]{16,64}\Z")])

    @classmethod
    def fresh(cls) -> "CodesForm":
        return cls(initial={"key": secrets.token_urlsafe(24), "count": 1})

    def clean_customer(self) -> int | None:
        public_id = self.cleaned_data["customer"].strip()
        if not public_id:
            return None
        number = Customer.objects.filter(public_id=public_id, is_house=False).values_list("pk", flat=True).first()
        if number is None:
            raise forms.ValidationError(f"There is no customer {public_id}.")
        return number

    def make(self, request: HttpRequest) -> list[str] | None:
        """Make the codes of a valid form; None with errors on the form if they are refused."""
        told = self.cleaned_data
        terms = redemption.Terms(
            kind=told["kind"],
            amount=told["amount"],
            campaign=told["campaign"],
            customer_id=told["customer"],
            expires_at=told["expires_at"],
            credit_expires_at=told["credit_expires_at"],
            credit_days=told["credit_days"],
        )
        try:
            return redemption.make_codes(
                terms=terms,
                count=told["count"],
                actor=request.user.get_username(),
                key=told["key"],
                at=timezone.now(),
            )
        except redemption.CannotMake as error:
            self.add_error(error.field, f"{error}.")
        except redemption.AlreadyMade:
            self.add_error(
                None, "This form has made its codes, and they were shown once. Void them in the list if they are lost."
            )
        return None


def state_of(code: RedemptionCode) -> str:
    if code.redeemed_at is not None:
        return "redeemed"
    if code.voided_at is not None:
        return "void"
    return "expired" if code.expires_at is not None and code.expires_at <= timezone.now() else "good"


class CodeStateFilter(DropdownFilter):
    title = "state"
    parameter_name = "state"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        return [("unused", "Not redeemed"), ("redeemed", "Redeemed"), ("void", "Void")]

    def queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> QuerySet[Any]:
        match self.value():
            case "unused":
                return queryset.filter(redeemed_at=None, voided_at=None)
            case "redeemed":
                return queryset.exclude(redeemed_at=None)
            case "void":
                return queryset.exclude(voided_at=None)
        return queryset


@admin.register(RedemptionCode)
class RedemptionCodeAdmin(WorkAdmin):
    empty_text = "No codes yet. “Make codes” makes some."
    actions_list = ("make_codes",)
    actions_detail = ("void",)
    actions: Any = ("void_selected",)
    list_display = (
        "recognised_by",
        "campaign",
        "kind",
        "code_amount",
        "state_badge",
        "bound_to",
        "expires_at",
        "redeemed_by_link",
        "created_at",
    )
    list_filter = (CodeStateFilter, ("created_at", DaysFilter))
    list_select_related = ("customer", "redeemed_by")
    sortable_by = ()
    search_fields = ("campaign", "public_id__exact", "prefix__exact", "last4__exact", "redeemed_by__public_id__exact")
    search_help_text = "Campaign, rc_… id, first or last four characters, or the cus_… id of who redeemed it"
    fields = (
        ("public_id", "recognised_by"),
        ("campaign", "state_badge"),
        ("kind", "code_amount"),
        ("bound_to", "expires_at"),
        ("credit_expires_at", "credit_days"),
        ("made_by", "created_at"),
        ("redeemed_by_link", "redeemed_at", "grant_link"),
        ("voided_by", "voided_at"),
        "voided_because",
    )

    def get_queryset(self, request: HttpRequest) -> QuerySet[RedemptionCode]:
        queryset: QuerySet[RedemptionCode] = super().get_queryset(request)
        return queryset.defer("digest")

    def has_make_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return request.user.has_perm("billing.add_redemptioncode")

    @action(description="Make codes", url_path="make", icon="add", permissions=["make"])
    def make_codes(self, request: HttpRequest) -> HttpResponse:
        form = CodesForm(request.POST) if request.method == "POST" else CodesForm.fresh()
        back = html.list_url(RedemptionCode)
        if form.is_bound and form.is_valid() and (codes := form.make(request)) is not None:
            return self.show_codes(request, codes, back=back)
        return self.ask_form(
            request,
            form,
            title="Make redemption codes",
            button="Make codes",
            text="The codes are shown once, on the next page. Only their first and last characters are kept readable.",
            back=back,
        )

    def show_codes(self, request: HttpRequest, codes: list[str], *, back: str) -> TemplateResponse:
        """The one page that ever shows them: in no message, cookie, session or log, and not to be cached."""
        csv = "\r\n".join(["code", *codes, ""]).encode()
        context = {
            **self.admin_site.each_context(request),
            "opts": self.opts,
            "title": f"{len(codes):,} redemption codes" if len(codes) > 1 else "One redemption code",
            "codes": "\n".join(codes),
            "csv": base64.b64encode(csv).decode(),
            "back": back,
        }
        return TemplateResponse(request, "admin/codes.html", context, headers={"Cache-Control": "no-store"})

    @action(description="Void", url_path="void", icon="block", permissions=["work"])
    def void(self, request: HttpRequest, object_id: str) -> HttpResponse:
        code = self.get_object(request, object_id)
        if code is None:
            messages.error(request, "There is no such code.")
            return see_other(html.list_url(RedemptionCode))
        back = html.object_url(RedemptionCode, code.pk)
        form = ReasonForm(request.POST if request.method == "POST" else None)
        if form.is_valid():
            self.void_rows(request, [code], form.cleaned_data["reason"])
            return see_other(back)
        return self.ask_form(
            request,
            form,
            title=f"Void {code}",
            button="Void",
            text="Whoever has it gets no credit for it any more. What it has given already is voided as a grant.",
            back=back,
            is_dangerous=True,
        )

    @admin.action(description="Void", permissions=["work"])
    def void_selected(self, request: HttpRequest, queryset: QuerySet[RedemptionCode]) -> HttpResponse | None:
        codes = list(queryset)
        # The list's own form has sent no reason; the page that asks for it posts the same action again.
        form = ReasonForm(request.POST if "reason" in request.POST else None)
        if form.is_valid():
            self.void_rows(request, codes, form.cleaned_data["reason"])
            return None
        return self.ask_form(
            request,
            form,
            title=f"Void {len(codes):,} codes",
            button="Void",
            text="Whoever has one gets no credit for it any more. What was redeemed or voided before stays as it is.",
            back=html.list_url(RedemptionCode),
            is_dangerous=True,
            hidden=[("action", "void_selected"), *((ACTION_CHECKBOX_NAME, str(code.pk)) for code in codes)],
        )

    def void_rows(self, request: HttpRequest, codes: list[RedemptionCode], reason: str) -> None:
        done = redemption.void_codes(
            code_ids=[code.pk for code in codes],
            reason=reason,
            actor=request.user.get_username(),
            at=timezone.now(),
        )
        for code in codes:
            if code.pk in done:
                self.log_change(request, code, f"Voided: {reason}")
        messages.success(request, f"{len(done):,} voided; what was redeemed or voided before stays as it is.")

    @display(description="Recognised by")
    def recognised_by(self, obj: RedemptionCode) -> str:
        return f"{obj.prefix}…{obj.last4}"

    @display(description="Amount")
    def code_amount(self, obj: RedemptionCode) -> str:
        return amount_text(obj.amount)

    @display(description="State", label=CODE_TONES)
    def state_badge(self, obj: RedemptionCode) -> str:
        return state_of(obj)

    @display(description="For")
    def bound_to(self, obj: RedemptionCode) -> str:
        return html.link(html.object_url(Customer, obj.customer_id), obj.customer.name) if obj.customer else "whoever"

    @display(description="Redeemed by")
    def redeemed_by_link(self, obj: RedemptionCode) -> str:
        if obj.redeemed_by is None:
            return html.NOTHING
        return html.link(html.object_url(Customer, obj.redeemed_by_id), obj.redeemed_by.name)

    @display(description="Grant")
    def grant_link(self, obj: RedemptionCode) -> str:
        return html.hot_link(Grant, obj.redeemed_by_id or 0, obj.grant_id)


@admin.register(RedemptionGuesses)
class RedemptionGuessesAdmin(CustomerColumn, ReadOnlyAdmin):
    empty_text = "No customer has tried a code yet."
    list_display = ("since", "customer_link", "failures")
    list_filter = (CustomerFilter, ("since", DaysFilter))
    list_select_related = ("customer",)
    ordering = ("-since",)
    search_fields = ("customer__name", "customer__public_id__exact")
    search_help_text = "Customer's name or cus_… id"
    fields = ("customer_link", "since", "failures")
