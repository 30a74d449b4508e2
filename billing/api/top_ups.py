"""Paying in: start a top-up, see what became of it, and what one can pay with."""

from datetime import UTC, datetime
from typing import Any

from django.db.models import F, Q, QuerySet, Sum
from django.urls import reverse
from drf_spectacular.utils import extend_schema
from rest_framework.request import Request
from rest_framework.response import Response

from billing import exchange, payment_accounts, top_up_tax, top_ups
from billing import stripe_gateway as gateway
from billing.accounts import AccountClosed
from billing.api.base import CustomerView, not_found
from billing.api.fields import choice_param
from billing.api.idempotency import Answer, amend, once
from billing.api.openapi import IDEMPOTENCY, PAGING, answers, page_of, query
from billing.api.pagination import ById, read_page
from billing.api.top_up_serializers import NewTopUpSerializer, TopUpOptionsSerializer, TopUpSerializer
from billing.models import OperatorSettings, Refund, TopUp
from relayadmin.errors import ApiError
from relayadmin.money import parse_amount

STATUSES = tuple(TopUp.Status.values)


class TopUpsView(CustomerView):
    write_scope = "pay"
    stays_open = ("POST",)

    @extend_schema(
        operation_id="listTopUps",
        tags=["payments"],
        parameters=[*PAGING, query("status", "Only top-ups in this status.", enum=STATUSES)],
        responses=answers(page_of(TopUpSerializer), 400),
    )
    def get(self, request: Request) -> Response:
        """Payments, newest first: by checkout, by automatic recharge, by bank transfer and in cash."""
        page = read_page(request, ById)
        found = _of(self.customer.pk)
        if "status" in request.query_params:
            found = found.filter(status=choice_param(request, "status", STATUSES, ""))
        if page.after:
            found = found.filter(pk__lt=page.after.id)
        return Response(
            page.body(
                list(found[: page.fetch]),
                key=lambda row: ById(row.pk),
                show=lambda shown: TopUpSerializer(shown, many=True).data,
            )
        )

    @extend_schema(
        operation_id="createTopUp",
        tags=["payments"],
        parameters=[IDEMPOTENCY],
        request=NewTopUpSerializer,
        responses=answers(TopUpSerializer, 400, 409, 413, 415, 502, 503, status=201),
    )
    def post(self, request: Request) -> Response:
        """Start a top-up. Send the customer to `checkout_url`; the credit is there once it is paid.

        503 `payment_provider_unavailable`: the top-up is kept, and its page is opened later. Send the same
        Idempotency-Key again for the same top-up, or read it by its id. 400 `amount_too_small`, `amount_too_large`,
        `amount_not_payable`, `currency_not_supported` and `no_exchange_rate`: see GET /top-ups/options.
        """
        body = NewTopUpSerializer(data=request.data)
        body.is_valid(raise_exception=True)
        if not gateway.configured():
            raise ApiError(503, "payments_not_configured", "Payments are not set up here. Ask the operator.")
        at = datetime.now(UTC)

        def work() -> Answer:
            row = _started(self.customer.pk, body.validated_data, request, at)
            return Answer(dict(TopUpSerializer(row).data), status=201)

        # Committed here, so that whatever happens next, a row knows of it.
        answer = once(request, work)
        if answer.data["checkout_url"] is None:
            answer.data = dict(TopUpSerializer(opened(answer.data["id"], at)).data)
            amend(request, answer.data)
        return answer


class TopUpView(CustomerView):
    @extend_schema(operation_id="getTopUp", tags=["payments"], responses=answers(TopUpSerializer, 404))
    def get(self, request: Request, top_up_id: str) -> Response:
        """One payment."""
        row = _of(self.customer.pk).filter(public_id=top_up_id).first()
        if row is None:
            raise not_found("top-up", top_up_id)
        return Response(TopUpSerializer(row).data)


class TopUpOptionsView(CustomerView):
    @extend_schema(operation_id="getTopUpOptions", tags=["payments"], responses=answers(TopUpOptionsSerializer))
    def get(self, request: Request) -> Response:
        """Amounts, currencies and methods that top-ups can have now, with the present rates."""
        bounds = OperatorSettings.objects.get(pk=1)
        return Response(
            TopUpOptionsSerializer(
                {
                    "available": gateway.configured(),
                    "sandbox": payment_accounts.is_sandbox(),
                    "minimum": bounds.top_up_minimum,
                    "maximum": bounds.top_up_maximum,
                    "tax": top_up_tax.split(self.customer, bounds.top_up_minimum, at=datetime.now(UTC)).tax,
                    "presets": [parse_amount(preset) for preset in bounds.top_up_presets],
                    "currencies": exchange.offered(at=datetime.now(UTC)),
                }
            ).data
        )


def _of(customer_id: int) -> QuerySet[TopUp]:
    gone = Sum(F("refunds__amount") + F("refunds__tax"), filter=~Q(refunds__status=Refund.Status.FAILED))
    return TopUp.objects.filter(customer_id=customer_id).annotate(refunded=gone).order_by("-pk")


def _started(customer_id: int, asked: dict[str, Any], request: Request, at: datetime) -> TopUp:
    try:
        return top_ups.start(
            customer_id=customer_id,
            amount=asked["amount"],
            currency=asked["currency"],
            save_card=asked["save_card"],
            return_url=request.build_absolute_uri(reverse("payments-return")),
            asked_by="" if request.user is None else request.user.get_username(),
            at=at,
        )
    except top_ups.InvalidTopUp as error:
        text = str(error)
        raise ApiError(400, error.code, f"{text[:1].upper()}{text[1:]}.", param=error.field) from error
    except AccountClosed as error:
        raise ApiError(403, "customer_closed", "This account is closed: it takes no payments.") from error


def opened(public_id: str, at: datetime) -> TopUp:
    """A top-up with its page, opened now unless it was before."""
    row = TopUp.objects.get(public_id=public_id)
    try:
        row = top_ups.open_checkout(top_up_id=row.pk, at=at)
    except gateway.GatewayUnavailable as error:
        raise ApiError(
            503,
            "payment_provider_unavailable",
            f"The payment provider does not answer now. {public_id} is kept and its page opened later: send the same"
            " Idempotency-Key again, or read it by its id.",
            headers={"Retry-After": "60"},
        ) from error
    except gateway.GatewayRejected as error:
        raise _refused(public_id) from error
    if row.status == TopUp.Status.FAILED and row.session_id is None:
        raise _refused(public_id)
    return row


def _refused(public_id: str) -> ApiError:
    return ApiError(
        502,
        "payment_provider_error",
        f"The payment provider did not take {public_id}; nothing was paid. Try another currency, or ask the operator.",
    )
