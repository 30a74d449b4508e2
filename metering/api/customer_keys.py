"""The customer's API keys: list, make, change, revoke."""

from datetime import UTC, datetime
from typing import Any, cast

from drf_spectacular.utils import extend_schema
from rest_framework.request import Request
from rest_framework.response import Response

from billing.api.base import CustomerView, not_found
from billing.api.idempotency import Answer, once
from billing.api.openapi import IDEMPOTENCY, PAGING, answers, page_of
from billing.api.pagination import ById, read_page
from metering import keys
from metering.api.customer_serializers import ApiKeyBody, ApiKeySerializer, NewApiKeySerializer
from metering.models import ApiKey
from relayadmin.errors import ApiError, invalid_request


class ApiKeysView(CustomerView):
    write_scope = "keys"

    @extend_schema(
        operation_id="listApiKeys", tags=["keys"], parameters=PAGING, responses=answers(page_of(ApiKeySerializer), 400)
    )
    def get(self, request: Request) -> Response:
        """All keys, newest first, revoked ones included."""
        page = read_page(request, ById)
        found = ApiKey.objects.filter(customer=self.customer).order_by("-pk")
        if page.after:
            found = found.filter(pk__lt=page.after.id)
        return Response(
            page.body(
                list(found[: page.fetch]),
                key=lambda key: ById(key.pk),
                show=lambda shown: ApiKeySerializer(shown, many=True).data,
            )
        )

    @extend_schema(
        operation_id="createApiKey",
        tags=["keys"],
        parameters=[IDEMPOTENCY],
        request=ApiKeyBody,
        responses=answers(NewApiKeySerializer, 400, 409, 413, 415, status=201),
    )
    def post(self, request: Request) -> Response:
        """Make a key. Its secret is in this answer only."""
        body = _read(ApiKeyBody(data=request.data))

        def work() -> Answer:
            try:
                key, secret = keys.create_api_key(customer=self.customer, at=datetime.now(UTC), **body)
            except keys.InvalidKey as error:
                raise invalid_request(f"{error}.", error.field) from error
            return Answer({**ApiKeySerializer(key).data, "key": secret}, status=201, secrets=("key",))

        return once(request, work)


class ApiKeyView(CustomerView):
    write_scope = "keys"
    stays_open = ("DELETE",)

    def _key(self, api_key_id: str) -> ApiKey:
        key = ApiKey.objects.filter(customer=self.customer, public_id=api_key_id).first()
        if key is None:
            raise not_found("API key", api_key_id)
        return key

    @extend_schema(operation_id="getApiKey", tags=["keys"], responses=answers(ApiKeySerializer, 404))
    def get(self, request: Request, api_key_id: str) -> Response:
        """One key."""
        return Response(ApiKeySerializer(self._key(api_key_id)).data)

    @extend_schema(
        operation_id="changeApiKey",
        tags=["keys"],
        parameters=[IDEMPOTENCY],
        request=ApiKeyBody(partial=True),
        responses=answers(ApiKeySerializer, 400, 404, 409, 413, 415),
    )
    def patch(self, request: Request, api_key_id: str) -> Response:
        """Change what is given; the rest stays. It holds from the next authorization on."""
        key = self._key(api_key_id)
        body = _read(ApiKeyBody(data=request.data, partial=True))

        def work() -> Answer:
            try:
                changed = keys.change_api_key(
                    api_key_id=key.pk, changes=cast(keys.KeyChanges, body), at=datetime.now(UTC)
                )
            except keys.InvalidKey as error:
                raise invalid_request(f"{error}.", error.field) from error
            except keys.KeyRevoked as error:
                raise ApiError(
                    409, "api_key_revoked", "A revoked key can't be changed. Make a new one.", param="id"
                ) from error
            return Answer(ApiKeySerializer(changed).data)

        return once(request, work)

    @extend_schema(
        operation_id="revokeApiKey",
        tags=["keys"],
        parameters=[IDEMPOTENCY],
        responses=answers(ApiKeySerializer, 404, 409),
    )
    def delete(self, request: Request, api_key_id: str) -> Response:
        """Revoke a key for good, effective at the next authorization; a second time changes nothing."""
        key = self._key(api_key_id)

        def work() -> Answer:
            keys.revoke_api_key(api_key_id=key.pk, at=datetime.now(UTC))
            key.refresh_from_db()
            return Answer(ApiKeySerializer(key).data)

        return once(request, work)


def _read(body: ApiKeyBody) -> dict[str, Any]:
    body.is_valid(raise_exception=True)
    return dict(body.validated_data)
