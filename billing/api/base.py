"""What every view of the customer API has in common."""

from typing import Any, ClassVar

from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from billing.api.authentication import Caller, caller_of
from billing.api.renderers import AlwaysFirst
from billing.models import Customer
from relayadmin.errors import ApiError


class CustomerView(APIView):
    """A view for one customer's own objects.

    `write_scope` is the scope that its writes need; `stays_open` names the writes a suspended customer may do.
    """

    content_negotiation_class = AlwaysFirst
    http_method_names = ["get", "head", "post", "put", "patch", "delete"]
    write_scope: ClassVar[str] = ""
    stays_open: ClassVar[tuple[str, ...]] = ()

    @property
    def caller(self) -> Caller:
        return caller_of(self.request)

    @property
    def customer(self) -> Customer:
        return self.caller.customer

    def finalize_response(self, request: Request, response: Any, *args: Any, **kwargs: Any) -> Response:
        answer = super().finalize_response(request, response, *args, **kwargs)
        answer.headers.setdefault("Cache-Control", "no-store")
        return answer


def not_found(what: str, public_id: str) -> ApiError:
    """404 for an id that is unknown, malformed or another customer's; `what` is a word such as "invoice"."""
    code = f"{what.replace(' ', '_').replace('-', '_').lower()}_not_found"
    return ApiError(404, code, f"There is no {what} {public_id[:80]!r} here.", param="id")
