"""The ledger's rules, as the database holds them against any program, ours included."""

from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pytest
from django.db import DatabaseError, IntegrityError, connection, transaction

from billing import credits, ledger
from billing.checks import Scope
from billing.models import Entry, Grant, Transfer, Wallet
from billing.verification import check_ledger
from metering.models import UsageEvent, UsageHour
from tests.world import EXAMPLE_CHARGE, Payer, Relay, make_event, make_payer

pytestmark = pytest.mark.django_db

AT = datetime(2026, 11, 20, 12, tzinfo=UTC)
GUARDED = ("billing_transfer", "billing_entry", "billing_grantuse", "metering_usageevent", "metering_eventkey")


def sql(statement: str, *parameters: Any) -> None:
    """Run a statement in a savepoint of its own, past all of our code."""
    with transaction.atomic(), connection.cursor() as cursor:
        cursor.execute(statement, parameters)


def payer_with_usage() -> Payer:
    payer = make_payer()
    assert Relay().report(make_event(payer)).body["accepted"] == 1
    return payer


def new_transfer(payer: Payer, *, kind: str = "grant", key: str = "test") -> int:
    """A transfer without entries, made by hand; returns its number."""
    with connection.cursor() as cursor:
        cursor.execute(
            "INSERT INTO billing_transfer (customer_id, id, kind, key, reason, document, actor, created_at)"
            " VALUES (%s, nextval('billing_transfer_id_seq'), %s, %s, '', '', '', now()) RETURNING id",
            [payer.customer.pk, kind, key],
        )
        (number,) = cursor.fetchone() or (0,)
    return int(number)


def write_entries(
    payer: Payer, transfer: int, entries: Sequence[tuple[str, str]], *, versions: Sequence[int | None] | None = None
) -> None:
    """Entries in one statement; wallet entries get the given versions, or the ones after the wallet's."""
    wallet = payer.wallet
    rows = []
    for place, (account, amount) in enumerate(entries):
        version: int | None = None
        if account == "wallet":
            wallet.version += 1
            version = wallet.version
        if versions is not None:
            version = versions[place]
        balance = "NULL" if version is None else "0"
        number = transfer * 16 + place
        rows.append(
            f"({payer.customer.pk}, {number}, {transfer}, '{account}', '{amount}', {balance}, {version or 'NULL'})"
        )
    sql(
        "INSERT INTO billing_entry (customer_id, id, transfer_id, account, amount, balance_after, wallet_version)"
        f" VALUES {', '.join(rows)}"
    )


class TestAppendOnly:
    @pytest.mark.parametrize("table", GUARDED)
    @pytest.mark.parametrize(
        "change",
        [
            "UPDATE {table} SET customer_id = customer_id",
            "UPDATE {table} SET customer_id = 1 WHERE false",
            "DELETE FROM {table}",
            "DELETE FROM {table} WHERE customer_id = -1",
            "TRUNCATE {table}",
            "TRUNCATE {table} CASCADE",
        ],
    )
    def test_history_can_be_neither_changed_nor_removed(self, table: str, change: str) -> None:
        payer_with_usage()
        with pytest.raises(IntegrityError, match=f"{table} is append-only"):
            sql(change.format(table=table))

    @pytest.mark.parametrize("table", GUARDED)
    def test_no_upsert_gets_past_it(self, table: str) -> None:
        payer_with_usage()
        with pytest.raises(IntegrityError, match="append-only"):
            sql(
                f"INSERT INTO {table} SELECT * FROM {table} LIMIT 1 ON CONFLICT (customer_id, {_key_of(table)})"
                " DO UPDATE SET customer_id = excluded.customer_id"
            )

    @pytest.mark.parametrize("change", ["DELETE FROM billing_wallet", "TRUNCATE billing_wallet"])
    def test_a_wallet_stays(self, change: str) -> None:
        with pytest.raises(IntegrityError, match="append-only"):
            sql(change)

    def test_a_customer_that_moved_money_can_t_be_deleted(self) -> None:
        payer = make_payer()
        with pytest.raises(IntegrityError, match="foreign key"):
            sql(f"DELETE FROM billing_customer WHERE id = {payer.customer.pk}; SET CONSTRAINTS ALL IMMEDIATE")


def _key_of(table: str) -> str:
    """The primary key's columns after the customer."""
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT string_agg(a.attname, ', ' ORDER BY array_position(i.indkey::int[], a.attnum::int))"
            " FROM pg_index i JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = ANY (i.indkey)"
            " WHERE i.indrelid = %s::regclass AND i.indisprimary AND a.attname <> 'customer_id'",
            [table],
        )
        (columns,) = cursor.fetchone() or ("",)
    return str(columns)


class TestDoubleEntry:
    @pytest.mark.parametrize(
        "entries",
        [
            [("wallet", "5")],
            [("revenue", "0")],
            [("wallet", "5"), ("revenue", "-4")],
            [("wallet", "5"), ("revenue", "5")],
            [("wallet", "0.000000000000001"), ("revenue", "0")],
            [("wallet", "1"), ("revenue", "-1"), ("goodwill", "0.01")],
        ],
    )
    def test_a_transfer_that_does_not_add_up_to_zero_is_refused(self, entries: list[tuple[str, str]]) -> None:
        payer = make_payer()
        with pytest.raises(IntegrityError, match="not two or more that add up to 0"):
            write_entries(payer, new_transfer(payer), entries)

    def test_two_transfers_that_add_up_only_together_are_refused(self) -> None:
        payer = make_payer()
        one, two = new_transfer(payer, key="one"), new_transfer(payer, key="two")
        with pytest.raises(IntegrityError, match="add up"):
            sql(
                "INSERT INTO billing_entry (customer_id, id, transfer_id, account, amount) VALUES"
                " (%s, %s, %s, 'revenue', 5), (%s, %s, %s, 'goodwill', -5)",
                *(payer.customer.pk, one * 16, one, payer.customer.pk, two * 16, two),
            )

    def test_the_same_number_at_two_customers_is_two_transfers(self) -> None:
        ada, bob = make_payer(), make_payer()
        number = new_transfer(ada)
        with pytest.raises(IntegrityError, match="add up"):
            sql(
                "INSERT INTO billing_entry (customer_id, id, transfer_id, account, amount) VALUES"
                " (%s, %s, %s, 'revenue', 5), (%s, %s, %s, 'revenue', -5)",
                *(ada.customer.pk, number * 16, number, bob.customer.pk, number * 16, number),
            )

    def test_one_that_adds_up_is_taken(self) -> None:
        payer = make_payer()
        write_entries(payer, new_transfer(payer), [("wallet", "5"), ("revenue", "-3"), ("goodwill", "-2")])

    @pytest.mark.parametrize(
        ("account", "version"), [("wallet", None), ("revenue", 99)], ids=["wallet without", "operator with"]
    )
    def test_a_wallet_entry_and_no_other_carries_balance_and_version(self, account: str, version: int | None) -> None:
        payer = make_payer()
        with pytest.raises(IntegrityError, match="entry_wallet_has_balance_and_version"):
            write_entries(payer, new_transfer(payer), [(account, "5"), ("goodwill", "-5")], versions=[version, None])

    def test_a_wallet_s_version_is_used_once(self) -> None:
        payer = make_payer()
        assert payer.wallet.version == 1
        with pytest.raises(IntegrityError, match="entry_one_per_wallet_version"):
            write_entries(payer, new_transfer(payer), [("wallet", "5"), ("goodwill", "-5")], versions=[1, None])

    def test_a_customer_s_kind_and_key_move_money_once(self) -> None:
        ada, bob = make_payer(), make_payer()
        new_transfer(ada, kind="grant", key="same")
        new_transfer(ada, kind="usage", key="same")
        new_transfer(bob, kind="grant", key="same")
        with pytest.raises(IntegrityError, match="transfer_once_per_kind_and_key"), transaction.atomic():
            new_transfer(ada, kind="grant", key="same")


AMOUNTS: dict[str, Callable[[Payer], tuple[str, list[Any]]]] = {
    "a wallet's balance": lambda payer: (
        "UPDATE billing_wallet SET balance = {amount} WHERE customer_id = %s",
        [payer.customer.pk],
    ),
    "a wallet's holds": lambda payer: (
        "UPDATE billing_wallet SET held = {amount} WHERE customer_id = %s",
        [payer.customer.pk],
    ),
    "a grant's rest": lambda payer: (
        "UPDATE billing_grant SET remaining = {amount} WHERE customer_id = %s",
        [payer.customer.pk],
    ),
    "a hold": lambda payer: (
        "SELECT * FROM billing_place_hold(%s, 'r', '\\x00', {amount}, now(), now(), '{{}}', '', NULL, NULL)",
        [payer.customer.pk],
    ),
}


class TestAmounts:
    @pytest.mark.parametrize("where", AMOUNTS)
    @pytest.mark.parametrize(
        "amount", ["0.0000000000000001", "1.0000000000000000", "'NaN'", "'Infinity'", "'-Infinity'"]
    )
    def test_a_sixteenth_decimal_nan_and_infinity_are_errors_and_no_rounding(self, where: str, amount: str) -> None:
        payer = make_payer()
        statement, parameters = AMOUNTS[where](payer)
        if where == "a hold" and amount in {"'NaN'", "'Infinity'"}:
            sql(statement.format(amount=amount), *parameters)  # Greater than any balance, so it doesn't fit.
        else:
            with pytest.raises(DatabaseError):
                sql(statement.format(amount=amount), *parameters)
        assert (payer.balance, payer.wallet.held) == (50, 0)

    @pytest.mark.parametrize("where", ["a wallet's balance", "a hold"])
    def test_fifteen_decimals_are_kept_to_the_last(self, where: str) -> None:
        statement, parameters = AMOUNTS[where](payer := make_payer())
        sql(statement.format(amount="1.123456789012345"), *parameters)
        assert Decimal("1.123456789012345") in {payer.balance, payer.wallet.held}

    @pytest.mark.parametrize(
        ("table", "change"),
        [
            ("billing_wallet", "held = -1"),
            ("billing_wallet", "credit_limit = -1"),
            ("billing_grant", "remaining = -1"),
            ("billing_grant", "remaining = amount + 1"),
            ("billing_grant", "amount = 0"),
            ("billing_grant", "amount = -5, remaining = -5"),
            ("billing_hold", "amount = -1"),
            ("billing_hold", "remaining = amount + 1"),
            ("billing_hold", "remaining = -1"),
            ("billing_hold", "status = 'released'"),
            ("metering_price", "unit_price = -1"),
            ("metering_plan", "multiplier = -1"),
        ],
    )
    def test_a_figure_that_would_mint_credit_is_refused(self, table: str, change: str) -> None:
        """Row 6: a negative price or hold gives more back than was reserved."""
        payer = make_payer()
        Relay().authorize(payer)
        of_payer = "" if table.startswith("metering") else f" WHERE customer_id = {payer.customer.pk}"
        with pytest.raises(IntegrityError, match="check constraint"):
            sql(f"UPDATE {table} SET {change}{of_payer}")

    def test_amounts_go_far_beyond_what_32_and_64_bits_of_cents_hold(self) -> None:
        """Row 28: a balance of 10¹⁵ USD, a charge of 10¹² tokens, exact to the last of fifteen decimals."""
        payer = make_payer(credit="0")
        fund(payer, Decimal(10) ** 15)
        usage = {"input": 10**12, "cache_write_1h": 10**12, "output": 10**12}
        event = make_event(payer, model="claude-opus-4-20250514", format="meters", usage=usage)
        granted = Relay().authorize(
            payer, model="claude-opus-4-20250514", input_tokens=10**12, max_output_tokens=10**12
        )
        assert (granted.status, granted.body["amount"]) == (201, "90000000.000000")
        assert Relay().report(event, make_event(payer, format="meters", usage={"cache_read": 1})).body["accepted"] == 2
        assert payer.balance == Decimal(10) ** 15 - 15_000_000 - 30_000_000 - 75_000_000 - Decimal("0.0000003")
        assert set(UsageEvent.objects.filter(customer=payer.customer).values_list("charge", flat=True)) == {
            Decimal(120_000_000),
            Decimal("0.0000003"),
        }
        hour = UsageHour.objects.get(customer=payer.customer, output__gt=0)
        assert hour.quantities == usage
        assert_chain(payer)

    def test_the_sum_of_many_huge_events_fits_an_hour(self) -> None:
        payer = make_payer()
        events = [make_event(payer, format="meters", usage={"output": 10**12}) for _ in range(200)]
        Relay().report(*events)
        hours = UsageHour.objects.filter(customer=payer.customer)
        assert sum(hour.quantities["output"] for hour in hours) == 200 * 10**12
        assert payer.balance == 50 - 200 * 15 * 10**6


def fund(payer: Payer, amount: Decimal) -> None:
    """Paid credit beyond what one grant may be: by as many grants as it takes, posted in one transaction."""
    with transaction.atomic():
        wallets = ledger.lock_wallets([payer.customer.pk])
        posting = ledger.Posting(payer.customer.pk, "grant", "fund", [("wallet", amount), ("cash:manual", -amount)])
        (transfer,) = ledger.post([posting], wallets=wallets, at=AT)
        Grant.objects.create(
            customer=payer.customer, kind="paid", amount=amount, remaining=amount, transfer_id=transfer, created_at=AT
        )


def assert_chain(payer: Payer) -> None:
    """Each wallet entry follows the one before without a gap, the last is the wallet's, and the books are right."""
    entries = Entry.objects.filter(customer=payer.customer, account="wallet").order_by("wallet_version")
    balance = Decimal(0)
    for version, entry in enumerate(entries, 1):
        balance += entry.amount
        assert (entry.wallet_version, entry.balance_after) == (version, balance)
    wallet = Wallet.objects.get(customer=payer.customer)
    assert (wallet.version, wallet.balance) == (len(entries), balance)
    assert check_ledger(Scope(payer.customer.pk, payer.customer.pk, full=True)) == []


class TestTheWalletsChain:
    def test_has_no_gaps_over_grants_holds_charges_and_two_periods_at_once(self) -> None:
        payer, relay = make_payer(), Relay()
        granted = relay.authorize(payer)
        relay.report(
            make_event(payer, authorization=granted.body["id"], occurred_at="2026-10-31T23:59:59Z"),
            make_event(payer, occurred_at="2026-11-01T00:00:00Z"),
            make_event(payer, occurred_at="2025-02-28T00:00:00Z"),
            make_event(payer, occurred_at="2026-11-01T00:00:01Z"),
        )
        relay.report(make_event(payer))
        assert_chain(payer)
        periods = Transfer.objects.filter(customer=payer.customer, kind="usage").order_by("period", "pk")
        assert [str(transfer.period) for transfer in periods][:3] == ["2025-02-01", "2026-10-01", "2026-11-01"]
        assert payer.balance == 50 - 5 * EXAMPLE_CHARGE

    def test_a_transfer_is_one_per_settlement_and_period_however_many_events(self) -> None:
        payer = make_payer()
        Relay().report(*[make_event(payer, occurred_at="2026-11-10T00:00:00Z") for _ in range(7)])
        transfer = Transfer.objects.get(customer=payer.customer, kind="usage")
        assert set(UsageEvent.objects.filter(customer=payer.customer).values_list("transfer_id", flat=True)) == {
            transfer.pk
        }

    def test_posting_twice_under_one_key_is_told_from_other_errors(self) -> None:
        payer = make_payer()
        posting = ledger.Posting(payer.customer.pk, "grant", "k", [("wallet", Decimal(1)), ("goodwill", Decimal(-1))])
        with pytest.raises(ledger.AlreadyPosted), transaction.atomic():
            ledger.post([posting, posting], wallets=ledger.lock_wallets([payer.customer.pk]), at=AT)

    def test_a_settlement_posted_twice_is_refused(self) -> None:
        payer = make_payer()

        def charge() -> None:
            with transaction.atomic():
                credits.charge_usage(
                    [credits.Charge(payer.customer.pk, AT.date().replace(day=1), Decimal(1))],
                    wallets=ledger.lock_wallets([payer.customer.pk]),
                    settlement="the same",
                    at=AT,
                )

        charge()
        with pytest.raises(ledger.AlreadyPosted):
            charge()

    def test_only_wallets_that_there_are_can_be_locked(self) -> None:
        with pytest.raises(ledger.UnknownCustomer), transaction.atomic():
            ledger.lock_wallets([make_payer().customer.pk, 2**62])
