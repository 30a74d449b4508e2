"""Wallets, transfers, entries and holds: to look at."""

from collections.abc import Callable
from typing import Any, ClassVar

from django.contrib import admin
from django.db.models import QuerySet
from django.http import HttpRequest, HttpResponseBase
from django.utils.html import format_html
from unfold.decorators import action, display

from billing.admin import html
from billing.admin.base import Figure, Panel, ReadOnlyAdmin
from billing.admin.bookkeeping import show_summary
from billing.admin.customer_panels import customer_figures
from billing.admin.filters import CustomerFilter, DaysFilter, DebtFilter, PeriodFilter
from billing.admin.hot import HotModelAdmin
from billing.models import Account, Customer, Entry, Grant, GrantUse, Hold, Transfer, Wallet
from relayadmin import ids
from relayadmin.money import ZERO, amount_text

HOLD_TONES = {"open": "info", "settled": "success", "released": "", "expired": "warning"}


class CustomerColumn:
    """The column every table here has."""

    @display(description="Customer")
    def customer_link(self, obj: Any) -> str:
        return html.link(html.object_url(Customer, obj.customer_id), obj.customer.name)


@admin.register(Wallet)
class WalletAdmin(CustomerColumn, ReadOnlyAdmin):
    list_display = (
        "customer_id_text",
        "customer_link",
        "balance_amount",
        "held_amount",
        "available_amount",
        "credit_limit_amount",
        "version",
        "closed_through",
    )
    list_filter = (CustomerFilter, DebtFilter, "closed_through")
    list_select_related = ("customer",)
    search_fields = ("customer__name", "customer__public_id__exact")
    search_help_text = "Customer's name or cus_… id"
    ordering = ("-customer_id",)
    fields = (
        "customer_link",
        "balance_amount",
        "held_amount",
        "available_amount",
        "credit_limit_amount",
        "version",
        "closed_through",
    )

    def figures(self, request: HttpRequest, obj: Any) -> list[Figure]:
        return customer_figures(obj.customer)

    @display(description="Wallet of", ordering="customer_id")
    def customer_id_text(self, obj: Wallet) -> str:
        return str(obj.customer.public_id)

    @display(description="Balance", ordering="balance")
    def balance_amount(self, obj: Wallet) -> str:
        return html.amount(obj.balance)

    @display(description="Held", ordering="held")
    def held_amount(self, obj: Wallet) -> str:
        return html.amount(obj.held)

    @display(description="Available")
    def available_amount(self, obj: Wallet) -> str:
        return html.amount(obj.balance - obj.held + obj.credit_limit)

    @display(description="Credit limit", ordering="credit_limit")
    def credit_limit_amount(self, obj: Wallet) -> str:
        return html.amount(obj.credit_limit)


@admin.register(Transfer)
class TransferAdmin(CustomerColumn, HotModelAdmin):
    actions_list = ("monthly_summary",)
    list_display = ("public_id", "customer_link", "kind", "period", "reason", "actor", "created_at")
    list_filter = (CustomerFilter, "kind", PeriodFilter, ("created_at", DaysFilter))
    search_words = "a customer's name, a cus_… or tr_… id, or, with a customer chosen, a transfer's key"
    search_column = "key"
    fields = (
        ("public_id", "customer_link"),
        ("kind", "period"),
        ("created_at", "actor"),
        ("reason", "document"),
        "key",
    )

    def has_see_books_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return request.user.has_perm("billing.see_books")

    @action(description="Monthly summary", url_path="summary", icon="menu_book", permissions=["see_books"])
    def monthly_summary(self, request: HttpRequest) -> HttpResponseBase:
        return show_summary(request, self.admin_site.each_context(request))

    def panels(self, request: HttpRequest, obj: Any) -> list[Panel]:
        entries = list(obj.entries)
        uses = list(GrantUse.objects.filter(customer_id=obj.customer_id, transfer_id=obj.pk).order_by("grant_id"))
        grants = Grant.objects.filter(customer_id=obj.customer_id, transfer_id=obj.pk)
        labels = dict(Account.choices)
        panels = [
            Panel(
                title="Entries",
                headers=("Account", "Amount", "Wallet's balance after", "Wallet's version after"),
                rows=[
                    (
                        labels.get(entry.account, entry.account),
                        html.amount(entry.amount),
                        html.amount(entry.balance_after),
                        html.quantity(entry.wallet_version),
                    )
                    for entry in entries
                ],
                numbers=frozenset({1, 2, 3}),
                total=("Sum", html.amount(sum((entry.amount for entry in entries), ZERO)), "", ""),
                note="The entries of a transfer add up to zero. Above zero on the wallet is more credit.",
            ),
            Panel(
                title="Credit it used",
                headers=("Grant", "Amount"),
                rows=[(html.hot_link(Grant, use.customer_id, use.grant_id), html.amount(use.amount)) for use in uses],
                numbers=frozenset({1}),
                empty="This transfer used no grant.",
            ),
        ]
        made = [(html.hot_link(Grant, row.customer_id, row.pk), row.kind, html.amount(row.amount)) for row in grants]
        if made:
            panels.append(Panel("Grant it made", ("Grant", "Kind", "Amount"), made, numbers=frozenset({2})))
        return panels


@admin.register(Entry)
class EntryAdmin(CustomerColumn, HotModelAdmin):
    list_display = (
        "public_id",
        "customer_link",
        "transfer_link",
        "account",
        "entry_amount",
        "balance_after_amount",
        "wallet_version",
    )
    list_filter = (CustomerFilter, "account")
    fields = (
        ("public_id", "customer_link"),
        ("account", "transfer_link"),
        ("entry_amount", "balance_after_amount"),
        "wallet_version",
    )
    search_words = "a customer's name, a cus_… id or a tr_… id"
    has_newest = False

    def get_search_results(
        self, request: HttpRequest, queryset: QuerySet[Any], search_term: str
    ) -> tuple[QuerySet[Any], bool]:
        parsed = ids.parse_hot_id(Transfer.PREFIX, search_term.strip())
        if parsed is not None:
            entries = Transfer(customer_id=parsed[0], id=parsed[1]).entries
            return queryset.filter(customer_id=parsed[0], id__in=entries.values("id")), False
        found: tuple[QuerySet[Any], bool] = super().get_search_results(request, queryset, search_term)
        return found

    @display(description="Transfer")
    def transfer_link(self, obj: Entry) -> str:
        return html.hot_link(Transfer, obj.customer_id, obj.transfer_id)

    @display(description="Amount")
    def entry_amount(self, obj: Entry) -> str:
        return html.amount(obj.amount)

    @display(description="Balance after")
    def balance_after_amount(self, obj: Entry) -> str:
        return html.amount(obj.balance_after)


@admin.register(Hold)
class HoldAdmin(CustomerColumn, HotModelAdmin):
    list_display = (
        "public_id",
        "customer_link",
        "request_id",
        "status_badge",
        "hold_amount",
        "remaining_amount",
        "settled_amount",
        "overrun_amount",
        "created_at",
    )
    list_filter = (CustomerFilter, "status", ("created_at", DaysFilter))
    fields = (
        ("public_id", "customer_link"),
        ("status_badge", "request_id"),
        ("created_at", "expires_at"),
        ("lease", "resolved_at"),
        "counts_for",
        "details_json",
    )
    search_words = "a customer's name, a cus_… or auth_… id, or, with a customer chosen, a request id"
    search_column = "request_id"
    # Who is behind a scope, with a link; what places holds adds to it when its own admin module is imported.
    scope_names: ClassVar[list[Callable[[str], str]]] = []

    def get_queryset(self, request: HttpRequest) -> QuerySet[Hold]:
        queryset: QuerySet[Hold] = super().get_queryset(request)
        return queryset.defer("digest")

    def figures(self, request: HttpRequest, obj: Any) -> list[Figure]:
        return [
            Figure("Held at first", amount_text(obj.amount), "USD"),
            Figure("Still held", amount_text(obj.remaining), "0 once it is settled, released or expired"),
            Figure("Settled", amount_text(obj.settled), "what its usage cost"),
            Figure(
                "Overrun",
                amount_text(obj.overrun),
                "what usage cost beyond the hold",
                tone="danger" if obj.overrun else "",
            ),
        ]

    @display(description="Status", label=HOLD_TONES)
    def status_badge(self, obj: Hold) -> str:
        return obj.status

    @display(description="Amount")
    def hold_amount(self, obj: Hold) -> str:
        return html.amount(obj.amount)

    @display(description="Still held")
    def remaining_amount(self, obj: Hold) -> str:
        return html.amount(obj.remaining)

    @display(description="Settled")
    def settled_amount(self, obj: Hold) -> str:
        return html.amount(obj.settled)

    @display(description="Overrun")
    def overrun_amount(self, obj: Hold) -> str:
        return html.amount(obj.overrun)

    @display(description="Lease")
    def lease(self, obj: Hold) -> str:
        if obj.admits_until is None:
            return "no, for one request"
        grace_s = int((obj.expires_at - obj.admits_until).total_seconds())
        return f"starts requests until {html.moment(obj.admits_until)}; what they leave is freed {grace_s} s after that"

    @display(description="Counts as spend of")
    def counts_for(self, obj: Hold) -> str:
        if not obj.scope:
            return "the customer"
        names = [name for name_of in self.scope_names if (name := name_of(obj.scope))]
        return format_html("the customer, and {}", names[0] if names else obj.scope)

    @display(description="What it is for")
    def details_json(self, obj: Hold) -> str:
        return html.pretty_json(obj.details)
