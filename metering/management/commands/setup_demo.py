from datetime import UTC, datetime
from typing import Any

from django.conf import settings
from django.core.management.base import CommandError

from metering import demo
from relayadmin.commands import JsonCommand


class Command(JsonCommand):
    help = "Make demo log-ins and demo usage, on the embedded servers only; the first time only."

    def handle(self, *args: Any, **options: Any) -> None:
        if not settings.EMBEDDED:
            raise CommandError("The demo is made on the embedded servers only, never on a database of your own.")
        try:
            made = demo.set_up(at=datetime.now(UTC))
        except demo.DemoIncomplete as error:
            raise CommandError(f"The demo was not set up: {error}.") from error
        if made is None:
            self.answer({})
            return
        self.answer(
            {
                "operator": {"username": made.operator.username, "password": made.operator.password},
                "customer": {
                    "id": made.customer,
                    "api_key_id": made.api_key_id,
                    "api_key": made.api_key,
                    "access_token": made.access_token,
                    "username": made.member.username,
                    "password": made.member.password,
                },
                "relay_token": made.relay_token,
            }
        )
