"""The customer's own price list."""

from datetime import UTC, datetime

from drf_spectacular.utils import extend_schema
from rest_framework.request import Request
from rest_framework.response import Response

from billing.api.base import CustomerView
from billing.api.fields import text_param
from billing.api.openapi import PAGING, answers, page_of, query
from billing.api.pagination import read_page
from metering import pricing
from metering.api.customer_serializers import PriceSerializer
from metering.api.customer_usage import model_number
from metering.price_list import PriceKey, plans_of, price_list


class PricesView(CustomerView):
    @extend_schema(
        operation_id="listPrices",
        tags=["prices"],
        parameters=[*PAGING, query("model", "Only this model: an id or an alias.")],
        responses=answers(page_of(PriceSerializer), 400, 404),
    )
    def get(self, request: Request) -> Response:
        """What each meter of each model costs you, now and as announced; by model, meter and tier."""
        page = read_page(request, PriceKey)
        model = text_param(request, "model")
        table, at = pricing.current(), datetime.now(UTC)
        prices = price_list(
            table=table,
            plans=plans_of(self.customer.pk, table, at=at),
            at=at,
            limit=page.fetch,
            after=page.after,
            model_id=None if model is None else model_number(model),
        )
        return Response(
            page.body(prices, key=lambda price: price.key, show=lambda shown: PriceSerializer(shown, many=True).data)
        )
