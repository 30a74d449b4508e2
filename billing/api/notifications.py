"""What the customer is told and where; and what it was told."""

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from drf_spectacular.utils import extend_schema
from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response

from billing import messages, notice_preferences
from billing.api.base import CustomerView
from billing.api.fields import Amount, AmountFromZero, Moment, NoUnknownFields, Text, choice_param
from billing.api.idempotency import Answer, once
from billing.api.openapi import IDEMPOTENCY, PAGING, answers, page_of, query
from billing.api.pagination import ById, read_page
from billing.models import Customer, Notice
from billing.notice_kinds import KINDS
from relayadmin.errors import invalid_request

KIND_NAMES = tuple(sorted(KINDS))


class StrictBoolean(serializers.BooleanField):
    """true or false, and nothing that might mean them."""

    def to_internal_value(self, data: Any) -> bool:
        if not isinstance(data, bool):
            raise serializers.ValidationError("must be true or false")
        return data


class KindSerializer(serializers.Serializer[Any]):
    kind = serializers.CharField(help_text="What it says, such as balance_low.")
    description = serializers.CharField()
    mail = serializers.BooleanField()
    webhook = serializers.BooleanField(help_text="Whether it is posted to your endpoints that want it.")


class NotificationsSerializer(serializers.Serializer[Any]):
    addresses = serializers.ListField(
        child=serializers.CharField(), help_text="Where mail goes; empty: to the account's own address."
    )
    goes_to = serializers.ListField(child=serializers.CharField(), help_text="Where mail goes as it stands.")
    low_balance_below = Amount(
        allow_null=True, help_text="You are told when less than this is left; null: as low_balance_default says."
    )
    low_balance_default = Amount(help_text="The operator's; 0: you are not told.")
    kinds = KindSerializer(many=True)


class KindBody(NoUnknownFields):
    kind = Text()
    mail = StrictBoolean()
    webhook = StrictBoolean()


class NotificationsBody(NoUnknownFields):
    addresses = serializers.ListField(
        child=Text(), required=False, default=list, max_length=notice_preferences.ADDRESSES_MAX
    )
    low_balance_below = AmountFromZero(
        required=False, allow_null=True, default=None, help_text="null: as the operator has it; 0: never."
    )
    kinds = KindBody(many=True, required=False, default=list, help_text="Kinds that are absent stay as they are.")


class NoticeSerializer(serializers.Serializer[Any]):
    id = serializers.CharField(help_text="msg_…: the id that mail and webhooks carry, too.")
    type = serializers.CharField()
    created_at = Moment()
    data = serializers.DictField(  # type: ignore[assignment]
        help_text="What the kind carries: docs/notifications.md has each."
    )


class NotificationsView(CustomerView):
    http_method_names = ["get", "head", "put"]
    write_scope = "keys"

    @extend_schema(operation_id="getNotifications", tags=["notifications"], responses=answers(NotificationsSerializer))
    def get(self, request: Request) -> Response:
        """What you are told, by mail and by webhook, and where mail goes."""
        return Response(_shown(self.customer))

    @extend_schema(
        operation_id="setNotifications",
        tags=["notifications"],
        parameters=[IDEMPOTENCY],
        request=NotificationsBody,
        responses=answers(NotificationsSerializer, 400, 409, 413, 415),
    )
    def put(self, request: Request) -> Response:
        """Set what you are told and where. It holds for what happens from now on."""
        body = NotificationsBody(data=request.data)
        body.is_valid(raise_exception=True)
        wanted = body.validated_data

        def work() -> Answer:
            try:
                notice_preferences.set_preferences(
                    customer_id=self.customer.pk,
                    addresses=wanted["addresses"],
                    low_balance_below=wanted["low_balance_below"],
                    kinds={
                        one["kind"]: notice_preferences.Choice(one["mail"], one["webhook"]) for one in wanted["kinds"]
                    },
                    at=datetime.now(UTC),
                )
            except notice_preferences.InvalidPreference as error:
                raise invalid_request(f"{error}.", error.field) from error
            return Answer(_shown(self.customer))

        return once(request, work)


def _shown(customer: Customer) -> dict[str, Any]:
    chosen = notice_preferences.of_customer(customer)
    row = {
        "addresses": chosen.addresses,
        "goes_to": chosen.goes_to,
        "low_balance_below": chosen.low_balance_below,
        "low_balance_default": chosen.default_below,
        "kinds": [
            {"kind": name, "description": KINDS[name].text, "mail": one.mail, "webhook": one.webhook}
            for name, one in chosen.kinds.items()
        ],
    }
    return dict(NotificationsSerializer(row).data)


class NoticesView(CustomerView):
    @extend_schema(
        operation_id="listNotices",
        tags=["notifications"],
        parameters=[*PAGING, query("type", "Only notices of this kind.", enum=KIND_NAMES)],
        responses=answers(page_of(NoticeSerializer), 400),
    )
    def get(self, request: Request) -> Response:
        """What you were told, newest first, whether or not it was mailed or posted anywhere."""
        page = read_page(request, ById)
        found = messages.notices_of(self.customer.pk)
        if "type" in request.query_params:
            found = found.filter(kind=choice_param(request, "type", KIND_NAMES, ""))
        if page.after:
            found = found.filter(pk__lt=page.after.id)
        return Response(page.body(list(found[: page.fetch]), key=lambda notice: ById(notice.pk), show=_notices))


def _notices(found: Sequence[Notice]) -> Any:
    rows = [
        {"id": notice.public_id, "type": notice.kind, "created_at": notice.created_at, "data": data}
        for notice, data in zip(found, messages.shown_data(found), strict=True)
    ]
    return NoticeSerializer(rows, many=True).data
