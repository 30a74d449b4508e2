"""The monthly summary for bookkeeping, as a page and as CSV."""

import re
from collections import defaultdict
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any

from django.http import HttpRequest, HttpResponseBase
from django.template.response import TemplateResponse

from billing import bookkeeping
from billing.admin import html
from billing.admin.base import Figure, Panel
from billing.models import Account, Transfer
from billing.periods import month_of, operator_timezone
from relayadmin.files import csv_response
from relayadmin.money import amount_text

_MONTH = re.compile(r"(\d{4})-(0[1-9]|1[0-2])", re.ASCII)


def show_summary(request: HttpRequest, context: dict[str, Any]) -> HttpResponseBase:
    """The page of `?month=2026-11`, else of the month before this one; `?as=csv` is the same as a file."""
    zone = operator_timezone()
    this = month_of(datetime.now(UTC), zone)
    month = _chosen(request.GET.get("month", "")) or _before(this)
    books = bookkeeping.summary(month, zone)
    if request.GET.get("as") == "csv":
        return csv_response(bookkeeping.as_csv(books), f"summary-{month:%Y-%m}")
    return TemplateResponse(
        request,
        "admin/bookkeeping.html",
        {
            **context,
            "opts": Transfer._meta,
            "title": f"Summary of {month:%B %Y}",
            "month": f"{month:%Y-%m}",
            "timezone": zone.key,
            "is_open": month >= this,
            "figures": _figures(books),
            "panels": [_lines(books), _accounts(books)],
            "csv": f"?month={month:%Y-%m}&as=csv",
        },
    )


def _chosen(text: str) -> date | None:
    found = _MONTH.fullmatch(text)
    year = int(found[1]) if found else 0
    return date(year, int(found[2]), 1) if found and 1970 <= year <= 9000 else None


def _before(month: date) -> date:
    return date(month.year - (month.month == 1), (month.month - 2) % 12 + 1, 1)


def _figures(books: bookkeeping.Summary) -> list[Figure]:
    opening, closing = books.opening, books.closing
    figures = [
        Figure("Revenue from usage", amount_text(books.account(Account.REVENUE)), "USD"),
        Figure("Liability from unused credit", amount_text(closing.unused_credit), _was(opening.unused_credit)),
        Figure("Receivables", amount_text(closing.receivables), _was(opening.receivables)),
    ]
    if books.imbalance:
        hint = "USD: the entries don't add up to zero. Run check_ledger."
        figures.append(Figure("Imbalance", amount_text(books.imbalance), hint, tone="danger"))
    return figures


def _was(amount: Decimal) -> str:
    return f"USD at the month's end; {amount_text(amount)} at its beginning"


def _lines(books: bookkeeping.Summary) -> Panel:
    return Panel(
        title="Figures for the books",
        headers=("What", "USD"),
        rows=[(name, html.amount(amount)) for name, amount in books.lines()],
        numbers=frozenset({1}),
        note="By when it was booked. Usage of the last days that is reported after midnight belongs to the next month.",
    )


def _accounts(books: bookkeeping.Summary) -> Panel:
    """Each account with the kinds of transfers that moved it; its last row is the proof."""
    labels, kinds = dict(Account.choices), dict(Transfer.Kind.choices)
    by_account: dict[str, list[tuple[str, Decimal]]] = defaultdict(list)
    for (account, kind), amount in sorted(books.moved.items()):
        by_account[account].append((kind, amount))
    return Panel(
        title="Movements of the accounts",
        headers=("Account", "Of it", "USD"),
        rows=[
            (
                labels.get(account, account),
                html.lines(*(f"{kinds.get(kind, kind)}: {amount_text(amount)}" for kind, amount in moved)),
                html.amount(books.account(account)),
            )
            for account, moved in by_account.items()
        ],
        numbers=frozenset({2}),
        total=("Sum", "", html.amount(books.imbalance)),
        note="Signed as the ledger signs: above zero on the wallets is more credit, and the other accounts balance it.",
        empty="Nothing was booked in this month.",
    )
