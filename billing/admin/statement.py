"""A customer's statement: every movement of the wallet with its reason, document, who, and the balance after it."""

from datetime import UTC, date, datetime, time, timedelta
from typing import Any
from urllib.parse import urlencode

from django import forms
from django.http import HttpRequest, HttpResponseBase
from django.template.response import TemplateResponse
from unfold.widgets import UnfoldAdminSelectWidget, UnfoldAdminTextInputWidget

from billing import exports, queries
from billing.admin import html
from billing.admin.base import Panel
from billing.models import Customer, Grant, Invoice, OperatorSettings, Transfer, WalletAdjustment
from relayadmin.files import csv_response

PER_PAGE = 100


class StatementForm(forms.Form):
    """Whole days in UTC, the last one included."""

    start = forms.DateField(label="From", required=False, widget=UnfoldAdminTextInputWidget(attrs={"type": "date"}))
    end = forms.DateField(label="To", required=False, widget=UnfoldAdminTextInputWidget(attrs={"type": "date"}))
    kind = forms.ChoiceField(
        label="Kind", required=False, choices=[("", "All"), *Transfer.Kind.choices], widget=UnfoldAdminSelectWidget
    )

    def clean(self) -> dict[str, Any]:
        cleaned = super().clean() or {}
        start, end = cleaned.get("start"), cleaned.get("end")
        if start is not None and end is not None and end < start:
            self.add_error("end", "It must not be before the first day.")
        return cleaned

    def only(self) -> queries.StatementFilter:
        """What a valid form narrows the statement to."""
        start, end = self.cleaned_data.get("start"), self.cleaned_data.get("end")
        after = end + timedelta(days=1) if end is not None and end < date.max else None
        return queries.StatementFilter(_midnight(start), _midnight(after), self.cleaned_data.get("kind") or None)


def _midnight(day: date | None) -> datetime | None:
    return None if day is None else datetime.combine(day, time.min, UTC)


def show_statement(request: HttpRequest, customer: Customer, context: dict[str, Any]) -> HttpResponseBase:
    """The page; `?before=` is the wallet version that it begins below. `?as=csv` is all of it, as a file."""
    form = StatementForm(request.GET)
    only = form.only() if form.is_valid() else queries.StatementFilter()
    if request.GET.get("as") == "csv" and form.is_valid():
        pieces = exports.statement(customer_id=customer.pk, only=only, with_actor=True)
        return csv_response(pieces, f"statement-{customer.public_id}")
    text = request.GET.get("before", "")
    before = int(text) if text.isascii() and text.isdigit() and len(text) < 19 else None
    rows = queries.statement(customer_id=customer.pk, before_version=before, limit=PER_PAGE + 1, only=only)
    shown, has_more = rows[:PER_PAGE], len(rows) > PER_PAGE
    chosen = {name: value for name in form.fields if (value := request.GET.get(name))}
    return TemplateResponse(
        request,
        "admin/statement.html",
        {
            **context,
            "opts": Customer._meta,
            "title": f"Statement of {customer.name}",
            "customer": customer,
            "operator": OperatorSettings.objects.values_list("name", flat=True).get(pk=1),
            "form": form,
            "narrowed": _narrowed(chosen) if form.is_valid() else "",
            "panel": _panel(customer, shown, is_narrowed=only != queries.StatementFilter()),
            "back": html.object_url(Customer, customer.pk),
            "csv": f"?{urlencode(chosen | {'as': 'csv'})}",
            "newest": f"?{urlencode(chosen)}" if before is not None else "",
            "older": f"?{urlencode(chosen | {'before': str(shown[-1].version)})}" if has_more else "",
        },
    )


def _narrowed(chosen: dict[str, str]) -> str:
    names = {"start": "from", "end": "to", "kind": "only"}
    return ", ".join(f"{names[name]} {value.replace('_', ' ')}" for name, value in chosen.items())


def _panel(customer: Customer, rows: list[queries.StatementRow], *, is_narrowed: bool) -> Panel:
    about = _About(customer, rows)
    return Panel(
        title="Movements, newest first",
        headers=("No.", "At (UTC)", "Kind", "Reason", "About", "Amount", "Balance after"),
        rows=[
            (
                row.version,
                html.moment(row.created_at),
                html.link(html.object_url(Transfer, row.id), Transfer.Kind(row.kind).label),
                html.lines(row.reason or html.NOTHING, row.document, f"by {row.actor}" if row.actor else ""),
                about.of(row),
                html.amount(row.amount),
                html.amount(row.balance_after),
            )
            for row in rows
        ],
        numbers=frozenset({5, 6}),
        empty="Nothing that you look for has moved here." if is_narrowed else "No money has moved here.",
        note="No. is the wallet's version: without a filter, no number is missing.",
    )


class _About:
    """Links to what rows are about: the grant, the invoice or the adjustment by hand; three queries for a page."""

    def __init__(self, customer: Customer, rows: list[queries.StatementRow]) -> None:
        wanted = {row.invoice for row in rows if row.invoice}
        found = Invoice.objects.filter(customer=customer, public_id__in=wanted) if wanted else Invoice.objects.none()
        self.invoices = {invoice.public_id: invoice for invoice in found}
        versions = [row.version for row in rows]
        by_hand = WalletAdjustment.objects.filter(customer=customer, wallet_version__in=versions)
        self.by_hand = {row.wallet_version: row for row in by_hand}

    def of(self, row: queries.StatementRow) -> str:
        parts: list[object] = []
        if row.version in self.by_hand:
            adjustment = self.by_hand[row.version]
            parts.append(html.link(html.object_url(WalletAdjustment, adjustment.pk), adjustment.public_id))
        if row.grant is not None:
            parts.append(html.link(html.object_url(Grant, row.grant), row.grant))
        if row.invoice in self.invoices:
            invoice = self.invoices[row.invoice]
            parts.append(html.link(html.object_url(Invoice, invoice.pk), invoice.number))
        elif row.period is not None:
            parts.append(f"{row.period:%Y-%m}, not invoiced yet")
        return html.lines(*parts) if parts else html.NOTHING
