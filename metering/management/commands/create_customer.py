from datetime import UTC, datetime
from typing import Any

from django.core.management.base import CommandError, CommandParser

from billing import manual
from billing.credits import InvalidGrant
from billing.customers import InvalidCustomer
from metering.keys import InvalidKey
from metering.onboarding import onboard_customer
from relayadmin.commands import JsonCommand, amount, os_user


class Command(JsonCommand):
    help = "Create a customer with an API key and an access token; both secrets are shown once."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("name")
        parser.add_argument("--email", default="")
        parser.add_argument("--credit", default="0", help="USD, as a goodwill grant")
        parser.add_argument("--plan", default="list")
        parser.add_argument("--key-name", default="default")

    def handle(self, *args: Any, **options: Any) -> None:
        credit = amount(options["credit"], "--credit")
        if manual.needs_second_person(credit):
            raise CommandError("So much credit needs a second person: create the customer without, then grant it.")
        try:
            made = onboard_customer(
                name=options["name"],
                email=options["email"],
                credit=credit,
                plan=options["plan"],
                key_name=options["key_name"],
                at=datetime.now(UTC),
                actor=f"{os_user()} (command line)",
            )
        except (InvalidCustomer, InvalidKey, InvalidGrant) as error:
            raise CommandError(f"{error}.") from error
        self.answer(
            {
                "customer": made.customer,
                "api_key_id": made.api_key_id,
                "api_key": made.api_key,
                "access_token": made.access_token,
            }
        )
