"""A real stack whose processes are killed under load: what was acknowledged stands once, whatever died meanwhile."""

import json
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from decimal import Decimal

import pytest

from bench.fire import Account, Expected
from bench.fire_office import compare, differences
from billing.models import Wallet
from relayadmin.embedded.home import PROJECT
from tests.project.embedded_home import clean_environment
from tests.world import EXAMPLE_CHARGE, Relay, make_event, make_payer

KILLED = ("web", "web-worker", "worker", "worker", "postgres", "redis-flush")


def test_whatever_is_killed_under_load_every_event_is_charged_once_and_the_books_are_right() -> None:
    """Rows 4, 7 and 8: no hold leaks, limits' counters are what was spent, and nothing is lost before it is committed.

    The nodes send again what was not acknowledged. `python -m bench.soak` is the same for as long as one likes.
    """
    command = [sys.executable, "-m", "bench.soak", "--minutes", "0.3", "--kill-every", "2.6", "--seed", "26"]
    done = subprocess.run(
        [*command, "--kinds", ",".join(KILLED)],
        cwd=PROJECT,
        env=clean_environment(),
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads(done.stdout)
    assert found["differences"] == []
    assert found["kills"] == Counter(KILLED), "the seed draws each of them, and no more"
    assert found["sent_again"] > 0, "the kills were felt"
    assert found["events"] > 10, "however slow the machine is"


class TestALookAfterwards:
    """The negative controls: a soak would see what went wrong."""

    EXPECTED = {(1, "a"): Decimal(1), (1, "b"): Decimal(2)}

    @pytest.mark.parametrize(
        ("found", "told"),
        [
            ({(1, "a"): Decimal(1)}, "event b of customer number 1: 2 expected, nothing found"),
            ({**EXPECTED, (2, "b"): Decimal(2)}, "event b of customer number 2: nothing expected, 2 found"),
            ({**EXPECTED, (1, "b"): Decimal(4)}, "event b of customer number 1: 2 expected, 4 found"),
        ],
        ids=["lost", "made up", "charged twice"],
    )
    def test_names_every_event_that_is_not_as_acknowledged(
        self, found: dict[tuple[int, str], Decimal], told: str
    ) -> None:
        assert compare("event", self.EXPECTED, self.EXPECTED) == []
        assert compare("event", self.EXPECTED, found) == [told]

    @pytest.mark.django_db
    def test_sees_wallets_that_differ_and_holds_that_leak(self) -> None:
        payer, relay, expected = make_payer(credit="5"), Relay(), Expected()
        number = payer.customer.pk
        account = Account(number, payer.key.pk, payer.key.public_id, payer.api_key, Decimal(5))
        event = make_event(payer, authorization=relay.authorize(payer).body["id"])
        relay.report(event)
        expected.acknowledge([(number, event["id"], EXAMPLE_CHARGE)])
        assert differences([account], expected) == []

        Wallet.objects.filter(customer=payer.customer).update(held=Decimal("0.01"))
        (told,) = differences([account], expected)
        assert told == f"customer number {number} has 4.970750000000000 and 0.01 held, not 4.97075 and nothing"
        Wallet.objects.filter(customer=payer.customer).update(held=0, balance=-1)
        _, told = differences([replace(account, is_exact=True)], expected)
        assert told == f"customer number {number} was let below zero: -1"
