"""`POST /relay/v1/authorizations` without a test's transaction around it: by the one call that production runs."""

from collections.abc import Callable

import pytest
from django.db import close_old_connections, connection

from billing.models import Customer, Hold
from metering import authorization
from metering.models import ApiKey
from tests.concurrency.racing import assert_books_are_right, second_connection
from tests.world import Answer, Payer, Relay, make_payer

pytestmark = pytest.mark.usefixtures("committed")


def is_remembered(payer: Payer) -> bool:
    return any(caller.key and caller.key.id == payer.key.pk for caller in authorization._remembered.values())


def figures(answer: Answer) -> tuple[int, str]:
    return answer.status, answer.code if answer.status >= 400 else ""


def test_granted_replayed_refused_and_released_as_ever() -> None:
    payer, relay = make_payer(credit="0.0333"), Relay()
    first = relay.authorize(payer, request_id="one")
    assert is_remembered(payer)
    second = relay.authorize(payer, request_id="two")
    assert (first.status, second.status, second.body["amount"]) == (201, 201, "0.011100")

    again = relay.authorize(payer, request_id="two")
    assert (again.status, again.body) == (200, second.body)
    assert figures(relay.authorize(payer, request_id="two", input_tokens=1)) == (409, "request_id_conflict")
    assert relay.release(second.body["id"]).status == 200
    assert figures(relay.authorize(payer, request_id="two")) == (409, "authorization_released")

    assert [relay.authorize(payer).status for _ in range(2)] == [201, 201]
    assert figures(relay.authorize(payer)) == (402, "insufficient_balance")
    assert payer.wallet.held == sum(
        Hold.objects.filter(customer=payer.customer, status="open").values_list("remaining", flat=True)
    )
    assert_books_are_right(payer.customer)


def test_a_lease_is_placed_and_replayed() -> None:
    payer, relay = make_payer(), Relay()
    relay.authorize(payer)
    lease = {"api_key": payer.api_key, "request_id": "lease", "lease": {"amount": "60.00", "minimum": "1.00"}}
    first, again = (relay.post("authorizations", lease) for _ in range(2))
    assert (first.status, first.body["amount"]) == (201, "49.988900")
    assert (again.status, again.body) == (200, first.body)
    assert payer.wallet.held == 50


@pytest.mark.parametrize(
    ("change", "code"),
    [
        (lambda payer: ApiKey.objects.filter(pk=payer.key.pk).update(allowed_models=["gpt-4o"]), "model_not_allowed"),
        (
            lambda payer: Customer.objects.filter(pk=payer.customer.pk).update(status="suspended"),
            "customer_suspended",
        ),
    ],
)
def test_what_changed_since_is_seen(change: Callable[[Payer], object], code: str) -> None:
    payer, relay = make_payer(), Relay()
    assert [relay.authorize(payer).status for _ in range(2)] == [201, 201]
    change(payer)
    assert relay.authorize(payer).code == code
    assert Hold.objects.filter(customer=payer.customer).count() == 2


def test_a_lost_connection_holds_nothing_and_the_same_request_can_be_sent_again() -> None:
    payer, relay = make_payer(), Relay()
    relay.authorize(payer)
    with second_connection() as other:
        other.execute("SELECT pg_terminate_backend(%s)", [connection.connection.info.backend_pid])
    lost = relay.authorize(payer, request_id="again")
    assert figures(lost) == (503, "database_unavailable")
    close_old_connections()  # as Django's handler does after every request

    assert Hold.objects.filter(customer=payer.customer).count() == 1
    assert relay.authorize(payer, request_id="again").status == 201
    assert relay.authorize(payer, request_id="again").status == 200


def test_after_a_rollback_of_something_else_it_goes_on() -> None:
    """The driver gives up what is prepared on a connection when something is rolled back there."""
    payer, relay = make_payer(), Relay()
    relay.authorize(payer)
    with connection.cursor() as cursor:
        cursor.execute("DEALLOCATE ALL")
    assert relay.authorize(payer).status == 201
    assert Hold.objects.filter(customer=payer.customer).count() == 2


@pytest.mark.parametrize("request_id", ["\ud800", "a\x00b", "漢'\\\"%s$1🜚"])
def test_odd_request_ids_are_kept_whole_or_refused(request_id: str) -> None:
    payer, relay = make_payer(), Relay()
    relay.authorize(payer)
    answer = relay.authorize(payer, request_id=request_id)
    if "\ud800" in request_id or "\x00" in request_id:
        assert figures(answer) == (400, "invalid_request_error")
    else:
        assert Hold.objects.get(customer=payer.customer, request_id=request_id).pk
        assert answer.body["request_id"] == request_id
