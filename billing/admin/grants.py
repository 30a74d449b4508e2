"""Credit grants, what used them and what came back; voiding and extending; grants that begin later."""

from typing import Any

from django.contrib import admin, messages
from django.db.models import QuerySet
from django.http import HttpRequest, HttpResponse
from django.utils import timezone
from unfold.contrib.filters.admin import DropdownFilter
from unfold.decorators import action, display

from billing import scheduled_grants
from billing.admin import html
from billing.admin.base import Figure, Panel, ReadOnlyAdmin, WorkAdmin, see_other
from billing.admin.filters import CustomerFilter, DaysFilter
from billing.admin.grant_forms import CancelForm, ExtendForm, VoidForm
from billing.admin.hot import HotModelAdmin
from billing.admin.ledger import CustomerColumn
from billing.models import Grant, GrantChange, GrantReturn, GrantUse, ScheduledGrant, Transfer, Wallet
from relayadmin.money import ZERO, amount_text

GRANT_TONES = {"paid": "success", "promotional": "info", "goodwill": "warning"}
SCHEDULED_TONES = {"waits": "info", "begun": "success", "cancelled": ""}
VOIDING = (
    "What is left goes back to where it came from, at most the balance less what running requests hold. What they hold"
    " stays until they end; what they don’t use then is taken within a minute."
)
EXTENDING = "What has expired before is not given back by this: give it anew, as goodwill."


@admin.register(Grant)
class GrantAdmin(CustomerColumn, HotModelAdmin, WorkAdmin):
    list_display = (
        "public_id",
        "customer_link",
        "kind_badge",
        "given_amount",
        "remaining_amount",
        "expires_at",
        "reason",
        "created_at",
    )
    list_filter = (CustomerFilter, "kind", ("expires_at", DaysFilter), ("created_at", DaysFilter))
    actions_detail = ("extend", "void")
    fields = (
        ("public_id", "customer_link"),
        ("kind_badge", "priority"),
        ("given_amount", "remaining_amount"),
        ("created_at", "effective_at"),
        ("expires_at", "voided_at"),
        ("is_refundable", "reference"),
        ("reason", "transfer_link"),
    )
    search_words = "a customer's name, a cus_… or gr_… id, or, with a customer chosen, a reference"
    search_column = "reference"

    def panels(self, request: HttpRequest, obj: Any) -> list[Panel]:
        uses = list(GrantUse.objects.filter(customer_id=obj.customer_id, grant_id=obj.pk).order_by("-transfer_id")[:20])
        kinds = dict(
            Transfer.objects.filter(customer_id=obj.customer_id, pk__in=[use.transfer_id for use in uses]).values_list(
                "pk", "kind"
            )
        )
        changes = GrantChange.objects.filter(customer_id=obj.customer_id, grant_id=obj.pk).order_by("-pk")
        return [
            Panel(
                title="Used by (newest 20)",
                headers=("Transfer", "Kind", "Amount"),
                rows=[
                    (
                        html.hot_link(Transfer, use.customer_id, use.transfer_id),
                        kinds.get(use.transfer_id, html.NOTHING),
                        html.amount(use.amount),
                    )
                    for use in uses
                ],
                numbers=frozenset({2}),
                empty="Nothing has used this grant yet.",
            ),
            Panel(
                title="Changed",
                headers=("What", "Expired before", "Expires now", "Reason", "By", "At"),
                rows=[
                    (
                        change.kind,
                        html.moment(change.expires_before),
                        html.moment(change.expires_after),
                        change.reason,
                        change.actor,
                        html.moment(change.created_at),
                    )
                    for change in changes
                ],
                empty="Nobody has changed this grant.",
            ),
        ]

    @action(description="Void", url_path="void", icon="block", permissions=["work"])
    def void(self, request: HttpRequest, object_id: str) -> HttpResponse:
        grant = self.get_object(request, object_id)
        if grant is None:
            return self.unknown(request)
        form = VoidForm(request.POST if request.method == "POST" else None)
        if form.is_valid() and (voided := form.void(request, grant)) is not None:
            if voided.is_new:
                self.log_change(request, grant, f"Voided: {form.cleaned_data['reason']}")
                rest = f" Running requests hold {amount_text(voided.held_back)} USD of it." if voided.held_back else ""
                messages.success(request, f"Voided. {amount_text(voided.taken)} USD left the wallet.{rest}")
            else:
                messages.info(request, "This grant was voided before.")
            return see_other(html.object_url(Grant, grant.public_id))
        return self.ask_form(
            request,
            form,
            title=f"Void {grant.public_id}",
            button="Void",
            text=VOIDING,
            back=html.object_url(Grant, grant.public_id),
            figures=grant_figures(grant),
            is_dangerous=True,
        )

    @action(description="Extend", url_path="extend", icon="more_time", permissions=["work"])
    def extend(self, request: HttpRequest, object_id: str) -> HttpResponse:
        grant = self.get_object(request, object_id)
        if grant is None:
            return self.unknown(request)
        form = ExtendForm(request.POST) if request.method == "POST" else ExtendForm.fresh()
        if form.is_bound and form.is_valid() and (is_new := form.extend(request, grant)) is not None:
            until = html.moment(form.cleaned_data["expires_at"])
            if is_new:
                self.log_change(request, grant, f"Extended to {until}: {form.cleaned_data['reason']}")
            messages.success(request, f"The grant now expires at {until} UTC.")
            return see_other(html.object_url(Grant, grant.public_id))
        return self.ask_form(
            request,
            form,
            title=f"Extend {grant.public_id}",
            button="Extend",
            text=EXTENDING,
            back=html.object_url(Grant, grant.public_id),
            figures=grant_figures(grant),
        )

    def unknown(self, request: HttpRequest) -> HttpResponse:
        messages.error(request, "There is no such grant.")
        return see_other(html.list_url(Grant))

    @display(description="Kind", label=GRANT_TONES)
    def kind_badge(self, obj: Grant) -> str:
        return obj.kind

    @display(description="Amount")
    def given_amount(self, obj: Grant) -> str:
        return html.amount(obj.amount)

    @display(description="Left")
    def remaining_amount(self, obj: Grant) -> str:
        return html.amount(obj.remaining)

    @display(description="Transfer")
    def transfer_link(self, obj: Grant) -> str:
        return html.hot_link(Transfer, obj.customer_id, obj.transfer_id)


def grant_figures(grant: Grant) -> list[Figure]:
    """What somebody who is about to change a grant should see."""
    wallet = Wallet.objects.get(pk=grant.customer_id)
    free = min(grant.remaining, max(ZERO, wallet.balance - wallet.held))
    return [
        Figure("Customer", grant.customer.name, grant.customer.public_id),
        Figure("Left", amount_text(grant.remaining), f"of {amount_text(grant.amount)} USD, {grant.kind}"),
        Figure("Could be taken now", amount_text(free), "left, and held by no running request"),
        Figure("Expires", html.moment(grant.expires_at) if grant.expires_at else "never", "UTC"),
    ]


class ScheduledStateFilter(DropdownFilter):
    title = "state"
    parameter_name = "state"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        return [("waits", "Waits"), ("begun", "Begun"), ("cancelled", "Cancelled")]

    def queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> QuerySet[Any]:
        match self.value():
            case "waits":
                return queryset.filter(posted_at=None, cancelled_at=None)
            case "begun":
                return queryset.exclude(posted_at=None)
            case "cancelled":
                return queryset.exclude(cancelled_at=None)
        return queryset


@admin.register(ScheduledGrant)
class ScheduledGrantAdmin(CustomerColumn, HotModelAdmin, WorkAdmin):
    empty_text = "No grant waits to begin. “Grant credit” on a customer’s page makes one, with a later beginning."
    list_display = (
        "public_id",
        "customer_link",
        "kind_badge",
        "given_amount",
        "state_badge",
        "effective_at",
        "expires_at",
        "reason",
    )
    list_filter = (CustomerFilter, ScheduledStateFilter, "kind", ("effective_at", DaysFilter))
    actions_detail = ("cancel",)
    fields = (
        ("public_id", "customer_link"),
        ("kind_badge", "state_badge"),
        ("given_amount", "priority"),
        ("effective_at", "expires_at"),
        ("is_refundable", "reference"),
        "reason",
        ("actor", "created_at"),
        ("posted_at", "grant_link"),
        ("cancelled_at", "cancelled_by"),
        "cancelled_because",
    )
    search_words = "a customer's name, a cus_… or gr_… id, or, with a customer chosen, a reference"
    search_column = "reference"
    has_newest = False

    @action(description="Cancel", url_path="cancel", icon="event_busy", permissions=["work"])
    def cancel(self, request: HttpRequest, object_id: str) -> HttpResponse:
        row = self.get_object(request, object_id)
        if row is None:
            messages.error(request, "There is no such grant.")
            return see_other(html.list_url(ScheduledGrant))
        back = html.object_url(ScheduledGrant, row.public_id)
        form = CancelForm(request.POST if request.method == "POST" else None)
        if form.is_valid():
            try:
                is_new = scheduled_grants.cancel(
                    customer_id=row.customer_id,
                    number=row.pk,
                    reason=form.cleaned_data["reason"],
                    actor=request.user.get_username(),
                    at=timezone.now(),
                )
            except scheduled_grants.AlreadyPosted as error:
                messages.error(request, f"{str(error).capitalize()}.")
                return see_other(back)
            if is_new:
                self.log_change(request, row, f"Cancelled: {form.cleaned_data['reason']}")
            messages.success(request, "Cancelled: it will not begin.")
            return see_other(back)
        return self.ask_form(
            request,
            form,
            title=f"Cancel {row.public_id}",
            button="Cancel the grant",
            text=f"{amount_text(row.amount)} USD for {row.customer.name} will not begin at"
            f" {html.moment(row.effective_at)} UTC.",
            back=back,
            is_dangerous=True,
        )

    @display(description="Kind", label=GRANT_TONES)
    def kind_badge(self, obj: ScheduledGrant) -> str:
        return obj.kind

    @display(description="State", label=SCHEDULED_TONES)
    def state_badge(self, obj: ScheduledGrant) -> str:
        if obj.posted_at is not None:
            return "begun"
        return "waits" if obj.cancelled_at is None else "cancelled"

    @display(description="Amount")
    def given_amount(self, obj: ScheduledGrant) -> str:
        return html.amount(obj.amount)

    @display(description="Grant")
    def grant_link(self, obj: ScheduledGrant) -> str:
        return html.hot_link(Grant, obj.customer_id, obj.pk) if obj.posted_at is not None else html.NOTHING


@admin.register(GrantChange)
class GrantChangeAdmin(CustomerColumn, ReadOnlyAdmin):
    empty_text = "Nobody has voided or extended a grant yet."
    list_display = (
        "created_at",
        "customer_link",
        "grant_link",
        "kind",
        "expires_before",
        "expires_after",
        "reason",
        "actor",
    )
    list_filter = (CustomerFilter, "kind", ("created_at", DaysFilter))
    list_select_related = ("customer",)
    sortable_by = ()
    search_fields = ("customer__name", "customer__public_id__exact", "actor__exact")
    search_help_text = "Customer's name or cus_… id, or who did it"
    fields = (
        ("customer_link", "grant_link"),
        ("kind", "created_at"),
        ("expires_before", "expires_after"),
        ("reason", "actor"),
    )

    @display(description="Grant")
    def grant_link(self, obj: GrantChange) -> str:
        return html.hot_link(Grant, obj.customer_id, obj.grant_id)


@admin.register(GrantUse)
class GrantUseAdmin(CustomerColumn, HotModelAdmin):
    list_display = ("public_id", "customer_link", "grant_link", "transfer_link", "used_amount")
    list_filter = (CustomerFilter,)
    fields = ("public_id", "customer_link", "grant_link", "transfer_link", "used_amount")
    search_words = "a customer's name, a cus_…, tr_… or gr_… id"
    search_ids = {"tr": "transfer_id", "gr": "grant_id"}
    has_newest = False
    # A use has no number of its own that an index knows; its grant and its transfer have pages.
    list_display_links = None
    customer_ordering = ("-transfer_id", "-grant_id")

    @display(description="Grant")
    def grant_link(self, obj: GrantUse) -> str:
        return html.hot_link(Grant, obj.customer_id, obj.grant_id)

    @display(description="Transfer")
    def transfer_link(self, obj: GrantUse) -> str:
        return html.hot_link(Transfer, obj.customer_id, obj.transfer_id)

    @display(description="Amount")
    def used_amount(self, obj: GrantUse) -> str:
        return html.amount(obj.amount)


@admin.register(GrantReturn)
class GrantReturnAdmin(CustomerColumn, HotModelAdmin):
    list_display = ("public_id", "customer_link", "grant_link", "transfer_link", "used_by_link", "returned_amount")
    list_filter = (CustomerFilter,)
    fields = ("public_id", "customer_link", "grant_link", "transfer_link", "used_by_link", "returned_amount")
    search_words = "a customer's name, a cus_…, tr_… or gr_… id"
    search_ids = {"tr": "used_by_id", "gr": "grant_id"}
    has_newest = False
    # A return has no number of its own that an index knows; its grant and its transfers have pages.
    list_display_links = None
    customer_ordering = ("-used_by_id", "-grant_id", "-transfer_id")

    @display(description="Grant")
    def grant_link(self, obj: GrantReturn) -> str:
        return html.hot_link(Grant, obj.customer_id, obj.grant_id)

    @display(description="Adjustment")
    def transfer_link(self, obj: GrantReturn) -> str:
        return html.hot_link(Transfer, obj.customer_id, obj.transfer_id)

    @display(description="Had been used by")
    def used_by_link(self, obj: GrantReturn) -> str:
        return html.hot_link(Transfer, obj.customer_id, obj.used_by_id)

    @display(description="Amount")
    def returned_amount(self, obj: GrantReturn) -> str:
        return html.amount(obj.amount)
