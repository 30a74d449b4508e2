"""What all management commands share."""

from typing import Any

import psycopg
import pytest
from django.core.management.base import CommandError
from django.db import ProgrammingError, connection

from relayadmin import commands
from relayadmin.commands import JsonCommand


class Asks(JsonCommand):
    """A command that runs a statement."""

    sql = ""

    def handle(self, *args: Any, **options: Any) -> None:
        with connection.cursor() as cursor:
            cursor.execute(self.sql)


def asks(sql: str) -> Asks:
    command = Asks()
    command.sql = sql
    return command


MISSING = ["SELECT FROM not_yet_there", "SELECT not_yet_there FROM billing_wallet", "SELECT not_yet_there(1)"]


@pytest.mark.usefixtures("committed")
@pytest.mark.parametrize("sql", MISSING, ids=["table", "column", "function"])
def test_a_database_without_this_versions_migrations_is_refused_with_what_to_do(
    sql: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(commands, "_awaits_migrations", lambda: True)
    with pytest.raises(CommandError, match=r"`manage.py migrate` first"):
        asks(sql).execute(no_color=True, force_color=False, skip_checks=True)


@pytest.mark.usefixtures("committed")
@pytest.mark.parametrize("sql", [*MISSING, "SELECT FROM"])
def test_any_other_wrong_statement_is_our_fault_and_says_where(sql: str) -> None:
    with pytest.raises(ProgrammingError) as raised:
        asks(sql).execute(no_color=True, force_color=False, skip_checks=True)
    assert isinstance(raised.value.__cause__, psycopg.ProgrammingError)


@pytest.mark.django_db
def test_an_app_that_is_not_migrated_is_noticed() -> None:
    assert not commands._awaits_migrations()
    with connection.cursor() as cursor:
        cursor.execute("DELETE FROM django_migrations WHERE app = 'metering' AND name LIKE '0210%'")
    assert commands._awaits_migrations()
