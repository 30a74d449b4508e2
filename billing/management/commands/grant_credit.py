from datetime import UTC, datetime
from typing import Any
from uuid import uuid4

from django.core.management.base import CommandError, CommandParser

from billing import credits
from billing.models import Customer, Grant
from relayadmin.commands import JsonCommand, amount
from relayadmin.money import amount_text


class Command(JsonCommand):
    help = "Put credit in a customer's wallet; with --key, once however often it is called."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("customer", help="cus_…")
        parser.add_argument("amount", help="USD, such as 50.00")
        parser.add_argument("--kind", required=True, choices=Grant.Kind.values)
        parser.add_argument("--reference", default="", help="needed for paid credit")
        parser.add_argument("--expires-at", default="", help="RFC 3339, such as 2027-01-31T00:00:00Z, or never")
        parser.add_argument("--effective-at", default="", help="RFC 3339: it begins then, not now")
        parser.add_argument("--priority", type=int, default=0, help="lower is used first")
        parser.add_argument("--non-refundable", action="store_true", help="of paid credit; other credit never is")
        parser.add_argument("--key", default="", help="idempotency key")

    def handle(self, *args: Any, **options: Any) -> None:
        customer = Customer.objects.filter(public_id=options["customer"]).first()
        if customer is None:
            raise CommandError(f"There is no customer {options['customer']!r}.")
        never = options["expires_at"] == "never"
        try:
            granted = credits.grant(
                customer_id=customer.pk,
                amount=amount(options["amount"], "amount"),
                kind=options["kind"],
                reason="",
                reference=options["reference"],
                key=options["key"] or uuid4().hex,
                at=datetime.now(UTC),
                actor="command line",
                effective_at=_moment("--effective-at", options["effective_at"]),
                expires_at=None if never else _moment("--expires-at", options["expires_at"]),
                never_expires=never,
                priority=options["priority"],
                is_refundable=False if options["non_refundable"] else None,
            )
        except (credits.InvalidGrant, credits.GrantKeyConflict) as error:
            raise CommandError(f"{error}.") from error
        self.answer({"grant": granted.grant, "balance": amount_text(granted.balance)})


def _moment(name: str, text: str) -> datetime | None:
    if not text:
        return None
    try:
        moment = datetime.fromisoformat(text)
    except ValueError as error:
        raise CommandError(f"{name} {text!r} is not a time; write 2027-01-31T00:00:00Z.") from error
    if moment.tzinfo is None:
        raise CommandError(f"{name} needs an offset, such as Z.")
    return moment
