"""Quotes: what a top-up costs in each currency, rounded once, half up, in what one can pay; exactly."""

from datetime import timedelta
from decimal import Decimal

import pytest
from django.db import IntegrityError, connection, transaction
from hypothesis import given
from hypothesis import strategies as st

from billing import exchange
from billing.models import ExchangeRate, PayCurrency
from relayadmin.money import (
    THREE_DECIMAL,
    ZERO_DECIMAL,
    currency_text,
    from_minor_units,
    has_decimals,
    minor_units,
    to_payable,
)
from tests.paying import add_currency, now

CURRENCIES = sorted({*ZERO_DECIMAL, *THREE_DECIMAL, "usd", "cny", "eur", "isk", "huf"})
USD_AMOUNTS = st.decimals(min_value="0.01", max_value="10000", places=2)
RATES = st.decimals(min_value="0.000000001", max_value="99999", places=9)
MARGINS = st.decimals(min_value=0, max_value="0.9999", places=4)


class TestQuotes:
    @pytest.mark.parametrize(
        ("amount", "currency", "rate", "pay_amount"),
        [
            ("10.00", "USD", "1", "10.00"),
            ("10.00", "CNY", "7.344", "73.44"),
            ("0.05", "CNY", "7.3", "0.37"),  # 0.365, half up
            ("10.00", "JPY", "151.25", "1513"),  # 1512.5: no yen has a half
            ("10.00", "KRW", "1390.04", "13900"),
            ("10.00", "KWD", "0.3075", "3.080"),  # 3.075: the provider takes the third decimal only as 0
            ("10.00", "ISK", "126.55", "1266"),  # counted in hundredths, paid in whole
        ],
    )
    def test_they_round_half_up_in_what_one_can_pay(
        self, amount: str, currency: str, rate: str, pay_amount: str
    ) -> None:
        made = exchange.quote_at(amount=Decimal(amount), currency=currency, rate=Decimal(rate), margin=Decimal(0))
        assert made.pay_amount == Decimal(pay_amount)
        assert currency_text(made.pay_amount, currency) == pay_amount + (".00" if currency == "ISK" else "")

    def test_what_is_less_than_the_smallest_unit_or_more_than_one_payment_is_refused(self) -> None:
        with pytest.raises(exchange.NotPayable, match="less than anybody can pay in JPY"):
            exchange.quote_at(amount=Decimal("0.01"), currency="JPY", rate=Decimal("49.9"), margin=Decimal(0))
        with pytest.raises(exchange.NotPayable, match="more than one payment can be"):
            exchange.quote_at(amount=Decimal(10_000), currency="VND", rate=Decimal(25_000), margin=Decimal(0))

    @given(amount=USD_AMOUNTS, rate=RATES, currency=st.sampled_from(CURRENCIES))
    def test_every_quote_is_within_half_a_unit_and_comes_back_from_minor_units(
        self, amount: Decimal, rate: Decimal, currency: str
    ) -> None:
        try:
            made = exchange.quote_at(amount=amount, currency=currency.upper(), rate=rate, margin=Decimal(0))
        except exchange.NotPayable:
            step = to_payable(Decimal(1), currency)
            assert amount * rate < step / 2 or minor_units_of(amount * rate, currency) > 99_999_999
            return
        paid = made.pay_amount
        assert isinstance(paid, Decimal)
        assert from_minor_units(minor_units(paid, currency), currency) == paid
        step = Decimal(1) if currency in ZERO_DECIMAL or currency == "isk" else Decimal("0.01")
        assert has_decimals(paid / step, 0)
        assert -step / 2 < paid - amount * rate <= step / 2
        assert Decimal(currency_text(paid, currency)) == paid

    @given(amount=USD_AMOUNTS, per_usd=RATES, margin=MARGINS)
    def test_what_a_quote_asks_is_worth_the_credit_again_wherever_the_unit_is_fine_enough(
        self, amount: Decimal, per_usd: Decimal, margin: Decimal
    ) -> None:
        rate = exchange.with_margin(per_usd, margin)
        assert has_decimals(rate, 9)
        assert abs(rate - per_usd * (1 + margin)) <= Decimal("0.0000000005")
        try:
            made = exchange.quote_at(amount=amount, currency="CNY", rate=rate, margin=margin)
        except exchange.NotPayable:
            return
        worth = exchange.credit_for(pay_amount=made.pay_amount, rate=rate)
        # Half a fen, and half a cent.
        assert abs(worth - amount) <= Decimal("0.005") / rate + Decimal("0.005")


def minor_units_of(amount: Decimal, currency: str) -> Decimal:
    return to_payable(amount, currency).scaleb(0 if currency in ZERO_DECIMAL else 3 if currency in THREE_DECIMAL else 2)


@pytest.mark.django_db
class TestRates:
    def test_usd_is_there_from_the_start_with_three_methods_and_nothing_else_is_offered(self) -> None:
        (only,) = exchange.offered(at=now())
        assert (only.currency, only.methods, only.rate) == ("USD", ["card", "alipay", "wechat_pay"], 1)

    def test_a_currency_is_offered_once_it_has_a_rate(self) -> None:
        PayCurrency.objects.create(code="CNY", methods=["alipay"])
        assert [one.currency for one in exchange.offered(at=now())] == ["USD"]
        with pytest.raises(exchange.NoRate, match="CNY has no exchange rate"):
            exchange.quote(amount=Decimal(10), currency="CNY", at=now())
        add_currency("CNY", "7.2", "0.02")
        assert [(one.currency, one.rate) for one in exchange.offered(at=now())][1] == ("CNY", Decimal("7.344"))
        made = exchange.quote(amount=Decimal(10), currency="CNY", at=now())
        assert (made.pay_amount, made.rate, made.margin) == (Decimal("73.44"), Decimal("7.344"), Decimal("0.02"))

    def test_one_that_is_not_offered_any_more_and_one_that_never_was_are_unknown(self) -> None:
        add_currency("CNY", "7.2")
        PayCurrency.objects.filter(code="CNY").update(is_offered=False)
        for code in ("CNY", "XXX"):
            with pytest.raises(exchange.UnknownCurrency):
                exchange.quote(amount=Decimal(10), currency=code, at=now())

    def test_a_rate_holds_from_its_moment_on(self) -> None:
        add_currency("CNY", "7.2")
        later = now() + timedelta(days=1)
        exchange.add_rate(
            currency="CNY", per_usd=Decimal(8), margin=Decimal(0), effective_from=later, actor="olga", at=now()
        )
        assert exchange.quote(amount=Decimal(10), currency="CNY", at=now()).pay_amount == 72
        assert exchange.quote(amount=Decimal(10), currency="CNY", at=later).pay_amount == 80
        assert exchange.quote(amount=Decimal(10), currency="CNY", at=later - timedelta(seconds=1)).pay_amount == 72

    @pytest.mark.parametrize(
        ("field", "changes"),
        [
            ("currency", {"currency": "USD"}),
            ("currency", {"currency": "XXX"}),
            ("per_usd", {"per_usd": Decimal(0)}),
            ("per_usd", {"per_usd": Decimal("0.0000000001")}),
            ("per_usd", {"per_usd": Decimal("NaN")}),
            ("per_usd", {"per_usd": Decimal(10) ** 9}),
            ("margin", {"margin": Decimal("-0.01")}),
            ("margin", {"margin": Decimal(1)}),
            ("effective_from", {"effective_from": now() - timedelta(days=1)}),
        ],
    )
    def test_wrong_ones_are_refused_by_field(self, field: str, changes: dict[str, object]) -> None:
        PayCurrency.objects.create(code="CNY")
        good = {"currency": "CNY", "per_usd": Decimal(7), "margin": Decimal(0), "effective_from": None}
        with pytest.raises(exchange.InvalidRate) as refused:
            exchange.add_rate(**{**good, **changes}, actor="olga", at=now())  # type: ignore[arg-type]
        assert refused.value.field == field
        assert not ExchangeRate.objects.exists()

    def test_one_moment_has_one_rate(self) -> None:
        add_currency("CNY", "7.2")
        taken = ExchangeRate.objects.get().effective_from
        with pytest.raises(exchange.InvalidRate, match="already"), transaction.atomic():
            exchange.add_rate(
                currency="CNY", per_usd=Decimal(7), margin=Decimal(0), effective_from=taken, actor="", at=taken
            )
        with pytest.raises(IntegrityError), transaction.atomic(), connection.cursor() as cursor:
            cursor.execute("UPDATE billing_exchangerate SET per_usd = 0")
