"""The operator's settings and the runs of scheduled jobs."""

from collections.abc import Callable, Iterable
from typing import Any, ClassVar

from django import forms
from django.contrib import admin
from django.db import transaction
from django.db.models import Q, QuerySet
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from unfold.contrib.filters.admin import DropdownFilter
from unfold.decorators import display

from billing import jobs
from billing.admin import html
from billing.admin.base import OperatorAdmin, ReadOnlyAdmin
from billing.admin.filters import DaysFilter, NamedFilter
from billing.admin.forms import AmountFormField, LinesField
from billing.models import JobRun, OperatorSettings
from relayadmin.money import InvalidAmount, has_decimals, parse_amount

RUN_TONES = {"done": "success", "running": "info", "killed": "danger", "failed": "danger"}


class OperatorSettingsForm(forms.ModelForm):
    second_person_above = AmountFormField(
        label="Second person above (USD)",
        required=False,
        max_length=40,
        help_text="Credits, debits, write-offs and payments by hand above this wait for a second person. Empty: never.",
    )
    suspend_debt_above = AmountFormField(
        label="Suspend debt above (USD)",
        required=False,
        max_length=40,
        help_text="Who owes more than this beyond the credit limit is suspended until it is paid. Empty: never.",
    )

    top_up_minimum = AmountFormField(label="Smallest top-up (USD)", max_length=40)
    top_up_maximum = AmountFormField(label="Largest top-up (USD)", max_length=40)
    top_up_presets = LinesField(
        label="Amounts to choose from (USD)", help_text="One a line, such as 50.00; customers can write others too."
    )
    first_bonus_percent = AmountFormField(
        label="First top-up bonus (%)",
        max_length=10,
        help_text="Given once, as promotional credit, with a customer's first paid top-up. 0: none.",
    )
    first_bonus_maximum = AmountFormField(
        label="Bonus at most (USD)", required=False, max_length=40, help_text="Empty: no limit."
    )
    low_balance_below = AmountFormField(
        label="Low balance below (USD)",
        max_length=40,
        help_text="Customers who set nothing themselves are told when less than this is left. 0: never.",
    )

    class Meta:
        model = OperatorSettings
        fields = "__all__"  # noqa: DJ007

    def clean(self) -> dict[str, Any]:
        cleaned: dict[str, Any] = super().clean() or {}
        for name in ("second_person_above", "suspend_debt_above", "low_balance_below"):
            if cleaned.get(name) is not None and cleaned[name] < 0:
                self.add_error(name, "It must not be below zero.")
        self._check_top_ups(cleaned)
        return cleaned

    def _check_top_ups(self, cleaned: dict[str, Any]) -> None:
        least, most = cleaned.get("top_up_minimum"), cleaned.get("top_up_maximum")
        if least is not None and least <= 0:
            self.add_error("top_up_minimum", "It must be above zero.")
        if least is not None and most is not None and most < least:
            self.add_error("top_up_maximum", "It must not be below the smallest.")
        for preset in cleaned.get("top_up_presets") or ():
            try:
                amount = parse_amount(preset)
            except InvalidAmount as error:
                self.add_error("top_up_presets", f"{preset}: {error}.")
                continue
            if amount <= 0 or not has_decimals(amount, 2):
                self.add_error("top_up_presets", f"{preset} must be above zero, in whole cents.")
        percent, bonus = cleaned.get("first_bonus_percent"), cleaned.get("first_bonus_maximum")
        if percent is not None and (not 0 <= percent < 1_000 or not has_decimals(percent, 2)):
            self.add_error("first_bonus_percent", "It must be from 0 to below 1000, with at most two decimals.")
        if bonus is not None and (bonus <= 0 or not has_decimals(bonus, 2)):
            self.add_error("first_bonus_maximum", "It must be above zero, in whole cents; empty for no limit.")


@admin.register(OperatorSettings)
class OperatorSettingsAdmin(OperatorAdmin):
    form = OperatorSettingsForm
    list_display = ("name", "timezone", "closing_grace_hours")
    # What is to be started once the time zone has changed; other apps add to it when their admin module is imported.
    after_timezone: ClassVar[list[Callable[[], object]]] = []

    def save_model(self, request: HttpRequest, obj: OperatorSettings, form: Any, change: bool) -> None:
        super().save_model(request, obj, form, change)
        if "timezone" in form.changed_data:
            for start in self.after_timezone:
                # The change stands even where the queue is away; beat starts the same within a minute.
                transaction.on_commit(start, robust=True)

    def has_add_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def changelist_view(self, request: HttpRequest, extra_context: Any = None) -> HttpResponse:
        """There is one row: its list is the row itself."""
        if request.method == "GET" and self.has_view_or_change_permission(request):
            return HttpResponseRedirect(html.object_url(OperatorSettings, 1))
        response: HttpResponse = super().changelist_view(request, extra_context)
        return response


class JobFilter(NamedFilter):
    title = "job"
    parameter_name = "job"
    column = "job"

    def choose(self) -> Iterable[tuple[str, str]]:
        return [(job, job) for job in job_names()]


class OutcomeFilter(DropdownFilter):
    title = "outcome"
    parameter_name = "outcome"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        return [("failed", "Failed"), ("done", "Done"), ("open", "Running or killed")]

    def queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> QuerySet[Any]:
        match self.value():
            case "failed":
                return queryset.exclude(error="")
            case "done":
                return queryset.filter(error="", duration_ms__isnull=False)
            case "open":
                return queryset.filter(error="", duration_ms__isnull=True)
        return queryset


def job_names() -> list[str]:
    """The jobs that have ever run: one look into the index for each, however many rows there are."""
    names: list[str] = []
    following = Q()
    while True:
        name = JobRun.objects.filter(following).order_by("job").values_list("job", flat=True).first()
        if name is None:
            return names
        names.append(name)
        following = Q(job__gt=name)


def run_outcome(run: JobRun) -> str:
    """How a run ended; of one without an end, PostgreSQL is asked whether somebody still runs it."""
    return jobs.outcome_of(run, jobs.killed([run]))


def duration_text(duration_ms: int | None) -> str:
    """A duration as a person says it."""
    if duration_ms is None:
        return html.NOTHING
    if duration_ms < 1_000:
        return f"{duration_ms} ms"
    seconds = duration_ms / 1_000
    return f"{seconds:.1f} s" if seconds < 120 else f"{seconds / 60:.1f} min"


def result_text(run: JobRun) -> str:
    """What a run says it did, on one line."""
    if run.result is None:
        return "nothing to do" if run.duration_ms is not None and not run.error else html.NOTHING
    if isinstance(run.result, dict):
        return ", ".join(filter(None, map(_said, run.result, run.result.values())))[:200] or html.NOTHING
    return str(run.result)[:200]


def _said(name: str, value: Any) -> str:
    """One part of a result as a person says it: "3 expired"; empty if there is nothing to say."""
    words = name.replace("_", " ")
    match value:
        case bool():
            return words if value else f"not {words}"
        case int():
            return f"{value:,} {words.removesuffix('s') if value == 1 else words}"
        case list() if value:
            return f"{len(value):,} {words}"
        case dict() if value:
            parts = [_said(name, number) for name, number in value.items() if number] or ["nothing"]
            return f"{words} " + " and ".join(filter(None, [", ".join(parts[:-1]), parts[-1]]))
    return f"{words} {value}" if value else ""


@admin.register(JobRun)
class JobRunAdmin(ReadOnlyAdmin):
    empty_text = "No job has run yet: are worker and beat running? “make run” starts both."
    list_display = ("job", "outcome_badge", "started_at", "took", "did", "short_error", "who")
    list_filter = (JobFilter, OutcomeFilter, ("started_at", DaysFilter))
    search_fields = ("job",)
    search_help_text = "Name of a job"
    sortable_by = ()
    fields = ("job", "variant", "outcome_badge", "started_at", "took", "who", "result_json", "error_text")

    @display(description="Outcome", label=RUN_TONES)
    def outcome_badge(self, obj: JobRun) -> str:
        return run_outcome(obj)

    @display(description="Begun by")
    def who(self, obj: JobRun) -> str:
        return obj.begun_by or "the timetable"

    @display(description="Took")
    def took(self, obj: JobRun) -> str:
        return duration_text(obj.duration_ms)

    @display(description="Did")
    def did(self, obj: JobRun) -> str:
        return result_text(obj)

    @display(description="Error")
    def short_error(self, obj: JobRun) -> str:
        return jobs.error_line(obj)[:120] or html.NOTHING

    @display(description="What it did")
    def result_json(self, obj: JobRun) -> str:
        return html.pretty_json(obj.result)

    @display(description="Error")
    def error_text(self, obj: JobRun) -> str:
        return html.masked(obj.error)
