"""Holds the parameters of a request, as they went out, against the stripe package's own typed definitions."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any, Literal, get_args, get_origin, get_type_hints

import stripe.params as p
import stripe.params.checkout as c
from stripe import _request_options
from typing_extensions import is_typeddict

Json = dict[str, Any]
OPTIONS = _request_options.RequestOptions.__annotations__.keys()  # of the call, not of the request
ID = "[A-Za-z0-9_]+"
DEFINED: list[tuple[str, str, Any]] = [
    ("POST", "/v1/customers", p.CustomerCreateParams),
    ("POST", f"/v1/customers/{ID}", p.CustomerUpdateParams),
    ("POST", "/v1/checkout/sessions", c.SessionCreateParams),
    ("GET", "/v1/checkout/sessions", c.SessionListParams),
    ("GET", f"/v1/checkout/sessions/{ID}", c.SessionRetrieveParams),
    ("POST", f"/v1/checkout/sessions/{ID}/expire", c.SessionExpireParams),
    ("POST", "/v1/payment_intents", p.PaymentIntentCreateParams),
    ("GET", "/v1/payment_intents", p.PaymentIntentListParams),
    ("GET", f"/v1/payment_intents/{ID}", p.PaymentIntentRetrieveParams),
    ("POST", f"/v1/payment_intents/{ID}/cancel", p.PaymentIntentCancelParams),
    ("GET", f"/v1/setup_intents/{ID}", p.SetupIntentRetrieveParams),
    ("GET", "/v1/payment_methods", p.PaymentMethodListParams),
    ("GET", f"/v1/payment_methods/{ID}", p.PaymentMethodRetrieveParams),
    ("POST", f"/v1/payment_methods/{ID}/detach", p.PaymentMethodDetachParams),
    ("POST", "/v1/refunds", p.RefundCreateParams),
    ("GET", "/v1/refunds", p.RefundListParams),
    ("GET", f"/v1/refunds/{ID}", p.RefundRetrieveParams),
    ("GET", f"/v1/charges/{ID}", p.ChargeRetrieveParams),
    ("GET", "/v1/disputes", p.DisputeListParams),
    ("GET", f"/v1/disputes/{ID}", p.DisputeRetrieveParams),
    ("GET", "/v1/balance_transactions", p.BalanceTransactionListParams),
]


def faults(method: str, path: str, params: Json) -> list[str]:
    """What is wrong with a request's parameters; every leaf is text, as it was sent."""
    for known, pattern, definition in DEFINED:
        if method == known and re.fullmatch(pattern, path):
            return list(_faults(params, definition, ""))
    return [f"{method} {path}: no definition is known"]


def _faults(value: Any, hint: Any, place: str) -> Iterable[str]:
    if is_typeddict(hint):
        yield from _of_typed_dict(value, hint, place)
        return
    origin, arguments = get_origin(hint), get_args(hint)
    if origin is None:
        yield from _of_leaf(value, hint, place)
    elif origin is list:
        if not isinstance(value, dict) or sorted(map(int, value)) != list(range(len(value))):
            yield f"{place}: not a list"
            return
        for key, each in value.items():
            yield from _faults(each, arguments[0], f"{place}[{key}]")
    elif origin is dict:
        if not isinstance(value, dict) or not all(isinstance(each, str) for each in value.values()):
            yield f"{place}: not a map of text"
    elif origin is Literal:
        if value not in arguments:
            yield f"{place}: {value!r} is none of {arguments}"
    elif getattr(origin, "__name__", "") == "UntypedStripeObject":
        yield f"{place}: not a plain map"
    else:
        yield from _of_union(value, arguments, place)


def _of_union(value: Any, arguments: tuple[Any, ...], place: str) -> Iterable[str]:
    """Where literals stand beside `str`, which lets newer values through, only the literals will do."""
    has_literals = any(get_origin(each) is Literal and each.__args__ != ("",) for each in arguments)
    arms = [each for each in arguments if not (has_literals and each is str)]
    found = [list(_faults(value, each, place)) for each in arms]
    if all(found):
        yield min(found, key=len)[0]


def _of_typed_dict(value: Any, hint: Any, place: str) -> Iterable[str]:
    if not isinstance(value, dict):
        yield f"{place}: not a map"
        return
    hints = get_type_hints(hint, localns=vars(_request_options) | {"StripeContext": str})
    known = {name: each for name, each in hints.items() if name not in OPTIONS}
    for name in sorted(hint.__required_keys__ - value.keys()):
        yield f"{place}[{name}]: missing"
    for name, inner in value.items():
        if name in known:
            yield from _faults(inner, known[name], f"{place}[{name}]")
        else:
            yield f"{place}[{name}]: unknown"


def _of_leaf(value: Any, hint: Any, place: str) -> Iterable[str]:
    patterns = {int: r"-?[0-9]+", bool: "true|false", str: r"[\s\S]*"}
    if not isinstance(value, str) or not re.fullmatch(patterns.get(hint, "(?!)"), value):
        yield f"{place}: {value!r} is not {getattr(hint, '__name__', hint)}"
