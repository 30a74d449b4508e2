"""The customer's money: balance, wallet statement, invoices."""

from datetime import UTC, datetime, timedelta

from drf_spectacular.utils import extend_schema
from rest_framework.request import Request
from rest_framework.response import Response

from billing import queries, redemption
from billing.accounts import AccountClosed
from billing.api.authentication import not_active
from billing.api.base import CustomerView, not_found
from billing.api.fields import choice_param, hour_param
from billing.api.idempotency import Answer, is_answered, once
from billing.api.openapi import HOURS, IDEMPOTENCY, PAGING, answers, page_of, query
from billing.api.pagination import ById, read_page
from billing.api.serializers import (
    BalanceSerializer,
    GrantSerializer,
    InvoiceSerializer,
    RedemptionSerializer,
    TransferSerializer,
)
from billing.models import Customer, Transfer
from relayadmin.errors import ApiError, invalid_request


class BalanceView(CustomerView):
    @extend_schema(operation_id="getBalance", tags=["money"], responses=answers(BalanceSerializer))
    def get(self, request: Request) -> Response:
        """The wallet now, and the credit that is left."""
        return Response(BalanceSerializer(queries.balance_of(self.customer.pk)).data)


class RedemptionsView(CustomerView):
    http_method_names = ["post"]
    write_scope = "pay"

    @extend_schema(
        operation_id="redeemCode",
        tags=["money"],
        parameters=[IDEMPOTENCY],
        request=RedemptionSerializer,
        responses=answers(GrantSerializer, 400, 404, 409, 413, 415, 429, status=201),
    )
    def post(self, request: Request) -> Response:
        """Turn a redemption code into credit. Ten codes tried in vain within an hour are enough."""
        body = RedemptionSerializer(data=request.data)
        body.is_valid(raise_exception=True)
        try:
            code = redemption.read_code(body.validated_data["code"])
        except redemption.InvalidCode as error:
            raise invalid_request(f"code: {error}", "code") from error
        customer_id, at = self.customer.pk, datetime.now(UTC)

        def work() -> Answer:
            grant = redemption.redeem(customer_id=customer_id, code=code, at=at)
            return Answer(GrantSerializer(queries.grant_left(grant)).data, status=201)

        if is_answered(request):
            return once(request, work)
        try:
            with redemption.counted(customer_id, at=at):
                return once(request, work)
        except redemption.Refused as error:
            status = 404 if isinstance(error, redemption.CodeNotFound) else 409
            raise ApiError(status, error.code, str(error), param="code") from error
        except AccountClosed as error:  # since this request was let in
            raise not_active(Customer.Status.CLOSED) from error
        except redemption.TooManyFailures as error:
            wait_s = -(-error.wait // timedelta(seconds=1))
            raise ApiError(
                429,
                "too_many_attempts",
                f"Too many codes were tried in vain. Try again in {wait_s} seconds.",
                headers={"Retry-After": str(wait_s)},
            ) from error


class TransfersView(CustomerView):
    @extend_schema(
        operation_id="listTransfers",
        tags=["money"],
        parameters=[*PAGING, *HOURS, query("kind", "Only transfers of this kind.", enum=Transfer.Kind.values)],
        responses=answers(page_of(TransferSerializer), 400),
    )
    def get(self, request: Request) -> Response:
        """The wallet's statement: every transfer with the balance after it, newest first."""
        page = read_page(request, ById)
        rows = queries.statement(
            customer_id=self.customer.pk,
            before_version=page.after.id if page.after else None,
            limit=page.fetch,
            only=statement_filter(request),
        )
        return Response(
            page.body(
                rows, key=lambda row: ById(row.version), show=lambda shown: TransferSerializer(shown, many=True).data
            )
        )


def statement_filter(request: Request) -> queries.StatementFilter:
    """Which transfers a request asks for."""
    start, end = hour_param(request, "start"), hour_param(request, "end")
    if start is not None and end is not None and end <= start:
        raise invalid_request("end must be after start.", "end")
    kinds = tuple(Transfer.Kind.values)
    kind = choice_param(request, "kind", kinds, "") if "kind" in request.query_params else None
    return queries.StatementFilter(start, end, kind)


class InvoicesView(CustomerView):
    @extend_schema(
        operation_id="listInvoices",
        tags=["invoices"],
        parameters=PAGING,
        responses=answers(page_of(InvoiceSerializer), 400),
    )
    def get(self, request: Request) -> Response:
        """Issued invoices with their lines, newest first."""
        page = read_page(request, ById)
        found = queries.invoices(customer_id=self.customer.pk)
        if page.after:
            found = found.filter(pk__lt=page.after.id)
        return Response(
            page.body(
                list(found[: page.fetch]),
                key=lambda invoice: ById(invoice.pk),
                show=lambda shown: InvoiceSerializer(shown, many=True).data,
            )
        )


class InvoiceView(CustomerView):
    @extend_schema(operation_id="getInvoice", tags=["invoices"], responses=answers(InvoiceSerializer, 404))
    def get(self, request: Request, invoice_id: str) -> Response:
        """One invoice with its lines."""
        invoice = queries.invoices(customer_id=self.customer.pk).filter(public_id=invoice_id).first()
        if invoice is None:
            raise not_found("invoice", invoice_id)
        return Response(InvoiceSerializer(invoice).data)
