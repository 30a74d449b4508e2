"""Who asks: a script with an access token, or a signed-in member of a customer; and what it may do."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, cast

from django.db.models import Q
from rest_framework.authentication import BaseAuthentication, SessionAuthentication
from rest_framework.permissions import SAFE_METHODS, BasePermission
from rest_framework.request import Request

from billing.models import AccessToken, Customer, Membership
from relayadmin.errors import ApiError
from relayadmin.ids import secret_digest

if TYPE_CHECKING:
    from rest_framework.views import APIView  # which imports this module

CHALLENGE = 'Bearer realm="api"'
# A session's key that names the customer whose pages are open, for people who are members of several.
SESSION_CUSTOMER = "customer"
_SCOPES_OF_ROLE: dict[str, frozenset[str]] = {
    Membership.Role.OWNER: frozenset(AccessToken.Scope.values),
    Membership.Role.BILLING: frozenset({AccessToken.Scope.READ, AccessToken.Scope.PAY}),
    Membership.Role.DEVELOPER: frozenset({AccessToken.Scope.READ, AccessToken.Scope.KEYS}),
    Membership.Role.VIEWER: frozenset({AccessToken.Scope.READ}),
}


@dataclass(frozen=True, slots=True)
class Caller:
    """The customer that a request speaks for, and the scopes it has."""

    customer: Customer
    scopes: frozenset[str]


def unauthenticated() -> ApiError:
    """The same answer for a missing, unknown, expired and revoked token."""
    return ApiError(
        401,
        "invalid_access_token",
        "The access token is missing, wrong, expired or revoked. Send Authorization: Bearer ct_….",
        headers={"WWW-Authenticate": CHALLENGE},
    )


def not_active(status: str) -> ApiError:
    """What a suspended or closed customer is told that wants to change something."""
    return ApiError(
        403, f"customer_{status}", f"This account is {status}: it can be read, not changed. Ask the operator."
    )


class AccessTokenAuthentication(BaseAuthentication):
    """`Authorization: Bearer ct_…`. A request with any Authorization header is never judged by its session."""

    def authenticate(self, request: Request) -> tuple[None, Caller] | None:
        header = request.META.get("HTTP_AUTHORIZATION")
        if header is None:
            return None
        scheme, _, text = header.partition(" ")
        now = datetime.now(UTC)
        token = (
            AccessToken.objects.filter(
                Q(expires_at=None) | Q(expires_at__gt=now),
                # A wrong scheme is looked up like a wrong token, and found as little.
                digest=secret_digest(text.strip() if scheme.lower() == "bearer" else ""),
                revoked_at=None,
            )
            .select_related("customer")
            .first()
        )
        if token is None:
            raise unauthenticated()
        return None, Caller(token.customer, frozenset(token.scopes))

    def authenticate_header(self, request: Request) -> str:
        return CHALLENGE


class MemberSessionAuthentication(SessionAuthentication):
    """A signed-in user who is a member of a customer; writes need the CSRF token."""

    def authenticate(self, request: Request) -> tuple[Any, Caller] | None:
        found = super().authenticate(request)
        if found is None:
            return None
        user = found[0]
        memberships = list(Membership.objects.filter(user=user).select_related("customer").order_by("pk"))
        if not memberships:
            raise ApiError(
                403, "no_customer", "You are signed in, but not a member of any customer. Ask its owner to add you."
            )
        wanted = request._request.session.get(SESSION_CUSTOMER)
        chosen = next((one for one in memberships if one.customer.public_id == wanted), memberships[0])
        return user, Caller(chosen.customer, _SCOPES_OF_ROLE[chosen.role])


class HasCustomer(BasePermission):
    """Reads need the scope `read`, writes the view's `write_scope`; a suspended customer may do what `stays_open`."""

    def has_permission(self, request: Request, view: "APIView") -> bool:
        caller = request.auth
        if not isinstance(caller, Caller):
            raise unauthenticated()
        is_read = request.method in SAFE_METHODS
        scope = AccessToken.Scope.READ.value if is_read else cast(str, getattr(view, "write_scope", ""))
        if scope and scope not in caller.scopes:
            raise ApiError(403, "insufficient_scope", f"This needs the scope {scope!r}, which you don't have here.")
        stays_open: Sequence[str] = getattr(view, "stays_open", ())
        if not is_read and caller.customer.status != Customer.Status.ACTIVE and request.method not in stays_open:
            raise not_active(caller.customer.status)
        return True


def caller_of(request: Request) -> Caller:
    """The caller of a request that HasCustomer let in."""
    caller = request.auth
    assert isinstance(caller, Caller)
    return caller
