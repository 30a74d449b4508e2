"""The OpenAPI document: the one error shape, pages, parameters, how to authenticate; and where it is served."""

from functools import cache
from typing import Any

from drf_spectacular.extensions import OpenApiAuthenticationExtension
from drf_spectacular.generators import SchemaGenerator
from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import OpenApiParameter, OpenApiResponse, inline_serializer
from rest_framework import serializers
from rest_framework.permissions import AllowAny
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from billing import idempotent_answers
from billing.api.idempotency import HEADER
from billing.api.pagination import DEFAULT_LIMIT, LARGEST_LIMIT
from billing.api.renderers import AlwaysFirst


class ErrorDetail(serializers.Serializer[Any]):
    type = serializers.CharField(help_text="The kind of error, such as invalid_request_error.")
    code = serializers.CharField(help_text="What a program can act upon.")
    message = serializers.CharField(help_text="What was wrong and what to do, for a person.")
    param = serializers.CharField(allow_null=True, help_text="The field or parameter at fault.")


class Error(serializers.Serializer[Any]):
    """The shape of every error."""

    error = ErrorDetail()


_ERRORS = {
    400: "Malformed; `param` names the field or parameter.",
    401: "No access token, or a wrong, expired or revoked one.",
    403: "The token's scopes, the member's role or the account's status don't allow it.",
    404: "Unknown, or another customer's.",
    409: "It contradicts what was done before.",
    413: "The body is larger than 64 KiB.",
    415: "The body is not application/json.",
    429: "Too often in vain; `Retry-After` says when to come back, in seconds.",
    502: "The payment provider refused what it was asked.",
    503: "The payment provider is away, or none is set up.",
}


def answers(ok: Any, *errors: int, status: int = 200) -> dict[int, Any]:
    """The responses of an operation: what it answers, and its errors; 401 and 403 go without saying."""
    return {status: ok} | {
        code: OpenApiResponse(Error, description=_ERRORS[code]) for code in sorted({401, 403, *errors})
    }


def page_of(serializer: type[serializers.Serializer[Any]]) -> Any:
    """The response of a cursor-paged list."""
    return inline_serializer(
        f"{serializer.__name__.removesuffix('Serializer')}Page",
        {
            "data": serializer(many=True),
            "has_more": serializers.BooleanField(),
            "next_cursor": serializers.CharField(allow_null=True, help_text="Pass it as ?cursor= for the next page."),
        },
    )


def query(name: str, description: str, **options: Any) -> OpenApiParameter:
    """A query parameter; a string unless `type` says otherwise."""
    return OpenApiParameter(name, location=OpenApiParameter.QUERY, description=description, **options)


PAGING = [
    query(
        "limit",
        "Rows per page.",
        type={"type": "integer", "minimum": 1, "maximum": LARGEST_LIMIT, "default": DEFAULT_LIMIT},
    ),
    query("cursor", "`next_cursor` of the page before."),
]
IDEMPOTENCY = OpenApiParameter(
    HEADER,
    location=OpenApiParameter.HEADER,
    type={"type": "string", "minLength": 1, "maxLength": 255},
    description=(
        "The same key does the work once and gets the first answer again, secrets left out."
        f" A key holds for {idempotent_answers.KEPT.days} days, and may be forgotten after that."
    ),
)
HOURS = [
    query("start", "From this full hour on.", type=OpenApiTypes.DATETIME),
    query("end", "Until this full hour, which does not belong to it.", type=OpenApiTypes.DATETIME),
]


class AccessTokenScheme(OpenApiAuthenticationExtension):
    target_class = "billing.api.authentication.AccessTokenAuthentication"
    name = "accessToken"

    def get_security_definition(self, auto_schema: Any) -> dict[str, Any]:
        return {"type": "http", "scheme": "bearer", "bearerFormat": "ct_…"}


class MemberSessionScheme(OpenApiAuthenticationExtension):
    target_class = "billing.api.authentication.MemberSessionAuthentication"
    name = "session"

    def get_security_definition(self, auto_schema: Any) -> dict[str, Any]:
        return {"type": "apiKey", "in": "cookie", "name": "sessionid"}


@cache
def document() -> dict[str, Any]:
    """The document; the same for everybody as long as the process runs."""
    return dict(SchemaGenerator().get_schema(request=None, public=True))


class SchemaView(APIView):
    """The OpenAPI document, for anybody."""

    authentication_classes = ()
    permission_classes = (AllowAny,)
    content_negotiation_class = AlwaysFirst
    schema = None

    def get(self, request: Request) -> Response:
        return Response(document())
