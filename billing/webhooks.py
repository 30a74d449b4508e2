"""POST /webhooks/stripe: whose signature is right is stored and answered at once, and worked off after the commit."""

import logging
from datetime import UTC, datetime
from functools import partial

from django.db import transaction
from django.http import HttpRequest, HttpResponse
from django.views.decorators.csrf import csrf_exempt
from django.views.decorators.http import require_POST
from kombu.exceptions import OperationalError

from billing import stripe_gateway, webhook_events
from billing.stripe_objects import InvalidSignature, PaymentsNotConfigured
from billing.tasks import work_off_webhook
from relayadmin.errors import ApiError
from relayadmin.middleware import json_response

logger = logging.getLogger(__name__)
BODY_BYTES_MAX = 1024 * 1024


@csrf_exempt
@require_POST
def stripe(request: HttpRequest) -> HttpResponse:
    """Keep an event once, however often it is sent. A repeat is answered the same: Stripe then stops sending it."""
    body = _read(request)
    try:
        event = stripe_gateway.read_event(body, request.headers.get("Stripe-Signature", ""))
    except PaymentsNotConfigured:
        raise ApiError(
            503, "payments_not_configured", "No webhook secret is set, so nothing that comes here can be trusted."
        ) from None
    except InvalidSignature:
        raise ApiError(400, "invalid_signature", "The signature is missing, wrong or too old.") from None
    with transaction.atomic():
        number = webhook_events.store(body, event, at=datetime.now(UTC))
        if number is not None:
            transaction.on_commit(partial(_schedule, number))
    return json_response({"received": True})


def _read(request: HttpRequest) -> bytes:
    """The body as it was signed; also one that comes in chunks without a length."""
    is_chunked = "CONTENT_LENGTH" not in request.META and "HTTP_TRANSFER_ENCODING" in request.META
    source = request.META["wsgi.input"] if is_chunked else request
    body: bytes = source.read(BODY_BYTES_MAX + 1)
    if len(body) > BODY_BYTES_MAX:
        raise ApiError(413, "webhook_too_large", f"A webhook has at most {BODY_BYTES_MAX:,} bytes.")
    return body


def _schedule(number: int) -> None:
    """Without a broker it is left to the sweep: it is stored, so Stripe need not send it again."""
    try:
        work_off_webhook.delay(number=number)
    except OperationalError as error:
        logger.warning("webhook left to the sweep number=%d error=%s", number, type(error).__name__)
