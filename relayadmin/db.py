"""What both apps need of PostgreSQL: field types, raw cursors and calls, retries, literals for set-based statements."""

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import datetime
from decimal import Decimal
from functools import partial
from typing import Any, TypeVar
from weakref import WeakSet

import psycopg
from django.db import Error, OperationalError, connection, models, transaction
from psycopg.adapt import Transformer
from psycopg.pq import ConnStatus, DiagnosticField, ExecStatus, TransactionStatus
from psycopg.pq.abc import PGresult

T = TypeVar("T")
RETRIES = 3
_NO_SUCH_STATEMENT, _STATEMENT_EXISTS = b"26000", b"42P05"


class AmountField(models.DecimalField):
    """A USD amount: PostgreSQL's domain `amount`, a numeric that refuses a 16th decimal, NaN and infinity."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        kwargs["max_digits"], kwargs["decimal_places"] = 50, 15
        super().__init__(*args, **kwargs)

    def deconstruct(self) -> Any:
        name, path, args, kwargs = super().deconstruct()
        kwargs.pop("max_digits"), kwargs.pop("decimal_places")
        return name, path, args, kwargs

    def db_type(self, connection: Any) -> str:
        return "amount"


class VerbatimJSONField(models.JSONField):
    """JSON kept as the text it came in: PostgreSQL's type `json`, checked but not taken apart."""

    def db_type(self, connection: Any) -> str:
        return "json"

    def from_db_value(self, value: Any, expression: Any, connection: Any) -> Any:
        # The driver has decoded it already, where for jsonb Django keeps it from doing so.
        return super().from_db_value(value, expression, connection) if isinstance(value, str) else value


@contextmanager
def server_cursor() -> Iterator[psycopg.Cursor[Any]]:
    """A cursor with server-side parameters on Django's own connection, inside its transaction if there is one.

    Statements used again are prepared; errors come out as django.db's.
    """
    connection.ensure_connection()
    with connection.wrap_database_errors, psycopg.Cursor(connection.connection) as cursor:
        yield cursor


class OneCall:
    """A statement that returns one row and is run by one call of libpq's, for what every request waits for.

    psycopg's cursor waits for the server in Python, step by step; the thread that calls this leaves the interpreter
    once and comes back with the row. The statement (`sql`, parameters $1, $2 and on, each with its cast; bytes for
    bytea only) is prepared under `name`, which no other has, on every connection that runs it.
    """

    def __init__(self, name: str, sql: str) -> None:
        self._name = name.encode()
        self._sql = sql
        self._prepared_on: WeakSet[psycopg.Connection[Any]] = WeakSet()

    def row(self, values: Sequence[str | bytes | int | Decimal | datetime | None]) -> tuple[Any, ...]:
        """Run it on Django's own connection, inside its transaction if there is one; errors come out as django.db's."""
        connection.ensure_connection()
        driver: psycopg.Connection[Any] = connection.connection
        with connection.wrap_database_errors:
            if driver.autocommit and driver.pgconn.transaction_status == TransactionStatus.IDLE:
                return self._call(driver, values)
            # In a transaction the driver has to keep count of what is sent; a closed connection it says itself.
            with psycopg.RawCursor(driver) as cursor:
                row: tuple[Any, ...] | None = cursor.execute(self._sql, values).fetchone()
            assert row is not None, "the statement returns one row"
            return row

    def _call(self, driver: psycopg.Connection[Any], values: Sequence[object]) -> tuple[Any, ...]:
        bound = [None if value is None else value if isinstance(value, bytes) else _text(value) for value in values]
        formats = [int(isinstance(value, bytes)) for value in values]
        if driver not in self._prepared_on:
            self._prepare(driver)
        run = partial(driver.pgconn.exec_prepared, self._name, bound, formats)  # type: ignore[arg-type] # None is NULL
        result = run()
        if result.error_field(DiagnosticField.SQLSTATE) == _NO_SUCH_STATEMENT:
            # After a rollback of something else the driver gives up all that was prepared on a connection.
            self._prepare(driver)
            result = run()
        _check(driver, result, ExecStatus.TUPLES_OK)
        assert result.ntuples == 1, "the statement returns one row"
        reader = Transformer.from_context(driver)
        reader.set_pgresult(result)
        return reader.load_row(0, tuple)

    def _prepare(self, driver: psycopg.Connection[Any]) -> None:
        prepare = partial(driver.pgconn.prepare, self._name, self._sql.encode())
        result = prepare()
        if result.error_field(DiagnosticField.SQLSTATE) == _STATEMENT_EXISTS:
            # Whatever it is: a connection that kept it would fail for good.
            _check(driver, driver.pgconn.exec_(b"DEALLOCATE " + self._name), ExecStatus.COMMAND_OK)
            result = prepare()
        _check(driver, result, ExecStatus.COMMAND_OK)
        self._prepared_on.add(driver)


def _text(value: object) -> bytes:
    """A parameter in PostgreSQL's text format, which ends at a NUL."""
    text = str(value)
    if "\x00" in text:
        raise psycopg.DataError("PostgreSQL text fields cannot contain NUL (0x00) bytes")
    return text.encode()


def _check(driver: psycopg.Connection[Any], result: PGresult, wanted: ExecStatus) -> None:
    """Raise what psycopg would, unless this is the result that was wanted."""
    if result.status == wanted:
        return
    error = psycopg.errors.error_from_result(result, driver.info.encoding)
    # Without a code it is libpq that speaks, not the server, which has gone; the connection may not know that yet.
    is_gone = result.error_field(DiagnosticField.SQLSTATE) is None or driver.pgconn.status == ConnStatus.BAD
    if is_gone and not isinstance(error, psycopg.OperationalError):
        error = psycopg.OperationalError(str(error))
    raise error


def in_transaction(work: Callable[[], T], *, is_on_disk: bool = True) -> T:
    """Run `work` in a transaction of its own; deadlocks and serialization failures are tried again three times.

    Without `is_on_disk` the commit doesn't wait for the disk: nobody may be told of it before `wait_for_disk` returns.
    """
    for attempt in range(RETRIES + 1):
        try:
            with transaction.atomic(durable=not connection.in_atomic_block):
                if not is_on_disk:
                    with server_cursor() as cursor:
                        cursor.execute("SET LOCAL synchronous_commit = off")
                return work()
        except OperationalError as error:
            cause = error.__cause__
            conflict = isinstance(cause, psycopg.errors.DeadlockDetected | psycopg.errors.SerializationFailure)
            if not conflict or attempt == RETRIES or connection.in_atomic_block:
                raise
            time.sleep(0.005 * 4**attempt)
    raise AssertionError("unreachable")


def outside_transaction() -> None:
    """Raises if a transaction is open: before a call to somebody else's server, which no rollback takes back.

    A test's own surrounding transaction doesn't count, as for `atomic(durable=True)`.
    """
    if any(not getattr(block, "_from_testcase", False) for block in connection.atomic_blocks):
        raise RuntimeError("a call to another server inside a transaction")


@contextmanager
def one_at_a_time(name: str) -> Iterator[None]:
    """Let one session of the database at a time do what has this name; the others wait, `lock_timeout` at most.

    For calls to somebody else's server, during which no transaction may be open. A session that dies lets go of it.
    """
    with server_cursor() as cursor:
        cursor.execute("SELECT pg_advisory_lock(hashtextextended(%s, 0))", [name])
    try:
        yield
    finally:
        with suppress(Error), server_cursor() as cursor:
            cursor.execute("SELECT pg_advisory_unlock(hashtextextended(%s, 0))", [name])


def wait_for_disk() -> None:
    """Return when all that this connection has committed is on disk.

    The log is written in order: what a commit that waits for the disk finds there includes all commits before it. It
    waits only if its transaction has written something, so this one writes an empty message that nobody reads.
    """
    with server_cursor() as cursor:
        cursor.execute("SELECT pg_logical_emit_message(true, 'relayadmin', '')")


def number_array(values: Iterable[object]) -> str:
    """An array literal of numbers (or dates); far cheaper to make than to have each element adapted."""
    return "{" + ",".join([str(value) for value in values]) + "}"


def text_array(values: Iterable[str | None]) -> str:
    """An array literal of strings, each quoted."""
    quoted = ["NULL" if v is None else '"' + v.replace("\\", "\\\\").replace('"', '\\"') + '"' for v in values]
    return "{" + ",".join(quoted) + "}"


def bytes_array(values: Iterable[bytes]) -> str:
    """An array literal of bytea values."""
    return "{" + ",".join(['"\\\\x' + value.hex() + '"' for value in values]) + "}"


def copy_text(value: str) -> str:
    """A string as a field of COPY's text format."""
    if "\\" in value:
        value = value.replace("\\", "\\\\")
    if "\n" in value or "\t" in value or "\r" in value:
        value = value.replace("\n", "\\n").replace("\t", "\\t").replace("\r", "\\r")
    return value


def copy_rows(cursor: psycopg.Cursor[Any], table: str, columns: str, rows: list[str]) -> None:
    """COPY rows that are already in COPY's text format (fields joined by tabs, no line end)."""
    with cursor.copy(f"COPY {table} ({columns}) FROM STDIN") as copy:
        copy.write("\n".join(rows) + "\n")
