"""What a customer is told when the payment provider can't be asked, or says no."""

from collections.abc import Iterator
from contextlib import contextmanager

from billing import stripe_gateway as gateway
from relayadmin.errors import ApiError


@contextmanager
def provider_errors() -> Iterator[None]:
    """Turn the gateway's exceptions into answers; a card that was declined is the caller's own."""
    try:
        yield
    except gateway.PaymentsNotConfigured as error:
        raise ApiError(503, "payments_not_configured", "Payments are not set up here. Ask the operator.") from error
    except gateway.GatewayUnavailable as error:
        raise ApiError(
            503,
            "payment_provider_unavailable",
            "The payment provider did not answer. Try again in a moment.",
            headers={"Retry-After": "60"},
        ) from error
    except gateway.GatewayRejected as error:
        raise ApiError(
            502, "payment_provider_error", "The payment provider refused this. Ask the operator to look at it."
        ) from error
