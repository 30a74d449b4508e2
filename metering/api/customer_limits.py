"""The customer's spend limits: all that hold, and the customer's own to set."""

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from drf_spectacular.utils import extend_schema
from rest_framework.request import Request
from rest_framework.response import Response

from billing.api.base import CustomerView
from billing.api.idempotency import Answer, once
from billing.api.openapi import IDEMPOTENCY, PAGING, answers, page_of
from billing.api.pagination import ById, read_page
from billing.models import SpendLimit
from billing.models.spending import Span
from billing.spending import InvalidLimit
from metering import spend
from metering.api.customer_serializers import SpendLimitsBody, SpendLimitSerializer
from metering.models import ApiKey
from relayadmin.errors import ApiError, invalid_request

SpendLimitPage = page_of(SpendLimitSerializer)


class SpendLimitsView(CustomerView):
    write_scope = "keys"

    @extend_schema(
        operation_id="listSpendLimits", tags=["keys"], parameters=PAGING, responses=answers(SpendLimitPage, 400)
    )
    def get(self, request: Request) -> Response:
        """All limits that hold for you and your keys, whoever set them, newest first."""
        page = read_page(request, ById)
        found = SpendLimit.objects.filter(customer=self.customer).order_by("-pk")
        if page.after:
            found = found.filter(pk__lt=page.after.id)
        return Response(page.body(list(found[: page.fetch]), key=lambda limit: ById(limit.pk), show=_shown))

    @extend_schema(
        operation_id="replaceSpendLimits",
        tags=["keys"],
        parameters=[IDEMPOTENCY],
        request=SpendLimitsBody,
        responses=answers(SpendLimitPage, 400, 404, 409, 413, 415),
    )
    def put(self, request: Request) -> Response:
        """Make these your only own limits of one key, or of all you spend; answers with all that hold there.

        They hold from the next authorization on; what was spent before already counts. The operator's limits stay.
        When 80 % and when 100 % of a limit are spent, you are told, once each in its day or month.
        """
        body = SpendLimitsBody(data=request.data)
        body.is_valid(raise_exception=True)
        api_key_id = self._number_of(body.validated_data["api_key"])
        limits = [
            spend.Limit(Span(one["span"]), one["amount"], is_hard=one["type"] == "hard", api_key_id=api_key_id)
            for one in body.validated_data["limits"]
        ]

        def work() -> Answer:
            try:
                spend.replace_limits(
                    self.customer.pk,
                    limits,
                    owner=SpendLimit.Owner.CUSTOMER,
                    api_key_id=api_key_id,
                    actor=self._actor(),
                    at=datetime.now(UTC),
                )
            except InvalidLimit as error:
                raise invalid_request(f"{error}.", "limits") from error
            scope = spend.scope_of(api_key_id)
            standing = SpendLimit.objects.filter(customer=self.customer, scope=scope).order_by("-pk")
            return Answer({"data": _shown(list(standing)), "has_more": False, "next_cursor": None})

        return once(request, work)

    def _number_of(self, public_id: str | None) -> int | None:
        if public_id is None:
            return None
        number = ApiKey.objects.filter(customer=self.customer, public_id=public_id).values_list("pk", flat=True).first()
        if number is None:
            raise ApiError(404, "api_key_not_found", f"There is no API key {public_id[:80]!r} here.", param="api_key")
        return number

    def _actor(self) -> str:
        """Who is signed in; a script's token is nobody."""
        user: Any = self.request.user
        return "" if user is None else user.get_username()


def _shown(limits: Sequence[SpendLimit]) -> Any:
    keys = spend.keys_of(limit.scope for limit in limits)
    found = spend.standings(limits, at=datetime.now(UTC))
    return SpendLimitSerializer(found, many=True, context={"keys": keys}).data
