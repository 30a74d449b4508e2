"""Adjustments by hand, with those that wait for a second person; and the record of what was done with accounts."""

from collections.abc import Callable
from typing import Any

from django.contrib import admin, messages
from django.http import HttpRequest, HttpResponse
from django.template.response import TemplateResponse
from django.utils import timezone
from unfold.dataclasses import UnfoldAction
from unfold.decorators import action, display

from billing import credits, manual, write_offs
from billing.accounts import AccountClosed
from billing.admin import html
from billing.admin.account_actions import person_of, sentence, told
from billing.admin.account_forms import NoteForm
from billing.admin.base import Question, ReadOnlyAdmin, see_other
from billing.admin.customer_panels import customer_figures
from billing.admin.filters import CustomerFilter, DaysFilter
from billing.admin.ledger import CustomerColumn
from billing.models import Account, AccountChange, Transfer, WalletAdjustment
from relayadmin.money import amount_text

STATUS_TONES = {"pending": "warning", "posted": "success", "rejected": "danger", "withdrawn": ""}
CHANGE_TONES = {
    "credit limit": "info",
    "suspended": "warning",
    "resumed": "success",
    "closed": "danger",
    "reopened": "",
}


def permission_for(kind: str) -> str:
    """Who may ask for an adjustment of this kind, and decide on one."""
    is_write_off = kind == WalletAdjustment.Kind.WRITE_OFF
    return "billing.write_off_debt" if is_write_off else "billing.adjust_wallet"


@admin.register(WalletAdjustment)
class WalletAdjustmentAdmin(CustomerColumn, ReadOnlyAdmin):
    empty_text = "Nothing was adjusted by hand yet; a customer's page has “Adjust” and “Write debt off”."
    list_display = (
        "public_id",
        "customer_link",
        "kind",
        "status_badge",
        "asked_amount",
        "reason",
        "asked_by",
        "decided_by",
        "asked_at",
    )
    list_filter = ("status", "kind", CustomerFilter, ("asked_at", DaysFilter))
    list_select_related = ("customer",)
    search_fields = ("public_id__exact", "document__exact", "customer__name", "customer__public_id__exact")
    search_help_text = "adj_… id, document, customer's name or cus_… id"
    sortable_by = ("asked_at",)
    actions_detail = ("approve", "reject")
    fields = (
        ("public_id", "customer_link"),
        ("kind", "status_badge"),
        ("asked_amount", "posted_amount_text", "unpaid_amount"),
        ("account_name", "may_make_debt", "expires_at"),
        ("reason", "document"),
        ("asked_by", "asked_at"),
        ("decided_by", "decided_at"),
        "note",
        "transfer_link",
    )

    def has_decide_permission(self, request: HttpRequest, object_id: Any = None) -> bool:
        row = self.get_object(request, str(object_id)) if object_id is not None else None
        return row is None or bool(request.user.has_perm(permission_for(row.kind)))

    def get_actions_detail(self, request: HttpRequest, object_id: Any) -> list[UnfoldAction]:
        row = self.get_object(request, str(object_id))
        if row is None or row.status != WalletAdjustment.Status.PENDING:
            return []
        shown: list[UnfoldAction] = super().get_actions_detail(request, object_id)
        is_own = row.asked_by_user_id == request.user.pk
        return [one for one in shown if not (is_own and one.action_name.endswith("_approve"))]

    @action(description="Approve", url_path="approve", icon="check", permissions=["decide"])
    def approve(self, request: HttpRequest, object_id: str) -> HttpResponse:
        row = self.get_object(request, object_id)
        if row is None or request.method != "POST":
            return self._ask_to_approve(request, row)
        return self._decide(
            request,
            row,
            lambda: manual.approve(adjustment_id=row.pk, person=person_of(request), at=timezone.now()),
        )

    @action(description="Reject", url_path="reject", icon="block", permissions=["decide"])
    def reject(self, request: HttpRequest, object_id: str) -> HttpResponse:
        row = self.get_object(request, object_id)
        if row is None:
            return self._ask_to_approve(request, None)
        form = NoteForm(request.POST) if request.method == "POST" else NoteForm()
        if form.is_valid():
            note = form.cleaned_data["note"]
            return self._decide(
                request,
                row,
                lambda: manual.reject(adjustment_id=row.pk, person=person_of(request), note=note, at=timezone.now()),
            )
        context = {
            **self.admin_site.each_context(request),
            "opts": self.opts,
            "title": f"Reject: {_summary(row)}",
            "text": "Nothing is posted. It can't be approved after that; who still wants it asks anew.",
            "button": "Reject",
            "is_dangerous": True,
            "form": form,
            "back": html.object_url(WalletAdjustment, row.pk),
        }
        return TemplateResponse(request, "admin/act.html", context)

    def _ask_to_approve(self, request: HttpRequest, row: WalletAdjustment | None) -> HttpResponse:
        if row is None:
            messages.error(request, "There is no such adjustment.")
            return see_other(html.list_url(WalletAdjustment))
        question = Question(
            title=f"Approve: {_summary(row)}",
            text=f"{row.asked_by} asked for it: {row.reason}. It is posted at once, and stays in the ledger.",
            button="Approve and post",
            back=html.object_url(WalletAdjustment, row.pk),
            is_dangerous=False,
        )
        return self.ask(request, question)

    def _decide(
        self, request: HttpRequest, row: WalletAdjustment, decide: Callable[[], WalletAdjustment]
    ) -> HttpResponse:
        back = see_other(html.object_url(WalletAdjustment, row.pk))
        try:
            decided = decide()
        except manual.AlreadyDecided as error:
            messages.info(request, sentence(error))
            return back
        except (
            manual.SamePerson,
            manual.TooLittleCredit,
            write_offs.NothingOwed,
            credits.InvalidGrant,
            AccountClosed,
        ) as error:
            messages.error(request, f"{sentence(error)} It goes on waiting.")
            return back
        self.log_change(request, decided, f"{decided.get_status_display()}.")
        is_posted = decided.status == WalletAdjustment.Status.POSTED
        messages.success(request, told(decided) if is_posted else f"{decided.get_status_display()}; nothing is posted.")
        return back

    def figures(self, request: HttpRequest, obj: Any) -> list[Any]:
        return customer_figures(obj.customer)

    @display(description="Status", label=STATUS_TONES)
    def status_badge(self, obj: WalletAdjustment) -> str:
        return obj.status

    @display(description="Amount", ordering="amount")
    def asked_amount(self, obj: WalletAdjustment) -> str:
        return html.amount(obj.amount)

    @display(description="Posted")
    def posted_amount_text(self, obj: WalletAdjustment) -> str:
        return html.amount(obj.posted_amount)

    @display(description="Became debt")
    def unpaid_amount(self, obj: WalletAdjustment) -> str:
        return html.amount(obj.unpaid)

    @display(description="Account")
    def account_name(self, obj: WalletAdjustment) -> str:
        return Account(obj.account).label if obj.account else html.NOTHING

    @display(description="Transfer")
    def transfer_link(self, obj: WalletAdjustment) -> str:
        return html.hot_link(Transfer, obj.customer_id, obj.transfer_id)


def _summary(row: WalletAdjustment) -> str:
    return f"{row.get_kind_display()} of {amount_text(row.amount)} USD for {row.customer.name}"


@admin.register(AccountChange)
class AccountChangeAdmin(CustomerColumn, ReadOnlyAdmin):
    empty_text = "No account was changed yet: no credit limit set, nobody suspended or closed."
    list_display = ("created_at", "customer_link", "kind_badge", "cause", "before", "after", "reason", "actor")
    list_filter = ("kind", "cause", CustomerFilter, ("created_at", DaysFilter))
    list_select_related = ("customer",)
    search_fields = ("customer__name", "customer__public_id__exact", "actor__exact")
    search_help_text = "Customer's name, cus_… id, or who did it"
    sortable_by = ()
    fields = (
        ("customer_link", "created_at"),
        ("kind_badge", "cause"),
        ("before", "after"),
        ("reason", "actor"),
        "details_json",
    )

    @display(description="What", label=CHANGE_TONES)
    def kind_badge(self, obj: AccountChange) -> str:
        return obj.get_kind_display().lower()

    @display(description="Details")
    def details_json(self, obj: AccountChange) -> str:
        return html.pretty_json(obj.details or None)
