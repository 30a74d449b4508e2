"""Balance, wallet statement and invoices as their customer reads them."""

from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest

from billing import credits
from billing.models import Invoice, Wallet
from metering.statements import close_invoices
from tests.statements import counted_statements
from tests.world import CustomerApi, Payer, Relay, make_event, make_payer

pytestmark = pytest.mark.django_db
OCTOBER = date(2026, 10, 1)


def give(payer: Payer, amount: str, kind: str, key: str, **options: Any) -> None:
    credits.grant(
        customer_id=payer.customer.pk,
        amount=Decimal(amount),
        kind=kind,
        reason="",
        reference="bank 17" if kind == "paid" else "",
        key=key,
        at=datetime.now(UTC),
        **options,
    )


def statements_of(api: CustomerApi, path: str, **query: str) -> int:
    with counted_statements() as statements:
        assert api.get(path, **query).status == 200
    return len(statements)


def test_the_balance_shows_what_is_held_and_what_is_available() -> None:
    payer, relay = make_payer(credit="50.00"), Relay()
    Wallet.objects.filter(customer=payer.customer).update(credit_limit=Decimal(5))
    relay.report(make_event(payer))
    relay.authorize(payer)

    body = CustomerApi(payer).get("balance").body

    grants = body.pop("grants")
    assert body.pop("scheduled_grants") == []
    assert body == {
        "balance": "49.970750",
        "held": "0.011100",
        "available": "54.959650",
        "credit_limit": "5.000000",
        "debt": "0.000000",
        "currency": "USD",
    }
    assert [(grant["kind"], grant["amount"], grant["remaining"]) for grant in grants] == [
        ("goodwill", "50.000000", "49.970750")
    ]
    assert grants[0]["id"].startswith("gr_")
    assert grants[0]["created_at"].endswith("Z")
    assert grants[0]["expires_at"] is None
    assert grants[0]["effective_at"] == grants[0]["created_at"]
    assert (grants[0]["priority"], grants[0]["is_refundable"]) == (0, False)


def test_grants_stand_in_the_order_in_which_they_are_used() -> None:
    payer = make_payer(credit="0")
    soon, late = datetime.now(UTC) + timedelta(days=1), datetime.now(UTC) + timedelta(days=9)
    give(payer, "1", "paid", "never", never_expires=True)
    give(payer, "2", "promotional", "late", expires_at=late)
    give(payer, "3", "goodwill", "soon", expires_at=soon)
    grants = CustomerApi(payer).get("balance").body["grants"]
    assert [grant["amount"] for grant in grants] == ["3.000000", "2.000000", "1.000000"]


def test_paid_credit_expires_a_year_later_and_credit_to_come_is_not_in_the_balance() -> None:
    payer = make_payer(credit="0")
    begins = (datetime.now(UTC) + timedelta(days=2)).replace(microsecond=0)
    give(payer, "3", "promotional", "later", effective_at=begins)
    give(payer, "1", "paid", "now")
    body = CustomerApi(payer).get("balance").body
    assert (body["balance"], body["available"]) == ("1.000000", "1.000000")
    (now,), (later,) = body["grants"], body["scheduled_grants"]
    year = datetime.fromisoformat(now["expires_at"]) - datetime.fromisoformat(now["created_at"])
    assert (year, now["is_refundable"]) == (timedelta(days=365), True)
    assert (later["amount"], later["expires_at"]) == ("3.000000", None)
    assert later["effective_at"] == f"{begins:%Y-%m-%dT%H:%M:%SZ}"


def test_a_customer_without_grants_has_a_balance_of_zero() -> None:
    body = CustomerApi(make_payer(credit="0")).get("balance").body
    assert (body["balance"], body["available"], body["grants"]) == ("0.000000", "0.000000", [])


def test_the_statement_is_newest_first_with_the_balance_after_each() -> None:
    payer, relay = make_payer(credit="50.00"), Relay()
    relay.report(make_event(payer))
    give(payer, "10", "paid", "second")
    newest, usage, first = CustomerApi(payer).get("transfers").body["data"]
    assert (newest["kind"], newest["amount"], newest["balance_after"]) == ("grant", "10.000000", "59.970750")
    assert newest["document"] == "bank 17"
    assert (usage["kind"], usage["amount"], usage["balance_after"]) == ("usage", "-0.029250", "49.970750")
    assert usage["period"] == f"{datetime.now(UTC):%Y-%m}"
    assert (first["balance_after"], first["period"]) == ("50.000000", None)
    assert all(row["id"].startswith("tr_") for row in (newest, usage, first))


def test_the_statement_is_paged_without_gaps_while_it_grows() -> None:
    payer = make_payer(credit="50.00")
    for number in range(4):
        give(payer, "1", "goodwill", f"gift {number}")
    api = CustomerApi(payer)
    first = api.get("transfers", limit="2").body
    assert first["has_more"] is True
    give(payer, "1", "goodwill", "meanwhile")
    second = api.get("transfers", limit="2", cursor=first["next_cursor"]).body
    third = api.get("transfers", limit="2", cursor=second["next_cursor"]).body
    assert (third["has_more"], third["next_cursor"]) == (False, None)
    balances = [row["balance_after"] for page in (first, second, third) for row in page["data"]]
    assert balances == [f"{balance}.000000" for balance in (54, 53, 52, 51, 50)]


def test_debt_is_told_and_the_next_payment_goes_there_first() -> None:
    payer, relay = make_payer(credit="0.01"), Relay()
    relay.report(make_event(payer))
    body = CustomerApi(payer).get("balance").body
    assert (body["balance"], body["debt"], body["grants"]) == ("-0.019250", "0.019250", [])
    assert relay.authorize(payer).code == "insufficient_balance"

    give(payer, "1", "paid", "top-up")

    body = CustomerApi(payer).get("balance").body
    assert (body["balance"], body["debt"]) == ("0.980750", "0.000000")
    assert body["grants"][0]["remaining"] == "0.980750"
    assert relay.authorize(payer).status == 201


def test_each_row_of_the_statement_says_what_it_is_about() -> None:
    payer, relay = make_payer(credit="50.00"), Relay()
    relay.report(make_event(payer, occurred_at="2026-10-05T10:00:00Z"), make_event(payer))
    api = CustomerApi(payer)
    (grant,) = api.get("balance").body["grants"]
    assert {row["invoice"] for row in api.get("transfers").body["data"]} == {None}
    close_october(payer)
    late, october, first = sorted(api.get("transfers").body["data"], key=lambda row: row["period"] or "", reverse=True)
    (invoice,) = api.get("invoices").body["data"]
    assert (first["grant"], first["invoice"], first["reason"]) == (grant["id"], None, "First credit")
    assert (october["grant"], october["invoice"]) == (None, invoice["id"])
    assert october["reason"] == "Usage billed in 2026-10"
    assert late["invoice"] is None, "its month is not closed"


def test_the_statement_is_filtered_by_time_and_kind() -> None:
    payer = make_payer(credit="50.00")
    Relay().report(make_event(payer))
    api = CustomerApi(payer)
    hour = datetime.now(UTC).replace(minute=0, second=0, microsecond=0)
    this, following = hour.isoformat(), (hour + timedelta(hours=1)).isoformat()

    def kinds(**query: str) -> list[str]:
        return [row["kind"] for row in api.get("transfers", **query).body["data"]]

    assert kinds() == kinds(start=this, end=following) == ["usage", "grant"]
    assert kinds(kind="grant") == ["grant"]
    assert kinds(start=following) == kinds(end=this) == kinds(kind="write_off") == []
    for query, param in (
        ({"kind": "theft"}, "kind"),
        ({"kind": ""}, "kind"),
        ({"start": "yesterday"}, "start"),
        ({"start": following, "end": this}, "end"),
    ):
        answer = api.get("transfers", **query)
        assert (answer.status, answer.body["error"]["param"]) == (400, param)


def close_october(payer: Payer) -> None:
    close_invoices(period=OCTOBER, at=datetime(2026, 11, 2, tzinfo=UTC), customer=payer.customer)


def test_an_invoice_recomputes_line_by_line() -> None:
    payer, relay = make_payer(), Relay()
    relay.report(make_event(payer, occurred_at="2026-10-05T10:00:00Z"))
    close_october(payer)
    api = CustomerApi(payer)

    (invoice,) = api.get("invoices").body["data"]

    assert api.get(f"invoices/{invoice['id']}").body == invoice
    assert invoice["id"].startswith("inv_")
    assert (invoice["period_start"], invoice["period_end"]) == ("2026-10-01T00:00:00Z", "2026-11-01T00:00:00Z")
    assert invoice["issued_at"] == "2026-11-02T00:00:00Z"
    assert (invoice["subtotal"], invoice["tax"], invoice["total"]) == ("0.03", "0.00", "0.03")
    assert (invoice["paid_by_credit"], invoice["amount_due"], invoice["currency"]) == ("0.03", "0.00", "USD")
    *lines, rounding = invoice["lines"]
    assert {line["meter"]: (line["quantity"], line["unit_price"], line["per"], line["amount"]) for line in lines} == {
        "input": ("1000", "3.000000", 1000000, "0.003000"),
        "cache_read": ("10000", "0.300000", 1000000, "0.003000"),
        "cache_write_5m": ("1000", "3.750000", 1000000, "0.003750"),
        "cache_write_1h": ("2000", "6.000000", 1000000, "0.012000"),
        "output": ("500", "15.000000", 1000000, "0.007500"),
    }
    assert all(
        Decimal(line["quantity"]) * Decimal(line["unit_price"]) / line["per"] == Decimal(line["amount"])
        for line in lines
    )
    assert (rounding["quantity"], rounding["unit_price"], rounding["per"], rounding["model"]) == (None,) * 4
    assert sum(Decimal(line["amount"]) for line in invoice["lines"]) == Decimal(invoice["subtotal"])


def test_drafts_and_other_customers_invoices_are_not_there() -> None:
    payer, stranger, relay = make_payer(), make_payer(name="Eve"), Relay()
    relay.report(make_event(payer, occurred_at="2026-10-05T10:00:00Z"))
    close_october(payer)
    api, others = CustomerApi(payer), CustomerApi(stranger)
    (invoice,) = api.get("invoices").body["data"]
    assert others.get("invoices").body["data"] == []
    assert others.get(f"invoices/{invoice['id']}").code == "invoice_not_found"
    assert api.get("invoices/inv_nothing").status == 404
    Invoice.objects.update(status="draft")
    assert api.get("invoices").body["data"] == []
    assert api.get(f"invoices/{invoice['id']}").status == 404


def test_reading_takes_the_same_few_statements_however_much_there_is() -> None:
    payer, relay = make_payer(), Relay()
    api = CustomerApi(payer)
    for month in (8, 9):
        relay.report(make_event(payer, occurred_at=f"2026-{month:02d}-05T10:00:00Z"))
        close_invoices(period=date(2026, month, 1), at=datetime(2026, 11, 2, tzinfo=UTC), customer=payer.customer)
    give(payer, "1", "goodwill", "gift")
    # One statement for the token, then: one, one, and three for invoices with their lines and taxes.
    assert statements_of(api, "balance") == 2
    assert statements_of(api, "transfers") == 2
    assert statements_of(api, "invoices") == 4
