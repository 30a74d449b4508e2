"""Closings of months: how far each is, who is parked and why, and the buttons that start one or try again."""

from datetime import date
from typing import Any

from django import forms
from django.contrib import admin, messages
from django.db import transaction
from django.http import HttpRequest, HttpResponse
from django.utils import timezone
from unfold.decorators import action, display
from unfold.widgets import UnfoldAdminTextInputWidget

from billing import period_closing
from billing.admin import alarms, html
from billing.admin.account_actions import sentence, who
from billing.admin.base import Figure, OperatorChangeList, Panel, Question, ReadOnlyAdmin, WorkAdmin, see_other
from billing.admin.filters import CustomerFilter, DaysFilter
from billing.admin.ledger import CustomerColumn
from billing.models import CustomerClosing, Invoice, PeriodClosing
from billing.period_closing import Progress
from metering import statements
from metering.tasks import share_out, work_off_closing

STATE_TONES = {"done": "success", "running": "info", "parked customers": "danger", "single customers": ""}
ROW_TONES = {"waiting": "info", "issued": "success", "nothing": "", "parked": "danger"}
ROWS = 100


def state_of(closing: PeriodClosing, progress: Progress) -> str:
    if progress.waiting:
        return "running"
    if progress.parked:
        return "parked customers"
    return "done" if closing.listed_at else "single customers"


class MonthForm(forms.Form):
    period = forms.CharField(
        label="Month",
        max_length=7,
        widget=UnfoldAdminTextInputWidget,
        help_text="Such as 2026-11; it must be over. Months before it that are still open stand on the same invoices.",
    )

    def clean_period(self) -> date:
        try:
            return statements.read_month(self.cleaned_data["period"])
        except statements.InvalidMonth as error:
            raise forms.ValidationError(sentence(error)) from error


class ClosingList(OperatorChangeList):
    def get_results(self, request: HttpRequest) -> None:
        super().get_results(request)
        found = period_closing.progress_of(list(self.result_list), at=timezone.now())
        for closing in self.result_list:
            closing.__dict__["progress"] = found[closing.pk]


@admin.register(PeriodClosing)
class PeriodClosingAdmin(WorkAdmin):
    empty_text = "No month was closed yet. The schedule closes each when its grace period has ended."
    list_display = ("period_text", "state_badge", "done_text", "parked_count", "begun_at", "begun_by_text", "ended_at")
    list_filter = (("begun_at", DaysFilter),)
    sortable_by = ()
    actions_list = ("close_month",)
    actions_detail = ("try_again",)
    fields = (("period_text", "state_badge"), ("begun_at", "begun_by_text"), ("listed_at", "ended_at"))

    def get_changelist(self, request: HttpRequest, **kwargs: Any) -> type[OperatorChangeList]:
        return ClosingList

    def progress(self, obj: PeriodClosing) -> Progress:
        """How far it is; the list has looked for all that it shows."""
        known: Progress | None = obj.__dict__.get("progress")
        return known or period_closing.progress_of([obj], at=timezone.now())[obj.pk]

    @display(description="Month", ordering="period")
    def period_text(self, obj: PeriodClosing) -> str:
        return str(obj)

    @display(description="State", label=STATE_TONES)
    def state_badge(self, obj: PeriodClosing) -> str:
        return state_of(obj, self.progress(obj))

    @display(description="Closed")
    def done_text(self, obj: PeriodClosing) -> str:
        found = self.progress(obj)
        return f"{found.issued + found.nothing:,} of {found.customers:,}"

    @display(description="Parked")
    def parked_count(self, obj: PeriodClosing) -> str:
        count = self.progress(obj).parked
        return html.badge(f"{count:,}", "danger") if count else html.NOTHING

    @display(description="Begun by")
    def begun_by_text(self, obj: PeriodClosing) -> str:
        return obj.begun_by or "the schedule"

    def figures(self, request: HttpRequest, obj: Any) -> list[Figure]:
        found = period_closing.progress_of([obj], at=timezone.now())[obj.pk]
        issued = html.list_url(Invoice, f"period__exact={obj.period}")
        rows = f"closing__id__exact={obj.pk}"
        of = {name: html.list_url(CustomerClosing, f"{rows}&status__exact={name}") for name in ("nothing", "parked")}
        ends = html.moment(found.ends_at) if found.ends_at else html.NOTHING
        share = f"of {found.customers:,} customers with usage"
        return [
            Figure("Issued", f"{found.issued:,}", share, issued),
            Figure("Nothing to invoice", f"{found.nothing:,}", "closed before, or nothing left", of["nothing"]),
            Figure(
                "Parked", f"{found.parked:,}", "figures don't agree", of["parked"], "danger" if found.parked else ""
            ),
            Figure("Remaining", f"{found.waiting:,}", "customers", tone="info" if found.waiting else ""),
            Figure("Rate", f"{found.per_second:,.1f}", "a second" + (", in the last minute" if found.waiting else "")),
            Figure("Estimated end", ends, "UTC" if found.ends_at else "nothing is running"),
        ]

    def panels(self, request: HttpRequest, obj: Any) -> list[Panel]:
        rows = CustomerClosing.objects.filter(closing=obj, status="parked").select_related("customer").order_by("pk")
        return [
            Panel(
                title="Parked: nothing was issued for these",
                headers=("Customer", "Difference", "At (UTC)"),
                rows=[
                    (
                        html.link(html.object_url(type(row.customer), row.customer_id), row.customer.name),
                        row.difference,
                        html.moment(row.ended_at),
                    )
                    for row in rows[:ROWS]
                ],
                empty="Nobody is parked.",
                note="check_ledger says more about each. Once the figures agree, “Try again” issues the invoices.",
                url=html.list_url(CustomerClosing, f"closing__id__exact={obj.pk}&status__exact=parked"),
            )
        ]

    @action(description="Close a month…", url_path="close-month", icon="event_available", permissions=["work"])
    def close_month(self, request: HttpRequest) -> HttpResponse:
        """What the schedule does, for a month that it missed."""
        due, _ = statements.due_month(at=timezone.now())
        initial = {"period": request.GET.get("period", f"{due:%Y-%m}")}
        form = MonthForm(request.POST) if request.method == "POST" else MonthForm(initial=initial)
        if form.is_valid():
            try:
                closing = statements.begin(period=form.cleaned_data["period"], at=timezone.now(), actor=who(request))
            except statements.PeriodNotOver as error:
                form.add_error("period", sentence(error))
            else:
                self._set_to_work(request, closing, "Started by hand.")
                messages.success(request, f"{closing} is being closed; this page tells how far it is.")
                return see_other(html.object_url(PeriodClosing, closing.pk))
        return self.ask_form(
            request,
            form,
            title="Close a month",
            button="Close the month",
            back=html.list_url(PeriodClosing),
            text="Every customer with usage in it gets an invoice, at once: the grace period for late usage is not"
            " waited for. What was issued before stays; usage that comes later stands on the next invoice.",
            is_dangerous=True,
        )

    @action(description="Try again", url_path="try-again", icon="replay", permissions=["work"])
    def try_again(self, request: HttpRequest, object_id: str) -> HttpResponse:
        closing = self.get_object(request, object_id)
        if closing is None:
            messages.error(request, "There is no such closing.")
            return see_other(html.list_url(PeriodClosing))
        back = html.object_url(PeriodClosing, closing.pk)
        if request.method != "POST":
            text = "Parked customers are looked at again, and whoever has usage by now. Nothing is issued twice."
            return self.ask(request, Question(f"Try {closing} again", text, "Try again", back, is_dangerous=False))
        statements.begin(period=closing.period, at=timezone.now(), actor=who(request))
        self._set_to_work(request, closing, "Tried again.")
        messages.success(request, "Workers are at it now; reload the page to see how far they are.")
        return see_other(back)

    def _set_to_work(self, request: HttpRequest, closing: PeriodClosing, what: str) -> None:
        def work() -> None:
            work_off_closing.delay(closing_id=closing.pk)
            share_out(closing)

        transaction.on_commit(work)
        self.log_change(request, closing, what)


@admin.register(CustomerClosing)
class CustomerClosingAdmin(CustomerColumn, ReadOnlyAdmin):
    empty_text = "Nobody's month was closed yet."
    list_display = ("closing", "customer_link", "status_badge", "difference", "ended_at")
    list_filter = ("status", "closing", CustomerFilter)
    list_select_related = ("closing", "customer")
    search_fields = ("customer__name", "customer__public_id__exact")
    search_help_text = "Customer's name or cus_… id"
    sortable_by = ()
    fields = (("closing", "customer_link"), ("status_badge", "ended_at"), "difference")

    @display(description="Status", label=ROW_TONES)
    def status_badge(self, obj: CustomerClosing) -> str:
        return obj.status


def _where(alarm: Any) -> str:
    """Where its closing is; for one that nobody began, where to begin it."""
    found = PeriodClosing.objects.filter(period=f"{alarm.subject}-01").first()
    if alarm.kind.endswith(".missed") or found is None:
        return html.action_url(PeriodClosing, "close_month") + f"?period={alarm.subject}"
    return html.object_url(PeriodClosing, found.pk)


alarms.WHERE[statements.SOURCE] = _where
