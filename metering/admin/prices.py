"""Prices, with what operators do about them; the sets they were used in, and the price book's version."""

from typing import Any

from django.contrib import admin, messages
from django.db.models import Q, QuerySet
from django.http import HttpRequest, HttpResponse
from django.template.response import TemplateResponse
from django.utils import timezone
from unfold.contrib.filters.admin import AutocompleteSelectFilter, DropdownFilter
from unfold.decorators import action, display

from billing.admin import html
from billing.admin.base import Figure, Panel, Question, ReadOnlyAdmin, WorkAdmin, see_other
from metering import price_entry
from metering.admin.price_forms import NewPriceForm, PriceForm
from metering.admin.price_multiples import multiple_of_input, with_input_price
from metering.admin.price_set import set_rows
from metering.models import Price, PriceBookVersion, PriceSet


class InForceFilter(DropdownFilter):
    title = "when"
    parameter_name = "when"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        return [("now", "In force now"), ("announced", "Announced"), ("over", "Over")]

    def queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> QuerySet[Any]:
        now = timezone.now()
        begun = Q(effective_from=None) | Q(effective_from__lte=now)
        match self.value():
            case "now":
                return queryset.filter(begun, Q(effective_until=None) | Q(effective_until__gt=now))
            case "announced":
                return queryset.filter(effective_from__gt=now)
            case "over":
                return queryset.filter(effective_until__lte=now)
        return queryset


class DerivedFilter(DropdownFilter):
    title = "how it came"
    parameter_name = "how"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        return [("given", "Given by the source"), ("derived", "Derived by a rule")]

    def queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> QuerySet[Any]:
        match self.value():
            case "given":
                return queryset.filter(derived="")
            case "derived":
                return queryset.exclude(derived="")
        return queryset


@admin.register(Price)
class PriceAdmin(WorkAdmin):
    """Rows are never edited: an operator enters another price, which begins when this one ends."""

    empty_text = "No prices yet; “python manage.py import_prices” loads the price book."
    actions_list = ("enter_price",)
    actions_detail = ("replace_price", "withdraw_price")
    list_display = (
        "model",
        "kind_badge",
        "channel",
        "variant",
        "meter",
        "tier_amount",
        "unit_price_amount",
        "multiple",
        "begins",
        "effective_until",
        "derived",
    )
    list_filter = (
        "kind",
        "channel",
        ("model", AutocompleteSelectFilter),
        "variant",
        "meter",
        InForceFilter,
        DerivedFilter,
    )
    list_select_related = ("model", "channel")
    sortable_by = ()
    search_fields = ("model__public_id", "meter__exact", "source__exact")
    search_help_text = "A part of a model's id, or a meter"
    fields = (
        ("model", "kind_badge"),
        ("channel", "variant"),
        ("meter", "tier_amount"),
        ("unit_price_amount", "multiple"),
        ("begins", "effective_until"),
        ("daily_from", "daily_until"),
        ("source", "derived"),
        "created_at",
    )

    def get_queryset(self, request: HttpRequest) -> QuerySet[Price]:
        return with_input_price(super().get_queryset(request), timezone.now())

    @action(description="Enter a price", url_path="enter", icon="add", permissions=["work"])
    def enter_price(self, request: HttpRequest) -> HttpResponse:
        form = NewPriceForm(request.POST if request.method == "POST" else None)
        return self._enter(request, form, title="Enter a price", back=html.list_url(Price), figures=[])

    @action(description="Enter another price", url_path="replace", icon="edit", permissions=["work"])
    def replace_price(self, request: HttpRequest, object_id: str) -> HttpResponse:
        row = self.get_object(request, object_id)
        if row is None:
            return see_other(html.list_url(Price))
        sold = f"cost at {row.channel.name}" if row.channel else "list price"
        figures = [
            Figure("Model", row.model.public_id),
            Figure("For", f"{sold}, {row.get_variant_display().lower()}"),
            Figure(
                "Meter",
                row.get_meter_display(),
                f"prompts above {row.above_prompt_tokens:,} tokens"
                if row.above_prompt_tokens
                else "prompts of any size",
            ),
            Figure("This row", f"{row.unit_price.normalize():f}", f"USD per {row.per:,}"),
        ]
        form = PriceForm(request.POST if request.method == "POST" else None, row=row)
        back = html.object_url(Price, row.pk)
        return self._enter(request, form, title="Enter another price", back=back, figures=figures)

    def _enter(
        self, request: HttpRequest, form: PriceForm, *, title: str, back: str, figures: list[Figure]
    ) -> HttpResponse:
        written = form.enter(request) if form.is_bound and form.is_valid() else None
        if written is not None:
            goes_on = " What held before goes on after it." if written.created > 1 else ""
            said = f"The price is entered. Prices that end where it begins: {written.ended:,}.{goes_on}"
            messages.success(request, said)
            return see_other(back)
        context = {
            **self.admin_site.each_context(request),
            "opts": self.opts,
            "title": title,
            "form": form,
            "figures": figures,
            "back": back,
        }
        return TemplateResponse(request, "admin/enter_price.html", context)

    @action(description="Withdraw", url_path="withdraw", icon="undo", permissions=["work"])
    def withdraw_price(self, request: HttpRequest, object_id: str) -> HttpResponse:
        if request.method == "POST":
            try:
                price_entry.withdraw(int(object_id), who=request.user.get_username(), at=timezone.now())
            except price_entry.CannotEnter as error:
                messages.error(request, str(error))
                return see_other(html.object_url(Price, object_id))
            messages.success(request, "The announced price is withdrawn; what it would have ended goes on.")
            return see_other(html.list_url(Price))
        question = Question(
            title="Withdraw an announced price",
            text="It never comes into force, and the price before it goes on. A price that has begun stays.",
            button="Withdraw",
            back=html.object_url(Price, object_id),
        )
        return self.ask(request, question)

    @display(description="Of input")
    def multiple(self, obj: Price) -> str:
        return multiple_of_input(obj)

    @display(description="Kind", label={"cost": "", "list": "info"})
    def kind_badge(self, obj: Price) -> str:
        return "list" if obj.kind == Price.Kind.CHARGE else "cost"

    @display(description="Prompts above", ordering="above_prompt_tokens")
    def tier_amount(self, obj: Price) -> str:
        return html.quantity(obj.above_prompt_tokens) if obj.above_prompt_tokens else html.NOTHING

    @display(description="Unit price", ordering="unit_price")
    def unit_price_amount(self, obj: Price) -> str:
        return html.unit_price(obj.unit_price, obj.per)

    @display(description="From", ordering="effective_from")
    def begins(self, obj: Price) -> str:
        return html.moment(obj.effective_from) if obj.effective_from else "always"


@admin.register(PriceSet)
class PriceSetAdmin(ReadOnlyAdmin):
    list_display = ("number", "model_name", "channel_name", "plan_name", "meter_list", "created_at")
    search_fields = ("id__exact", "content__model")
    search_help_text = "Number, or a model's id"
    fields = ("number", "model_name", "channel_name", "plan_name", "created_at")

    def get_search_results(
        self, request: HttpRequest, queryset: QuerySet[Any], search_term: str
    ) -> tuple[QuerySet[Any], bool]:
        term = search_term.strip()
        if not term or "\x00" in term:
            return (queryset.none() if term else queryset), False
        if term.isdecimal() and len(term) < 19:
            return queryset.filter(pk=int(term)), False
        return queryset.filter(content__model=term), False

    def panels(self, request: HttpRequest, obj: Any) -> list[Panel]:
        return [
            Panel(
                title="Unit prices",
                headers=("Meter", "Charge", "Cost", "Charge price row", "Cost price row"),
                rows=set_rows(obj),
                numbers=frozenset({1, 2}),
            )
        ]

    @display(description="No.", ordering="id")
    def number(self, obj: PriceSet) -> str:
        return str(obj.pk)

    @display(description="Model")
    def model_name(self, obj: PriceSet) -> str:
        return str(obj.content.get("model", html.NOTHING))

    @display(description="Channel")
    def channel_name(self, obj: PriceSet) -> str:
        return str(obj.content.get("channel", html.NOTHING))

    @display(description="Plan")
    def plan_name(self, obj: PriceSet) -> str:
        return str(obj.content.get("plan", html.NOTHING))

    @display(description="Meters")
    def meter_list(self, obj: PriceSet) -> str:
        return ", ".join(obj.content.get("meters", {}))


@admin.register(PriceBookVersion)
class PriceBookVersionAdmin(ReadOnlyAdmin):
    list_display = ("version", "changed_at")
    search_fields = ("version__exact",)
