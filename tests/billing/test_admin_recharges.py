"""The operator's pages of saved cards, automatic recharges and receipts."""

from io import BytesIO

import pytest
from django.test import Client
from pypdf import PdfReader

from billing.models import Notice, OperatorSettings, PaymentMethod, Receipt, Recharge, TopUp
from tests.operator import fill, log_in, make_staff, page, text_of
from tests.world import Payer

pytestmark = pytest.mark.django_db


@pytest.fixture
def payer() -> Payer:
    return fill()


@pytest.fixture
def operator() -> Client:
    return log_in(make_staff(is_superuser=True))


def test_a_recharge_s_page_says_how_it_is_doing(payer: Payer, operator: Client) -> None:
    rule = Recharge.objects.get(customer=payer.customer)
    shown = text_of(operator.get(page(Recharge, "change", rule.pk)))
    for words in ("visa •••• 4242", "500.000000", "waits", "This transaction requires authentication."):
        assert words in shown
    assert "Switch off" in shown
    assert "Allow again" not in shown


def test_it_is_switched_off_with_a_reason_that_the_customer_reads_and_allowed_again(
    payer: Payer, operator: Client
) -> None:
    rule = Recharge.objects.get(customer=payer.customer)
    address = page(Recharge, "switch_off", rule.pk)
    assert "This field is required" in text_of(operator.post(address, {"reason": ""}))
    operator.post(address, {"reason": "We look into a charge."})
    rule.refresh_from_db()
    assert (rule.is_on, rule.off_because, rule.off_message) == (False, "operator", "We look into a charge.")
    assert Notice.objects.get(customer=payer.customer, kind="recharge_off").data["message"] == "We look into a charge."
    shown = text_of(operator.get(page(Recharge, "change", rule.pk)))
    assert "Allow again" in shown
    operator.post(page(Recharge, "allow", rule.pk))
    rule.refresh_from_db()
    assert (rule.is_on, rule.off_because) == (False, "customer")


def test_who_may_only_look_can_t_switch_it_off(payer: Payer) -> None:
    rule = Recharge.objects.get(customer=payer.customer)
    looker = log_in(make_staff(permissions=["billing.view_recharge"]))
    assert "Switch off" not in text_of(looker.get(page(Recharge, "change", rule.pk)))
    assert looker.post(page(Recharge, "switch_off", rule.pk), {"reason": "r"}).status_code == 403
    rule.refresh_from_db()
    assert rule.is_on


def test_the_receipt_opens_as_pdf_and_is_linked_from_its_top_up(payer: Payer, operator: Client) -> None:
    receipt = Receipt.objects.get(customer=payer.customer)
    answer = operator.get(page(Receipt, "open_pdf", receipt.pk))
    assert (answer.status_code, answer.headers["Content-Type"]) == (200, "application/pdf")
    assert receipt.number in PdfReader(BytesIO(answer.content)).pages[0].extract_text()
    assert receipt.number in text_of(operator.get(page(TopUp, "change", receipt.top_up_id)))
    assert log_in(make_staff()).get(page(Receipt, "open_pdf", receipt.pk)).status_code == 403


@pytest.mark.parametrize(("state", "found"), [("saved", {"4242"}), ("removed", {"1111"}), ("untold", set())])
def test_cards_are_filtered_by_their_state(payer: Payer, operator: Client, state: str, found: set[str]) -> None:
    shown = text_of(operator.get(page(PaymentMethod, "changelist"), {"state": state}))
    assert {digits for digits in ("4242", "1111") if f"•••• {digits}" in shown} == found


@pytest.mark.parametrize(("state", "count"), [("on", 1), ("waits", 1), ("failing", 0), ("off", 0)])
def test_recharges_are_filtered_by_their_state(payer: Payer, operator: Client, state: str, count: int) -> None:
    answer = operator.get(page(Recharge, "changelist"), {"state": state})
    assert answer.context["cl"].result_count == count


def test_the_supplier_of_receipts_is_written_in_the_settings(payer: Payer, operator: Client) -> None:
    shown = text_of(operator.get(page(OperatorSettings, "change", 1)))
    for words in ("Tax number", "Address", "Offers recharge"):
        assert words in shown
