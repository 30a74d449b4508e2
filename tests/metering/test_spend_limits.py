"""Spend limits of customers and keys: judged beside the floor, counted in the window in which a hold was placed."""

from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest
import time_machine

from billing import holds, spending
from billing.models import Hold, OperatorSettings, SpendCounter, SpendLimit
from billing.models.spending import Span
from metering import keys, spend
from metering.models import ApiKey, EventConflict
from metering.verification import verify_books
from tests.world import EXAMPLE_CHARGE, Answer, Payer, Relay, make_event, make_payer

pytestmark = pytest.mark.django_db

PRICE = Decimal("0.0105")  # 1,000 tokens of input and 500 of output


def limit(payer: Payer, amount: str, span: Span = Span.DAY, **changes: Any) -> None:
    owner = changes.pop("owner", SpendLimit.Owner.OPERATOR)
    at = changes.pop("at", datetime.now(UTC))
    spend.set_limit(payer.customer.pk, spend.Limit(span, Decimal(amount), **changes), owner=owner, actor="op", at=at)


def ask(relay: Relay, payer: Payer, **changes: Any) -> Answer:
    return relay.authorize(payer, input_tokens=1000, **changes)


def counter(payer: Payer, scope: str = "customer", span: Span = Span.DAY) -> tuple[Decimal, Decimal]:
    row = SpendCounter.objects.get(customer=payer.customer, scope=scope, span=span)
    return row.spent, row.held


def assert_right() -> None:
    assert verify_books(full=True, at=datetime.now(UTC)).differences == []
    assert verify_books(full=False, at=datetime.now(UTC)).differences == []


def second_key(payer: Payer) -> Payer:
    key, secret = keys.create_api_key(customer=payer.customer, name="second", at=datetime.now(UTC))
    return Payer(payer.customer, key, secret, payer.access_token)


class TestALimit:
    def test_refuses_what_does_not_fit_and_says_which_and_how_much_is_left(self) -> None:
        payer, relay = make_payer(), Relay()
        limit(payer, "0.0210")

        assert [ask(relay, payer).status for _ in range(2)] == [201, 201]
        refused = ask(relay, payer)

        assert (refused.status, refused.code) == (402, "spend_limit_reached")
        assert "0.000000 USD of the customer's daily limit of 0.021000" in refused.body["error"]["message"]
        assert payer.wallet.held == 2 * PRICE
        assert_right()

    def test_comes_before_the_balance_and_after_a_conflict(self) -> None:
        payer, relay = make_payer(credit="0"), Relay()
        limit(payer, "0.001")
        assert ask(relay, payer).code == "spend_limit_reached"
        limit(payer, "1")
        assert ask(relay, payer).code == "insufficient_balance"

    def test_answers_replays_of_what_is_held_though_nothing_more_fits(self) -> None:
        payer, relay = make_payer(), Relay()
        limit(payer, "0.0105")
        assert ask(relay, payer, request_id="one").status == 201
        assert ask(relay, payer, request_id="one").status == 200
        assert ask(relay, payer, request_id="one", max_output_tokens=1).code == "request_id_conflict"
        assert ask(relay, payer, request_id="two").code == "spend_limit_reached"

    def test_of_a_key_leaves_the_other_keys_alone(self) -> None:
        payer, relay = make_payer(), Relay()
        other = second_key(payer)
        limit(payer, "0.0105", api_key_id=payer.key.pk)

        assert ask(relay, payer).status == 201
        refused = ask(relay, payer)
        assert refused.code == "spend_limit_reached"
        assert "API key's daily limit" in refused.body["error"]["message"]
        assert [ask(relay, other).status for _ in range(3)] == [201] * 3
        assert_right()

    def test_of_the_customer_counts_all_keys(self) -> None:
        payer, relay = make_payer(), Relay()
        limit(payer, "0.0210", Span.MONTH)
        assert ask(relay, payer).status == ask(relay, second_key(payer)).status == 201
        assert ask(relay, second_key(payer)).code == "spend_limit_reached"

    def test_that_is_soft_refuses_nothing(self) -> None:
        payer, relay = make_payer(), Relay()
        limit(payer, "0.001", is_hard=False)
        assert ask(relay, payer).status == 201
        assert counter(payer) == (0, PRICE)

    def test_does_not_lift_another_owners(self) -> None:
        payer, relay = make_payer(), Relay()
        limit(payer, "0.0105", owner=SpendLimit.Owner.OPERATOR)
        limit(payer, "100", owner=SpendLimit.Owner.CUSTOMER)
        assert [ask(relay, payer).status for _ in range(2)] == [201, 402]

    @pytest.mark.parametrize("amount", ["-1", "NaN", "Infinity", "0.0000000000000001"])
    def test_that_is_no_amount_is_refused(self, amount: str) -> None:
        with pytest.raises(spending.InvalidLimit):
            limit(make_payer(), amount)
        assert not SpendLimit.objects.exists()

    def test_of_zero_stops_everything_that_costs(self) -> None:
        payer, relay = make_payer(), Relay()
        limit(payer, "0")
        assert ask(relay, payer).code == "spend_limit_reached"
        assert relay.authorize(payer, input_tokens=0, max_output_tokens=0).status == 201


class TestCounters:
    def test_move_from_held_to_spent_with_the_usage(self) -> None:
        payer, relay = make_payer(), Relay()
        limit(payer, "5")
        limit(payer, "5", Span.MONTH, api_key_id=payer.key.pk)
        hold = relay.authorize(payer, input_tokens=17000).body

        relay.report(make_event(payer, authorization=hold["id"]))

        assert counter(payer) == (EXAMPLE_CHARGE, 0)
        assert counter(payer, f"key:{payer.key.pk}", Span.MONTH) == (EXAMPLE_CHARGE, 0)
        assert SpendCounter.objects.filter(customer=payer.customer).count() == 2, "only what has a limit is counted"
        assert_right()

    def test_are_freed_by_release_and_by_expiry(self) -> None:
        payer, relay = make_payer(), Relay()
        limit(payer, "0.0105")
        hold = ask(relay, payer).body
        assert ask(relay, payer).status == 402
        assert relay.release(hold["id"]).status == 200
        assert counter(payer) == (0, 0)
        assert ask(relay, payer).status == 201
        holds.expire(at=datetime.now(UTC) + timedelta(hours=1))
        assert counter(payer) == (0, 0)
        assert_right()

    def test_count_usage_without_a_hold_and_overruns(self) -> None:
        payer, relay = make_payer(), Relay()
        limit(payer, "0.05")
        hold = ask(relay, payer).body
        relay.report(make_event(payer, authorization=hold["id"]), make_event(payer))
        assert counter(payer) == (2 * EXAMPLE_CHARGE, 0)
        assert ask(relay, payer).code == "spend_limit_reached"
        assert_right()

    def test_know_what_was_spent_and_held_before_there_was_a_limit(self) -> None:
        payer, relay = make_payer(), Relay()
        ask(relay, payer)
        relay.report(make_event(payer), make_event(second_key(payer)))

        limit(payer, "0.07")
        limit(payer, "0.07", Span.MONTH, api_key_id=payer.key.pk)

        assert counter(payer) == (2 * EXAMPLE_CHARGE, PRICE)
        assert counter(payer, f"key:{payer.key.pk}", Span.MONTH) == (EXAMPLE_CHARGE, PRICE)
        assert ask(relay, payer).code == "spend_limit_reached"
        assert_right()

    def test_of_a_hold_stay_in_the_day_in_which_it_was_placed(self) -> None:
        payer, relay = make_payer(), Relay()
        limit(payer, "5")
        now = datetime.now(UTC)
        yesterday = now - timedelta(days=1)
        SpendLimit.objects.update(counts_from=yesterday.date())
        placed = holds.place(
            customer_id=payer.customer.pk,
            request_id="late",
            digest=b"",
            amount=Decimal(1),
            expires_at=now + timedelta(minutes=10),
            details={"api_key_id": payer.key.public_id, "customer": payer.customer.public_id},
            at=yesterday,
            scope=spend.key_scope(payer.key.pk),
        )

        relay.report(make_event(payer, authorization=placed.public_id))

        rows = SpendCounter.objects.filter(customer=payer.customer).order_by("starts_on")
        assert [(row.starts_on, row.spent, row.held) for row in rows] == [
            (yesterday.date(), EXAMPLE_CHARGE, 0),
            (now.date(), 0, 0),
        ]
        assert_right()

    def test_leave_days_before_the_limit_alone(self) -> None:
        payer, relay = make_payer(), Relay()
        limit(payer, "5")
        before = datetime.now(UTC) - timedelta(days=3)
        relay.report(make_event(payer, occurred_at=before.isoformat()))
        assert counter(payer) == (0, 0)
        assert_right()

    def test_follow_corrections(self) -> None:
        payer, relay = make_payer(), Relay()
        limit(payer, "5")
        first = make_event(payer, estimated=True, status="aborted")
        relay.report(first)
        assert counter(payer) == (EXAMPLE_CHARGE, 0)
        relay.report(make_event(payer, replaces=first["id"], usage={"input_tokens": 1000, "output_tokens": 0}))
        assert counter(payer) == (Decimal("0.003"), 0)
        assert_right()

    def test_go_with_the_last_limit(self) -> None:
        payer, relay = make_payer(), Relay()
        limit(payer, "5")
        limit(payer, "6", owner=SpendLimit.Owner.CUSTOMER)
        ask(relay, payer)
        spend.replace_limits(
            payer.customer.pk, [], owner=SpendLimit.Owner.OPERATOR, api_key_id=None, actor="", at=datetime.now(UTC)
        )
        assert counter(payer) == (0, PRICE), "the customer's own limit still needs it"
        spend.replace_limits(
            payer.customer.pk, [], owner=SpendLimit.Owner.CUSTOMER, api_key_id=None, actor="", at=datetime.now(UTC)
        )
        assert not SpendCounter.objects.exists()
        assert not payer.wallet.counts_spend
        assert_right()

    def test_are_made_anew_for_another_time_zone(self) -> None:
        payer, relay = make_payer(), Relay()
        limit(payer, "5")
        relay.report(make_event(payer))
        OperatorSettings.objects.update(timezone="Pacific/Kiritimati")
        at = datetime.now(UTC)
        spend.count_anew([payer.customer.pk], at=at)
        (row,) = SpendCounter.objects.all()
        zone = spend.operator_timezone()
        assert row.starts_on == at.astimezone(zone).date()
        assert_right()

    def test_are_right_in_a_day_that_has_two_midnights(self) -> None:
        OperatorSettings.objects.update(timezone="America/Havana")
        year = datetime.now(UTC).year + 1
        # From 1:00 on that Sunday back to 0:00: its first hour comes twice.
        day = next(day for day in range(1, 8) if date(year, 11, day).weekday() == 6)
        with time_machine.travel(datetime(year, 11, day, 4, 30, tzinfo=UTC), tick=False):
            payer, relay = make_payer(), Relay()
            limit(payer, "5")
            relay.report(make_event(payer, occurred_at=f"{year}-11-{day:02}T04:15:00Z"))
            ask(relay, payer)
            assert SpendCounter.objects.get().starts_on == date(year, 11, day)
            assert counter(payer) == (EXAMPLE_CHARGE, PRICE)
            assert_right()

    def test_that_are_old_are_removed(self) -> None:
        payer = make_payer()
        limit(payer, "5", at=datetime.now(UTC) - timedelta(days=200))
        limit(payer, "5", Span.MONTH)
        assert SpendCounter.objects.count() == 2
        assert spending.remove_old(today=datetime.now(UTC).date()) == 1
        assert SpendCounter.objects.get().span == Span.MONTH


@pytest.mark.parametrize("changes", [{"spent": "0.5"}, {"held": "0.5"}])
def test_check_ledger_finds_a_counter_that_is_wrong(changes: dict[str, str]) -> None:
    payer, relay = make_payer(), Relay()
    limit(payer, "5")
    ask(relay, payer)
    SpendCounter.objects.update(**changes)
    for full in (True, False):
        (found,) = verify_books(full=full, at=datetime.now(UTC)).differences
        assert found[0] == payer.customer.public_id
        assert found[1].found == "0.500000"


class TestALease:
    def lease(self, relay: Relay, payer: Payer, **changes: Any) -> Answer:
        terms = {"amount": "1.00", "minimum": "0.10", "seconds": 60, **changes}
        return relay.post(
            "authorizations",
            {"api_key": payer.api_key, "request_id": changes.pop("request_id", "lease"), "lease": terms},
        )

    def test_reserves_a_budget_for_a_key(self) -> None:
        payer, relay = make_payer(), Relay()
        ApiKey.objects.update(allowed_models=["claude-sonnet-4-20250514"], allowed_networks=["203.0.113.0/24"])
        answer = self.lease(relay, payer)
        assert answer.status == 201
        assert answer.body["amount"] == "1.000000"
        assert answer.body["model"] is None
        assert answer.body["allowed_models"] == ["claude-sonnet-4-20250514"]
        assert answer.body["allowed_networks"] == ["203.0.113.0/24"]
        assert payer.wallet.held == 1
        seconds = (datetime.fromisoformat(answer.body["expires_at"]) - datetime.now(UTC)).total_seconds()
        assert 50 < seconds <= 60
        assert self.lease(relay, payer).status == 200

    def test_is_what_there_is_from_its_minimum_on(self) -> None:
        payer, relay = make_payer(credit="0.30"), Relay()
        assert self.lease(relay, payer).body["amount"] == "0.300000"
        again = self.lease(relay, payer, request_id="other")
        assert (again.status, again.code) == (402, "insufficient_balance")

    def test_is_as_large_as_the_narrowest_limit_lets_it(self) -> None:
        payer, relay = make_payer(), Relay()
        limit(payer, "0.25", api_key_id=payer.key.pk)
        assert self.lease(relay, payer).body["amount"] == "0.250000"
        assert self.lease(relay, payer, request_id="other").code == "spend_limit_reached"
        assert_right()

    def test_is_drawn_on_by_many_events_and_freed_900_seconds_after_its_end(self) -> None:
        payer, relay = make_payer(), Relay()
        lease = self.lease(relay, payer).body
        relay.report(*[make_event(payer, authorization=lease["id"]) for _ in range(3)])
        assert payer.wallet.held == 1 - 3 * EXAMPLE_CHARGE
        now = datetime.now(UTC)
        assert holds.expire(at=now + timedelta(seconds=950)) == 0
        assert self.lease(relay, payer).status == 200
        assert holds.expire(at=now + timedelta(seconds=965)) == 1
        assert payer.wallet.held == 0
        assert payer.balance == 50 - 3 * EXAMPLE_CHARGE
        assert self.lease(relay, payer).code == "authorization_expired"
        assert_right()

    def test_can_be_released_and_overrun(self) -> None:
        payer, relay = make_payer(credit="0.04"), Relay()
        lease = self.lease(relay, payer, minimum="0.01").body
        relay.report(*[make_event(payer, authorization=lease["id"]) for _ in range(2)])
        assert payer.wallet.held == 0
        assert payer.balance == Decimal("0.04") - 2 * EXAMPLE_CHARGE
        released = relay.release(lease["id"])
        assert (released.status, released.body["status"]) == (200, "released")
        assert_right()

    def test_is_bound_to_its_key(self) -> None:
        payer, relay = make_payer(), Relay()
        lease = self.lease(relay, payer).body
        relay.report(make_event(second_key(payer), authorization=lease["id"]))
        assert payer.wallet.held == 1
        assert payer.balance == 50 - EXAMPLE_CHARGE
        assert EventConflict.objects.get().kind == "lease_of_another_key"
        assert_right()

    @pytest.mark.parametrize("used", [0, 500, 100_000])
    def test_is_drawn_on_once_by_an_estimate_and_its_correction(self, used: int) -> None:
        payer, relay = make_payer(), Relay()
        limit(payer, "5")
        named = {"authorization": self.lease(relay, payer).body["id"]}
        old = make_event(payer, estimated=True, usage={"input_tokens": 200_000, "output_tokens": 0}, **named)
        relay.report(old)
        assert (payer.wallet.held, payer.balance) == (Decimal("0.4"), Decimal("49.4"))
        usage = {"input_tokens": used, "output_tokens": 0}
        relay.report(make_event(payer, replaces=old["id"], usage=usage, **named))
        cost = used * Decimal("0.000003")
        assert (payer.wallet.held, payer.balance) == (1 - cost, 50 - cost)
        assert counter(payer) == (cost, 1 - cost)
        assert (Hold.objects.get().settled, Hold.objects.get().status) == (cost, "open")
        assert_right()

    def test_that_an_estimate_overran_holds_again_no_more_than_it_did(self) -> None:
        payer, relay = make_payer(), Relay()
        named = {"authorization": self.lease(relay, payer).body["id"]}
        old = make_event(payer, estimated=True, usage={"input_tokens": 500_000, "output_tokens": 0}, **named)
        relay.report(make_event(payer, **named), old)
        assert payer.wallet.held == 0
        relay.report(make_event(payer, replaces=old["id"]))
        assert payer.wallet.held == 1 - EXAMPLE_CHARGE, "the correction names no lease, and draws on none"
        assert_right()

    def test_that_has_ended_holds_nothing_again(self) -> None:
        payer, relay = make_payer(), Relay()
        lease = self.lease(relay, payer).body["id"]
        old = make_event(payer, estimated=True, authorization=lease)
        relay.report(old)
        relay.release(lease)
        relay.report(make_event(payer, replaces=old["id"], authorization=lease))
        assert (payer.wallet.held, payer.balance) == (0, 50 - EXAMPLE_CHARGE)
        assert_right()

    def test_ends_for_renewals_when_the_key_does(self) -> None:
        payer, relay = make_payer(), Relay()
        assert self.lease(relay, payer).status == 201
        keys.revoke_api_key(api_key_id=payer.key.pk, at=datetime.now(UTC))
        assert self.lease(relay, payer, request_id="next").code == "invalid_api_key"

    @pytest.mark.parametrize(
        ("lease", "param"),
        [
            ({"amount": "0"}, "lease.amount"),
            ({"amount": "-1"}, "lease.amount"),
            ({"amount": "1e3"}, "lease.amount"),
            ({"amount": 1}, "lease.amount"),
            ({"amount": "1", "minimum": "2"}, "lease.minimum"),
            ({"amount": "1", "minimum": "x"}, "lease.minimum"),
            ({"amount": "1", "seconds": 0}, "lease.seconds"),
            ({"amount": "1", "seconds": 301}, "lease.seconds"),
            ({"amount": "1", "seconds": "60"}, "lease.seconds"),
            ({}, "lease.amount"),
            ("all", "lease"),
        ],
    )
    def test_that_is_malformed_is_refused_by_its_field(self, lease: Any, param: str) -> None:
        payer, relay = make_payer(), Relay()
        answer = relay.post("authorizations", {"api_key": payer.api_key, "request_id": "r", "lease": lease})
        assert (answer.status, answer.code) == (400, "invalid_request_error")
        assert answer.body["error"]["param"] == param
        assert payer.wallet.held == 0
