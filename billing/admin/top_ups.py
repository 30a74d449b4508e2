"""Payments that customers made: what became of each; bank transfers and cash; money that was refused."""

from collections.abc import Callable
from typing import Any

from django.contrib import admin, messages
from django.http import HttpRequest, HttpResponse
from django.utils import timezone
from unfold.dataclasses import UnfoldAction
from unfold.decorators import action, display

from billing import received, stripe_gateway, top_up_refusals, top_ups
from billing.accounts import AccountClosed
from billing.admin import html
from billing.admin.account_actions import person_of, sentence, who
from billing.admin.account_forms import NoteForm
from billing.admin.base import Figure, Panel, Question, WorkAdmin, see_other
from billing.admin.currencies import MODE_TONES, mode_of
from billing.admin.filters import CustomerFilter, DaysFilter
from billing.admin.ledger import CustomerColumn
from billing.admin.payment_forms import ReceivedFromForm, SettledForm, received_text, record_received
from billing.admin.refunding import TopUpRefunds
from billing.manual import AlreadyDecided, SamePerson
from billing.models import Dispute, Grant, Invoice, Receipt, Refund, TopUp, Transfer
from billing.top_up_states import BY_HAND
from relayadmin.money import amount_text, currency_text

Status = TopUp.Status
STATUS_TONES = {
    Status.WAITING.label: "warning",
    Status.PENDING.label: "info",
    Status.PROCESSING.label: "info",
    Status.PAID.label: "success",
    Status.FAILED.label: "danger",
    Status.EXPIRED.label: "",
    Status.CANCELED.label: "",
    Status.REFUSED.label: "danger",
}


def pay_text(row: TopUp) -> str:
    return f"{currency_text(row.pay_amount, row.currency)} {row.currency}"


@admin.register(TopUp)
class TopUpAdmin(TopUpRefunds, CustomerColumn, WorkAdmin):
    empty_text = "Nothing was paid in yet. “Record a payment” records a bank transfer or cash."
    list_display = (
        "public_id",
        "customer_link",
        "status_badge",
        "credit_amount",
        "paid_in",
        "way",
        "mode_badge",
        "created_at",
    )
    list_filter = ("status", "origin", "is_sandbox", "currency", CustomerFilter, ("created_at", DaysFilter))
    list_select_related = ("customer",)
    sortable_by = ()
    search_fields = (
        "public_id__exact",
        "session_id__exact",
        "payment_intent_id__exact",
        "charge_id__exact",
        "reference__exact",
        "customer__name",
        "customer__public_id__exact",
    )
    search_help_text = "top_…, cs_…, pi_…, ch_… or cus_… id, a bank transfer's number, or a customer's name"
    actions_list = ("record_payment",)
    actions_detail = ("approve", "reject", "refund", "returned", "look", "judge_again", "settle")
    fields = (
        ("public_id", "customer_link"),
        "invoice_link",
        ("status_badge", "origin_name"),
        ("credit_amount", "paid_in"),
        ("rate_text", "paid_with"),
        ("fee_text", "settled_text"),
        ("reference", "received_on"),
        ("asked_by", "decided_by"),
        ("created_at", "expires_at"),
        ("paid_at", "receipt_link", "asked_next"),
        "trouble",
        ("payment_intent_id", "charge_id"),
        "session_id",
        ("page_link", "mode_badge"),
    )

    def has_record_permission(self, request: HttpRequest, object_id: Any = None) -> bool:
        return request.user.has_perm("billing.record_payment")

    def get_actions_detail(self, request: HttpRequest, object_id: Any) -> list[UnfoldAction]:
        row = self.get_object(request, str(object_id))
        if row is None:
            return []
        possible = _possible(row, request)
        shown: list[UnfoldAction] = super().get_actions_detail(request, object_id)
        return [one for one in shown if one.action_name.removeprefix("billing_topup_") in possible]

    @action(description="Record a payment", url_path="record-payment", icon="add_card", permissions=["record"])
    def record_payment(self, request: HttpRequest) -> HttpResponse:
        form = ReceivedFromForm(request.POST if request.method == "POST" else None)
        if form.is_valid():
            try:
                row = record_received(person_of(request), form.cleaned_data["customer"].pk, form)
                messages.success(request, received_text(row))
                return see_other(html.object_url(TopUp, row.pk))
            except received.InvalidPayment as error:
                form.add_error(error.field, sentence(error))
            except received.RecordedBefore as error:
                form.add_error("reference", sentence(error))
            except AccountClosed as error:
                form.add_error("customer", sentence(error))
        return self.ask_form(
            request,
            form,
            title="Record a bank transfer or cash",
            button="Record",
            text="For money that is there. It becomes paid credit, once for each reference.",
            back=html.list_url(TopUp),
        )

    @action(description="Approve", url_path="approve", icon="check", permissions=["record"])
    def approve(self, request: HttpRequest, object_id: str) -> HttpResponse:
        row = self.get_object(request, object_id)
        if row is None:
            return self._unknown(request)
        if request.method == "POST":
            return self._decide(
                request,
                row,
                lambda: received.approve(top_up_id=row.pk, person=person_of(request), at=timezone.now()),
            )
        question = Question(
            title=f"Approve {pay_text(row)} for {row.customer.name}",
            text=f"{row.asked_by} recorded {row.get_origin_display().lower()} {row.reference}, received on"
            f" {row.received_on}. {amount_text(row.amount)} USD are credited at once, and stay in the ledger.",
            button="Approve and credit",
            back=html.object_url(TopUp, row.pk),
            is_dangerous=False,
        )
        return self.ask(request, question)

    @action(description="Reject", url_path="reject", icon="block", permissions=["record"])
    def reject(self, request: HttpRequest, object_id: str) -> HttpResponse:
        row = self.get_object(request, object_id)
        if row is None:
            return self._unknown(request)
        form = NoteForm(request.POST if request.method == "POST" else None)
        if form.is_valid():
            note = form.cleaned_data["note"]
            return self._decide(
                request,
                row,
                lambda: received.reject(top_up_id=row.pk, person=person_of(request), note=note, at=timezone.now()),
            )
        return self.ask_form(
            request,
            form,
            title=f"Reject {pay_text(row)} for {row.customer.name}",
            button="Reject",
            text="Nothing is credited. The same reference can be recorded again.",
            back=html.object_url(TopUp, row.pk),
            is_dangerous=True,
        )

    @action(description="Ask the provider", url_path="look", icon="sync", permissions=["work"])
    def look(self, request: HttpRequest, object_id: str) -> HttpResponse:
        return self._asked(request, object_id, lambda number: top_ups.sync(number, timezone.now()))

    @action(description="Judge again", url_path="judge-again", icon="gavel", permissions=["work"])
    def judge_again(self, request: HttpRequest, object_id: str) -> HttpResponse:
        return self._asked(request, object_id, lambda number: top_ups.judge_again(top_up_id=number, at=timezone.now()))

    @action(description="Settled otherwise…", url_path="settle", icon="task_alt", permissions=["work"])
    def settle(self, request: HttpRequest, object_id: str) -> HttpResponse:
        row = self.get_object(request, object_id)
        if row is None:
            return self._unknown(request)
        form = SettledForm(request.POST if request.method == "POST" else None)
        if form.is_valid():
            note = form.cleaned_data["note"]
            try:
                top_up_refusals.decide(top_up_id=row.pk, actor=who(request), note=note, at=timezone.now())
            except top_up_refusals.NotRefused as error:
                messages.info(request, sentence(error))
            else:
                self.log_change(request, row, f"Settled otherwise: {note}")
                messages.success(request, "Noted. Its alarm is over, and nothing of it is credited.")
            return see_other(html.object_url(TopUp, row.pk))
        return self.ask_form(
            request,
            form,
            title=f"{pay_text(row)} of {row.customer.name}: settled otherwise",
            button="Note it",
            text="For money that you gave back at the payment provider, or credited by hand. It is never credited by"
            " itself after that.",
            back=html.object_url(TopUp, row.pk),
        )

    def _unknown(self, request: HttpRequest) -> HttpResponse:
        messages.error(request, "There is no such top-up.")
        return see_other(html.list_url(TopUp))

    def _decide(self, request: HttpRequest, row: TopUp, decide: Callable[[], TopUp]) -> HttpResponse:
        try:
            decided = decide()
        except (AlreadyDecided, received.UnknownTopUp) as error:
            messages.info(request, sentence(error))
        except (SamePerson, AccountClosed) as error:
            messages.error(request, f"{sentence(error)} It goes on waiting.")
        else:
            self.log_change(request, decided, f"{decided.get_status_display()}.")
            messages.success(request, received_text(decided))
        return see_other(html.object_url(TopUp, row.pk))

    def _asked(self, request: HttpRequest, object_id: str, ask: Callable[[int], str]) -> HttpResponse:
        row = self.get_object(request, object_id)
        if row is None:
            return self._unknown(request)
        try:
            outcome = ask(row.pk)
        except top_up_refusals.NotRefused as error:
            messages.info(request, sentence(error))
        except stripe_gateway.PaymentsNotConfigured as error:
            messages.error(request, f"Payments are not set up: {error}.")
        except (stripe_gateway.GatewayUnavailable, stripe_gateway.GatewayRejected) as error:
            messages.error(request, sentence(error))
        else:
            messages.info(request, f"{outcome[:1].upper()}{outcome[1:]}.")
        return see_other(html.object_url(TopUp, row.pk))

    def figures(self, request: HttpRequest, obj: Any) -> list[Figure]:
        return [
            Figure(
                "Invoice" if obj.invoice_id else "Credit",
                amount_text(obj.credited),
                f"USD, and {amount_text(obj.tax)} {obj.tax_name}" if obj.tax_name else "USD",
            ),
            Figure("Price", currency_text(obj.pay_amount, obj.currency), obj.currency),
            Figure(
                "Status",
                obj.get_status_display().partition(":")[0],
                obj.error_code,
                tone=STATUS_TONES[obj.get_status_display()],
            ),
        ]

    def panels(self, request: HttpRequest, obj: Any) -> list[Panel]:
        return [_movements(obj), *_refunds(obj), *_disputes(obj)]

    @display(description="Status", label=STATUS_TONES)
    def status_badge(self, obj: TopUp) -> str:
        return obj.get_status_display()

    @display(description="Credit (USD)")
    def credit_amount(self, obj: TopUp) -> str:
        return html.amount(obj.credited) if obj.invoice_id is None else "pays an invoice"

    @display(description="Paid in")
    def paid_in(self, obj: TopUp) -> str:
        return pay_text(obj)

    @display(description="How")
    def origin_name(self, obj: TopUp) -> str:
        return obj.get_origin_display()

    @display(description="With")
    def paid_with(self, obj: TopUp) -> str:
        return html.NOTHING if obj.origin in BY_HAND else obj.method_detail or obj.method or html.NOTHING

    @display(description="How")
    def way(self, obj: TopUp) -> str:
        below = obj.reference if obj.origin in BY_HAND else obj.method_detail or obj.method
        return html.lines(obj.get_origin_display(), below, is_wrapped=False)

    @display(description="Asked about next")
    def asked_next(self, obj: TopUp) -> str:
        return html.moment(obj.look_at)

    @display(description="Payment page")
    def page_link(self, obj: TopUp) -> str:
        is_open = obj.checkout_url and obj.status == Status.PENDING
        return html.link(obj.checkout_url, "What the customer pays on") if is_open else html.NOTHING

    @display(description="Mode", label=MODE_TONES)
    def mode_badge(self, obj: TopUp) -> str:
        return mode_of(obj)

    @display(description="Rate")
    def rate_text(self, obj: TopUp) -> str:
        if obj.currency == "USD":
            return html.NOTHING
        margin = obj.margin.scaleb(2).normalize()
        return f"{obj.rate.normalize():f} {obj.currency} for 1 USD, a margin of {margin:f} % in it"

    @display(description="The provider's fee")
    def fee_text(self, obj: TopUp) -> str:
        return (
            html.NOTHING
            if obj.fee is None
            else f"{currency_text(obj.fee, obj.settled_currency)} {obj.settled_currency}"
        )

    @display(description="Settled")
    def settled_text(self, obj: TopUp) -> str:
        if obj.settled_amount is None:
            return html.NOTHING
        return f"{currency_text(obj.settled_amount, obj.settled_currency)} {obj.settled_currency}, before its fee"

    @display(description="Pays the invoice")
    def invoice_link(self, obj: TopUp) -> str:
        invoice = obj.invoice
        return html.NOTHING if invoice is None else html.link(html.object_url(Invoice, invoice.pk), invoice.number)

    @display(description="Receipt")
    def receipt_link(self, obj: TopUp) -> str:
        receipt = Receipt.objects.filter(top_up=obj).first()
        return html.NOTHING if receipt is None else html.link(html.object_url(Receipt, receipt.pk), receipt.number)

    @display(description="What went wrong")
    def trouble(self, obj: TopUp) -> str:
        return (
            html.lines(obj.error_message or obj.error_code, obj.error_code if obj.error_message else "") or html.NOTHING
        )


def _possible(row: TopUp, request: HttpRequest) -> set[str]:
    """The actions that make sense for a top-up as it is."""
    if row.origin in BY_HAND:
        is_own = row.asked_by_user_id is not None and row.asked_by_user_id == request.user.pk
        if row.status == Status.PAID:
            went_back = row.refunds.filter(origin=Refund.Origin.RETURNED).exists()
            return {"refund", "returned"} if row.invoice_id and not went_back else {"refund"}
        return set() if row.status != Status.WAITING else {"reject"} if is_own else {"approve", "reject"}
    if row.status == Status.REFUSED:
        return set() if row.decided_by else {"judge_again", "settle"}
    if row.status == Status.PAID:
        return {"look", "refund"}
    return {"look"} if row.status in {Status.PENDING, Status.PROCESSING} else set()


def _movements(row: TopUp) -> Panel:
    """The grant that it became and what came along with it."""
    grants = Grant.objects.filter(
        customer_id=row.customer_id, reference__in=[row.public_id, f"bonus:{row.public_id}"]
    ).order_by("pk")
    return Panel(
        title="Credit that it became",
        headers=("Grant", "Kind", "Amount", "Left", "Reason", "Transfer"),
        rows=[
            (
                html.hot_link(Grant, grant.customer_id, grant.pk),
                grant.kind,
                html.amount(grant.amount),
                html.amount(grant.remaining),
                grant.reason,
                html.hot_link(Transfer, grant.customer_id, grant.transfer_id),
            )
            for grant in grants
        ],
        numbers=frozenset({2, 3}),
        empty="None: it has paid an invoice."
        if row.invoice_id and row.status == Status.PAID
        else "None: it was not paid.",
    )


def _refunds(row: TopUp) -> list[Panel]:
    refunds = list(Refund.objects.filter(top_up=row))
    if not refunds:
        return []
    shown = [
        (
            html.link(html.object_url(Refund, one.pk), one.public_id),
            one.get_status_display(),
            html.amount(one.amount),
            one.reason,
            html.moment(one.created_at),
        )
        for one in refunds
    ]
    headers = ("Refund", "Status", "Taken (USD)", "Reason", "At")
    return [Panel(title="Refunds", headers=headers, rows=shown, numbers=frozenset({2}))]


def _disputes(row: TopUp) -> list[Panel]:
    disputes = list(Dispute.objects.filter(top_up=row))
    if not disputes:
        return []
    shown = [
        (
            html.link(html.object_url(Dispute, one.pk), one.stripe_id),
            one.status.replace("_", " "),
            html.amount(one.taken),
            html.amount(one.returned),
        )
        for one in disputes
    ]
    headers = ("Dispute", "Status", "Taken (USD)", "Given back (USD)")
    return [Panel(title="Disputes", headers=headers, rows=shown, numbers=frozenset({2, 3}))]
