"""GET and PUT /api/v1/billing-profile: customers say who they are, and not how they pay."""

from typing import Any

import pytest

from billing.models import BillingProfile
from tests.contract.test_openapi import assert_fits
from tests.invoicing import set_profile
from tests.world import CustomerApi, make_payer

pytestmark = pytest.mark.django_db


def test_is_empty_and_prepaid_before_anything_is_told() -> None:
    answer = CustomerApi(make_payer()).get("billing-profile")
    assert (answer.status, answer.body["terms"], answer.body["country"]) == (200, "prepaid", "")
    assert_fits(answer, "GET", "billing-profile")


def test_changes_what_is_named() -> None:
    payer = make_payer()
    api = CustomerApi(payer)
    api.send("PUT", "billing-profile", {"country": "ES", "tax_number": "B12345674", "legal_name": "Ada SL"})
    answer = api.send("PUT", "billing-profile", {"language": "zh-hans", "paper": "us-letter"})
    assert_fits(answer, "PUT", "billing-profile")
    assert answer.body == api.get("billing-profile").body
    shown = {name: answer.body[name] for name in ("legal_name", "tax_number", "language", "paper")}
    assert shown == {
        "legal_name": "Ada SL",
        "tax_number": "ESB12345674",
        "language": "zh-hans",
        "paper": "us-letter",
    }
    assert answer.body["tax_number_checked_at"] is not None


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"terms": "on_account"}, "terms"),
        ({"payment_days": 90}, "payment_days"),
        ({"country": "XX"}, "country"),
        ({"country": "ES", "tax_number": "ESB12345675"}, "tax_number"),
        ({"tax_number": "ESB12345674"}, "country"),
        ({"language": "fr"}, "language"),
        ({"legal_name": 7}, "legal_name"),
    ],
)
def test_what_is_wrong_or_the_operators_is_refused(body: dict[str, Any], param: str) -> None:
    payer = make_payer()
    answer = CustomerApi(payer).send("PUT", "billing-profile", body)
    assert (answer.status, answer.body["error"]["param"]) == (400, param)
    assert not BillingProfile.objects.exists()


def test_the_operators_terms_stay() -> None:
    payer = make_payer()
    set_profile(payer, terms="on_account", payment_days=30)
    body = CustomerApi(payer).send("PUT", "billing-profile", {"legal_name": "Ada SL"}).body
    assert (body["terms"], body["payment_days"]) == ("on_account", 30)
