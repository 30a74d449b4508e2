"""Billing profiles: who a customer is on documents, checked where it can be."""

from typing import Any

import pytest

from billing import billing_profiles
from billing.accounts import InvalidChange
from billing.models import AccountChange, BillingProfile
from tests.invoicing import now, set_profile
from tests.world import make_payer

pytestmark = pytest.mark.django_db


def test_without_a_row_a_customer_is_prepaid_and_has_no_country() -> None:
    payer = make_payer()
    found = billing_profiles.profile_of(payer.customer)
    assert (found.pk, found.terms, found.country, found.language) == (None, "prepaid", "", "en")


def test_what_is_not_named_stays() -> None:
    payer = make_payer()
    set_profile(payer, legal_name="Ada SL", country="es", address="Calle Mayor 1\r\n28013 Madrid ")
    row = set_profile(payer, language="es")
    assert (row.legal_name, row.country, row.language) == ("Ada SL", "ES", "es")
    assert row.address == "Calle Mayor 1\n28013 Madrid"
    assert BillingProfile.objects.count() == 1


@pytest.mark.parametrize(
    ("country", "given", "stands", "is_checked"),
    [
        ("ES", "B-12345674", "ESB12345674", True),
        ("GR", "094259216", "EL094259216", True),
        ("DE", "DE 136695976", "DE136695976", True),
        ("GB", "GB 980 7806 84", "980780684", True),
        ("US", "12-3456789", "12-3456789", False),
    ],
)
def test_a_tax_number_is_checked_by_form_and_check_digits(
    country: str, given: str, stands: str, is_checked: bool
) -> None:
    row = set_profile(make_payer(), country=country, tax_number=given)
    assert row.tax_number == stands
    assert (row.tax_number_checked_at is not None) is is_checked


@pytest.mark.parametrize(
    ("field", "changes"),
    [
        ("tax_number", {"country": "ES", "tax_number": "ESB12345675"}),
        ("tax_number", {"country": "ES", "tax_number": "DE136695976"}),
        ("country", {"tax_number": "ESB12345674"}),
        ("country", {"country": "XX"}),
        ("country", {"country": "Spain"}),
        ("language", {"language": "fr"}),
        ("paper", {"paper": "a3"}),
        ("legal_name", {"legal_name": "x" * 201}),
        ("legal_name", {"legal_name": "a\x00b"}),
        ("order_reference", {"order_reference": "a\nb"}),
        ("address", {"address": "\n".join("123456789")}),
        ("payment_days", {"payment_days": 181}),
        ("customer_id", {"customer_id": 7}),
    ],
)
def test_what_is_wrong_is_named(field: str, changes: dict[str, Any]) -> None:
    payer = make_payer()
    with pytest.raises(InvalidChange) as refused:
        set_profile(payer, **changes)
    assert refused.value.field == field
    assert not BillingProfile.objects.exists()


def test_a_new_country_checks_the_number_again() -> None:
    payer = make_payer()
    set_profile(payer, country="ES", tax_number="B12345674")
    with pytest.raises(InvalidChange):
        set_profile(payer, country="DE")
    assert set_profile(payer, country="DE", tax_number="").tax_number_checked_at is None


class TestTerms:
    def test_need_a_permission(self) -> None:
        payer = make_payer()
        with pytest.raises(billing_profiles.NotAllowed):
            billing_profiles.update(
                customer_id=payer.customer.pk, changes={"terms": "on_account"}, actor="ada", at=now()
            )
        assert not BillingProfile.objects.exists()

    def test_a_change_is_kept_with_who_made_it(self) -> None:
        payer = make_payer()
        set_profile(payer, terms="on_account")
        set_profile(payer, terms="on_account")
        (change,) = AccountChange.objects.filter(customer=payer.customer)
        assert (change.kind, change.before, change.after, change.actor) == ("terms", "prepaid", "on_account", "olga")
