"""Where notices go: by default, by choice, once each; what announces them; and balances that fall."""

from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any
from uuid import uuid4

import pytest

from billing import credit_lines, credits, low_balance, messages, notice_preferences, received, webhook_endpoints
from billing.manual import Person
from billing.models import Delivery, Notice, OperatorSettings, TopUp
from billing.notice_kinds import KINDS
from billing.notice_preferences import Choice
from metering import keys
from metering.statements import close_invoices
from tests.billing.hands import charge
from tests.paying import open_top_up, sync
from tests.payments_sandbox import StripeSandbox
from tests.telling import announce, deliveries, make_endpoint, now, plan, set_email
from tests.world import Payer, Relay, make_event, make_payer

pytestmark = pytest.mark.django_db


@pytest.fixture
def payer(settings: Any) -> Payer:
    settings.SENDS_MAIL = True
    payer = make_payer()
    plan()
    set_email(payer)
    return payer


def choose(payer: Payer, *addresses: str, below: str | None = None, **kinds: tuple[bool, bool]) -> None:
    notice_preferences.set_preferences(
        customer_id=payer.customer.pk,
        addresses=addresses,
        low_balance_below=None if below is None else Decimal(below),
        kinds={name: Choice(*choice) for name, choice in kinds.items()},
        at=now(),
    )


def told(payer: Payer, kind: str) -> list[dict[str, Any]]:
    return [notice.data for notice in Notice.objects.filter(customer=payer.customer, kind=kind).order_by("pk")]


class TestPlanning:
    def test_by_default_mail_goes_to_the_account_and_webhooks_to_every_endpoint(self, payer: Payer) -> None:
        make_endpoint(payer, "https://a.example.com/")
        make_endpoint(payer, "https://b.example.com/", "in_debt")
        make_endpoint(payer, "https://c.example.com/", "key_created")
        announce(payer, "in_debt")
        assert plan() == 1
        assert sorted((row.channel, row.address) for row in deliveries(payer)) == [
            ("mail", "ada@example.com"),
            ("webhook", "https://a.example.com/"),
            ("webhook", "https://b.example.com/"),
        ]
        assert plan() == 0
        assert len(deliveries(payer)) == 3

    def test_a_customer_chooses_addresses_and_channels_kind_by_kind(self, payer: Payer) -> None:
        make_endpoint(payer)
        choose(
            payer, "a@example.com", "b@example.com", "a@example.com", in_debt=(True, False), key_created=(False, True)
        )
        announce(payer, "in_debt")
        announce(payer, "key_created")
        announce(payer, "key_revoked")
        plan()
        assert [row.address for row in deliveries(payer, "in_debt")] == ["a@example.com", "b@example.com"]
        assert [row.channel for row in deliveries(payer, "key_created")] == ["webhook"]
        assert sorted(row.channel for row in deliveries(payer, "key_revoked")) == ["mail", "mail", "webhook"]

    def test_without_an_address_or_of_an_unknown_kind_nothing_is_sent_and_nothing_waits(self, payer: Payer) -> None:
        set_email(payer, "")
        announce(payer, "in_debt")
        Notice.objects.create(customer=payer.customer, kind="news of later", key="k", data={}, created_at=now())
        assert plan() == 2
        assert deliveries(payer) == []

    def test_endpoints_that_are_off_or_another_customer_s_get_nothing(self, payer: Payer) -> None:
        make_endpoint(make_payer())
        off = make_endpoint(payer)
        webhook_endpoints.switch_off(endpoint_id=off.pk, because="b", at=now())
        announce(payer, "in_debt")
        plan()
        assert [row.channel for row in deliveries(payer, "in_debt")] == ["mail"]
        assert [row.channel for row in deliveries(payer, "webhook_disabled")] == ["mail"]

    def test_no_mailbox_is_filled(self, payer: Payer, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(messages, "MAILS_A_DAY_MAX", 3)
        for _ in range(2):
            announce(payer)
            announce(payer)
            plan()
        rows = deliveries(payer)
        assert [row.status for row in rows] == ["waiting"] * 3 + ["failed"]
        assert rows[-1].error == "More than 3 mails to one customer in a day."

    def test_old_deliveries_go_and_their_notices_stay(self, payer: Payer) -> None:
        announce(payer)
        plan()
        ended = now() - messages.KEPT
        Delivery.objects.filter(customer=payer.customer).update(status="sent", look_at=None, ended_at=ended)
        assert messages.remove_old(at=ended + messages.KEPT) == 0
        assert messages.remove_old(at=now()) == 1
        assert told(payer, "in_debt")


class TestAnnouncing:
    def test_keys_made_and_revoked_are_told_without_their_secret(self, payer: Payer) -> None:
        key, secret = keys.create_api_key(customer=payer.customer, name="prod", at=now())
        for _ in range(2):
            keys.revoke_api_key(api_key_id=key.pk, at=now())
        assert keys.revoke_all_api_keys(customer_id=payer.customer.pk, at=now()) == 1
        data = {"api_key": key.public_id, "name": "prod", "last4": key.last4}
        assert told(payer, "key_created")[-1] == data
        assert told(payer, "key_revoked") == [
            data,
            {"api_key": payer.key.public_id, "name": "default", "last4": payer.key.last4},
        ]
        assert all(secret[:9] not in str(notice.data) for notice in Notice.objects.filter(customer=payer.customer))

    def test_a_payment_is_told_once_when_it_is_credited(self, payer: Payer, stripe_sandbox: StripeSandbox) -> None:
        row = open_top_up(payer, "10.00")
        assert told(payer, "payment_received") == []
        stripe_sandbox.pay(row.session_id or "")
        for _ in range(2):
            sync(row)
        (data,) = told(payer, "payment_received")
        assert data == {
            "top_up": row.public_id,
            "amount": "10.000000",
            "currency": "USD",
            "paid": "10.000000",
            "method": TopUp.objects.get(pk=row.pk).method_detail,
            "origin": "checkout",
            "invoice": "",
            "number": "",
        }
        assert data.keys() == KINDS["payment_received"].example.keys()

    def test_a_payment_by_hand_is_told_too(self, payer: Payer) -> None:
        payment = received.Payment("bank_transfer", Decimal(100), "USD", "wire 7", date(2026, 11, 20))
        received.record(customer_id=payer.customer.pk, payment=payment, person=Person(None, "olga"), at=now())
        assert [data["origin"] for data in told(payer, "payment_received")] == ["bank_transfer"]

    def test_an_issued_document_is_told(self, payer: Payer) -> None:
        Relay().report(make_event(payer, occurred_at="2026-10-05T10:00:00Z"))
        at = datetime(2026, 11, 2, tzinfo=UTC)
        for _ in range(2):
            close_invoices(period=date(2026, 10, 1), at=at, customer=payer.customer)
        (data,) = told(payer, "invoice_issued")
        assert data.keys() == KINDS["invoice_issued"].example.keys()
        assert (data["period"], data["total"], data["amount_due"], data["due_on"]) == ("2026-10", "0.03", "0.00", None)


class TestLowBalance:
    """The operator's threshold is 5 USD, the customer owns 50."""

    def test_is_told_once_and_again_only_after_the_balance_was_above(self, payer: Payer) -> None:
        assert sweep() == 0
        set_balance(payer, "4.99")
        assert (sweep(), sweep()) == (1, 0)
        (data,) = told(payer, "balance_low")
        assert data == {
            "balance": "4.990000",
            "credit_limit": "0.000000",
            "left": "4.990000",
            "threshold": "5.000000",
        }
        set_balance(payer, "1")
        assert sweep() == 0, "still low"
        set_balance(payer, "5")
        assert sweep() == 0
        set_balance(payer, "4")
        assert (sweep(), sweep()) == (1, 0)
        assert [data["left"] for data in told(payer, "balance_low")] == ["4.990000", "4.000000"]

    def test_the_customer_s_threshold_comes_before_the_operator_s_and_zero_is_never(self, payer: Payer) -> None:
        choose(payer, below="40")
        set_balance(payer, "39")
        assert sweep() == 1
        other = make_payer()
        choose(other, below="0")
        set_balance(other, "-1")
        assert told(payer, "balance_low")[0]["threshold"] == "40.000000"
        OperatorSettings.objects.update(low_balance_below=0)
        third = make_payer()
        set_balance(third, "1")
        sweep()
        assert told(third, "balance_low") == []

    def test_a_new_customer_who_never_had_more_is_not_told_it_fell(self, settings: Any) -> None:
        payer = make_payer(credit="2")
        sweep()
        set_balance(payer, "1")
        sweep()
        assert told(payer, "balance_low") == []
        set_balance(payer, "20")
        sweep()
        set_balance(payer, "1")
        sweep()
        assert len(told(payer, "balance_low")) == 1

    def test_on_account_it_is_judged_on_what_is_left_to_spend(self, payer: Payer) -> None:
        credit_lines.set_credit_limit(
            customer_id=payer.customer.pk, limit=Decimal(100), reason="contract", actor="grace", at=now()
        )
        set_balance(payer, "-90")
        sweep()
        assert told(payer, "balance_low") == []
        set_balance(payer, "-96")
        sweep()
        assert [data["left"] for data in told(payer, "balance_low")] == ["4.000000"]


def sweep() -> int:
    return low_balance.tell(at=now())


def set_balance(payer: Payer, balance: str) -> None:
    """Move the wallet there, by usage or by a gift."""
    missing = Decimal(balance) - payer.balance
    if missing < 0:
        charge(payer, str(-missing))
        return
    credits.grant(
        customer_id=payer.customer.pk,
        amount=missing,
        kind="goodwill",
        reason="test",
        reference="",
        key=uuid4().hex,
        at=now(),
    )
