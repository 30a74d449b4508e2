"""A month's summary: from entries, in the operator's time zone, adding up to zero as the check of the ledger has it."""

import csv
import io
from datetime import UTC, date, datetime
from decimal import Decimal
from zoneinfo import ZoneInfo

import pytest
from django.db import connection

from billing import bookkeeping, credits
from billing.bookkeeping import Ends, Summary
from billing.models import Account, Entry, Grant, Invoice, InvoiceLine, OperatorSettings, Transfer, Wallet
from metering.verification import verify_books
from tests.operator import fill, fill_credit, log_in, make_staff, page, text_of
from tests.world import Payer, Relay, make_event, make_payer

pytestmark = pytest.mark.django_db
UTC_ZONE = ZoneInfo("UTC")
PAGE = page(Transfer, "monthly_summary")


def give(payer: Payer, amount: str, at: datetime, *, kind: str = "paid") -> None:
    credits.grant(
        customer_id=payer.customer.pk,
        amount=Decimal(amount),
        kind=kind,
        reason="r",
        reference="wire" if kind == "paid" else "",
        key=f"{at}{kind}",
        at=at,
    )


def moment(month: int, day: int, hour: int = 12) -> datetime:
    return datetime(2026, month, day, hour, tzinfo=UTC)


def this_month() -> date:
    return datetime.now(UTC).date().replace(day=1)


def test_all_that_was_ever_booked_adds_up_and_agrees_with_the_check_of_the_ledger() -> None:
    fill_credit(fill())
    # It stands there to be looked at: no month was closed for it.
    InvoiceLine.objects.all().delete()
    Invoice.objects.all().delete()
    books = bookkeeping.summary(this_month(), UTC_ZONE)
    assert books.imbalance == 0
    assert verify_books(full=True, at=datetime.now(UTC)).ok
    for account in Account.values:
        booked = sum((entry.amount for entry in Entry.objects.filter(account=account)), Decimal(0))
        assert books.account(account) == booked, account
    balances = [wallet.balance for wallet in Wallet.objects.all()]
    assert books.closing == Ends(sum(b for b in balances if b > 0), -sum(b for b in balances if b < 0))
    assert books.opening == Ends(Decimal(0), Decimal(0))
    moved = books.closing.unused_credit - books.closing.receivables
    assert moved == books.account(Account.WALLET)
    assert sum(books.unused.values()) == books.closing.unused_credit
    left = {kind: Decimal(0) for kind in books.unused}
    for grant in Grant.objects.filter(remaining__gt=0):
        left[grant.kind] += grant.remaining
    assert books.unused == left


def test_each_month_has_what_was_booked_in_it_and_the_next_begins_where_it_ended() -> None:
    payer, debtor = make_payer(credit="0"), make_payer(credit="0")
    give(payer, "10", moment(9, 10))
    give(payer, "3", moment(9, 11), kind="promotional")
    give(payer, "7", moment(10, 1, 0))
    relay = Relay()
    relay.report(make_event(payer), make_event(debtor))
    used, now = Decimal("0.02925"), this_month()
    september, october = (bookkeeping.summary(date(2026, month, 1), UTC_ZONE) for month in (9, 10))
    current = bookkeeping.summary(now, UTC_ZONE)
    assert september.account(Account.CASH_MANUAL) == -10
    assert september.account(Account.PROMOTIONAL_GRANTS) == -3
    assert september.opening == Ends(Decimal(0), Decimal(0))
    assert september.closing == october.opening == Ends(Decimal(13), Decimal(0))
    assert october.account(Account.CASH_MANUAL) == -7
    assert october.closing == current.opening == Ends(Decimal(20), Decimal(0))
    assert september.unused == {"paid": Decimal(10), "promotional": Decimal(3)}
    assert october.unused == {"paid": Decimal(17), "promotional": Decimal(3)}, "as it was then, not what is left now"
    assert current.closing == Ends(20 - used, used)
    assert sum(current.unused.values()) == 20 - used
    assert [books.imbalance for books in (september, october, current)] == [0, 0, 0]
    lines = dict(current.lines())
    assert lines["Receivables, month's end"] == used
    assert lines["Revenue from usage"] + lines["Promotional usage"] == 2 * used
    assert dict(september.lines())["Cash, recorded by hand: in less out"] == 10


def test_the_month_is_the_operator_s() -> None:
    payer = make_payer(credit="0")
    give(payer, "10", datetime(2026, 9, 30, 16, 30, tzinfo=UTC))
    assert bookkeeping.summary(date(2026, 9, 1), UTC_ZONE).account(Account.CASH_MANUAL) == -10
    shanghai = ZoneInfo("Asia/Shanghai")
    assert bookkeeping.summary(date(2026, 9, 1), shanghai).moved == {}
    assert bookkeeping.summary(date(2026, 10, 1), shanghai).account(Account.CASH_MANUAL) == -10


def test_a_month_in_which_nothing_was_booked_is_empty() -> None:
    books = bookkeeping.summary(date(2020, 1, 1), UTC_ZONE)
    assert (books.moved, books.imbalance, books.closing.unused_credit) == ({}, 0, 0)


def test_what_does_not_add_up_is_shown() -> None:
    nothing = Ends(Decimal(0), Decimal(0))
    broken = Summary(date(2026, 9, 1), "UTC", {("wallet", "grant"): Decimal(1)}, nothing, nothing)
    assert broken.imbalance == 1


def test_the_page_and_the_file_say_the_same_to_who_may_see_the_books() -> None:
    OperatorSettings.objects.update(timezone="Europe/Madrid")
    payer = make_payer(credit="0")
    give(payer, "1234.5", moment(9, 10))
    keeper = log_in(make_staff(permissions=["billing.see_books"]))
    shown = text_of(keeper.get(PAGE, {"month": "2026-09"}))
    assert "Summary of September 2026" in shown
    assert "Europe/Madrid" in shown
    assert "Cash, recorded by hand: in less out 1234.500000" in shown
    assert "Sum 0.000000" in shown
    assert "Imbalance" not in shown
    assert PAGE in keeper.get("/admin/").content.decode(), "a place in the sidebar"
    answer = keeper.get(PAGE, {"month": "2026-09", "as": "csv"})
    rows = list(csv.DictReader(io.StringIO(b"".join(answer.streaming_content).decode("utf-8-sig"))))
    assert sum(Decimal(row["amount"]) for row in rows if row["section"] == "account") == 0
    cash = [row["amount"] for row in rows if row["item"] == "Cash, recorded by hand: in less out"]
    assert cash == ["1234.50"]
    stranger = log_in(make_staff(permissions=["billing.view_transfer"]))
    assert stranger.get(PAGE).status_code == 403
    assert PAGE not in stranger.get("/admin/").content.decode()


@pytest.mark.parametrize("month", ["", "2026-13", "2026-9", "x", "0000-01", "9999-12", "2026-09-01", "\x00"])
def test_a_month_that_is_none_is_the_last_one(month: str) -> None:
    keeper = log_in(make_staff(is_superuser=True))
    assert keeper.get(PAGE, {"month": month}).status_code == 200


def test_the_summary_finds_its_rows_by_ranges_of_blocks() -> None:
    with connection.cursor() as cursor:
        cursor.execute("SELECT indexname FROM pg_indexes WHERE indexname IN ('transfer_by_time', 'entry_newest')")
        assert len(cursor.fetchall()) == 2
    assert Transfer._meta.permissions
