"""What an operator does with customers and their money."""

import re
from datetime import UTC, datetime, timedelta
from decimal import Decimal

import pytest
from django.contrib.admin.models import LogEntry
from django.test import Client

from billing import credits
from billing.admin import hot
from billing.models import (
    AccessToken,
    Customer,
    Entry,
    Grant,
    Hold,
    Invoice,
    JobRun,
    OperatorSettings,
    Transfer,
    Wallet,
)
from tests.operator import fill, hidden_value, log_in, make_staff, page, settings_form, text_of
from tests.world import CustomerApi, Payer, make_payer

pytestmark = pytest.mark.django_db


@pytest.fixture
def operator() -> Client:
    return log_in(make_staff(is_superuser=True))


def grant_form(client: Client, payer: Payer, **changes: str) -> dict[str, str]:
    """The form as the browser would send it, filled in."""
    shown = client.get(page(Customer, "grant_credit", payer.customer.pk))
    assert shown.status_code == 200
    told = {"amount": "12.50", "kind": "goodwill", "reason": "Outage", "reference": "", "expires_at": ""}
    return {**told, "key": hidden_value(shown.content.decode(), "key"), **changes}


def test_an_access_token_is_revoked_once_asked_and_its_program_gets_no_more_answers(operator: Client) -> None:
    payer = make_payer()
    token = AccessToken.objects.get(customer=payer.customer)
    address = page(AccessToken, "revoke", token.pk)
    assert "stops working at once, for good" in text_of(operator.get(address))
    assert CustomerApi(payer).get("balance").status == 200

    assert "first token is revoked." in text_of(operator.post(address, follow=True))

    assert CustomerApi(payer).get("balance").code == "invalid_access_token"
    revoked_at = AccessToken.objects.get(pk=token.pk).revoked_at
    assert "was revoked at" in text_of(operator.post(address, follow=True))
    assert AccessToken.objects.get(pk=token.pk).revoked_at == revoked_at
    assert LogEntry.objects.get(object_id=str(token.pk)).change_message == "Revoked."


def test_access_tokens_are_revoked_from_the_list_by_who_may_change_them() -> None:
    payers = [make_payer(), make_payer()]
    sent = {"action": "revoke_selected", "_selected_action": list(AccessToken.objects.values_list("pk", flat=True))}
    viewer = log_in(make_staff(permissions=["billing.view_accesstoken"]))
    viewer.post(page(AccessToken, "changelist"), sent)
    assert viewer.post(page(AccessToken, "revoke", sent["_selected_action"][0])).status_code == 403
    assert all(CustomerApi(payer).get("balance").status == 200 for payer in payers)

    allowed = log_in(make_staff(permissions=["billing.view_accesstoken", "billing.change_accesstoken"]))
    assert "2 revoked" in text_of(allowed.post(page(AccessToken, "changelist"), sent, follow=True))

    assert all(CustomerApi(payer).get("balance").code == "invalid_access_token" for payer in payers)
    listed = text_of(allowed.get(page(AccessToken, "changelist"), {"status": "revoked"}))
    assert listed.count("first token") == 2
    for what in ("change", "delete"):
        assert allowed.post(page(AccessToken, what, sent["_selected_action"][0])).status_code == 403


def test_a_new_customer_gets_its_wallet(operator: Client) -> None:
    answer = operator.post(page(Customer, "add"), {"name": "Ada", "email": "ada@example.com"})
    assert answer.status_code == 302
    customer = Customer.objects.get(name="Ada")
    assert customer.status == "active"
    assert Wallet.objects.get(customer=customer).balance == 0


def test_granting_the_same_form_twice_grants_once(operator: Client) -> None:
    payer = make_payer(credit="1.00")
    form = grant_form(operator, payer)
    address = page(Customer, "grant_credit", payer.customer.pk)
    for _ in range(2):
        answer = operator.post(address, form, follow=True)
        assert "Granted 12.500000 USD" in text_of(answer)
        assert "The balance is 13.500000 USD" in text_of(answer)
    assert payer.balance == Decimal("13.5")
    grant = Grant.objects.get(customer=payer.customer, reason="Outage")
    transfer = Transfer.objects.get(customer=payer.customer, id=grant.transfer_id)
    assert transfer.actor.startswith("staff-")
    assert transfer.reason == "Outage"


def test_the_form_shown_anew_grants_again(operator: Client) -> None:
    payer = make_payer(credit="0")
    for _ in range(2):
        operator.post(page(Customer, "grant_credit", payer.customer.pk), grant_form(operator, payer))
    assert payer.balance == Decimal(25)


def test_a_form_that_has_granted_grants_nothing_else(operator: Client) -> None:
    payer = make_payer(credit="0")
    form, address = grant_form(operator, payer), page(Customer, "grant_credit", payer.customer.pk)
    operator.post(address, form)
    answer = operator.post(address, {**form, "amount": "99"})
    assert answer.status_code == 200
    assert "has granted something else before" in text_of(answer)
    assert payer.balance == Decimal("12.5")


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"amount": ""}, "This field is required"),
        ({"amount": "0"}, "must be above zero"),
        ({"amount": "-3"}, "must be above zero"),
        ({"amount": "1e5"}, "plain decimal"),
        ({"amount": "NaN"}, "plain decimal"),
        ({"amount": "1,50"}, "plain decimal"),
        ({"amount": "0.1234567890123456"}, "plain decimal"),
        ({"amount": "1000000000001"}, "at most"),
        ({"kind": "stolen"}, "Select a valid choice"),
        ({"kind": "paid"}, "needs a reference"),
        ({"reason": ""}, "This field is required"),
        ({"reason": "a\x00b"}, "Null characters are not allowed"),
        ({"expires_at": "2020-01-01T00:00"}, "must be in the future"),
        ({"expires_at": "soon"}, "Enter a valid date/time"),
        ({"key": "short"}, "Enter a valid value"),
    ],
)
def test_a_wrong_grant_is_refused_with_a_reason(operator: Client, changes: dict[str, str], said: str) -> None:
    payer = make_payer(credit="0")
    answer = operator.post(page(Customer, "grant_credit", payer.customer.pk), grant_form(operator, payer, **changes))
    assert answer.status_code == 200
    assert said in text_of(answer)
    assert payer.balance == 0


def test_a_paid_grant_keeps_its_reference_and_expiry(operator: Client) -> None:
    payer = make_payer(credit="0")
    expires = (datetime.now(UTC) + timedelta(days=30)).replace(microsecond=0)
    form = grant_form(operator, payer, kind="paid", reference="BT-1", expires_at=expires.strftime("%Y-%m-%dT%H:%M:%S"))
    operator.post(page(Customer, "grant_credit", payer.customer.pk), form)
    grant = Grant.objects.get(customer=payer.customer)
    assert (grant.kind, grant.reference, grant.expires_at) == ("paid", "BT-1", expires)


@pytest.mark.parametrize("permissions", [[], ["billing.view_customer"], ["billing.add_customer"]])
def test_only_who_may_change_customers_grants_credit(permissions: list[str]) -> None:
    payer = make_payer(credit="0")
    form = grant_form(log_in(make_staff(is_superuser=True)), payer)
    client, address = log_in(make_staff(permissions=permissions)), page(Customer, "grant_credit", payer.customer.pk)
    assert client.get(address).status_code == 403
    assert client.post(address, form).status_code == 403
    assert payer.balance == 0
    allowed = log_in(make_staff(permissions=["billing.change_customer"]))
    assert allowed.post(address, form).status_code == 302
    assert payer.balance == Decimal("12.5")


def test_the_house_gets_no_credit_and_cannot_be_changed(operator: Client) -> None:
    house = Customer.objects.get(is_house=True)
    assert operator.get(page(Customer, "grant_credit", house.pk)).status_code == 302
    assert operator.get(page(Customer, "change", house.pk)).status_code == 200
    assert operator.post(page(Customer, "change", house.pk), {"name": "Mine", "status": "active"}).status_code == 403
    assert not Grant.objects.filter(customer=house).exists()


def test_customers_are_never_deleted(operator: Client) -> None:
    payer = make_payer()
    assert operator.post(page(Customer, "delete", payer.customer.pk), {"post": "yes"}).status_code == 403


def test_a_customers_page_shows_wallet_grants_keys_and_usage(operator: Client) -> None:
    payer = fill()
    shown = text_of(operator.get(page(Customer, "change", payer.customer.pk)))
    assert "49.853750" in shown
    assert payer.key.public_id in shown
    assert "claude-sonnet-4-20250514" in shown
    assert "T-2026-0001" in shown
    assert payer.api_key not in shown


def test_a_transfers_page_adds_its_entries_up_to_zero_and_names_the_credit_it_used(operator: Client) -> None:
    payer = fill()
    transfer = Transfer.objects.filter(customer=payer.customer, kind="usage").latest("id")
    shown = text_of(operator.get(page(Transfer, "change", transfer.public_id)))
    assert "-0.146250" in shown
    assert re.search(r"Sum\s+0\.000000", shown)
    assert Grant.objects.get(customer=payer.customer).public_id in shown


def test_a_holds_page_shows_what_went_beyond_it(operator: Client) -> None:
    payer = fill()
    hold = Hold.objects.get(customer=payer.customer, status="settled")
    answer = operator.get(page(Hold, "change", hold.public_id))
    shown = {figure.label: figure.value for figure in answer.context["figures"]}
    assert shown["Held at first"] == "0.011100"
    assert shown["Settled"] == "0.029250"
    assert shown["Overrun"] == "0.018150"


def test_an_invoices_page_shows_its_lines_and_totals(operator: Client) -> None:
    fill()
    shown = text_of(operator.get(page(Invoice, "change", Invoice.objects.get().pk)))
    assert "3.000000 per 1,000,000" in shown
    assert "-0.003000" in shown


@pytest.mark.parametrize("object_id", ["tr_1_99999", "tr_zz", "7", "evt_1_1", "tr_23_2f", "x" * 300])
def test_an_id_that_is_none_leads_back_with_a_message(operator: Client, object_id: str) -> None:
    answer = operator.get(page(Transfer, "change", object_id), follow=True)
    assert answer.status_code == 200
    assert "exist" in text_of(answer)


def test_every_public_id_is_found_though_it_looks_like_an_escape(operator: Client) -> None:
    """The admin writes "#" as _23 in addresses; a transfer may well have the number 23 in its id."""
    payer = make_payer(credit="1")
    transfer = Transfer.objects.get(customer=payer.customer)
    for number in (0x23 // 16 * 32 + 3, 0x40 // 16 * 32, 2 * 32 + 2):
        Transfer.objects.create(
            id=number, customer=payer.customer, kind="grant", key=f"k{number}", created_at=transfer.created_at
        )
        row = Transfer.objects.get(customer=payer.customer, id=number)
        answer = operator.get(page(Transfer, "change", row.public_id))
        assert answer.status_code == 200, row.public_id


def test_a_list_without_a_customer_shows_the_newest_rows_and_says_so(
    operator: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    payer, other = make_payer(name="Quiet", credit="1"), make_payer(name="Busy", credit="1")
    for number in range(12):
        credits.grant(
            customer_id=other.customer.pk,
            amount=Decimal(1),
            kind="goodwill",
            reason="",
            reference="",
            key=f"k{number}",
            at=datetime.now(UTC),
        )
    monkeypatch.setattr(hot, "NEWEST", 10)
    monkeypatch.setattr(hot, "ENOUGH", 5)
    quiet = Transfer.objects.get(customer=payer.customer).public_id

    answer = operator.get(page(Transfer, "changelist"))
    assert "The newest rows only" in text_of(answer)
    assert len(answer.context["cl"].result_list) == 10
    assert quiet not in text_of(answer)

    for narrowed in (
        {"customer__id__exact": str(payer.customer.pk)},
        {"q": "quiet"},
        {"q": payer.customer.public_id},
        {"q": quiet},
    ):
        answer = operator.get(page(Transfer, "changelist"), narrowed)
        assert [row.public_id for row in answer.context["cl"].result_list] == [quiet]
        assert "The newest rows only" not in text_of(answer)


def test_the_newest_rows_are_found_over_a_gap_in_the_numbers(operator: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    payer = make_payer(credit="1")
    monkeypatch.setattr(hot, "NEWEST", 1)
    monkeypatch.setattr(hot, "last_number", lambda table: Transfer.objects.latest("id").pk + 50)
    answer = operator.get(page(Transfer, "changelist"))
    assert Transfer.objects.get(customer=payer.customer) in answer.context["cl"].result_list


def test_a_large_table_without_an_index_on_its_numbers_asks_for_a_customer(
    operator: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    payer = make_payer(credit="1")
    assert len(operator.get(page(Entry, "changelist")).context["cl"].result_list) == 2
    monkeypatch.setattr(hot, "SMALL_BYTES", 0)
    answer = operator.get(page(Entry, "changelist"))
    assert list(answer.context["cl"].result_list) == []
    assert "Choose a customer" in text_of(answer)
    for term in (payer.customer.public_id, Transfer.objects.get(customer=payer.customer).public_id):
        assert len(operator.get(page(Entry, "changelist"), {"q": term}).context["cl"].result_list) == 2


def test_a_transfer_is_found_by_its_key_within_a_customer(operator: Client) -> None:
    payer = make_payer(credit="1")
    transfer = Transfer.objects.get(customer=payer.customer)
    answer = operator.get(page(Transfer, "changelist"), {"customer__id__exact": payer.customer.pk, "q": transfer.key})
    assert list(answer.context["cl"].result_list) == [transfer]


def test_filters_narrow_a_list(operator: Client) -> None:
    payer = fill()
    address, customer = page(Transfer, "changelist"), payer.customer.pk
    today = datetime.now(UTC).date()
    for query, count in (
        ({"kind__exact": "usage"}, 1),
        ({"period": today.replace(day=1).isoformat()}, 1),
        ({"period": "not a period"}, 2),
        ({"created_at_from": today.isoformat(), "created_at_to": today.isoformat()}, 2),
        ({"created_at_from": (today + timedelta(days=1)).isoformat()}, 0),
        ({"created_at_to": (today - timedelta(days=1)).isoformat()}, 0),
        ({"created_at_to": "nonsense"}, 2),
    ):
        answer = operator.get(address, {"customer__id__exact": customer, **query})
        assert len(answer.context["cl"].result_list) == count, query


def test_there_is_one_row_of_operator_settings(operator: Client) -> None:
    address = page(OperatorSettings, "change", 1)
    assert operator.get(page(OperatorSettings, "changelist")).headers["Location"] == address
    assert operator.get(page(OperatorSettings, "add")).status_code == 403
    assert operator.post(page(OperatorSettings, "delete", 1), {"post": "yes"}).status_code == 403
    form = settings_form(timezone="Europe/Madrid")
    assert operator.post(address, form).status_code == 302
    assert OperatorSettings.objects.get().timezone == "Europe/Madrid"
    # PostgreSQL doesn't know "localtime", and takes the others for fixed offsets.
    for wrong in ("Mars/Base", "localtime", "CET", "EST", "WET"):
        answer = operator.post(address, {**form, "timezone": wrong})
        assert f"{wrong} is not a time zone" in text_of(answer)
    assert OperatorSettings.objects.get().timezone == "Europe/Madrid"
    assert operator.post(address, {**form, "timezone": "UTC"}).status_code == 302


def test_job_runs_tell_when_how_long_what_and_what_went_wrong(operator: Client) -> None:
    fill()
    shown = text_of(operator.get(page(JobRun, "changelist")))
    for said in (
        "billing.expire_holds",
        "12 ms",
        "0 expired",
        "failed",
        "90.0 s",
        "Boom: it broke",
        "metering.close_last_month killed",
    ):
        assert said in shown
    for outcome, job in (("failed", "metering.check_ledger"), ("open", "metering.close_last_month")):
        answer = operator.get(page(JobRun, "changelist"), {"outcome": outcome})
        assert [run.job for run in answer.context["cl"].result_list] == [job]
    answer = operator.get(page(JobRun, "changelist"), {"job": "billing.expire_holds"})
    assert [run.job for run in answer.context["cl"].result_list] == ["billing.expire_holds"]
