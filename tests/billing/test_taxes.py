"""Taxes: rates by country and day, reverse charge, and tax in what is paid."""

from datetime import UTC, date, datetime
from decimal import Decimal

import pytest
from django.db import IntegrityError, transaction
from hypothesis import given
from hypothesis import strategies as st

from billing import taxes
from billing.models import BillingProfile, OperatorSettings, TaxRate
from tests.invoicing import add_rate

AT = datetime(2026, 11, 26, 12, tzinfo=UTC)
TODAY = AT.date()


def profile(country: str = "ES", *, is_checked: bool = False, terms: str = "prepaid") -> BillingProfile:
    return BillingProfile(country=country, terms=terms, tax_number_checked_at=AT if is_checked else None)


def amounts(found: tuple[taxes.Tax, ...]) -> list[tuple[str, str, str]]:
    return [(tax.name, str(tax.rate.normalize()), str(tax.amount)) for tax in found]


@pytest.mark.django_db
class TestTaxesOf:
    def test_is_the_rate_of_the_country_on_that_day(self) -> None:
        add_rate("ES", "0.18", valid_from=date(2010, 7, 1))
        add_rate("ES", "0.21", valid_from=date(2027, 1, 1))
        for day, rate, amount in ((date(2026, 12, 31), "0.18", "18.00"), (date(2027, 1, 1), "0.21", "21.00")):
            assert amounts(taxes.taxes_of(profile(), subtotal=Decimal("100.00"), on=day)) == [("VAT", rate, amount)]

    def test_rounds_half_up_to_the_cent(self) -> None:
        add_rate("ES", "0.21")
        (tax,) = taxes.taxes_of(profile(), subtotal=Decimal("0.50"), on=TODAY)
        assert tax.amount == Decimal("0.11")  # 0.105

    @pytest.mark.parametrize("country", ["", "US"])
    def test_without_a_rate_there_is_none(self, country: str) -> None:
        add_rate("ES", "0.21")
        assert taxes.taxes_of(profile(country), subtotal=Decimal("10.00"), on=TODAY) == ()

    def test_before_the_first_rate_there_is_none(self) -> None:
        add_rate("ES", "0.21", valid_from=date(2027, 1, 1))
        assert taxes.taxes_of(profile(), subtotal=Decimal("10.00"), on=date(2026, 12, 31)) == ()


@pytest.mark.django_db
class TestReverseCharge:
    def setup_method(self) -> None:
        self.supplier("ES")

    @staticmethod
    def supplier(country: str) -> None:
        OperatorSettings.objects.update(country=country)

    @pytest.mark.parametrize(
        ("supplier", "country", "is_checked", "allows", "rate"),
        [
            ("ES", "DE", True, True, "0"),
            ("ES", "DE", False, True, "0.19"),
            ("ES", "DE", True, False, "0.19"),
            ("DE", "DE", True, True, "0.19"),
            # As long as the operator has not said where it is, nobody is taxed as abroad.
            ("", "DE", True, True, "0.19"),
        ],
    )
    def test_needs_a_checked_number_a_rate_that_allows_it_and_another_country(
        self, supplier: str, country: str, is_checked: bool, allows: bool, rate: str
    ) -> None:
        self.supplier(supplier)
        add_rate(country, "0.19", reverse_charge=allows)
        (tax,) = taxes.taxes_of(profile(country, is_checked=is_checked), subtotal=Decimal("100.00"), on=TODAY)
        assert tax.rate == Decimal(rate)
        assert tax.amount == Decimal(rate) * 100
        assert tax.is_reverse_charge is (rate == "0")
        assert bool(tax.note) is (rate == "0")

    def test_says_what_the_rate_says(self) -> None:
        add_rate("DE", "0.19", reverse_charge=True, note="Steuerschuldnerschaft des Leistungsempfängers")
        (tax,) = taxes.taxes_of(profile("DE", is_checked=True), subtotal=Decimal("1.00"), on=TODAY)
        assert tax.note == "Steuerschuldnerschaft des Leistungsempfängers"


@pytest.mark.django_db
class TestIncludedIn:
    def test_net_is_what_was_paid_without_the_tax_half_up(self) -> None:
        add_rate("ES", "0.21")
        tax = taxes.included_in(profile(), Decimal("10.00"), on=TODAY)
        assert tax is not None
        assert (tax.base, tax.amount) == (Decimal("8.26"), Decimal("1.74"))

    def test_who_is_on_account_is_taxed_with_the_invoice(self) -> None:
        add_rate("ES", "0.21")
        assert taxes.included_in(profile(terms="on_account"), Decimal("10.00"), on=TODAY) is None

    def test_reverse_charge_credits_all(self) -> None:
        OperatorSettings.objects.update(country="ES")
        add_rate("DE", "0.19", reverse_charge=True)
        tax = taxes.included_in(profile("DE", is_checked=True), Decimal("10.00"), on=TODAY)
        assert tax is not None
        assert (tax.base, tax.amount, tax.is_reverse_charge) == (Decimal("10.00"), Decimal("0.00"), True)


CENTS = st.integers(1, 10**9).map(lambda cents: Decimal(cents) / 100)


@given(whole=CENTS, of=CENTS, cuts=st.lists(st.integers(1, 10**6), min_size=1, max_size=8))
def test_the_tax_of_parts_adds_up_if_the_last_takes_the_rest(whole: Decimal, of: Decimal, cuts: list[int]) -> None:
    total = sum(cuts)
    parts = [(of * cut / total).quantize(Decimal("0.01"), rounding="ROUND_DOWN") for cut in cuts]
    taken = Decimal(0)
    for part in parts[:-1]:
        taken += min(whole - taken, taxes.share(whole, part, of))
        assert 0 <= taken <= whole
    assert taken + (whole - taken) == whole


@pytest.mark.django_db
class TestAddRate:
    @pytest.mark.parametrize(
        ("field", "changes"),
        [
            ("country", {"country": "XX"}),
            ("country", {"country": "es"}),
            ("name", {"name": " "}),
            ("rate", {"rate": Decimal(1)}),
            ("rate", {"rate": Decimal("-0.1")}),
            ("rate", {"rate": Decimal("0.123456")}),
            ("note", {"note": "x" * 201}),
        ],
    )
    def test_refuses_what_is_no_rate(self, field: str, changes: dict[str, object]) -> None:
        wanted = {"country": "ES", "name": "IVA", "rate": Decimal("0.21"), "valid_from": TODAY, **changes}
        with pytest.raises(taxes.InvalidRate) as refused:
            taxes.add_rate(**wanted, actor="olga", at=AT)  # type: ignore[arg-type]
        assert refused.value.field == field

    def test_the_next_one_begins_today_or_later_and_on_another_day(self) -> None:
        add_rate("ES", "0.18", valid_from=date(2010, 7, 1), at=AT)
        for day in (date(2010, 7, 1), date(2026, 11, 25)):
            with pytest.raises(taxes.InvalidRate):
                add_rate("ES", "0.21", valid_from=day, at=AT)
        assert add_rate("ES", "0.21", valid_from=TODAY, at=AT).pk

    def test_rates_are_only_added(self) -> None:
        add_rate("ES", "0.21")
        with pytest.raises(IntegrityError), transaction.atomic():
            TaxRate.objects.update(rate=Decimal("0.1"))
        with pytest.raises(IntegrityError), transaction.atomic():
            TaxRate.objects.all().delete()
