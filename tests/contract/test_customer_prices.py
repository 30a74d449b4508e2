"""A customer's own price list."""

from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest

from metering.models import CustomerPlan, Model, Plan, Price
from metering.pricing import bump_version
from tests.statements import counted_statements
from tests.world import SONNET, CustomerApi, Payer, make_payer

pytestmark = pytest.mark.django_db


def prices(payer: Payer, model: str = SONNET) -> dict[str, dict[str, Any]]:
    """The standard ones by meter, for a model with one standard price per meter."""
    rows = CustomerApi(payer).get("prices", model=model).body["data"]
    return {row["meter"]: row for row in rows if row["variant"] == "standard"}


def announce(model: str, meter: str, unit_price: str, *, at: datetime) -> None:
    old = Price.objects.get(model__public_id=model, kind="charge", variant="", meter=meter)
    Price.objects.create(
        kind="charge",
        model=Model.objects.get(public_id=model),
        meter=meter,
        unit_price=Decimal(unit_price),
        per=old.per,
        effective_from=at,
        source="test",
    )
    old.effective_until = at
    old.save()
    bump_version()


def test_list_prices_stand_with_their_multiple_of_input() -> None:
    rows = prices(make_payer())
    assert rows["cache_read"] == {
        "model": SONNET,
        "variant": "standard",
        "meter": "cache_read",
        "unit_price": "0.300000",
        "per": 1000000,
        "above_prompt_tokens": 0,
        "effective_from": None,
        "effective_until": None,
        "daily_from": None,
        "daily_until": None,
        "multiplier_of_input": "0.1",
    }
    multiples = {meter: rows[meter]["multiplier_of_input"] for meter in ("input", "cache_write_5m", "cache_write_1h")}
    assert multiples == {"input": "1", "cache_write_5m": "1.25", "cache_write_1h": "2"}
    assert (rows["web_search"]["per"], rows["web_search"]["multiplier_of_input"]) == (1000, None)


def test_what_other_kinds_of_request_cost_stands_beside_it() -> None:
    rows = CustomerApi(make_payer()).get("prices", model="claude-opus-5-5").body["data"]
    found = {(row["variant"], row["meter"]): (row["unit_price"], row["multiplier_of_input"]) for row in rows}
    assert found["batch", "cache_write_1h"] == ("4.000000", "2")
    assert found["fast", "output"] == ("40.000000", "5")
    assert ("batch", "web_search") not in found


def test_a_plan_changes_prices_and_not_their_multiples() -> None:
    payer, plan = make_payer(), Plan.objects.create(name="dear", multiplier=Decimal("1.2"))
    CustomerPlan.objects.create(customer=payer.customer, plan=plan)
    bump_version()
    rows = prices(payer)
    assert (rows["input"]["unit_price"], rows["output"]["unit_price"]) == ("3.600000", "18.000000")
    assert rows["cache_read"]["multiplier_of_input"] == "0.1"
    assert prices(make_payer(name="Eve"))["input"]["unit_price"] == "3.000000"


def test_announced_prices_are_shown_and_past_ones_are_not() -> None:
    payer, tomorrow = make_payer(), (datetime.now(UTC) + timedelta(days=1)).replace(microsecond=0)
    announce(SONNET, "output", "20", at=tomorrow)
    moment = tomorrow.strftime("%Y-%m-%dT%H:%M:%SZ")
    found = CustomerApi(payer).get("prices", model=SONNET).body["data"]
    rows = [row for row in found if (row["variant"], row["meter"]) == ("standard", "output")]
    assert [(row["unit_price"], row["effective_from"], row["effective_until"]) for row in rows] == [
        ("15.000000", None, moment),
        ("20.000000", moment, None),
    ]
    yesterday = tomorrow - timedelta(days=2)
    Price.objects.filter(effective_until=tomorrow).update(effective_until=yesterday)
    Price.objects.filter(effective_from=tomorrow).update(effective_from=yesterday)
    bump_version()
    assert prices(payer)["output"]["unit_price"] == "20.000000"


def test_the_whole_list_comes_in_pages_once_each_and_in_order() -> None:
    api, seen, query = CustomerApi(make_payer()), [], {"limit": "200"}
    while True:
        body = api.get("prices", **query).body
        seen += [tuple(row.values()) for row in body["data"]]
        if not body["has_more"]:
            break
        query["cursor"] = body["next_cursor"]
    ended = Price.objects.filter(kind="charge", effective_until__lte=datetime.now(UTC))
    assert ended.exists()
    assert len(seen) == len(set(seen)) == Price.objects.filter(kind="charge").count() - ended.count()
    assert [row[0] for row in seen] == sorted(row[0] for row in seen)


def test_a_model_is_found_by_its_alias_and_unknown_ones_are_404() -> None:
    api = CustomerApi(make_payer())
    assert {row["model"] for row in api.get("prices", model="claude-sonnet-4-0").body["data"]} == {SONNET}
    answer = api.get("prices", model="nothing-like-it")
    assert (answer.status, answer.code, answer.body["error"]["param"]) == (404, "model_not_found", "model")


def test_no_request_reads_the_price_book() -> None:
    api = CustomerApi(make_payer())
    api.get("prices")
    with counted_statements() as statements:
        api.get("prices", limit="200")
    assert not any("metering_price " in f"{statement} " for statement in statements)
    # The token, the book's version, the plan.
    assert len(statements) == 3
