"""What is spent and held of limits: on the pages of customers, keys and holds."""

from collections.abc import Iterable
from typing import Any

from django.http import HttpRequest
from django.utils import timezone

from billing.admin import html
from billing.admin.base import Panel
from billing.models import SpendLimit
from metering import spend
from metering.models import ApiKey

ROWS = 20


def scope_name(scope: str, keys: dict[str, ApiKey]) -> str:
    """Who is behind a scope: "the customer", or a link to the key."""
    if scope == spend.scope_of(None):
        return "the customer"
    key = keys.get(scope)
    return scope if key is None else html.link(html.object_url(ApiKey, key.pk), f"the key {key}")


def name_of_key(scope: str) -> str:
    """A link to the key behind a scope; empty if it is none."""
    keys = spend.keys_of([scope])
    return scope_name(scope, keys) if keys else ""


def names_of(scopes: Iterable[str]) -> dict[str, str]:
    """Who is behind each scope; one query."""
    wanted = set(scopes)
    keys = spend.keys_of(wanted)
    return {scope: scope_name(scope, keys) for scope in wanted}


def how_it_holds(limit: SpendLimit) -> str:
    return "hard: refuses beyond" if limit.is_hard else "soft: only tells"


def set_by(limit: SpendLimit) -> str:
    """Whose limit it is, and the person who set it."""
    owner = limit.get_owner_display()
    return f"{owner} ({limit.actor})" if limit.actor else owner


def limits_panel(customer_id: int, *, scope: str | None = None) -> Panel:
    """A customer's limits and what is used of each now; of one scope, or of the customer and then its newest keys."""
    found = SpendLimit.objects.filter(customer_id=customer_id)
    if scope is not None:
        found = found.filter(scope=scope)
    limits = list(found.order_by("scope", "span", "-is_hard", "owner")[:ROWS])
    keys = spend.keys_of(limit.scope for limit in limits)
    return Panel(
        title="Spend limits",
        headers=("Of", "Per", "Kind", "Amount", "Spent", "Held", "Left", "Begins anew (UTC)", "Set by"),
        rows=[
            (
                scope_name(standing.limit.scope, keys),
                standing.limit.span,
                how_it_holds(standing.limit),
                html.amount(standing.limit.amount),
                html.amount(standing.spent),
                html.amount(standing.held),
                html.amount(standing.left),
                html.moment(standing.resets_at),
                set_by(standing.limit),
            )
            for standing in spend.standings(limits, at=timezone.now())
        ],
        numbers=frozenset({3, 4, 5, 6}),
        note="All of them hold together. Only what has a limit is counted. When 80 % and 100 % of one are spent, a"
        " notice tells it, once each in its day or month.",
        empty="No limits.",
        url=html.list_url(SpendLimit, f"customer__id__exact={customer_id}"),
    )


def customers_panel(request: HttpRequest, customer: Any) -> Panel:
    return limits_panel(customer.pk)


def keys_panel(request: HttpRequest, key: ApiKey) -> Panel:
    return limits_panel(key.customer_id, scope=spend.key_scope(key.pk))
