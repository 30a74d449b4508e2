"""What stands on a customer's page beside its own fields."""

from decimal import Decimal

from django.db.models import Sum

from billing import queries
from billing.admin import html
from billing.admin.base import Figure, Panel
from billing.admin.notice_texts import notices_panel
from billing.admin.profile_forms import profile_panel
from billing.models import (
    Account,
    AccountChange,
    Customer,
    Entry,
    Grant,
    Hold,
    Invoice,
    ScheduledGrant,
    TopUp,
    Transfer,
    Wallet,
    WalletAdjustment,
)
from relayadmin.money import ZERO, amount_text, currency_text

ROWS = 10


def customer_figures(customer: Customer) -> list[Figure]:
    """The wallet in five figures."""
    wallet = Wallet.objects.filter(pk=customer.pk).first()
    if wallet is None:
        return []
    left: Decimal = Grant.objects.filter(customer_id=customer.pk).aggregate(left=Sum("remaining"))["left"] or ZERO
    debt = max(left - wallet.balance, ZERO)
    available = wallet.balance - wallet.held + wallet.credit_limit
    return [
        Figure("Balance", amount_text(wallet.balance), "USD", tone="danger" if wallet.balance < 0 else ""),
        Figure("Held", amount_text(wallet.held), "for requests that run now"),
        Figure(
            "Available",
            amount_text(available),
            "balance − held + credit limit",
            tone="danger" if available <= 0 else "",
        ),
        Figure("Credit limit", amount_text(wallet.credit_limit), "how far below zero"),
        Figure("Debt", amount_text(debt), "what no credit has paid", tone="danger" if debt else ""),
    ]


def customer_panels(customer: Customer) -> list[Panel]:
    of_customer = f"customer__id__exact={customer.pk}"
    debt = _debt(customer)
    return [
        *([debt] if debt else []),
        *([] if customer.is_house else [profile_panel(customer)]),
        _grants(customer, of_customer),
        *_scheduled(customer, of_customer),
        _transfers(customer, of_customer),
        _top_ups(customer, of_customer),
        _invoices(customer, of_customer),
        _holds(customer, of_customer),
        _adjustments(customer, of_customer),
        _changes(customer, of_customer),
        notices_panel(customer, of_customer),
    ]


def _debt(customer: Customer) -> Panel | None:
    """A line for who owes something; None for who owes nothing."""
    wallet = Wallet.objects.filter(pk=customer.pk, balance__lt=0).first()
    if wallet is None:
        return None
    since = queries.owing_since(customer.pk)
    stops = wallet.balance - wallet.held + wallet.credit_limit <= 0
    return Panel(
        title="In debt",
        headers=(),
        rows=(),
        body=f"{amount_text(-wallet.balance)} USD are owed since {html.moment(since)} UTC. "
        + ("The keys are stopped: nothing fits any more. " if stops else "It is within the credit limit. ")
        + "The next payment goes there first.",
        tone="danger" if stops else "",
    )


def _grants(customer: Customer, of_customer: str) -> Panel:
    grants = Grant.objects.filter(customer_id=customer.pk).order_by("-id")[:ROWS]
    return Panel(
        title="Credit grants",
        headers=("Grant", "Kind", "Amount", "Left", "Expires", "Reason", "Given"),
        rows=[
            (
                html.hot_link(Grant, grant.customer_id, grant.pk),
                grant.kind,
                html.amount(grant.amount),
                html.amount(grant.remaining),
                html.moment(grant.expires_at),
                grant.reason or html.NOTHING,
                html.moment(grant.created_at),
            )
            for grant in grants
        ],
        numbers=frozenset({2, 3}),
        empty="No credit yet. “Grant credit” above gives some.",
        url=html.list_url(Grant, of_customer),
    )


def _scheduled(customer: Customer, of_customer: str) -> list[Panel]:
    """Credit that has not begun; nothing if there is none."""
    waiting = ScheduledGrant.objects.filter(customer_id=customer.pk, posted_at=None, cancelled_at=None)
    rows = [
        (
            html.hot_link(ScheduledGrant, row.customer_id, row.pk),
            row.kind,
            html.amount(row.amount),
            html.moment(row.effective_at),
            html.moment(row.expires_at),
            row.reason or html.NOTHING,
        )
        for row in waiting.order_by("effective_at")[:ROWS]
    ]
    if not rows:
        return []
    return [
        Panel(
            title="Grants that begin later",
            headers=("Grant", "Kind", "Amount", "Begins", "Expires", "Reason"),
            rows=rows,
            numbers=frozenset({2}),
            url=html.list_url(ScheduledGrant, of_customer),
        )
    ]


def _transfers(customer: Customer, of_customer: str) -> Panel:
    transfers = list(Transfer.objects.filter(customer_id=customer.pk).order_by("-id")[:ROWS])
    # The customer's newest transfers are its newest entries too.
    first = transfers[-1].entries.first() if transfers else None
    entries = Entry.objects.filter(customer_id=customer.pk, id__gte=first.pk).order_by("id") if first else []
    by_transfer: dict[int, list[Entry]] = {}
    for entry in entries:
        if entry.account != Account.WALLET:
            continue
        by_transfer.setdefault(entry.transfer_id, []).append(entry)
    rows = []
    for transfer in transfers:
        wallet = by_transfer.get(transfer.pk, [])
        rows.append(
            (
                html.hot_link(Transfer, transfer.customer_id, transfer.pk),
                transfer.kind,
                transfer.reason or html.NOTHING,
                html.amount(sum((entry.amount for entry in wallet), ZERO)),
                html.amount(wallet[-1].balance_after if wallet else None),
                html.moment(transfer.created_at),
            )
        )
    return Panel(
        title="Newest transfers",
        headers=("Transfer", "Kind", "Reason", "On the wallet", "Balance after", "At"),
        rows=rows,
        numbers=frozenset({3, 4}),
        empty="No money has moved yet.",
        url=html.list_url(Transfer, of_customer),
    )


def _top_ups(customer: Customer, of_customer: str) -> Panel:
    return Panel(
        title="Newest top-ups",
        headers=("Top-up", "Status", "Credit (USD)", "Paid in", "How", "At"),
        rows=[
            (
                html.link(html.object_url(TopUp, row.pk), row.public_id),
                row.get_status_display(),
                html.amount(row.credited) if row.invoice_id is None else "an invoice",
                f"{currency_text(row.pay_amount, row.currency)} {row.currency}",
                row.get_origin_display(),
                html.moment(row.created_at),
            )
            for row in TopUp.objects.filter(customer_id=customer.pk)[:ROWS]
        ],
        numbers=frozenset({2}),
        empty="Nothing was paid in yet.",
        url=html.list_url(TopUp, of_customer),
    )


def _invoices(customer: Customer, of_customer: str) -> Panel:
    invoices = Invoice.objects.filter(customer_id=customer.pk).order_by("-id")[:ROWS]
    return Panel(
        title="Invoices",
        headers=("Number", "Period", "Status", "Total", "Amount due", "Issued"),
        rows=[
            (
                html.link(html.object_url(Invoice, invoice.pk), invoice.number),
                f"{invoice.period:%Y-%m}",
                invoice.status,
                html.amount(invoice.total),
                html.amount(invoice.amount_due),
                html.moment(invoice.issued_at),
            )
            for invoice in invoices
        ],
        numbers=frozenset({3, 4}),
        empty="No invoice yet; the first is issued when a month with usage has ended.",
        url=html.list_url(Invoice, of_customer),
    )


def _holds(customer: Customer, of_customer: str) -> Panel:
    holds = Hold.objects.filter(customer_id=customer.pk, status=Hold.Status.OPEN).order_by("-expires_at")[:ROWS]
    return Panel(
        title="Open holds",
        headers=("Hold", "Request", "Amount", "Still held", "Expires"),
        rows=[
            (
                html.hot_link(Hold, hold.customer_id, hold.pk),
                hold.request_id,
                html.amount(hold.amount),
                html.amount(hold.remaining),
                html.moment(hold.expires_at),
            )
            for hold in holds
        ],
        numbers=frozenset({2, 3}),
        empty="No request is running.",
        url=html.list_url(Hold, of_customer),
    )


def _adjustments(customer: Customer, of_customer: str) -> Panel:
    rows = WalletAdjustment.objects.filter(customer_id=customer.pk)[:ROWS]
    return Panel(
        title="Adjustments by hand",
        headers=("Adjustment", "Kind", "Status", "Amount", "Reason", "Asked by", "Decided by", "Asked at"),
        rows=[
            (
                html.link(html.object_url(WalletAdjustment, row.pk), row.public_id),
                row.get_kind_display(),
                row.get_status_display(),
                html.amount(row.amount if row.posted_amount is None else row.posted_amount),
                row.reason,
                row.asked_by,
                row.decided_by or html.NOTHING,
                html.moment(row.asked_at),
            )
            for row in rows
        ],
        numbers=frozenset({3}),
        empty="Nothing was adjusted by hand.",
        url=html.list_url(WalletAdjustment, of_customer),
    )


def _changes(customer: Customer, of_customer: str) -> Panel:
    rows = AccountChange.objects.filter(customer_id=customer.pk)[:ROWS]
    return Panel(
        title="Changes of the account",
        headers=("What", "Because of", "Before", "After", "Reason", "By", "At"),
        rows=[
            (
                html.link(html.object_url(AccountChange, row.pk), row.get_kind_display()),
                row.get_cause_display() or html.NOTHING,
                row.before,
                row.after,
                row.reason,
                row.actor,
                html.moment(row.created_at),
            )
            for row in rows
        ],
        empty="No credit limit was set; it was never suspended or closed.",
        url=html.list_url(AccountChange, of_customer),
    )
