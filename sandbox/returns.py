"""Money that goes back: refunds by the merchant, disputes by the payer's bank."""

from __future__ import annotations

from sandbox import currencies
from sandbox.errors import Json, Refused
from sandbox.world import World, must_be

DUE_AFTER_S = 7 * 86400


def refund(
    world: World, charge: Json, amount: int | None, *, metadata: dict[str, str] | None = None, reason: str | None = None
) -> Json:
    """By card and Alipay done at once; WeChat Pay answers later, with the money already off the balance."""
    must_be(charge["status"] == "succeeded", f"Charge {charge['id']} has not succeeded.", param="charge")
    if any(
        each["status"] not in {"won", "warning_closed"} and not each["is_charge_refundable"]
        for each in disputes(world, charge)
    ):
        raise Refused(f"Charge {charge['id']} has been charged back; cannot issue a refund.", code="charge_disputed")
    left = charge["amount"] - charge["amount_refunded"]
    if left == 0:
        raise Refused(f"Charge {charge['id']} has already been refunded.", code="charge_already_refunded")
    amount = left if amount is None else amount
    must_be(amount >= 1, "Invalid positive integer", code="parameter_invalid_integer", param="amount")
    must_be(
        amount <= left,
        f"Refund amount ({currencies.shown(amount, charge['currency'])}) is greater than unrefunded amount on charge "
        f"({currencies.shown(left, charge['currency'])})",
        param="amount",
    )
    kind = charge["payment_method_details"]["type"]
    made = world.make(
        "refund",
        "re_3" if kind == "card" else "pyr_",
        amount=amount,
        balance_transaction=None,
        charge=charge["id"],
        currency=charge["currency"],
        destination_details={"type": kind, kind: {}},
        failure_reason=None,
        metadata=metadata or {},
        payment_intent=charge["payment_intent"],
        reason=reason,
        receipt_number=None,
        status="pending" if kind == "wechat_pay" else "succeeded",
    )
    booked = world.book(
        "refund" if kind == "card" else "payment_refund",
        "refund",
        made["id"],
        -amount,
        charge["currency"],
        text="REFUND FOR PAYMENT",
    )
    world.change(made, balance_transaction=booked["id"])
    _refunded(world, charge, amount)
    world.tell("charge.refunded", charge)
    world.tell("refund.created", made)
    return made


def settle_refund(world: World, made: Json, *, arrives: bool, reason: str = "expired_or_canceled_card") -> Json:
    """A refund's last word; one that had succeeded may still fail, as with cards that are closed."""
    must_be(made["status"] == "pending" or (made["status"] == "succeeded" and not arrives), "This refund is settled.")
    if arrives:
        world.change(made, status="succeeded")
    else:
        booked = world.book(
            "refund_failure", "refund_failure", made["id"], made["amount"], made["currency"], text="REFUND FAILURE"
        )
        world.change(made, status="failed", failure_reason=reason, failure_balance_transaction=booked["id"])
        charge = world.get("charge", made["charge"])
        _refunded(world, charge, -made["amount"])
        world.tell("charge.updated", charge)
        world.tell("refund.failed", made)
    world.tell("refund.updated", made)
    world.tell("charge.refund.updated", made)
    return made


def _refunded(world: World, charge: Json, amount: int) -> None:
    total = charge["amount_refunded"] + amount
    world.change(charge, amount_refunded=total, refunded=total == charge["amount"])


def disputes(world: World, charge: Json) -> list[Json]:
    return world.store.every("dispute", charge=charge["id"])


def open_dispute(world: World, charge: Json, amount: int | None = None, *, withdraws: bool = True) -> Json:
    """The payer objects. `withdraws` takes the money at once, as card networks do; else it is an inquiry first."""
    must_be(charge["status"] == "succeeded", "Only a charge that succeeded can be disputed.")
    must_be(not disputes(world, charge), "This charge is disputed already.")
    left = charge["amount"] - charge["amount_refunded"]
    amount = left if amount is None else amount
    must_be(1 <= amount <= charge["amount"], "Nothing is left to dispute.")
    dispute = world.make(
        "dispute",
        "dp_1",
        amount=amount,
        balance_transactions=[],
        charge=charge["id"],
        currency=charge["currency"],
        enhanced_eligibility_types=[],
        evidence={},
        evidence_details={
            "due_by": world.now() + DUE_AFTER_S,
            "has_evidence": False,
            "past_due": False,
            "submission_count": 0,
        },
        is_charge_refundable=True,
        metadata={},
        payment_intent=charge["payment_intent"],
        payment_method_details={"type": charge["payment_method_details"]["type"]},
        reason="fraudulent",
        status="warning_needs_response",
    )
    world.change(charge, disputed=True)
    if withdraws:
        _take(world, dispute)
    world.tell("charge.dispute.created", dispute)
    if withdraws:
        world.tell("charge.dispute.funds_withdrawn", dispute)
    return dispute


def withdraw(world: World, dispute: Json) -> Json:
    """An inquiry becomes a chargeback."""
    must_be(dispute["status"] == "warning_needs_response", "The money of this dispute has moved already.")
    _take(world, dispute)
    world.tell("charge.dispute.updated", dispute)
    world.tell("charge.dispute.funds_withdrawn", dispute)
    return dispute


def answer(world: World, dispute: Json) -> Json:
    """Evidence is sent in."""
    must_be(dispute["status"] in {"needs_response", "warning_needs_response"}, "This dispute takes no evidence now.")
    is_inquiry = dispute["status"].startswith("warning")
    world.change(dispute, status="warning_under_review" if is_inquiry else "under_review")
    world.tell("charge.dispute.updated", dispute)
    return dispute


def close(world: World, dispute: Json, *, won: bool) -> Json:
    """The bank's decision. A dispute that is won brings the money back, not the fee."""
    must_be(dispute["status"] not in {"won", "lost", "warning_closed"}, "This dispute is closed.")
    if dispute["status"].startswith("warning"):
        world.change(dispute, status="warning_closed")
        world.tell("charge.dispute.closed", dispute)
        return dispute
    world.change(dispute, status="won" if won else "lost")
    if won:
        _move(world, dispute, dispute["amount"], "dispute_reversal", 0, f"Chargeback reversal for {dispute['charge']}")
    world.tell("charge.dispute.closed", dispute)
    if won:
        world.tell("charge.dispute.funds_reinstated", dispute)
    return dispute


def _take(world: World, dispute: Json) -> None:
    fee = currencies.DISPUTE_FEE
    _move(world, dispute, -dispute["amount"], "dispute", fee, f"Chargeback withdrawal for {dispute['charge']}")
    world.change(dispute, status="needs_response", is_charge_refundable=False)


def _move(world: World, dispute: Json, amount: int, category: str, fee: int, text: str) -> None:
    booked = world.book("adjustment", category, dispute["id"], amount, dispute["currency"], fee=fee, text=text)
    world.change(dispute, balance_transactions=[*dispute["balance_transactions"], booked])
