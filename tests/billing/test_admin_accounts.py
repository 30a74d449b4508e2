"""What an operator does with accounts in the admin: who may, what is asked, what is said, and what stays on record."""

from datetime import UTC, datetime, timedelta
from decimal import Decimal

import pytest
from django.contrib.admin.models import LogEntry
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext

from billing.admin import statement
from billing.models import AccountChange, Customer, Grant, OperatorSettings, Transfer, Wallet, WalletAdjustment
from metering.statements import close_invoices
from tests.billing.hands import adjust, charge, person
from tests.operator import hidden_value, log_in, make_staff, page, settings_form, text_of
from tests.world import Payer, Relay, make_event, make_payer

pytestmark = pytest.mark.django_db

PERMISSIONS = {
    "adjust": "adjust_wallet",
    "write_off": "write_off_debt",
    "set_credit_limit": "set_credit_limit",
    "suspend": "suspend_customer",
    "resume": "suspend_customer",
    "close_account": "close_customer",
    "reopen_account": "close_customer",
    "statement": "view_transfer",
}


@pytest.fixture
def operator() -> Client:
    return log_in(make_staff(is_superuser=True))


def send(client: Client, payer: Payer, name: str, **told: str) -> str:
    """Open an action's page as a browser does, fill its form in, send it; what is said then."""
    address = page(Customer, name, payer.customer.pk)
    shown = client.get(address).content.decode()
    if 'name="key"' in shown:
        told["key"] = hidden_value(shown, "key")
    return text_of(client.post(address, told, follow=True))


def status(payer: Payer) -> str:
    return Customer.objects.get(pk=payer.customer.pk).status


@pytest.mark.parametrize(("name", "permission"), PERMISSIONS.items())
def test_each_action_has_its_own_permission(name: str, permission: str) -> None:
    payer = make_payer()
    others = [f"billing.{other}" for other in set(PERMISSIONS.values()) - {permission}]
    strangers = log_in(make_staff(permissions=["billing.change_customer", *others]))
    address = page(Customer, name, payer.customer.pk)
    assert strangers.get(address).status_code == strangers.post(address, {}).status_code == 403
    assert log_in(make_staff(permissions=[f"billing.{permission}"])).get(address).status_code == 200


@pytest.mark.parametrize(
    ("state", "offered"),
    [
        ("active", {"adjust", "set_credit_limit", "write_off", "suspend", "close_account"}),
        ("suspended", {"adjust", "set_credit_limit", "write_off", "suspend", "resume", "close_account"}),
        ("closed", {"adjust", "write_off", "reopen_account"}),
    ],
)
def test_only_what_makes_sense_is_offered(operator: Client, state: str, offered: set[str]) -> None:
    payer = make_payer()
    Customer.objects.filter(pk=payer.customer.pk).update(status=state)
    shown = operator.get(page(Customer, "change", payer.customer.pk)).content.decode()
    names = set(PERMISSIONS) - {"statement"}
    assert {name for name in names if f'href="{page(Customer, name, payer.customer.pk)}"' in shown} == offered
    house = Customer.objects.get(is_house=True)
    assert page(Customer, "adjust", house.pk) not in operator.get(page(Customer, "change", house.pk)).content.decode()
    assert operator.post(page(Customer, "suspend", house.pk), {"reason": "x"}).status_code == 302
    assert not AccountChange.objects.exists()


def test_the_status_is_no_field_to_edit(operator: Client) -> None:
    payer = make_payer()
    form = {"name": "Ada", "email": "", "status": "closed"}
    for prefix in ("membership_set", "customerplan_set", "customerplan"):
        form |= {f"{prefix}-TOTAL_FORMS": "0", f"{prefix}-INITIAL_FORMS": "0"}
    operator.post(page(Customer, "change", payer.customer.pk), form)
    assert status(payer) == "active"


def test_setting_a_credit_limit(operator: Client) -> None:
    payer = make_payer(credit="0")
    assert "plain decimal" in send(operator, payer, "set_credit_limit", limit="a lot", reason="contract")
    assert "must be from 0" in send(operator, payer, "set_credit_limit", limit="-1", reason="contract")
    assert "This field is required" in send(operator, payer, "set_credit_limit", limit="5", reason="")
    assert payer.wallet.credit_limit == 0
    assert "The credit limit is 5.000000 USD." in send(
        operator, payer, "set_credit_limit", limit="5", reason="contract"
    )
    assert "as before" in send(operator, payer, "set_credit_limit", limit="5.0", reason="contract")
    assert AccountChange.objects.get().actor.startswith("staff-")
    shown = text_of(operator.get(page(Customer, "change", payer.customer.pk)))
    assert "Credit limit – 0.000000 5.000000 contract staff-" in shown


def test_suspending_resuming_closing_and_reopening(operator: Client) -> None:
    payer = make_payer(credit="5")
    assert "Ada is suspended." in send(operator, payer, "suspend", reason="stolen keys")
    assert "Suspended by: the operator." in text_of(operator.get(page(Customer, "resume", payer.customer.pk)))
    assert "Ada is active." in send(operator, payer, "resume", reason="new keys")
    Relay().authorize(payer)
    told = {"paid_credit": "refund", "reason": "asked for it"}
    assert "1 requests run" in send(operator, payer, "close_account", **told)
    assert status(payer) == "active"
    said = send(operator, payer, "close_account", release_holds="on", **told)
    assert "Ada is closed. To be refunded: 0.000000 USD; expired: 5.000000 USD" in said
    assert "Keys revoked: 1; adjustments withdrawn: 0." in said
    assert "closed before" in send(operator, payer, "close_account", **told)
    assert "it needs new keys" in send(operator, payer, "reopen_account", reason="a mistake")
    assert status(payer) == "active"
    kinds = list(AccountChange.objects.order_by("pk").values_list("kind", flat=True))
    assert kinds == ["suspended", "resumed", "closed", "reopened"]
    row = AccountChange.objects.get(kind="closed")
    shown = text_of(operator.get(page(AccountChange, "change", row.pk)))
    assert "asked for it" in shown
    assert '"expired": "5.000000"' in shown


def test_adjusting_by_form_does_it_once(operator: Client) -> None:
    payer = make_payer(credit="1")
    address = page(Customer, "adjust", payer.customer.pk)
    key = hidden_value(operator.get(address).content.decode(), "key")
    form = {"kind": "debit", "amount": "0.4", "account": "processing_fees", "reason": "chargeback fee", "key": key}
    for _ in range(2):
        said = text_of(operator.post(address, form, follow=True))
        assert "Debit of 0.400000 USD is posted. The balance is 0.600000 USD." in said
    assert "something else before" in text_of(operator.post(address, {**form, "amount": "0.5"}))
    assert payer.balance == Decimal("0.6")


@pytest.mark.parametrize(
    ("told", "said"),
    [
        ({"amount": ""}, "This field is required"),
        ({"amount": "1,5"}, "plain decimal"),
        ({"amount": "0"}, "must be above zero"),
        ({"reason": ""}, "This field is required"),
        ({"kind": "debit", "account": ""}, "Choose what a debit counts as"),
        ({"kind": "money_back", "account": ""}, "what money back is taken off"),
        ({"kind": "debit", "account": "revenue"}, "Account must be one of"),
        ({"kind": "debit", "account": "other_revenue", "amount": "2"}, "Only 1.000000 USD can be debited"),
        ({"kind": "paid"}, "needs a document"),
        ({"may_make_debt": "on"}, "Only a debit can make debt"),
        ({"expires_at": "2020-01-01T00:00"}, "must be in the future"),
    ],
)
def test_a_wrong_adjustment_is_refused_with_a_reason(operator: Client, told: dict[str, str], said: str) -> None:
    payer = make_payer(credit="1")
    form = {"kind": "goodwill", "amount": "1", "reason": "outage"} | told
    assert said in send(operator, payer, "adjust", **form)
    assert payer.balance == 1


def test_writing_debt_off(operator: Client) -> None:
    payer = make_payer(credit="0")
    assert "There is no debt" in send(operator, payer, "write_off", amount="5", reason="gone")
    charge(payer, "3")
    assert 'value="3.000000"' in operator.get(page(Customer, "write_off", payer.customer.pk)).content.decode()
    assert "Write-off of 3.000000 USD is posted" in send(operator, payer, "write_off", amount="5", reason="gone")
    assert payer.balance == 0


class TestSecondPerson:
    @pytest.fixture(autouse=True)
    def _limit(self) -> None:
        OperatorSettings.objects.update(second_person_above=Decimal(100))

    def ask(self, payer: Payer, **told: str) -> tuple[Client, WalletAdjustment]:
        asker = log_in(make_staff(is_superuser=True))
        said = send(asker, payer, "adjust", **({"kind": "goodwill", "amount": "500", "reason": "outage"} | told))
        assert "waits for a second person to approve it" in said
        return asker, WalletAdjustment.objects.get(customer=payer.customer)

    def test_who_asks_does_not_approve(self) -> None:
        payer = make_payer(credit="0")
        asker, row = self.ask(payer)
        address = page(WalletAdjustment, "approve", row.pk)
        shown = asker.get(page(WalletAdjustment, "change", row.pk)).content.decode()
        assert address not in shown
        assert page(WalletAdjustment, "reject", row.pk) in shown
        assert "A second person has to approve it. It goes on waiting." in text_of(asker.post(address, follow=True))
        assert payer.balance == 0

    def test_a_second_person_finds_it_and_approves(self, operator: Client) -> None:
        payer = make_payer(credit="0")
        _, row = self.ask(payer)
        home = operator.get("/admin/")
        shown = {figure.label: figure.value for group in home.context["home"]["groups"] for figure in group.figures}
        assert shown["Adjustments"] == "1"
        listed = operator.get(page(WalletAdjustment, "changelist"), {"status__exact": "pending"})
        assert row.public_id in text_of(listed)
        address = page(WalletAdjustment, "approve", row.pk)
        assert "asked for it: outage" in text_of(operator.get(address))
        assert payer.balance == 0
        said = text_of(operator.post(address, follow=True))
        assert "Goodwill credit of 500.000000 USD is posted. The balance is 500.000000 USD." in said
        assert "posted already" in text_of(operator.post(address, follow=True))
        assert payer.balance == 500
        assert LogEntry.objects.get(object_id=str(row.pk)).change_message == "Posted."
        assert address not in operator.get(page(WalletAdjustment, "change", row.pk)).content.decode()

    def test_a_second_person_rejects_it_with_a_note(self, operator: Client) -> None:
        payer = make_payer(credit="0")
        _, row = self.ask(payer)
        address = page(WalletAdjustment, "reject", row.pk)
        assert "Nothing is posted" in text_of(operator.get(address))
        assert "Rejected; nothing is posted." in text_of(operator.post(address, {"note": "too much"}, follow=True))
        row.refresh_from_db()
        assert (row.status, row.note, payer.balance) == ("rejected", "too much", 0)

    def test_deciding_takes_the_permission_of_its_kind(self) -> None:
        payer = make_payer(credit="0")
        _, row = self.ask(payer)
        other = log_in(make_staff(permissions=["billing.view_walletadjustment", "billing.write_off_debt"]))
        for what in ("approve", "reject"):
            assert other.post(page(WalletAdjustment, what, row.pk), {"note": ""}).status_code == 403
        allowed = log_in(make_staff(permissions=["billing.view_walletadjustment", "billing.adjust_wallet"]))
        allowed.post(page(WalletAdjustment, "approve", row.pk))
        assert payer.balance == 500
        assert allowed.get(page(WalletAdjustment, "approve", 10**9)).status_code == 302

    def test_granting_credit_is_no_way_around_it(self, operator: Client) -> None:
        payer = make_payer(credit="0")
        form = {"amount": "100.01", "kind": "goodwill", "reason": "outage"}
        assert "needs a second person" in send(operator, payer, "grant_credit", **form)
        assert not Grant.objects.filter(customer=payer.customer).exists()
        assert "Granted" in send(operator, payer, "grant_credit", **(form | {"amount": "100"}))

    def test_one_whose_account_has_closed_is_refused_with_the_reason(self, operator: Client) -> None:
        payer = make_payer(credit="0")
        _, row = self.ask(payer)
        told = {"paid_credit": "refund", "reason": "asked for it"}
        assert "adjustments withdrawn: 1." in send(operator, payer, "close_account", **told)
        address = page(WalletAdjustment, "approve", row.pk)
        assert "is withdrawn already: Account closed." in text_of(operator.post(address, follow=True))
        shown = text_of(operator.get(page(WalletAdjustment, "change", row.pk)))
        assert "withdrawn" in shown
        assert "Account closed" in shown
        gift = {"amount": "5", "kind": "goodwill", "reason": "outage"}
        for form in ("grant_credit", "adjust"):
            assert "The account is closed: write its debt off" in send(operator, payer, form, **gift)
        assert payer.balance == 0

    def test_what_does_not_fit_any_more_is_said_and_goes_on_waiting(self, operator: Client) -> None:
        payer = make_payer(credit="600")
        _, row = self.ask(payer, kind="debit", account="other_revenue")
        charge(payer, "500")
        said = text_of(operator.post(page(WalletAdjustment, "approve", row.pk), follow=True))
        assert "Only 100.000000 USD can be debited without making debt. It goes on waiting." in said


def test_the_limits_are_settings_and_never_below_zero(operator: Client) -> None:
    address = page(OperatorSettings, "change", 1)
    form = settings_form()
    assert "must not be below zero" in text_of(operator.post(address, {**form, "suspend_debt_above": "-1"}))
    assert operator.post(address, {**form, "second_person_above": "250", "suspend_debt_above": "0"}).status_code == 302
    row = OperatorSettings.objects.get()
    assert (row.second_person_above, row.suspend_debt_above) == (250, 0)
    assert 'value="250.000000"' in operator.get(address).content.decode()
    assert operator.post(address, form).status_code == 302
    assert OperatorSettings.objects.get().second_person_above is None


class TestDebt:
    def test_the_operator_sees_who_owes_how_much_and_since_when(self, operator: Client) -> None:
        owing, line, well = make_payer(credit="1", name="Owes"), make_payer(credit="0", name="Line"), make_payer()
        charge(owing, "3")
        charge(line, "1")
        Wallet.objects.filter(customer=line.customer).update(credit_limit=10)
        home = operator.get("/admin/")
        debt = next(one for group in home.context["home"]["groups"] for one in group.figures if one.label == "Debt")
        assert (debt.value, debt.hint) == ("3.000000", "USD, owed by 2 customers")
        assert operator.get(debt.url).status_code == 200

        def listed(model: type[Customer | Wallet], **query: str) -> set[int]:
            return {row.pk for row in operator.get(page(model, "changelist"), query).context["cl"].result_list}

        for model in (Customer, Wallet):
            assert listed(model, debt="yes") == {owing.customer.pk, line.customer.pk}
            assert listed(model, debt="beyond") == {owing.customer.pk}
        shown = text_of(operator.get(page(Customer, "change", owing.customer.pk)))
        assert "2.000000 USD are owed since 2026-11-20 12:00:00 UTC. The keys are stopped" in shown
        assert "It is within the credit limit" in text_of(operator.get(page(Customer, "change", line.customer.pk)))
        assert "In debt" not in text_of(operator.get(page(Customer, "change", well.customer.pk)))


class TestStatement:
    def test_every_movement_has_its_reason_document_who_and_balance(self, operator: Client) -> None:
        payer = make_payer(credit="5")
        adjust(payer, "debit", "1", by=person(), reason="chargeback fee", document="ticket 9")
        Relay().report(make_event(payer, occurred_at="2026-10-05T10:00:00Z"))
        close_invoices(
            period=datetime(2026, 10, 1, tzinfo=UTC).date(),
            at=datetime(2026, 11, 2, tzinfo=UTC),
            customer=payer.customer,
        )
        shown = text_of(operator.get(page(Customer, "statement", payer.customer.pk)))
        row = WalletAdjustment.objects.get(customer=payer.customer)
        assert f"Manual chargeback fee ticket 9 by {row.asked_by} {row.public_id} -1.000000 4.000000" in shown
        assert "Usage Usage billed in 2026-10 INV-2026-" in shown
        assert f"First credit {Grant.objects.get(customer=payer.customer).public_id} 5.000000 5.000000" in shown

    def test_it_is_paged_by_version_and_narrowed(self, operator: Client, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(statement, "PER_PAGE", 2)
        payer = make_payer(credit="5")
        for _ in range(3):
            adjust(payer, "debit", "1")
        address = page(Customer, "statement", payer.customer.pk)

        def numbers(query: str) -> tuple[list[object], str]:
            answer = operator.get(address + query)
            assert answer.status_code == 200
            return [row[0] for row in answer.context["panel"].rows], answer.context["older"]

        assert numbers("") == ([4, 3], "?before=3")
        assert numbers("?before=3") == ([2, 1], "")
        assert numbers("?kind=grant") == ([1], "")
        assert numbers("?kind=manual") == ([4, 3], "?kind=manual&before=3")
        assert numbers("?start=2026-11-20&end=2026-11-20&kind=manual")[0] == [4, 3]
        yesterday = (datetime.now(UTC) - timedelta(days=400)).date()
        assert numbers(f"?end={yesterday}") == ([], "")
        for odd in ("?before=x", f"?before={'9' * 30}", "?before=-1"):
            assert numbers(odd)[0] == [4, 3]
        assert "Enter a valid date" in text_of(operator.get(f"{address}?start=soon"))
        assert "Select a valid choice" in text_of(operator.get(f"{address}?kind=theft"))
        assert "must not be before" in text_of(operator.get(f"{address}?start=2026-11-20&end=2026-11-19"))

    def test_it_says_whether_nothing_has_moved_or_nothing_of_that_kind(self, operator: Client) -> None:
        address = page(Customer, "statement", make_payer(credit="5").customer.pk)
        assert "Nothing that you look for has moved here." in text_of(operator.get(f"{address}?kind=void"))
        empty = page(Customer, "statement", make_payer(credit="0").customer.pk)
        assert "No money has moved here." in text_of(operator.get(empty))

    def test_a_page_takes_the_same_few_queries_however_long_it_is(self, operator: Client) -> None:
        payer = make_payer(credit="50")
        address = page(Customer, "statement", payer.customer.pk)
        counts = []
        for _ in range(2):
            for _ in range(5):
                adjust(payer, "debit", "1")
            with CaptureQueriesContext(connection) as queries:
                operator.get(address)
            counts.append(len(queries))
        assert counts[0] == counts[1] <= 12
        assert Transfer.objects.filter(customer=payer.customer).count() == 11
