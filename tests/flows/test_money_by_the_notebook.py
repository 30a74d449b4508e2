"""Whatever relays, customers and the operator do one after the other: the money is what a notebook says.

Hypothesis makes up the story (money_story, credit_story); each step, refused or not, is compared with the notebook.
"""

import os
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import run_state_machine_as_test

from billing import expiry, ledger, spending
from billing.models import OperatorSettings
from tests.flows.credit_reference import ALONE_UP_TO
from tests.flows.credit_story import WholeStory

pytestmark = pytest.mark.usefixtures("committed", "_two_people")

# The same stories each time, so that a failure is the change's; STORIES=500 tells as many others.
STORIES = settings(
    max_examples=int(os.environ.get("STORIES", 20)),
    derandomize="STORIES" not in os.environ,
    stateful_step_count=45,
    phases=[Phase.generate, Phase.shrink],
    suppress_health_check=list(HealthCheck),
    report_multiple_bugs=False,  # The first is enough, and comes as it was raised.
)
# What a negative control runs: no more is needed to see that it fails.
FIRST_FAILURE = settings(STORIES, phases=[Phase.generate])


@pytest.fixture
def _two_people(committed: None) -> Iterator[None]:
    OperatorSettings.objects.update(second_person_above=ALONE_UP_TO)
    yield
    OperatorSettings.objects.update(second_person_above=None)


@pytest.mark.timeout(900)  # half a minute by itself, minutes where other programs have the processors
def test_whatever_happens_the_money_is_what_the_notebook_says() -> None:
    run_state_machine_as_test(WholeStory, settings=STORIES)


def test_a_counter_that_is_forgotten_does_not_escape_the_notebook(monkeypatch: pytest.MonkeyPatch) -> None:
    """The negative control: the stories are long enough, and the comparison close enough, to see one omission."""
    monkeypatch.setattr(spending, "count", lambda *args, **kwargs: None)
    with pytest.raises(AssertionError):
        run_state_machine_as_test(WholeStory, settings=FIRST_FAILURE)


def test_credit_that_ends_while_it_is_held_does_not_escape_the_notebook(monkeypatch: pytest.MonkeyPatch) -> None:
    """Another one: the sweep and voiding take what running requests hold."""
    take = expiry.take

    def take_what_is_held_too(grants: Any, *, wallets: dict[int, ledger.LockedWallet], at: Any) -> Any:
        held = {number: wallet.held for number, wallet in wallets.items()}
        for wallet in wallets.values():
            wallet.held = type(wallet.held)(0)
        taken = take(grants, wallets=wallets, at=at)
        for number, wallet in wallets.items():
            wallet.held = held[number]
        return taken

    monkeypatch.setattr(expiry, "take", take_what_is_held_too)
    with pytest.raises(AssertionError):
        run_state_machine_as_test(WholeStory, settings=FIRST_FAILURE)
