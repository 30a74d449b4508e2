from datetime import UTC, datetime
from typing import Any
from uuid import uuid4

from django.core.management.base import CommandError, CommandParser

from billing import credits, manual
from billing.accounts import AccountClosed
from billing.models import Customer, Grant
from relayadmin.commands import JsonCommand, amount, os_user
from relayadmin.money import ZERO, amount_text

LONGEST_NAME = 100


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
        parser.add_argument("--reason", default="", help="stands on the customer's statement")
        parser.add_argument("--key", default="", help="idempotency key")
        parser.add_argument("--by", default="", help="who grants it, for the record; the system's user unless given")
        parser.add_argument(
            "--alone", action="store_true", help="also above the amount that needs a second person; stands on record"
        )

    def handle(self, *args: Any, **options: Any) -> None:
        customer = Customer.objects.filter(public_id=options["customer"]).first()
        if customer is None:
            raise CommandError(f"There is no customer {options['customer']!r}.")
        never = options["expires_at"] == "never"
        value = amount(options["amount"], "amount")
        by = options["by"].strip() or os_user()
        if len(by) > LONGEST_NAME:
            raise CommandError(f"--by must have at most {LONGEST_NAME} characters.")
        is_alone = manual.needs_second_person(value)
        if is_alone and not options["alone"]:
            raise CommandError(
                f"Above {amount_text(manual.second_person_above() or ZERO)} USD a second person has to approve: ask for"
                " it with “Adjust” on the customer's page. --alone grants it all the same, and that stands on record."
            )
        try:
            granted = credits.grant(
                customer_id=customer.pk,
                amount=value,
                kind=options["kind"],
                reason=options["reason"],
                reference=options["reference"],
                key=options["key"] or uuid4().hex,
                at=datetime.now(UTC),
                actor=f"{by} (command line{', alone' if is_alone else ''})",
                effective_at=_moment("--effective-at", options["effective_at"]),
                expires_at=None if never else _moment("--expires-at", options["expires_at"]),
                never_expires=never,
                priority=options["priority"],
                is_refundable=False if options["non_refundable"] else None,
            )
        except (credits.InvalidGrant, credits.GrantKeyConflict, AccountClosed) as error:
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
