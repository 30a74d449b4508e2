from typing import Any

from django.core.management.base import CommandError, CommandParser

from metering.keys import InvalidKey, create_relay_token
from relayadmin.commands import JsonCommand


class Command(JsonCommand):
    help = "Create a relay token for a relay node; the secret is shown once."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("name")

    def handle(self, *args: Any, **options: Any) -> None:
        try:
            token, secret = create_relay_token(name=options["name"])
        except InvalidKey as error:
            raise CommandError(f"{error}.") from error
        self.answer({"id": token.public_id, "token": secret})
