"""What an operator does with credit that was given: void, extend, cancel; and with redemption codes."""

import base64
import re
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any
from uuid import uuid4

import pytest
from django.contrib.admin.models import LogEntry
from django.test import Client

from billing import credits, redemption
from billing.models import Customer, Grant, GrantChange, RedemptionCode, ScheduledGrant, Transfer
from tests.operator import hidden_value, log_in, make_staff, page, text_of
from tests.redemption import make_codes
from tests.world import Payer, make_payer

pytestmark = pytest.mark.django_db
DAY = timedelta(days=1)


@pytest.fixture
def operator() -> Client:
    return log_in(make_staff(is_superuser=True))


def give(payer: Payer, **changes: Any) -> str:
    asked: dict[str, Any] = {
        "customer_id": payer.customer.pk,
        "amount": Decimal(5),
        "kind": "promotional",
        "reason": "test",
        "reference": "",
        "key": uuid4().hex,
        "at": datetime.now(UTC),
    }
    return credits.grant(**{**asked, **changes}).grant


def local(moment: datetime) -> str:
    return f"{moment:%Y-%m-%dT%H:%M:%S}"


def test_a_grant_is_voided_once_asked_and_for_a_reason(operator: Client) -> None:
    payer = make_payer(credit="0")
    public_id = give(payer)
    address = page(Grant, "void", public_id)
    assert "Could be taken now" in text_of(operator.get(address))
    assert "This field is required" in text_of(operator.post(address, {"reason": " "}))
    assert payer.balance == 5

    said = text_of(operator.post(address, {"reason": "booked twice"}, follow=True))

    assert "Voided. 5.000000 USD left the wallet." in said
    assert "booked twice" in said
    transfer = Transfer.objects.get(customer=payer.customer, kind="void")
    assert (payer.balance, transfer.reason) == (0, "booked twice")
    assert transfer.actor.startswith("staff-")
    number = Grant.objects.get(customer=payer.customer).pk
    assert LogEntry.objects.get(object_id=str(number)).change_message == "Voided: booked twice"
    assert "was voided before" in text_of(operator.post(address, {"reason": "again"}, follow=True))
    assert Transfer.objects.filter(customer=payer.customer, kind="void").count() == 1


def test_the_buttons_of_a_grant_s_page_lead_to_its_actions(operator: Client) -> None:
    public_id = give(make_payer(credit="0"))
    shown = operator.get(page(Grant, "change", public_id)).content.decode()
    for action in ("void", "extend"):
        found = re.search(rf'href="([^"]*/{action}[^"]*)"', shown)
        assert found is not None, action
        assert operator.get(found[1]).status_code == 200


def test_a_grant_is_extended_once_per_form(operator: Client) -> None:
    payer = make_payer(credit="0")
    public_id = give(payer, expires_at=datetime.now(UTC) + DAY)
    address, until = page(Grant, "extend", public_id), (datetime.now(UTC) + 9 * DAY).replace(microsecond=0)
    key = hidden_value(operator.get(address).content.decode(), "key")
    early = {"expires_at": local(datetime.now(UTC)), "reason": "they asked", "key": key}
    assert "later than before" in text_of(operator.post(address, early))
    for _ in range(2):
        said = text_of(operator.post(address, {**early, "expires_at": local(until)}, follow=True))
        assert f"The grant now expires at {until:%Y-%m-%d %H:%M:%S} UTC." in said
    assert Grant.objects.get(customer=payer.customer).expires_at == until
    assert GrantChange.objects.filter(customer=payer.customer).count() == 1


def test_changing_grants_is_for_who_may(operator: Client) -> None:
    payer = make_payer(credit="0")
    public_id, later = give(payer), give(payer, effective_at=datetime.now(UTC) + DAY)
    viewer = log_in(make_staff(permissions=["billing.view_grant", "billing.view_scheduledgrant"]))
    for address in (
        page(Grant, "void", public_id),
        page(Grant, "extend", public_id),
        page(ScheduledGrant, "cancel", later),
    ):
        assert viewer.post(address, {"reason": "r"}).status_code == 403
        assert operator.get(address).status_code == 200
    assert payer.balance == 5


def test_credit_given_for_later_is_shown_with_its_customer_and_cancelled(operator: Client) -> None:
    payer, begins = make_payer(credit="0"), (datetime.now(UTC) + DAY).replace(microsecond=0)
    form_page = page(Customer, "grant_credit", payer.customer.pk)
    key = hidden_value(operator.get(form_page).content.decode(), "key")
    form = {"amount": "5", "kind": "promotional", "reason": "Launch", "effective_at": local(begins), "key": key}
    said = text_of(operator.post(form_page, form, follow=True))
    assert f"It begins at {begins:%Y-%m-%d %H:%M:%S} UTC" in said
    assert "Grants that begin later" in said
    row = ScheduledGrant.objects.get(customer=payer.customer)
    address = page(ScheduledGrant, "cancel", row.public_id)
    assert "will not begin at" in text_of(operator.get(address))
    assert "Cancelled: it will not begin." in text_of(operator.post(address, {"reason": "no"}, follow=True))
    row.refresh_from_db()
    assert (row.cancelled_because, row.cancelled_by.startswith("staff-")) == ("no", True)
    assert payer.balance == 0


def codes_form(client: Client, **changes: str) -> dict[str, str]:
    key = hidden_value(client.get(page(RedemptionCode, "make_codes")).content.decode(), "key")
    return {"count": "3", "amount": "5", "kind": "promotional", "campaign": "Spring", "key": key, **changes}


def test_codes_are_made_and_shown_once_to_copy_and_to_download(operator: Client) -> None:
    payer = make_payer(credit="0")
    address, form = page(RedemptionCode, "make_codes"), codes_form(operator, customer=payer.customer.public_id)
    answer = operator.post(address, form)
    assert "no-store" in answer.headers["Cache-Control"]
    html = answer.content.decode()
    shown = re.findall(r"[0-9A-Z]{5}(?:-[0-9A-Z]{5}){4}", html)
    found = re.search(r"data:text/csv;base64,([A-Za-z0-9+/=]+)", html)
    assert found is not None
    assert base64.b64decode(found[1]).decode().split() == ["code", *shown]
    assert len(set(shown)) == 3
    assert set(RedemptionCode.objects.values_list("customer", flat=True)) == {payer.customer.pk}

    again = operator.post(address, form)

    assert "has made its codes" in text_of(again)
    assert RedemptionCode.objects.count() == 3
    listed = operator.get(page(RedemptionCode, "changelist")).content.decode()
    assert not [code for code in shown if code in listed]
    assert f"{shown[0][:4]}…{shown[0][-4:]}" in listed
    code = redemption.read_code(shown[0])
    assert redemption.redeem(customer_id=payer.customer.pk, code=code, at=datetime.now(UTC)).amount == 5


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"count": "0"}, "greater than or equal to 1"),
        ({"amount": "-1"}, "above zero"),
        ({"customer": "cus_nobody"}, "There is no customer cus_nobody"),
        ({"expires_at": "2020-01-01T00:00"}, "must be in the future"),
        ({"credit_expires_at": "2100-01-01T00:00", "credit_days": "5"}, "not both"),
    ],
)
def test_codes_that_can_t_be_made_are_refused_with_a_reason(
    operator: Client, changes: dict[str, str], said: str
) -> None:
    answer = operator.post(page(RedemptionCode, "make_codes"), codes_form(operator, **changes))
    assert said in text_of(answer)
    assert not RedemptionCode.objects.exists()


def test_codes_are_voided_one_or_many_for_a_reason_and_redeemed_ones_stay(operator: Client) -> None:
    payer = make_payer(credit="0")
    codes = make_codes(4)
    redemption.redeem(customer_id=payer.customer.pk, code=redemption.read_code(codes[0]), at=datetime.now(UTC))
    used, one, *others = RedemptionCode.objects.order_by("position")
    said = text_of(operator.post(page(RedemptionCode, "void", one.pk), {"reason": "leaked"}, follow=True))
    assert "1 voided" in said
    chosen = {"action": "void_selected", "_selected_action": [row.pk for row in (used, one, *others)]}
    listed = page(RedemptionCode, "changelist")
    assert "Void 4 codes" in text_of(operator.post(listed, {**chosen, "index": "0"}))
    assert "2 voided" in text_of(operator.post(listed, {**chosen, "reason": "campaign ended"}, follow=True))
    rows = RedemptionCode.objects.order_by("position").values_list("voided_because", flat=True)
    assert list(rows) == ["", "leaked", "campaign ended", "campaign ended"]


def test_codes_are_made_and_voided_by_who_may_and_nobody_else() -> None:
    make_codes()
    row = RedemptionCode.objects.get()
    viewer = log_in(make_staff(permissions=["billing.view_redemptioncode"]))
    assert viewer.get(page(RedemptionCode, "make_codes")).status_code == 403
    assert viewer.post(page(RedemptionCode, "void", row.pk), {"reason": "r"}).status_code == 403
    viewer.post(
        page(RedemptionCode, "changelist"), {"action": "void_selected", "_selected_action": row.pk, "reason": "r"}
    )
    row.refresh_from_db()
    assert row.voided_at is None
