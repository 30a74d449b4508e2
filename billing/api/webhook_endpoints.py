"""The customer's webhook endpoints: list, make, change, rotate, try out, remove; and what was sent there."""

from datetime import UTC, datetime
from typing import Any, cast

from drf_spectacular.utils import extend_schema
from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response

from billing import webhook_endpoints, webhook_sending
from billing.api.base import CustomerView, not_found
from billing.api.fields import Moment, NoUnknownFields, Text, moment_text
from billing.api.idempotency import Answer, once
from billing.api.notifications import StrictBoolean
from billing.api.openapi import IDEMPOTENCY, PAGING, answers, page_of
from billing.api.pagination import ById, read_page
from billing.models import Delivery, WebhookEndpoint
from billing.outbound import URL_LENGTH_MAX
from relayadmin.errors import ApiError, invalid_request

DELIVERY_STATUS = Delivery.Status.choices


class WebhookEndpointSerializer(serializers.Serializer[Any]):
    id = serializers.CharField(source="public_id")
    url = serializers.CharField()
    description = serializers.CharField()
    kinds = serializers.ListField(
        child=serializers.CharField(), help_text="Only these; empty: all that your notifications turn on for webhooks."
    )
    enabled = serializers.SerializerMethodField()
    disabled_because = serializers.SerializerMethodField()
    failing_since = Moment(allow_null=True, help_text="The first failure since it last took something.")
    previous_secret_until = serializers.SerializerMethodField(
        help_text="After a rotation: until then it is signed with both secrets."
    )
    created_at = Moment()

    def get_enabled(self, obj: WebhookEndpoint) -> bool:
        return obj.disabled_at is None

    def get_disabled_because(self, obj: WebhookEndpoint) -> str | None:
        return obj.disabled_because or None

    def get_previous_secret_until(self, obj: WebhookEndpoint) -> str | None:
        until = obj.previous_until
        return moment_text(until) if until is not None and until > datetime.now(UTC) else None


class NewWebhookEndpointSerializer(WebhookEndpointSerializer):
    secret = serializers.CharField(
        allow_null=True, help_text="whsec_…, to check signatures with: in this answer only; null when it is replayed."
    )


class WebhookEndpointBody(NoUnknownFields):
    url = Text(max_length=URL_LENGTH_MAX, help_text="https://…, on the public internet.")
    description = Text(required=False, allow_blank=True, default="", max_length=200)
    kinds = serializers.ListField(child=Text(), required=False, default=list, max_length=100)


class WebhookEndpointChanges(WebhookEndpointBody):
    enabled = StrictBoolean()


class DeliverySerializer(serializers.Serializer[Any]):
    id = serializers.CharField(source="public_id")
    notice = serializers.CharField(source="notice.public_id", help_text="msg_…: the webhook-id that it carries.")
    type = serializers.CharField(source="notice.kind")
    status = serializers.ChoiceField(DELIVERY_STATUS)
    attempts = serializers.IntegerField()
    status_code = serializers.IntegerField(allow_null=True, help_text="What your endpoint answered last.")
    error = serializers.SerializerMethodField()
    next_attempt_at = Moment(source="look_at", allow_null=True)
    created_at = Moment()

    def get_error(self, obj: Delivery) -> str | None:
        return obj.error or None


class EndpointView(CustomerView):
    write_scope = "keys"

    def _endpoint(self, endpoint_id: str) -> WebhookEndpoint:
        found = webhook_endpoints.of_customer(self.customer.pk).filter(public_id=endpoint_id).first()
        if found is None:
            raise not_found("webhook endpoint", endpoint_id)
        return found


class WebhookEndpointsView(EndpointView):
    @extend_schema(
        operation_id="listWebhookEndpoints",
        tags=["notifications"],
        parameters=PAGING,
        responses=answers(page_of(WebhookEndpointSerializer), 400),
    )
    def get(self, request: Request) -> Response:
        """Your endpoints, newest first."""
        page = read_page(request, ById)
        found = webhook_endpoints.of_customer(self.customer.pk)
        if page.after:
            found = found.filter(pk__lt=page.after.id)
        return Response(
            page.body(
                list(found[: page.fetch]),
                key=lambda row: ById(row.pk),
                show=lambda shown: WebhookEndpointSerializer(shown, many=True).data,
            )
        )

    @extend_schema(
        operation_id="createWebhookEndpoint",
        tags=["notifications"],
        parameters=[IDEMPOTENCY],
        request=WebhookEndpointBody,
        responses=answers(NewWebhookEndpointSerializer, 400, 409, 413, 415, status=201),
    )
    def post(self, request: Request) -> Response:
        """Have notices posted to an address. The secret that they are signed with is in this answer only."""
        body = WebhookEndpointBody(data=request.data)
        body.is_valid(raise_exception=True)

        def work() -> Answer:
            try:
                row = webhook_endpoints.create(
                    customer_id=self.customer.pk, at=datetime.now(UTC), **body.validated_data
                )
            except webhook_endpoints.InvalidEndpoint as error:
                raise invalid_request(f"{error}.", error.field) from error
            except webhook_endpoints.TooManyEndpoints as error:
                raise ApiError(409, "too_many_webhook_endpoints", f"{error}.") from error
            return _with_secret(row, status=201)

        return once(request, work)


class WebhookEndpointView(EndpointView):
    @extend_schema(
        operation_id="getWebhookEndpoint",
        tags=["notifications"],
        responses=answers(WebhookEndpointSerializer, 404),
    )
    def get(self, request: Request, endpoint_id: str) -> Response:
        """One endpoint."""
        return Response(WebhookEndpointSerializer(self._endpoint(endpoint_id)).data)

    @extend_schema(
        operation_id="changeWebhookEndpoint",
        tags=["notifications"],
        parameters=[IDEMPOTENCY],
        request=WebhookEndpointChanges(partial=True),
        responses=answers(WebhookEndpointSerializer, 400, 404, 409, 413, 415),
    )
    def patch(self, request: Request, endpoint_id: str) -> Response:
        """Change what is given; the rest stays. `enabled` true switches it on again after it had failed for days."""
        row = self._endpoint(endpoint_id)
        body = WebhookEndpointChanges(data=request.data, partial=True)
        body.is_valid(raise_exception=True)

        def work() -> Answer:
            changes = cast(webhook_endpoints.Changes, body.validated_data)
            try:
                changed = webhook_endpoints.change(endpoint_id=row.pk, changes=changes, at=datetime.now(UTC))
            except webhook_endpoints.InvalidEndpoint as error:
                raise invalid_request(f"{error}.", error.field) from error
            return Answer(WebhookEndpointSerializer(changed).data)

        return once(request, work)

    @extend_schema(
        operation_id="removeWebhookEndpoint",
        tags=["notifications"],
        parameters=[IDEMPOTENCY],
        responses=answers(WebhookEndpointSerializer, 404, 409),
    )
    def delete(self, request: Request, endpoint_id: str) -> Response:
        """Remove an endpoint: nothing is sent there any more."""
        row = self._endpoint(endpoint_id)

        def work() -> Answer:
            webhook_endpoints.remove(endpoint_id=row.pk, at=datetime.now(UTC))
            return Answer(WebhookEndpointSerializer(row).data)

        return once(request, work)


class RotateView(EndpointView):
    http_method_names = ["post"]

    @extend_schema(
        operation_id="rotateWebhookSecret",
        tags=["notifications"],
        parameters=[IDEMPOTENCY],
        request=None,
        responses=answers(NewWebhookEndpointSerializer, 404, 409),
    )
    def post(self, request: Request, endpoint_id: str) -> Response:
        """A new secret, in this answer only. For a day, all is signed with the one before, too."""
        row = self._endpoint(endpoint_id)
        return once(
            request,
            lambda: _with_secret(webhook_endpoints.rotate(endpoint_id=row.pk, at=datetime.now(UTC)), status=200),
        )


class TestView(EndpointView):
    http_method_names = ["post"]

    @extend_schema(
        operation_id="testWebhookEndpoint",
        tags=["notifications"],
        parameters=[IDEMPOTENCY],
        request=None,
        responses=answers(DeliverySerializer, 404, 409, status=201),
    )
    def post(self, request: Request, endpoint_id: str) -> Response:
        """Have a message of the type `test` sent there within seconds; the deliveries tell what came of it."""
        row = self._endpoint(endpoint_id)

        def work() -> Answer:
            if row.disabled_at is not None:
                raise ApiError(409, "webhook_endpoint_disabled", "It is switched off. Enable it first.", param="id")
            delivery = webhook_sending.send_test(endpoint_id=row.pk, at=datetime.now(UTC))
            return Answer(DeliverySerializer(delivery).data, status=201)

        return once(request, work)


class DeliveriesView(EndpointView):
    @extend_schema(
        operation_id="listWebhookDeliveries",
        tags=["notifications"],
        parameters=PAGING,
        responses=answers(page_of(DeliverySerializer), 400, 404),
    )
    def get(self, request: Request, endpoint_id: str) -> Response:
        """What was sent to an endpoint, or waits to be, newest first; ended ones for 90 days."""
        row, page = self._endpoint(endpoint_id), read_page(request, ById)
        found = Delivery.objects.filter(endpoint=row).select_related("notice").order_by("-pk")
        if page.after:
            found = found.filter(pk__lt=page.after.id)
        return Response(
            page.body(
                list(found[: page.fetch]),
                key=lambda delivery: ById(delivery.pk),
                show=lambda shown: DeliverySerializer(shown, many=True).data,
            )
        )


def _with_secret(row: WebhookEndpoint, *, status: int) -> Answer:
    shown = WebhookEndpointSerializer(row).data
    return Answer({**shown, "secret": row.secret}, status=status, secrets=("secret",))
