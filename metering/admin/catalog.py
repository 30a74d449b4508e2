"""Models, their names, channels and plans: what the operator may change in the price book."""

from typing import Any

from django import forms
from django.contrib import admin
from django.db.models import Count, QuerySet
from django.http import HttpRequest
from unfold.contrib.filters.admin import AutocompleteSelectFilter
from unfold.decorators import display

from billing.admin import html
from billing.admin.base import OperatorAdmin, Panel
from billing.admin.forms import LinesField
from metering.admin.price_panels import alias_panel, price_panel
from metering.models import Channel, Model, ModelAlias, PriceSet
from metering.price_writing import OPERATOR, record_change


class PriceBookAdmin(OperatorAdmin):
    """A page whose every save gives the price book a new version, in the same transaction: caches go by it."""

    def save_related(self, request: HttpRequest, form: Any, formsets: Any, change: bool) -> None:
        super().save_related(request, form, formsets, change)
        _new_version(request, f"{'Changed' if change else 'Added'}: {_name(form.instance)}")

    def delete_model(self, request: HttpRequest, obj: Any) -> None:
        name = _name(obj)
        super().delete_model(request, obj)
        _new_version(request, f"Deleted: {name}")

    def delete_queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> None:
        names = ", ".join(_name(obj) for obj in queryset)
        super().delete_queryset(request, queryset)
        _new_version(request, f"Deleted: {names}")


def _name(obj: Any) -> str:
    return f"{obj._meta.verbose_name} {obj}"


def _new_version(request: HttpRequest, summary: str) -> None:
    record_change(who=request.user.get_username(), source=OPERATOR, summary=summary)


class ChannelForm(forms.ModelForm):
    source_names = LinesField(help_text="The names the price source uses for it, one a line.")

    class Meta:
        model = Channel
        fields = ("name", "label", "source_names")


@admin.register(Channel)
class ChannelAdmin(PriceBookAdmin):
    form = ChannelForm
    list_display = ("name", "label", "source_list")
    search_fields = ("name", "label")
    search_help_text = "Name or label"

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Usage points at it for ever."""
        return False

    def get_readonly_fields(self, request: HttpRequest, obj: Any = None) -> tuple[str, ...]:
        """Relays report it by this name."""
        return () if obj is None else ("name",)

    @display(description="Names at the price source")
    def source_list(self, obj: Channel) -> str:
        return ", ".join(obj.source_names)


@admin.register(Model)
class ModelAdmin(PriceBookAdmin):
    empty_text = "No models yet; “python manage.py import_prices” loads the price book."
    list_display = (
        "public_id",
        "label",
        "maker",
        "context_amount",
        "output_amount",
        "us_multiplier",
        "alias_amount",
        "created_at",
    )
    list_filter = ("maker", "created_at")
    list_select_related = ("maker",)
    search_fields = ("public_id", "label", "aliases__name__exact")
    search_help_text = "A part of its id or label, or a whole alias"
    fields = ("public_id", "label", "maker", "context_window", "max_output_tokens", "us_multiplier")

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Usage points at it for ever."""
        return False

    def get_readonly_fields(self, request: HttpRequest, obj: Any = None) -> tuple[str, ...]:
        """What decides prices stays once something was priced by it."""
        if obj is None:
            return ()
        is_used = PriceSet.objects.filter(content__model=obj.public_id).exists()
        return ("public_id", "maker", "us_multiplier") if is_used else ("public_id",)

    def get_queryset(self, request: HttpRequest) -> QuerySet[Model]:
        queryset: QuerySet[Model] = super().get_queryset(request)
        return queryset.annotate(names=Count("aliases"))

    def panels(self, request: HttpRequest, obj: Any) -> list[Panel]:
        return [price_panel(obj), alias_panel(obj)]

    @display(description="Context window", ordering="context_window")
    def context_amount(self, obj: Model) -> str:
        return html.quantity(obj.context_window)

    @display(description="Most output", ordering="max_output_tokens")
    def output_amount(self, obj: Model) -> str:
        return html.quantity(obj.max_output_tokens)

    @display(description="Aliases", ordering="names")
    def alias_amount(self, obj: Any) -> str:
        return html.quantity(obj.names)


@admin.register(ModelAlias)
class ModelAliasAdmin(PriceBookAdmin):
    list_display = ("name", "model")
    list_filter = (("model", AutocompleteSelectFilter), "model__maker")
    list_select_related = ("model",)
    search_fields = ("name", "model__public_id")
    search_help_text = "Alias or model"
    autocomplete_fields = ("model",)
