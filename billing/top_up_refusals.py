"""Money that came in and was not credited, because something doesn't match: an alarm is open until a person decides."""

from datetime import datetime

from billing import alarms
from billing.accounts import lock_account
from billing.models import TopUp
from relayadmin.db import in_transaction
from relayadmin.money import currency_text

ALARM = "top_ups.refused"
_SHOWN_MAX = 1_000


class NotRefused(Exception):
    """The top-up is not one that a person has to decide on."""


def watch(*, at: datetime) -> alarms.Watched:
    """Keep an alarm open for each refused top-up that nobody has decided on."""
    rows = TopUp.objects.filter(status=TopUp.Status.REFUSED, decided_by="").select_related("customer")
    seen = [
        alarms.Sighting(
            kind=ALARM,
            subject=row.public_id,
            label=row.public_id,
            count=1,
            message=f"{currency_text(row.pay_amount, row.currency)} {row.currency} for {row.customer} came in and were"
            f" not credited: {row.error_message}.",
            advice="Put right what is wrong and judge it again, or give the money back at the payment provider and say"
            f" so, on the page of top-up {row.public_id}.",
        )
        for row in rows[:_SHOWN_MAX]
    ]
    return alarms.report(seen, source="top_ups", at=at)


def decide(*, top_up_id: int, actor: str, note: str, at: datetime) -> None:
    """Note what somebody has done about a refused top-up, such as a refund; its alarm ends. Raises NotRefused."""

    def work() -> None:
        lock_account(undecided(top_up_id).customer_id)
        row = undecided(top_up_id)
        row.decided_by, row.error_message = actor, f"{row.error_message}. {note}"[:500]
        row.save(update_fields=["decided_by", "error_message"])

    in_transaction(work)
    watch(at=at)


def undecided(top_up_id: int) -> TopUp:
    """A refused top-up that nobody has decided on. Raises NotRefused."""
    row = TopUp.objects.filter(pk=top_up_id, status=TopUp.Status.REFUSED, decided_by="").first()
    if row is None:
        raise NotRefused("there is nothing to decide on this top-up")
    return row
