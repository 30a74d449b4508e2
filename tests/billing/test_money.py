"""Decimals as texts, and public ids: exact both ways, and nothing but themselves."""

from decimal import Decimal, Inexact

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relayadmin import ids, money

amounts = st.decimals(-(10**18) + 1, 10**18 - 1, places=15, allow_nan=False)
numbers = st.integers(0, 2**63 - 1)


@pytest.mark.parametrize(
    ("text", "amount"),
    [
        ("0", "0"),
        ("12.50", "12.5"),
        ("-3.000001", "-3.000001"),
        ("0.000000000000001", "0.000000000000001"),
        ("999999999999999999.999999999999999", "999999999999999999.999999999999999"),
        ("007", "7"),
    ],
)
def test_a_plain_decimal_is_read_exactly(text: str, amount: str) -> None:
    assert money.parse_amount(text) == Decimal(amount)


@pytest.mark.parametrize(
    "text",
    [
        "",
        " ",
        "1 ",
        "+1",
        "1e5",
        "1E-3",
        ".5",
        "5.",
        "1,5",
        "1_000",
        "0x1",
        "NaN",
        "Infinity",
        "-",
        "١",
        "½",
        "1\n",
        "0.0000000000000001",
        "1" * 19,
        None,
        5,
        1.5,
        True,
        Decimal(1),
        ["1"],
    ],
)
def test_anything_else_is_refused_and_told_how_to_write_it(text: object) -> None:
    with pytest.raises(money.InvalidAmount, match=r'such as "12\.50"'):
        money.parse_amount(text)


@pytest.mark.parametrize(
    ("amount", "text"),
    [
        ("0.0111", "0.011100"),
        ("0", "0.000000"),
        ("-0", "0.000000"),
        ("-0.000000", "0.000000"),
        ("-0.01", "-0.010000"),
        ("5E+3", "5000.000000"),
        ("1E-15", "0.000000000000001"),
        ("0.0525005", "0.0525005"),
        ("12.500000000", "12.500000"),
        ("1000000000000000", "1000000000000000.000000"),
    ],
)
def test_an_amount_is_shown_plainly_with_6_to_15_decimals(amount: str, text: str) -> None:
    assert money.amount_text(Decimal(amount)) == text


def test_a_sixteenth_decimal_is_never_cut_off_silently() -> None:
    with pytest.raises(money.InvalidAmount):
        money.amount_text(Decimal("1E-16"))


@given(amounts)
def test_what_is_shown_is_read_back_as_the_same(amount: Decimal) -> None:
    assert money.parse_amount(money.amount_text(amount)) == amount


@pytest.mark.parametrize(
    ("amount", "cents"), [("0.005", "0.01"), ("0.0049", "0.00"), ("-0.005", "-0.01"), ("2.675", "2.68"), ("1", "1.00")]
)
def test_cents_are_rounded_half_up_once(amount: str, cents: str) -> None:
    assert money.cents_text(money.to_cents(Decimal(amount))) == cents


def test_a_total_that_is_not_whole_cents_is_not_shown_as_if_it_were() -> None:
    with pytest.raises(Inexact):
        money.cents_text(Decimal("0.005"))


def test_a_unit_price_is_rounded_to_9_decimals() -> None:
    assert money.to_unit_price(Decimal("0.1234567895")) == Decimal("0.123456790")


@pytest.mark.parametrize(
    ("amount", "currency", "units"),
    [("10.00", "usd", 1000), ("10", "USD", 1000), ("500", "jpy", 500), ("1.250", "kwd", 1250), ("0.01", "cny", 1)],
)
def test_minor_units_are_the_currencys_own(amount: str, currency: str, units: int) -> None:
    assert money.minor_units(Decimal(amount), currency) == units
    assert money.from_minor_units(units, currency) == Decimal(amount)


@pytest.mark.parametrize(
    ("amount", "currency"),
    [("0.001", "usd"), ("1.5", "jpy"), ("1.0001", "kwd"), ("1000000", "usd"), ("100000000", "jpy"), ("100000", "kwd")],
)
def test_what_is_no_whole_number_of_minor_units_or_too_many_is_refused(amount: str, currency: str) -> None:
    with pytest.raises(money.InvalidAmount, match=currency.upper()):
        money.minor_units(Decimal(amount), currency)


@given(st.integers(-money.MINOR_UNITS_MAX, money.MINOR_UNITS_MAX), st.sampled_from(["usd", "vnd", "bhd"]))
def test_minor_units_go_both_ways(units: int, currency: str) -> None:
    assert money.minor_units(money.from_minor_units(units, currency), currency) == units


@given(st.lists(amounts, max_size=20))
def test_a_total_loses_nothing(items: list[Decimal]) -> None:
    scale = 10**15
    assert int(money.EXACT.multiply(money.total(items), scale)) == sum(
        int(money.EXACT.multiply(i, scale)) for i in items
    )


def test_arithmetic_that_would_round_raises() -> None:
    with pytest.raises(Inexact):
        money.EXACT.divide(Decimal(1), Decimal(3))


@given(st.integers(0, 10**12), st.decimals(0, 10**6, places=9), st.sampled_from([1000, 10**6]))
def test_a_line_can_be_recomputed_from_quantity_and_unit_price(quantity: int, price: Decimal, per: int) -> None:
    assert money.EXACT.multiply(money.line_amount(quantity, price, per), per) == money.EXACT.multiply(quantity, price)


@given(numbers, numbers)
def test_a_hot_id_names_its_customer_and_number(customer: int, number: int) -> None:
    assert ids.parse_hot_id("auth", ids.hot_id("auth", customer, number)) == (customer, number)


@given(st.text(max_size=40))
def test_a_text_is_a_hot_id_only_if_it_is_written_as_one(text: str) -> None:
    parsed = ids.parse_hot_id("auth", text)
    assert parsed is None or ids.hot_id("auth", *parsed) == text


@pytest.mark.parametrize(
    "text", ["auth_1_o", "auth_1_l", "auth_00_1", "auth_1_01", "auth_1", "auth_1_2_3", "evt_1_2", "auth_A_1"]
)
def test_lookalikes_of_a_hot_id_are_none(text: str) -> None:
    assert ids.parse_hot_id("auth", text) is None


def test_secrets_are_long_and_never_the_same() -> None:
    made = [ids.new_secret("sk-") for _ in range(100)]
    assert len({secret.text for secret in made}) == 100
    for secret in made:
        assert len(secret.text) == 51
        assert secret.digest == ids.secret_digest(secret.text)
        assert secret.text.startswith(secret.prefix)
        assert secret.text.endswith(secret.last4)
