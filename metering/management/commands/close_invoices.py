import re
from datetime import UTC, date, datetime
from typing import Any

from django.core.management.base import CommandError, CommandParser

from billing.models import Customer
from metering.statements import PeriodNotOver, close_invoices
from relayadmin.commands import JsonCommand


class Command(JsonCommand):
    help = "Close a month and issue its invoices; several runs at once issue each invoice once."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--period", required=True, help="a month that has ended, such as 2026-11")
        parser.add_argument("--customer", default="", help="cus_…, to close for one customer only")

    def handle(self, *args: Any, **options: Any) -> None:
        customer = None
        if options["customer"]:
            customer = Customer.objects.filter(public_id=options["customer"]).first()
            if customer is None:
                raise CommandError(f"There is no customer {options['customer']!r}.")
        try:
            closed = close_invoices(period=_month(options["period"]), at=datetime.now(UTC), customer=customer)
        except PeriodNotOver as error:
            raise CommandError(f"{error}; close it when it is.") from error
        for public_id, reason in closed.reasons.items():
            self.note(f"{public_id} was not invoiced: {reason}")
        self.answer({"issued": closed.issued, "skipped": closed.skipped, "failed": closed.failed})


def _month(text: str) -> date:
    found = re.fullmatch(r"(\d{4})-(\d{2})", text, re.ASCII)
    if found and "0001" <= found[1] <= "9998" and 1 <= int(found[2]) <= 12:
        return date(int(found[1]), int(found[2]), 1)
    raise CommandError(f"--period must be a month such as 2026-11, not {text!r}.")
