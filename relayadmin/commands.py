"""What the management commands share: one JSON object on standard output, refusals as one sentence."""

import os
import pwd
from decimal import Decimal
from typing import Any

import msgspec
import psycopg
from django.core.management.base import BaseCommand, CommandError
from django.db import ProgrammingError, connection
from django.db.migrations.executor import MigrationExecutor

from relayadmin.money import InvalidAmount, parse_amount


class JsonCommand(BaseCommand):
    """A command that answers with one JSON object; messages go to standard error."""

    requires_migrations_checks = False

    def execute(self, *args: Any, **options: Any) -> Any:
        for value in options.values():
            if isinstance(value, str) and not _is_storable(value):
                raise CommandError(f"An argument is not valid text: {value!r}.")
        try:
            return super().execute(*args, **options)
        except ProgrammingError as error:
            if isinstance(error.__cause__, _MISSING) and _awaits_migrations():
                raise CommandError(
                    "The database was not set up for this version. Run `manage.py migrate` first; `make run` does it."
                ) from error
            raise

    def answer(self, body: Any) -> None:
        self.stdout.write(msgspec.json.encode(body).decode())

    def note(self, message: str) -> None:
        self.stderr.write(message)


_MISSING = (psycopg.errors.UndefinedTable, psycopg.errors.UndefinedColumn, psycopg.errors.UndefinedFunction)


def _awaits_migrations() -> bool:
    executor = MigrationExecutor(connection)
    return bool(executor.migration_plan(executor.loader.graph.leaf_nodes()))


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
