from datetime import UTC, datetime
from typing import Any

from django.core.management.base import CommandError, CommandParser

from billing.models import Customer
from metering.statements import InvalidMonth, PeriodNotOver, close_invoices, read_month
from relayadmin.commands import JsonCommand, os_user


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
            closed = close_invoices(
                period=read_month(options["period"]),
                at=datetime.now(UTC),
                customer=customer,
                actor=f"{os_user()} (command line)",
            )
        except InvalidMonth as error:
            raise CommandError(f"--period: {error}.") from error
        except PeriodNotOver as error:
            raise CommandError(f"{error}; close it when it is.") from error
        for public_id, reason in closed.reasons.items():
            self.note(f"{public_id} was not invoiced: {reason}")
        self.answer({"issued": closed.issued, "skipped": closed.skipped, "failed": closed.failed})
