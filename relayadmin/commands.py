"""What the management commands share: one JSON object on standard output, refusals as one sentence."""

import os
import pwd
from decimal import Decimal
from typing import Any

import msgspec
from django.core.management.base import BaseCommand, CommandError

from relayadmin.money import InvalidAmount, parse_amount


class JsonCommand(BaseCommand):
    """A command that answers with one JSON object; messages go to standard error."""

    requires_migrations_checks = False

    def execute(self, *args: Any, **options: Any) -> Any:
        for value in options.values():
            if isinstance(value, str) and not _is_storable(value):
                raise CommandError(f"An argument is not valid text: {value!r}.")
        return super().execute(*args, **options)

    def answer(self, body: Any) -> None:
        self.stdout.write(msgspec.json.encode(body).decode())

    def note(self, message: str) -> None:
        self.stderr.write(message)


def os_user() -> str:
    """Who calls, as the operating system says; with sudo, who called that. A number where it has no name."""
    number = os.getuid()
    if number == 0 and (before := os.environ.get("SUDO_USER")):
        return before
    try:
        return pwd.getpwuid(number).pw_name
    except KeyError:
        return f"user {number}"


def _is_storable(text: str) -> bool:
    return "\x00" not in text and not any("\ud800" <= letter <= "\udfff" for letter in text)


def amount(text: str, name: str) -> Decimal:
    """An amount as a command's argument. Raises CommandError."""
    try:
        return parse_amount(text)
    except InvalidAmount as error:
        raise CommandError(f"{name}: {error}.") from error
