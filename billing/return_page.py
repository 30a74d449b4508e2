"""The page that customers come back to from the checkout: it asks the provider at once, and says what happened.

What the address says credits nothing: it only names the payment. Nobody has to be signed in, so it tells no more than
whoever paid knows.
"""

import logging
from collections.abc import Callable
from datetime import UTC, datetime
from functools import wraps

from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.views.decorators.http import require_safe

from billing import page_throttle, top_ups
from billing import stripe_gateway as gateway
from billing.models import OperatorSettings, TopUp
from billing.top_up_states import ENDED
from relayadmin.money import currency_text

logger = logging.getLogger(__name__)
Status = TopUp.Status
# How the page looks; the words stand in the template.
_TONES = {Status.PAID: "good", Status.PENDING: "wait", Status.PROCESSING: "wait"}
_RELOADS_MAX = 60
# It reloads twenty times a minute while it waits; from one address, several people may come back at once.
VIEWS_A_MINUTE_MAX = 120
ASKED_A_MINUTE_MAX = 30


def _throttled(view: Callable[[HttpRequest], HttpResponse]) -> Callable[[HttpRequest], HttpResponse]:
    """Answer 429 to an address that asks too often, before anything is looked up."""

    @wraps(view)
    def throttled(request: HttpRequest) -> HttpResponse:
        at = datetime.now(UTC)
        scope = f"return:{page_throttle.caller(request)}"
        if not page_throttle.is_too_often(scope, most=VIEWS_A_MINUTE_MAX, at=at):
            return view(request)
        answer = _no_store(render(request, "payments/return.html", {"operator": "", "too_often": True}, status=429))
        answer.headers["Retry-After"] = str(page_throttle.seconds_left(at))
        return answer

    return throttled


@require_safe
@_throttled
def payments_return(request: HttpRequest) -> HttpResponse:
    """What became of the payment with this `session_id`, or of the top-up that was `canceled`."""
    row = _named(request)
    if row is None:
        return _no_store(render(request, "payments/return.html", {"operator": _operator()}, status=404))
    if row.status not in ENDED and row.session_id is not None:
        _ask(row)
        row.refresh_from_db()
    turn = request.GET.get("turn", "0")
    turns = int(turn) if turn.isascii() and turn.isdigit() and len(turn) <= 3 else _RELOADS_MAX
    is_canceled = "canceled" in request.GET and row.status == Status.PENDING
    waits = row.status in {Status.PENDING, Status.PROCESSING} and not is_canceled
    context = {
        "operator": _operator(),
        "top_up": row,
        "tone": _TONES.get(Status(row.status), "bad"),
        "paid": f"{currency_text(row.pay_amount, row.currency)} {row.currency}",
        "credit": f"{currency_text(row.credited, 'usd')} USD",
        "is_canceled": is_canceled,
        "next_turn": turns + 1 if waits and turns < _RELOADS_MAX else None,
    }
    return _no_store(render(request, "payments/return.html", context))


@require_safe
@_throttled
def card_return(request: HttpRequest) -> HttpResponse:
    """Back from the page to save a card on: what became of it is read by the webhook, or by the sweep a bit later."""
    context = {"operator": _operator(), "card": "saved" if "saved" in request.GET else "left"}
    return _no_store(render(request, "payments/return.html", context))


def _named(request: HttpRequest) -> TopUp | None:
    session_id, public_id = request.GET.get("session_id", ""), request.GET.get("canceled", "")
    if "\x00" in session_id + public_id:
        return None
    if session_id:
        return TopUp.objects.filter(session_id=session_id).first()
    return TopUp.objects.filter(public_id=public_id, origin=TopUp.Origin.CHECKOUT).first()


def _ask(row: TopUp) -> None:
    """Ask the provider, unless it was asked of this payment again and again: then the page says what is known."""
    at = datetime.now(UTC)
    if page_throttle.is_too_often(f"ask:{row.public_id}", most=ASKED_A_MINUTE_MAX, at=at):
        return
    try:
        top_ups.sync_session(str(row.session_id), at)
    except (gateway.GatewayUnavailable, gateway.GatewayRejected, gateway.PaymentsNotConfigured) as error:
        # The sweep asks again; the page says that it waits.
        logger.warning("a customer is back from the checkout, and nobody knows of what: %s", error)


def _operator() -> str:
    return str(OperatorSettings.objects.values_list("name", flat=True).get(pk=1))


def _no_store(answer: HttpResponse) -> HttpResponse:
    answer.headers["Cache-Control"] = "no-store"
    answer.headers["Referrer-Policy"] = "no-referrer"
    return answer
