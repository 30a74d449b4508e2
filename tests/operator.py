"""The operator at the admin: log-ins with some permissions or all, and a world in which every list has rows."""

import re
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from html import unescape
from typing import Any
from uuid import uuid4

from django.contrib import admin
from django.contrib.auth.models import Permission, User
from django.test import Client
from django.urls import reverse

from billing import (
    credit_lines,
    credits,
    exchange,
    grant_changes,
    manual,
    notice_preferences,
    notices,
    receipts,
    received,
    redemption,
    refunds,
    stripe_differences,
    timetable,
    webhook_endpoints,
)
from billing.admin.base import ReadOnlyAdmin
from billing.models import (
    Alarm,
    Customer,
    Delivery,
    Dispute,
    IdempotentAnswer,
    Invoice,
    InvoiceLine,
    InvoiceSeries,
    JobRun,
    LowBalance,
    Membership,
    Notice,
    PayCurrency,
    PaymentAccount,
    PaymentMethod,
    Recharge,
    SpendLimit,
    StripeDifference,
    StripeTransaction,
    TopUp,
    WalletAdjustment,
    WebhookEndpoint,
    WebhookEvent,
)
from billing.models.spending import Span
from billing.notice_kinds import KINDS
from metering import spend, tiers
from metering.models import (
    Channel,
    CustomerPlan,
    Plan,
    PlanPolicy,
    PlanRule,
    UpstreamAccount,
    UpstreamTerms,
    UsageTier,
)
from metering.price_sources.rows import Row
from tests.price_source import new_source
from tests.redemption import make_codes
from tests.world import SONNET, Payer, Relay, make_event, make_payer

MODELS = sorted(admin.site._registry, key=lambda model: model._meta.label)
READ_ONLY = [model for model in MODELS if isinstance(admin.site._registry[model], ReadOnlyAdmin)]


def label(model: Any) -> str:
    return str(model._meta.label)


def make_staff(*, permissions: Sequence[str] = (), is_superuser: bool = False, password: str | None = None) -> User:
    """A staff user with these permissions ("billing.change_customer"), or with all.

    Without a password, which takes long to hash, only `log_in` lets it in.
    """
    user = User.objects.create_user(
        f"staff-{uuid4().hex[:12]}", password=password, is_staff=True, is_superuser=is_superuser
    )
    for name in permissions:
        app, codename = name.split(".")
        user.user_permissions.add(Permission.objects.get(content_type__app_label=app, codename=codename))
    return user


def log_in(user: User) -> Client:
    client = Client()
    client.force_login(user)
    return client


def page(model: type[Any], what: str, *args: object) -> str:
    """The address of a model's admin page: changelist, add, change or an action's."""
    return reverse(f"admin:{model._meta.app_label}_{model._meta.model_name}_{what}", args=args)


def key_of(row: Any) -> object:
    """What a row's address carries: the public id of a hot row, the number of any other."""
    return row.public_id if hasattr(type(row), "PREFIX") else row.pk


def settings_form(**changes: str) -> dict[str, str]:
    """The operator settings' form with all that it requires, and these changes."""
    return {
        "name": "Relay Ltd",
        "timezone": "UTC",
        "closing_grace_hours": "6",
        "waiting_alarm_count": "100",
        "waiting_alarm_minutes": "60",
        "paid_credit_days": "365",
        "top_up_minimum": "5",
        "top_up_maximum": "10000",
        "top_up_presets": "10.00",
        "first_bonus_percent": "0",
        "first_bonus_days": "90",
        "low_balance_below": "5",
        **changes,
    }


def text_of(answer: Any) -> str:
    """What a person reads: the page without its tags."""
    return re.sub(r"\s+", " ", unescape(re.sub(r"<[^>]+>", " ", answer.content.decode())))


def hidden_value(html: str, name: str) -> str:
    """The value of a hidden input."""
    found = re.search(rf'<input type="hidden" name="{name}" value="([^"]*)"', html)
    assert found is not None, f"no hidden input {name}"
    return found[1]


def fill(payer: Payer | None = None) -> Payer:
    """Give every list some rows.

    Usage that is settled, parked, unclaimed, repeated and malformed; holds; limits; an invoice; runs.
    """
    payer, relay = payer or make_payer(name="Northwind"), Relay()
    other = make_payer(name="Contoso", credit="0.01")
    hold = relay.authorize(payer).body["id"]
    relay.authorize(payer)
    first = make_event(payer, authorization=hold)
    relay.report(first, *[make_event(payer) for _ in range(4)], *[make_event(other) for _ in range(3)])
    relay.report({**first, "status": "aborted"})
    relay.report(
        make_event(payer, model="nobody-sells-this"),
        make_event(None, api_key_id="key_0000000000000000"),
        make_event(payer, usage={"input_tokens": -1, "output_tokens": 1}),
    )
    _add_price_import()
    customer, now = payer.customer, datetime.now(UTC)
    for limit in (spend.Limit(Span.MONTH, Decimal(50)), spend.Limit(Span.DAY, Decimal(5), api_key_id=payer.key.pk)):
        spend.set_limit(customer.pk, limit, owner=SpendLimit.Owner.OPERATOR, actor="staff", at=now)
    _add_invoice(customer, now)
    timetable.install()
    timetable.observe(at=now)
    JobRun.objects.create(job="billing.expire_holds", started_at=now, duration_ms=12, result={"expired": 0})
    JobRun.objects.create(job="metering.check_ledger", started_at=now, duration_ms=90_000, error="Boom: it broke")
    JobRun.objects.create(job="metering.close_last_month", started_at=now)
    Alarm.objects.create(kind="test.kind", message="It waits.", count=1, first_seen=now, last_seen=now)
    IdempotentAnswer.objects.create(customer=customer, key="k", digest=b"d", status=201, body={"key": None})
    credit_lines.set_credit_limit(customer_id=customer.pk, limit=Decimal(5), reason="contract", actor="grace", at=now)
    WalletAdjustment.objects.create(
        customer=customer,
        kind="goodwill",
        amount=Decimal(500),
        reason="outage",
        key="k",
        needs_second_person=True,
        asked_by="grace",
        asked_at=now,
    )
    Membership.objects.create(customer=customer, user=make_staff())
    plan = Plan.objects.create(name="markup", multiplier=Decimal("1.2"))
    CustomerPlan.objects.create(customer=customer, plan=plan)
    PlanRule.objects.create(plan=plan, family="claude-", meter="input", unit_price=Decimal(2))
    PlanPolicy.objects.create(plan=plan, aborted="input")
    account = UpstreamAccount.objects.create(name="main", channel=Channel.objects.get(name="anthropic"))
    UpstreamTerms.objects.create(account=account, multiplier=Decimal("0.85"))
    tiers.load_sample()
    tiers.pin(customer_id=customer.pk, tier_id=UsageTier.objects.get(name="Tier 1").pk, at=now)
    return payer


def fill_credit(payer: Payer) -> None:
    """Credit that begins later, that was extended, and that a code became; a code that is left, a guess, a notice."""
    customer, now = payer.customer, datetime.now(UTC)
    asked: dict[str, Any] = {
        "customer_id": customer.pk,
        "amount": Decimal(1),
        "kind": "goodwill",
        "reason": "more",
        "reference": "",
        "at": now,
        "expires_at": now + timedelta(days=9),
    }
    credits.grant(**asked, key="later", effective_at=now + timedelta(days=1))
    grant = credits.find(credits.grant(**asked, key="now").grant)
    grant_changes.extend(
        customer_id=customer.pk, number=grant.pk, expires_at=None, reason="r", actor="olga", key="extend", at=now
    )
    code, _ = make_codes(2)
    redemption.redeem(customer_id=customer.pk, code=redemption.read_code(code), at=now)
    with redemption.counted(customer.pk, at=now):
        pass
    fill_payments(payer)
    notices.announce(
        customer_id=customer.pk, kind="credit_expires", key="k", data=KINDS["credit_expires"].example, at=now
    )
    _fill_messages(payer, now)


def fill_payments(payer: Payer) -> None:
    """A checkout that waits, a bank transfer, money that was refused; a currency with a rate, a payment account."""
    now = datetime.now(UTC)
    PayCurrency.objects.create(code="CNY", methods=["alipay"])
    exchange.add_rate(
        currency="CNY", per_usd=Decimal("7.2"), margin=Decimal("0.02"), effective_from=None, actor="olga", at=now
    )
    PaymentAccount.objects.create(customer=payer.customer, stripe_id="cus_stripe", is_sandbox=True, created_at=now)
    asked: dict[str, Any] = {"customer": payer.customer, "amount": 10, "created_at": now, "is_sandbox": True}
    TopUp.objects.create(**asked, origin="checkout", currency="CNY", pay_amount="73.44", rate="7.344", margin="0.02")
    TopUp.objects.create(
        **asked, origin="checkout", status="refused", currency="USD", pay_amount=9, error_code="other_amount"
    )
    received.record(
        customer_id=payer.customer.pk,
        payment=received.Payment("bank_transfer", Decimal(100), "CNY", "wire 7", now.date()),
        person=manual.Person(None, "olga"),
        at=now,
    )
    receipts.issue_missing(at=now)
    fill_returns(payer)  # Switches recharges off, hence before the next.
    _fill_recharge(payer, now)


def fill_returns(payer: Payer) -> None:
    """A refund that waits to be paid out, a dispute, a webhook that failed, a transaction of Stripe's, a difference."""
    now = datetime.now(UTC)
    wired = TopUp.objects.filter(customer=payer.customer, origin="bank_transfer").latest("pk")
    refunds.refund(
        customer_id=payer.customer.pk,
        amount=Decimal(2),
        reason="asked for it",
        actor="grace",
        key="fill",
        at=now,
        top_up_id=wired.pk,
    )
    Dispute.objects.create(
        customer=payer.customer,
        top_up=TopUp.objects.filter(customer=payer.customer, status="refused").latest("pk"),
        stripe_id="dp_1",
        status="needs_response",
        reason="fraudulent",
        currency="USD",
        pay_amount=9,
        evidence_due_by=now + timedelta(days=7),
        created_at=now,
    )
    WebhookEvent.objects.create(
        event_id="evt_1",
        type="refund.created",
        object_type="refund",
        object_id="re_1",
        payload='{"data": {"object": {"client_secret": "pi_secret_1", "receipt_email": "ada@example.com"}}}',
        status="failed",
        error="GatewayUnavailable: Stripe gave no answer",
        attempts=12,
        received_at=now,
        ended_at=now,
    )
    StripeTransaction.objects.create(
        stripe_id="txn_1",
        type="charge",
        category="charge",
        amount=10,
        fee=Decimal("0.59"),
        net=Decimal("9.41"),
        currency="USD",
        source="ch_1",
        occurred_at=now,
        available_on=now,
    )
    stripe_differences.report(
        [
            stripe_differences.Found(
                StripeDifference.Kind.NOT_HERE,
                "txn_1",
                "Stripe has a charge of 10 USD (ch_1) that is not here.",
                "Is it of another program that uses this account?",
                StripeTransaction.objects.get(stripe_id="txn_1"),
            )
        ],
        at=now,
    )


def _fill_messages(payer: Payer, now: datetime) -> None:
    """Preferences, an endpoint that fails, its delivery and a mail; a low balance."""
    customer = payer.customer
    notice_preferences.set_preferences(
        customer_id=customer.pk,
        addresses=["billing@example.com"],
        low_balance_below=Decimal(25),
        kinds={"key_created": notice_preferences.Choice(mail=False, webhook=True)},
        at=now,
    )
    endpoint = webhook_endpoints.create(
        customer_id=customer.pk, url="https://hooks.example.com/in", description="", kinds=[], at=now
    )
    WebhookEndpoint.objects.update(failing_since=now)
    notice = Notice.objects.filter(customer=customer).latest("pk")
    sent = {"customer": customer, "notice": notice, "created_at": now}
    Delivery.objects.create(
        **sent, channel="webhook", endpoint=endpoint, address=endpoint.url, attempts=2, status_code=500, look_at=now
    )
    Delivery.objects.create(
        **sent, channel="mail", address="billing@example.com", status="sent", attempts=1, ended_at=now
    )
    LowBalance.objects.create(customer=customer, since=now)


def _fill_recharge(payer: Payer, now: datetime) -> None:
    """A saved card, a removed one, and a rule whose charge the bank did not let pass without the customer."""
    card = {"customer": payer.customer, "type": "card", "brand": "visa", "exp_month": 8, "exp_year": 2034}
    PaymentMethod.objects.create(**card, stripe_id="pm_1", last4="1111", created_at=now, removed_at=now)
    method = PaymentMethod.objects.create(**card, stripe_id="pm_2", last4="4242", created_at=now, is_default=True)
    failed = TopUp.objects.create(
        customer=payer.customer,
        origin="recharge",
        status="failed",
        amount=50,
        currency="USD",
        pay_amount=50,
        saved_method=method,
        error_code="authentication_required",
        error_message="This transaction requires authentication.",
        created_at=now,
    )
    Recharge.objects.create(
        customer=payer.customer,
        is_on=True,
        threshold=100,
        amount=50,
        monthly_cap=500,
        method=method,
        waits_for=failed,
        judged_through=failed.pk,
        created_at=now,
        updated_at=now,
    )


def _add_price_import() -> None:
    """One of a model that has become much dearer waits for approval."""
    source = new_source()
    source.bring_in()
    source.rows = (Row("input", 0, Decimal(9)), Row("output", 0, Decimal(15)))
    source.bring_in(at=datetime.now(UTC))


def _add_invoice(customer: Customer, now: datetime) -> None:
    InvoiceSeries.objects.create(series="T", year=2026, last_number=1)
    invoice = Invoice.objects.create(
        customer=customer,
        series="T",
        year=2026,
        sequence=1,
        number="T-2026-0001",
        status="issued",
        period="2026-10-01",
        period_start="2026-10-01T00:00Z",
        period_end="2026-11-01T00:00Z",
        issued_at=now,
        customer_name=customer.name,
        exact_total="0.003",
        subtotal="0",
        tax="0",
        total="0",
        paid_by_credit="0",
        amount_due="0",
    )
    InvoiceLine.objects.create(
        invoice=invoice,
        position=1,
        usage_period="2026-10-01",
        description="Input tokens",
        model=SONNET,
        meter="input",
        quantity=1000,
        unit_price=3,
        per=1_000_000,
        amount="0.003",
    )
    InvoiceLine.objects.create(invoice=invoice, position=2, description="Rounding", amount="-0.003")
