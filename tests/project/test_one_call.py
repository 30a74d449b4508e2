"""A statement run by one call of libpq's: the same rows, errors and transactions as through the driver's cursor."""

import socket
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psycopg
import pytest
from django.db import DataError, IntegrityError, OperationalError, connection, transaction
from psycopg.pq import ConnStatus, DiagnosticField, ExecStatus

from relayadmin import db
from relayadmin.db import OneCall, server_cursor
from tests.concurrency.racing import beside, second_connection, wait_until

pytestmark = pytest.mark.usefixtures("committed")

ECHO = OneCall(
    "test_echo",
    "SELECT $1::text, $2::bytea, $3::bigint, $4::numeric, $5::timestamptz, $6::jsonb, $7::numeric, $8::boolean",
)
VALUES = (
    'it\'s \\ "quoted" %s ü 漢 🜚\n',
    b"\x00\xff'\\",
    -(2**63),
    Decimal("-1E-15"),
    datetime(2026, 2, 28, 23, 59, 59, 999999, tzinfo=UTC),
    '{"a": "\\u20ac"}',
    None,
    "true",
)
ANSWERED = (*VALUES[:5], '{"a": "€"}', None, True)
XID = OneCall("test_xid", "SELECT pg_current_xact_id()::text")
DIVIDE = OneCall("test_divide", "SELECT 1 / $1::int")


def plain(work: Callable[[], Any]) -> Any:
    return work()


def in_a_transaction(work: Callable[[], Any]) -> Any:
    with transaction.atomic():
        return work()


@pytest.mark.parametrize("how", [plain, in_a_transaction])
def test_every_type_comes_back_as_it_went(how: Callable[..., Any]) -> None:
    first = how(lambda: ECHO.row(VALUES))
    assert first == ANSWERED
    assert [type(value) for value in first] == [type(value) for value in ANSWERED]
    assert how(lambda: ECHO.row(VALUES)) == ANSWERED, "the second time it is prepared"


@pytest.mark.parametrize("how", [plain, in_a_transaction])
def test_a_text_that_would_be_cut_off_at_its_nul_is_refused(how: Callable[..., Any]) -> None:
    with pytest.raises(DataError, match="NUL"):
        how(lambda: ECHO.row(("a\x00b", *VALUES[1:])))
    assert ECHO.row(VALUES) == ANSWERED


def test_it_is_a_transaction_of_its_own_or_part_of_the_one_that_is_open() -> None:
    assert XID.row(()) != XID.row(())
    with transaction.atomic():
        number = XID.row(())
        assert XID.row(()) == number
        with transaction.atomic():
            XID.row(())
        with server_cursor() as cursor:
            assert cursor.execute("SELECT pg_current_xact_id()::text").fetchone() == number
    assert XID.row(()) != number


def test_what_was_written_is_rolled_back_with_its_transaction() -> None:
    put = OneCall("test_put", "SELECT set_config('relayadmin.seen', $1::text, false)")
    put.row(("before",))
    with transaction.atomic():
        put.row(("within",))
        transaction.set_rollback(True)
    look = OneCall("test_look", "SELECT current_setting('relayadmin.seen')")
    assert look.row(()) == ("before",)


@pytest.mark.parametrize("how", [plain, in_a_transaction])
@pytest.mark.parametrize(
    ("sql", "value", "error", "cause"),
    [
        ("SELECT 1 / $1::int", 0, DataError, psycopg.errors.DivisionByZero),
        ("SELECT $1::int::amount", "x", DataError, psycopg.errors.InvalidTextRepresentation),
        ("SELECT $1::amount", "0.0000000000000001", IntegrityError, psycopg.errors.CheckViolation),
    ],
)
def test_errors_are_those_of_the_cursor(
    how: Callable[..., Any], sql: str, value: Any, error: type[Exception], cause: type[Exception]
) -> None:
    statement = OneCall(f"test_error_{cause.__name__}", sql)
    with pytest.raises(error) as raised:
        how(lambda: statement.row((value,)))
    assert isinstance(raised.value.__cause__, cause)
    assert ECHO.row(VALUES) == ANSWERED, "the connection is as good as before"


def test_a_statement_that_cannot_be_prepared_says_so_each_time() -> None:
    wrong = OneCall("test_wrong", "SELECT nonsense FROM nowhere")
    for _ in range(2):
        with pytest.raises(Exception, match="nowhere") as raised:
            wrong.row(())
        assert isinstance(raised.value.__cause__, psycopg.errors.UndefinedTable)
    assert ECHO.row(VALUES) == ANSWERED


def test_a_lock_that_does_not_come_is_an_operational_error() -> None:
    lock = OneCall("test_lock", "SELECT pg_advisory_lock($1::bigint)::text")
    with second_connection() as other:
        other.execute("SELECT pg_advisory_xact_lock(4711)")
        with connection.cursor() as cursor:
            cursor.execute("SET lock_timeout = '50ms'")
        try:
            with pytest.raises(OperationalError) as raised:
                lock.row((4711,))
        finally:
            with connection.cursor() as cursor:
                cursor.execute("RESET lock_timeout")
    assert isinstance(raised.value.__cause__, psycopg.errors.LockNotAvailable)


def test_what_the_driver_gives_up_after_a_rollback_is_prepared_again() -> None:
    def prepared() -> set[str]:
        with connection.cursor() as cursor:
            cursor.execute("SELECT name FROM pg_prepared_statements")
            return {name for (name,) in cursor.fetchall()}

    assert DIVIDE.row((1,)) == (1,)
    assert "test_divide" in prepared()
    for number in range(5):  # The driver itself has prepared something, or it would have nothing to give up.
        with server_cursor() as cursor:
            cursor.execute("SELECT %s::int", [number])
    with transaction.atomic():
        connection.cursor().execute("SELECT 1")
        transaction.set_rollback(True)
    assert "test_divide" not in prepared(), "or nothing is shown here"

    assert DIVIDE.row((1,)) == (1,)
    assert "test_divide" in prepared()


def test_another_statement_under_its_name_is_replaced() -> None:
    with connection.cursor() as cursor:
        cursor.execute("PREPARE test_named AS SELECT 'the other'")
    named = OneCall("test_named", "SELECT 'mine'")
    assert [named.row(()) for _ in range(2)] == [("mine",)] * 2


@pytest.mark.parametrize("how", [plain, in_a_transaction])
def test_no_row_is_a_fault_of_the_statement_s(how: Callable[..., Any]) -> None:
    nothing = OneCall("test_nothing", "SELECT 1 WHERE false")
    with pytest.raises(AssertionError, match="one row"):
        how(lambda: nothing.row(()))


@pytest.mark.parametrize("how", [plain, in_a_transaction])
def test_a_connection_that_was_ended_is_an_operational_error_and_the_next_one_works(how: Callable[..., Any]) -> None:
    ECHO.row(VALUES)
    ended = connection.connection
    with second_connection() as other:
        other.execute("SELECT pg_terminate_backend(%s)", [ended.info.backend_pid])
    with pytest.raises(OperationalError):
        how(lambda: ECHO.row(VALUES))
    connection.close_if_unusable_or_obsolete()  # as Django does before each request
    assert connection.connection is not ended
    assert ECHO.row(VALUES) == ANSWERED


def test_a_connection_that_is_ended_during_the_call_is_an_operational_error() -> None:
    sleep = OneCall("test_sleep", "SELECT pg_sleep($1::float8)::text, pg_backend_pid()")

    def asleep() -> None:
        with pytest.raises(OperationalError):
            sleep.row((60,))
        connection.close_if_unusable_or_obsolete()
        assert sleep.row((0,))

    with beside(asleep) as sleeper, second_connection() as other:
        other.autocommit = True
        wait_until(
            lambda: (
                sleeper.done()
                or other.execute(
                    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE wait_event = 'PgSleep'"
                    " AND datname = current_database()"
                ).fetchall()
            )
        )
        sleeper.result(60)


def test_what_libpq_itself_says_is_an_operational_error_before_the_connection_knows(tmp_path: Path) -> None:
    """When another process of the server crashes, what was sent is lost, and libpq says so while it calls itself OK."""
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / ".s.PGSQL.5432"))
        listener.listen()

        def serve() -> None:
            caller, _ = listener.accept()
            with caller:
                caller.recv(1000)
                caller.sendall(b"R\x00\x00\x00\x08\x00\x00\x00\x00" + b"Z\x00\x00\x00\x05I")

        with ThreadPoolExecutor(1) as pool:
            served = pool.submit(serve)
            with psycopg.connect(f"host={tmp_path} user=anybody dbname=any", autocommit=True) as driver:
                served.result(60)
                result = driver.pgconn.prepare(b"lost", b"SELECT 1")
                assert (result.status, result.error_field(DiagnosticField.SQLSTATE)) == (ExecStatus.FATAL_ERROR, None)
                unaware: Any = SimpleNamespace(pgconn=SimpleNamespace(status=ConnStatus.OK), info=driver.info)
                with pytest.raises(psycopg.OperationalError, match="closed the connection"):
                    db._check(unaware, result, ExecStatus.COMMAND_OK)


def test_each_thread_s_connection_prepares_for_itself() -> None:
    assert ECHO.row(VALUES) == ANSWERED
    with beside(lambda: ECHO.row(VALUES)) as other:
        assert other.result(60) == ANSWERED
    connection.close()
    assert ECHO.row(VALUES) == ANSWERED
