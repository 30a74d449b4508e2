"""Paying an invoice: the page on which it is paid."""

from datetime import UTC, datetime

from django.core.validators import RegexValidator
from django.urls import reverse
from drf_spectacular.utils import extend_schema
from rest_framework.request import Request
from rest_framework.response import Response

from billing import stripe_gateway as gateway
from billing import top_ups
from billing.accounts import AccountClosed
from billing.api.base import CustomerView, not_found
from billing.api.fields import NoUnknownFields, Text
from billing.api.idempotency import Answer, amend, once
from billing.api.openapi import IDEMPOTENCY, answers
from billing.api.top_up_serializers import TopUpSerializer
from billing.api.top_ups import opened
from billing.exchange import USD
from relayadmin.errors import ApiError


class InvoicePaymentBody(NoUnknownFields):
    currency = Text(
        default=USD,
        validators=[RegexValidator(r"\A[A-Z]{3}\Z", 'must be a code such as "USD"')],
        help_text="What it is paid in; see GET /top-ups/options.",
    )


class InvoicePaymentView(CustomerView):
    http_method_names = ["post"]
    write_scope = "pay"
    stays_open = ("POST",)

    @extend_schema(
        operation_id="payInvoice",
        tags=["invoices"],
        parameters=[IDEMPOTENCY],
        request=InvoicePaymentBody,
        responses=answers(TopUpSerializer, 400, 404, 409, 413, 415, 502, 503, status=201),
    )
    def post(self, request: Request, invoice_id: str) -> Response:
        """Begin paying what is due on an invoice. Send the customer to `checkout_url`; it is paid once that is.

        409 `nothing_due`: it is paid, void, or a statement of prepaid usage. Asked again, the same page is answered.
        """
        body = InvoicePaymentBody(data=request.data)
        body.is_valid(raise_exception=True)
        if not gateway.configured():
            raise ApiError(503, "payments_not_configured", "Payments are not set up here. Ask the operator.")
        at = datetime.now(UTC)

        def work() -> Answer:
            try:
                row = top_ups.start_payment(
                    customer_id=self.customer.pk,
                    invoice=invoice_id,
                    currency=body.validated_data["currency"],
                    return_url=request.build_absolute_uri(reverse("payments-return")),
                    asked_by="" if request.user is None else request.user.get_username(),
                    at=at,
                )
            except top_ups.InvalidTopUp as error:
                if error.code == "not_found":
                    raise not_found("invoice", invoice_id) from error
                status = 409 if error.code == "nothing_due" else 400
                text = str(error)
                raise ApiError(status, error.code, f"{text[:1].upper()}{text[1:]}.", param=error.field) from error
            except AccountClosed as error:
                raise ApiError(403, "customer_closed", "This account is closed: it takes no payments.") from error
            return Answer(dict(TopUpSerializer(row).data), status=201)

        answer = once(request, work)
        if answer.data["checkout_url"] is None:
            answer.data = dict(TopUpSerializer(opened(answer.data["id"], at)).data)
            amend(request, answer.data)
        return answer
