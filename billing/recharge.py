"""Automatic recharge: a wallet below its threshold is filled from a saved card.

It is judged by the balance (what is held for running requests is still the customer's), each minute and whatever made
it fall, so a rule switched on below its threshold fires as well. A charge is a top-up like any other: its row is
committed first, the card is charged under the row's own key, and what came of it is read and applied as a checkout's.
One is under way at a time: whoever holds the wallet's lock and finds no open one opens it. What died is gone on with
from the row.
"""

import logging
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal
from zoneinfo import ZoneInfo

from django.db.models import QuerySet, Sum

from billing import ledger, notices, payment_accounts, recharge_rules, saved_methods, top_up_states, top_ups
from billing import stripe_gateway as gateway
from billing.models import Notice, Recharge, TopUp
from billing.periods import bounds, month_of, operator_timezone
from billing.recharge_rules import Off
from relayadmin.db import in_transaction, one_at_a_time, server_cursor
from relayadmin.money import EXACT, ZERO, amount_text

logger = logging.getLogger(__name__)
Status = TopUp.Status
OPEN = (Status.PENDING, Status.PROCESSING)
# How long after a decline the card is left alone; with the decline after the last of them the rule is off.
WAITS = (timedelta(hours=1), timedelta(hours=6))
PATIENCE = timedelta(minutes=2)  # longer than a charge can take: after it, who made it has died
# The provider keeps keys for a day at least; later it is asked for the payment, and nothing is charged for it.
KEY_KEPT = timedelta(hours=23)
CLOCKS_DIFFER = timedelta(minutes=10)
AUTHENTICATION = "authentication_required"
BATCH = 500


@dataclass(frozen=True, slots=True)
class Swept:
    """What one sweep did: customers looked at, and those for whom it failed."""

    looked_at: int = 0
    failed: int = 0


_DUE = """
SELECT r.customer_id FROM billing_recharge r
JOIN billing_wallet w ON w.customer_id = r.customer_id
JOIN billing_customer c ON c.id = r.customer_id
WHERE r.is_on AND w.balance < r.threshold AND c.status = 'active' AND (r.next_try_at IS NULL OR r.next_try_at <= %(at)s)
    AND r.waits_for_id IS NULL
    AND NOT EXISTS (
        SELECT FROM billing_topup t WHERE t.customer_id = r.customer_id AND t.origin = 'recharge'
            AND t.id > r.judged_through AND t.status IN ('pending', 'processing') AND t.is_sandbox = %(is_sandbox)s
    )
UNION
SELECT t.customer_id FROM billing_topup t
WHERE t.look_at <= %(at)s AND t.origin = 'recharge' AND t.status = 'pending' AND t.payment_intent_id IS NULL
    AND t.is_sandbox = %(is_sandbox)s
UNION
SELECT r.customer_id FROM billing_recharge r
JOIN billing_topup t ON t.customer_id = r.customer_id AND t.origin = 'recharge' AND t.id > r.judged_through
    AND t.status NOT IN ('pending', 'processing') AND t.is_sandbox = %(is_sandbox)s
WHERE r.is_on
UNION
SELECT r.customer_id FROM billing_recharge r
JOIN billing_topup t ON t.id = r.waits_for_id
JOIN billing_customer c ON c.id = r.customer_id
WHERE r.is_on AND c.status = 'active' AND (
    NOT EXISTS (
        SELECT FROM billing_notice n
        WHERE n.customer_id = r.customer_id AND n.kind = 'authentication_required' AND n.key = t.public_id
    ) OR EXISTS (
        SELECT FROM billing_topup p
        WHERE p.customer_id = r.customer_id AND p.origin = 'checkout' AND p.paid_at > t.created_at
    )
)
ORDER BY 1 LIMIT %(limit)s
"""


def due(*, at: datetime) -> list[int]:
    """The customers for whom there may be something to do: rules that are on and below, charges that ended or died.

    A look without a lock; `run` judges.
    """
    with server_cursor() as cursor:
        cursor.execute(_DUE, {"at": at, "is_sandbox": payment_accounts.is_sandbox(), "limit": BATCH})
        return [customer_id for (customer_id,) in cursor.fetchall()]


def sweep(*, at: datetime) -> Swept:
    """Do for every customer what is due; any number of workers may at once. Not in a transaction."""
    looked_at = failed = 0
    if not gateway.configured():
        return Swept()
    for customer_id in due(at=at):
        try:
            run(customer_id=customer_id, at=at)
            looked_at += 1
        except (gateway.GatewayUnavailable, gateway.GatewayRejected) as error:
            failed += 1
            logger.warning("recharge not finished customer=%d error=%s", customer_id, error)
    return Swept(looked_at, failed)


def run(*, customer_id: int, at: datetime) -> str:
    """Charge a customer's card if it is to be charged now, and take in what came of it. Not in a transaction.

    Returns what was done, in a few words. Raises what the gateway raises; the next run goes on from the row.
    """
    top_up = in_transaction(lambda: _open(customer_id, at))
    outcome = "nothing to charge"
    if top_up is not None:
        outcome = _charge(top_up, at)
        in_transaction(lambda: _take_in(customer_id, at))
    _send_link(customer_id, at)
    return outcome


def _take_in(customer_id: int, at: datetime) -> None:
    ledger.lock_wallets([customer_id])
    rule = Recharge.objects.filter(customer_id=customer_id).first()
    if rule is not None:
        _judge(rule, at)


def _open(customer_id: int, at: datetime) -> TopUp | None:
    """The top-up to charge now, its row made or taken up again under the wallet's lock; None if there is none."""
    wallet = ledger.lock_wallets([customer_id])[customer_id]
    rule = Recharge.objects.select_related("method").filter(customer_id=customer_id).first()
    if rule is None:
        return None
    _judge(rule, at)
    under_way = _charges(customer_id).filter(status__in=OPEN).select_related("customer", "saved_method").first()
    if under_way is not None:
        # Once the provider has named the payment, it is asked about as any other.
        if under_way.payment_intent_id is not None or (under_way.look_at is not None and under_way.look_at > at):
            return None
    elif _may_fire(rule, wallet, at):
        under_way = _open_row(rule, at)
    if under_way is not None:
        under_way.look_at = at + PATIENCE
        under_way.save()
    return under_way


def _open_row(rule: Recharge, at: datetime) -> TopUp | None:
    try:
        row = top_ups.open_recharge(
            customer_id=rule.customer_id, amount=rule.amount, currency=recharge_rules.CURRENCY, at=at
        )
    except top_ups.InvalidTopUp as error:
        message = f"The amount is no longer allowed: {error}."
        recharge_rules.switch_off(rule, Off.LIMITS, message, at=at)
        return None
    row.saved_method = rule.method
    return row


def _charges(customer_id: int) -> QuerySet[TopUp]:
    """A customer's automatic charges, in the mode that payments are made in now."""
    return TopUp.objects.filter(
        customer_id=customer_id, origin=TopUp.Origin.RECHARGE, is_sandbox=payment_accounts.is_sandbox()
    )


def _may_fire(rule: Recharge, wallet: ledger.LockedWallet, at: datetime) -> bool:
    """Whether a rule charges its card now; one that can't go on is switched off."""
    if not rule.is_on or wallet.balance >= rule.threshold or not recharge_rules.may_recharge(rule.customer_id):
        return False
    if rule.waits_for_id is not None or (rule.next_try_at is not None and rule.next_try_at > at):
        return False
    method = rule.method
    assert method is not None, "a rule that is on has its card"
    if method.removed_at is not None or method.is_sandbox != payment_accounts.is_sandbox():
        message = f"The card {method} is no longer there. Choose another one to go on."
        recharge_rules.switch_off(rule, Off.REMOVED, message, at=at, told={"card": str(method)})
        return False
    if saved_methods.has_expired(method, at=at):
        message = f"The card {method} has expired. Save another one to go on."
        recharge_rules.switch_off(rule, Off.EXPIRED, message, at=at, told={"card": str(method)})
        return False
    return not _is_capped(rule, at)


def _is_capped(rule: Recharge, at: datetime) -> bool:
    """Whether one more charge would go beyond the month's cap; if so, the next one waits for the next month."""
    if rule.monthly_cap is None:
        return False
    zone = operator_timezone()
    month = month_of(at, zone)
    spent = charged_in_month(rule.customer_id, at=at, zone=zone)
    if EXACT.add(spent, rule.amount) <= rule.monthly_cap:
        return False
    rule.next_try_at = bounds(month, zone)[1]
    rule.save(update_fields=["next_try_at"])
    notices.announce(
        customer_id=rule.customer_id,
        kind="recharge_capped",
        key=f"{month:%Y-%m}:{amount_text(rule.monthly_cap)}",
        data={
            "monthly_cap": amount_text(rule.monthly_cap),
            "charged": amount_text(spent),
            "goes_on_at": rule.next_try_at.isoformat(),
        },
        at=at,
    )
    return True


def charged_in_month(customer_id: int, *, at: datetime, zone: ZoneInfo) -> Decimal:
    """What was charged automatically, or is being charged, in the operator's month of this moment (USD)."""
    first, after = bounds(month_of(at, zone), zone)
    mine = _charges(customer_id).filter(
        status__in=(*OPEN, Status.PAID, Status.REFUSED), created_at__gte=first, created_at__lt=after
    )
    return mine.aggregate(charged=Sum("amount"))["charged"] or ZERO


def _charge(top_up: TopUp, at: datetime) -> str:
    """Charge the card of an open top-up, or find the payment of a call that died; apply what came of it."""
    is_late = at - top_up.created_at > KEY_KEPT or not _still_wanted(top_up)
    if is_late:
        intent = _find(top_up, at)
        if intent is None:
            return _end(top_up, Status.CANCELED, "not_sent", "It was no longer to be charged.", at)
    else:
        try:
            intent = _send(top_up)
        except gateway.GatewayUnavailable:
            # A fault of the provider's own is answered again under the same key, whatever the call has done.
            intent = _find(top_up, at)
            if intent is None:
                raise
        except gateway.PaymentDeclined as error:
            if error.payment_intent is None:
                return _end(top_up, Status.FAILED, error.decline_code or error.code or "declined", error.message, at)
            intent = error.payment_intent
        except gateway.GatewayRejected as error:
            if error.code == "not_permitted":
                raise  # The operator's key is at fault, not the card.
            ended = _end(top_up, Status.FAILED, error.code or "rejected", str(error), at)
            saved_methods.sync(top_up.saved_method.stripe_id, at=at)  # It may be detached.
            return ended
    return top_up_states.apply(top_up_states.State(intent=intent), at=at)


def _still_wanted(top_up: TopUp) -> bool:
    is_on = Recharge.objects.filter(customer_id=top_up.customer_id, is_on=True).exists()
    return is_on and recharge_rules.may_recharge(top_up.customer_id)


def _send(top_up: TopUp) -> gateway.PaymentIntent:
    customer = top_up.customer
    return gateway.charge_saved(
        key=top_ups.request_key(top_up),
        stripe_customer=payment_accounts.find(customer.pk) or "",
        method=top_up.saved_method.stripe_id,
        amount=top_up.pay_amount,
        currency=top_up.currency,
        top_up=top_up.public_id,
        customer=customer.public_id,
        description=f"Automatic recharge {top_up.public_id}",
    )


def _find(top_up: TopUp, at: datetime) -> gateway.PaymentIntent | None:
    """The payment that names this top-up, if the provider has one."""
    made = gateway.payment_intents_created(top_up.created_at - CLOCKS_DIFFER, at + CLOCKS_DIFFER)
    return next((intent for intent in made if intent.metadata.get("top_up") == top_up.public_id), None)


def _end(top_up: TopUp, status: TopUp.Status, code: str, message: str, at: datetime) -> str:
    """End a top-up that no payment was made for."""

    def work() -> str:
        ledger.lock_wallets([top_up.customer_id])
        open_one = TopUp.objects.filter(pk=top_up.pk, status=Status.PENDING, payment_intent_id=None)
        open_one.update(status=status, error_code=code[:100], error_message=message[:500], look_at=None)
        return str(status)

    return in_transaction(work)


def _judge(rule: Recharge, at: datetime) -> None:
    """Take into a rule what came of its charges, each once; the caller holds the wallet's lock."""
    new = _charges(rule.customer_id).filter(pk__gt=rule.judged_through).select_related("saved_method").order_by("pk")
    before = rule.judged_through
    for top_up in new:
        if top_up.status in OPEN:
            break
        rule.judged_through = top_up.pk
        _judge_one(rule, top_up, at)
    if rule.waits_for_id is not None and _has_paid_since(rule):
        rule.waits_for, before = None, -1
    if rule.judged_through != before:
        rule.save()


def _judge_one(rule: Recharge, top_up: TopUp, at: datetime) -> None:
    if top_up.status == Status.PAID:
        rule.failures, rule.next_try_at, rule.waits_for = 0, None, None
    if not rule.is_on:
        return
    told = {"top_up": top_up.public_id, "amount": amount_text(top_up.amount), "card": str(top_up.saved_method)}
    if top_up.status == Status.REFUSED:
        # Money was taken and is not credited: not once more before a person has looked.
        message = f"The payment {top_up.public_id} didn't match what was asked for. We are looking at it."
        recharge_rules.switch_off(rule, Off.REFUSED, message, at=at, told=told)
    elif top_up.status == Status.FAILED and top_up.error_code == AUTHENTICATION:
        rule.waits_for = top_up
    elif top_up.status == Status.FAILED:
        _count_failure(rule, top_up, told, at)


def _count_failure(rule: Recharge, top_up: TopUp, told: dict[str, str], at: datetime) -> None:
    rule.failures += 1
    if rule.failures > len(WAITS):
        message = f"The card {top_up.saved_method} was declined {rule.failures} times: {top_up.error_message}"
        recharge_rules.switch_off(rule, Off.DECLINED, message[:500], at=at, told=told)
        return
    rule.next_try_at = at + WAITS[rule.failures - 1]
    notices.announce(
        customer_id=rule.customer_id,
        kind="recharge_failed",
        key=top_up.public_id,
        data={
            **told,
            "code": top_up.error_code,
            "message": top_up.error_message,
            "next_try_at": rule.next_try_at.isoformat(),
        },
        at=at,
    )


def _has_paid_since(rule: Recharge) -> bool:
    paid = TopUp.objects.filter(
        customer_id=rule.customer_id, origin=TopUp.Origin.CHECKOUT, paid_at__gt=rule.waits_for.created_at
    )
    return paid.exists()


def _send_link(customer_id: int, at: datetime) -> None:
    """Send the customer to a page on which the bank can ask for them, once for each charge that wanted it."""
    rule = (
        Recharge.objects.select_related("waits_for__saved_method").filter(customer_id=customer_id, is_on=True).first()
    )
    if rule is None or rule.waits_for is None or not recharge_rules.may_recharge(customer_id):
        return
    wanted = rule.waits_for
    if Notice.objects.filter(customer_id=customer_id, kind=AUTHENTICATION, key=wanted.public_id).exists():
        return
    try:
        with one_at_a_time(f"recharge link {wanted.public_id}"):
            opened = _open_page(rule, wanted, at)
    except top_ups.InvalidTopUp as error:
        message = f"The amount is no longer allowed: {error}."
        in_transaction(lambda: _switch_off(customer_id, Off.LIMITS, message, at))
        return
    notices.announce(
        customer_id=customer_id,
        kind=AUTHENTICATION,
        key=wanted.public_id,
        data={
            "top_up": opened.public_id,
            "amount": amount_text(wanted.amount),
            "card": str(wanted.saved_method),
            # Empty where the provider would open none: a top-up by hand does as well.
            "checkout_url": opened.checkout_url,
        },
        at=at,
    )


def _switch_off(customer_id: int, because: Off, message: str, at: datetime) -> None:
    ledger.lock_wallets([customer_id])
    rule = Recharge.objects.get(customer_id=customer_id)
    if rule.is_on:
        recharge_rules.switch_off(rule, because, message, at=at)


def _open_page(rule: Recharge, wanted: TopUp, at: datetime) -> TopUp:
    """The one checkout that stands in for a charge which the bank did not let pass without its customer."""
    asked_by = f"automatic recharge {wanted.public_id}"
    opened = TopUp.objects.filter(customer_id=rule.customer_id, origin=TopUp.Origin.CHECKOUT, asked_by=asked_by).first()
    if opened is None:
        opened = top_ups.start(
            customer_id=rule.customer_id,
            amount=wanted.amount,
            currency=wanted.currency,
            save_card=True,
            return_url=rule.return_url,
            asked_by=asked_by,
            at=at,
        )
    return top_ups.open_checkout(top_up_id=opened.pk, at=at)
