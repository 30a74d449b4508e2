"""What an operator does with a customer's account, from its page: each action has its reason and its permission."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from django import forms
from django.contrib import messages
from django.forms.models import model_to_dict
from django.http import HttpRequest, HttpResponse
from django.template.response import TemplateResponse
from django.utils import timezone
from unfold.dataclasses import UnfoldAction
from unfold.decorators import action

from billing import credit_lines, credits, manual, received, suspension, write_offs
from billing.accounts import AccountClosed, InvalidChange
from billing.admin import html
from billing.admin.account_forms import AdjustForm, CreditLimitForm, KeyedForm, ReasonForm, WriteOffForm
from billing.admin.base import OperatorAdmin, see_other
from billing.admin.customer_panels import customer_figures
from billing.admin.payment_forms import ReceivedForm, received_text, record_received
from billing.admin.profile_forms import ProfileForm, update_profile
from billing.admin.statement import show_statement
from billing.billing_profiles import profile_of
from billing.models import AccountChange, Customer, Wallet, WalletAdjustment
from relayadmin.money import ZERO, amount_text

Cause = AccountChange.Cause


@dataclass(frozen=True, slots=True)
class Act:
    """The page of an action: its words, its form, and what it does with a valid one; that returns what to say."""

    title: str
    button: str
    form: type[forms.Form]
    do: Callable[[Customer, Any], str]
    text: str = ""
    hint: str = ""
    initial: Mapping[str, object] | None = None
    is_dangerous: bool = False


def person_of(request: HttpRequest) -> manual.Person:
    """Who is signed in."""
    return manual.Person(request.user.pk, request.user.get_username())


def who(request: HttpRequest) -> str:
    return str(request.user.get_username())


class AccountActions(OperatorAdmin):
    """Actions for the customer's page."""

    account_actions: tuple[str, ...] = (
        "billing_profile",
        "record_payment",
        "adjust",
        "set_credit_limit",
        "write_off",
        "suspend",
        "resume",
    )

    # unfold looks a permission with its app's name up in the database, where a new installation has none yet.
    def has_see_transfers_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return request.user.has_perm("billing.view_transfer")

    def has_adjust_wallet_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return request.user.has_perm("billing.adjust_wallet")

    def has_record_payment_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return request.user.has_perm("billing.record_payment")

    def has_change_profile_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return request.user.has_perm("billing.change_billingprofile")

    def has_write_off_debt_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return request.user.has_perm("billing.write_off_debt")

    def has_set_credit_limit_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return request.user.has_perm("billing.set_credit_limit")

    def has_suspend_customer_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return request.user.has_perm("billing.suspend_customer")

    def hidden_actions(self, customer: Customer) -> set[str]:
        """Actions that make no sense for a customer as it is now."""
        if customer.is_house:
            return set(self.account_actions)
        hidden = {Customer.Status.SUSPENDED: set(), Customer.Status.ACTIVE: {"resume"}}.get(
            Customer.Status(customer.status), {"suspend", "resume", "set_credit_limit", "record_payment"}
        )
        return {str(name) for name in hidden}

    def get_actions_detail(self, request: HttpRequest, object_id: Any) -> list[UnfoldAction]:
        shown: list[UnfoldAction] = super().get_actions_detail(request, object_id)
        customer = self.get_object(request, str(object_id))
        if customer is None:
            return []
        hidden = {f"billing_customer_{name}" for name in self.hidden_actions(customer)}
        return [one for one in shown if one.action_name not in hidden]

    def act(self, request: HttpRequest, object_id: str, act: Callable[[Customer], Act]) -> HttpResponse:
        """Show an action's page, or do what its form says; what is refused stands beside the field at fault."""
        customer = self.get_object(request, object_id)
        if customer is None or customer.is_house:
            messages.error(request, "There is no such customer.")
            return see_other(html.list_url(Customer))
        page = act(customer)
        back = html.object_url(Customer, customer.pk)
        form = page.form(request.POST) if request.method == "POST" else page.form(initial=dict(page.initial or {}))
        if form.is_valid() and (said := self._do(page, customer, form)) is not None:
            messages.success(request, said)
            return see_other(back)
        context = {
            **self.admin_site.each_context(request),
            "opts": self.opts,
            "title": page.title,
            "text": page.text,
            "hint": page.hint,
            "button": page.button,
            "is_dangerous": page.is_dangerous,
            "form": form,
            "figures": customer_figures(customer),
            "back": back,
        }
        return TemplateResponse(request, "admin/act.html", context)

    def _do(self, page: Act, customer: Customer, form: forms.Form) -> str | None:
        try:
            return page.do(customer, form)
        except (InvalidChange, manual.InvalidAdjustment, credits.InvalidGrant) as error:
            form.add_error(error.field if error.field in form.fields else None, sentence(error))
        except received.InvalidPayment as error:
            form.add_error(error.field, sentence(error))
        except received.RecordedBefore as error:
            form.add_error("reference", sentence(error))
        except (AccountClosed, manual.TooLittleCredit, write_offs.NothingOwed) as error:
            form.add_error(None, sentence(error))
        except manual.AdjustmentKeyConflict:
            form.add_error(None, "This form has done something else before. Open it anew from the customer's page.")
        return None

    @action(description="Statement", url_path="statement", icon="receipt_long", permissions=["see_transfers"])
    def statement(self, request: HttpRequest, object_id: str) -> HttpResponse:
        customer = self.get_object(request, object_id)
        if customer is None:
            messages.error(request, "There is no such customer.")
            return see_other(html.list_url(Customer))
        return show_statement(request, customer, self.admin_site.each_context(request))

    @action(description="Record a payment…", url_path="record-payment", icon="payments", permissions=["record_payment"])
    def record_payment(self, request: HttpRequest, object_id: str) -> HttpResponse:
        return self.act(
            request,
            object_id,
            lambda customer: Act(
                title=f"Record a payment of {customer.name}",
                button="Record",
                form=ReceivedForm,
                do=lambda customer, form: received_text(record_received(person_of(request), customer.pk, form)),
                text="A bank transfer or cash that is there. It becomes paid credit, once for each reference.",
                hint=_second_person(),
            ),
        )

    @action(description="Billing profile…", url_path="billing-profile", icon="badge", permissions=["change_profile"])
    def billing_profile(self, request: HttpRequest, object_id: str) -> HttpResponse:
        return self.act(
            request,
            object_id,
            lambda customer: Act(
                title=f"Billing profile of {customer.name}",
                button="Save",
                form=ProfileForm,
                do=lambda customer, form: update_profile(request, customer, form),
                initial=model_to_dict(profile_of(customer)),
                text="What stands on documents from now on; those that are issued stay as they are.",
                hint="Prepaid customers pay tax with each top-up, of which only the rest is credited. Customers on"
                " account pay it with the month's invoice, and need a credit limit to use anything.",
            ),
        )

    @action(description="Adjust…", url_path="adjust", icon="exposure", permissions=["adjust_wallet"])
    def adjust(self, request: HttpRequest, object_id: str) -> HttpResponse:
        return self.act(
            request,
            object_id,
            lambda customer: Act(
                title=f"Adjust the wallet of {customer.name}",
                button="Adjust",
                form=AdjustForm,
                do=lambda customer, form: _ask(request, customer, form),
                initial={"key": KeyedForm.fresh_key()},
                hint=f"Sent twice, this form adjusts once. The ledger only grows. {_second_person()}",
            ),
        )

    @action(
        description="Set credit limit…",
        url_path="credit-limit",
        icon="credit_score",
        permissions=["set_credit_limit"],
    )
    def set_credit_limit(self, request: HttpRequest, object_id: str) -> HttpResponse:
        def do(customer: Customer, form: Any) -> str:
            limit = form.cleaned_data["limit"]
            is_new = credit_lines.set_credit_limit(
                customer_id=customer.pk,
                limit=limit,
                reason=form.cleaned_data["reason"],
                actor=who(request),
                at=timezone.now(),
            )
            return f"The credit limit is {amount_text(limit)} USD{'' if is_new else ', as before'}."

        return self.act(
            request,
            object_id,
            lambda customer: Act(
                title=f"Credit limit of {customer.name}",
                button="Set the limit",
                form=CreditLimitForm,
                do=do,
                initial={"limit": amount_text(Wallet.objects.get(pk=customer.pk).credit_limit)},
                hint="Holds from the next authorization on. Below what is owed already, nothing more is authorized"
                " until enough is paid.",
            ),
        )

    @action(description="Write debt off…", url_path="write-off", icon="ink_eraser", permissions=["write_off_debt"])
    def write_off(self, request: HttpRequest, object_id: str) -> HttpResponse:
        return self.act(
            request,
            object_id,
            lambda customer: Act(
                title=f"Write off debt of {customer.name}",
                button="Write off",
                form=WriteOffForm,
                do=lambda customer, form: _ask(request, customer, form),
                initial={"key": KeyedForm.fresh_key(), "amount": _debt(customer)},
                is_dangerous=True,
                hint=f"What is written off is not asked for any more. {_second_person()}",
            ),
        )

    @action(description="Suspend…", url_path="suspend", icon="pause", permissions=["suspend_customer"])
    def suspend(self, request: HttpRequest, object_id: str) -> HttpResponse:
        def do(customer: Customer, form: Any) -> str:
            is_new = suspension.suspend(
                customer_id=customer.pk,
                cause=Cause.OPERATOR,
                reason=form.cleaned_data["reason"],
                actor=who(request),
                at=timezone.now(),
            )
            return f"{customer.name} is suspended{'' if is_new else ', as before'}."

        return self.act(
            request,
            object_id,
            lambda customer: Act(
                title=f"Suspend {customer.name}",
                button="Suspend",
                form=ReasonForm,
                do=do,
                is_dangerous=True,
                text="From the next authorization on nothing is authorized any more. What runs now is charged. The"
                " customer can still read.",
            ),
        )

    @action(description="Resume…", url_path="resume", icon="play_arrow", permissions=["suspend_customer"])
    def resume(self, request: HttpRequest, object_id: str) -> HttpResponse:
        def do(customer: Customer, form: Any) -> str:
            is_active = suspension.resume(
                customer_id=customer.pk,
                reason=form.cleaned_data["reason"],
                actor=who(request),
                at=timezone.now(),
            )
            return f"{customer.name} is active{'' if is_active else ', as before'}."

        return self.act(
            request,
            object_id,
            lambda customer: Act(
                title=f"Resume {customer.name}",
                button="Resume",
                form=ReasonForm,
                do=do,
                text=_suspended_for(customer),
            ),
        )


def sentence(error: Exception) -> str:
    """An exception's message as a sentence."""
    text = str(error)
    return f"{text[:1].upper()}{text[1:]}."


def told(row: WalletAdjustment) -> str:
    """What became of an adjustment, for the operator."""
    what = row.get_kind_display()
    if row.status == WalletAdjustment.Status.PENDING:
        return f"{what} of {amount_text(row.amount)} USD ({row.public_id}) waits for a second person to approve it."
    balance = Wallet.objects.get(pk=row.customer_id).balance
    return (
        f"{what} of {amount_text(row.posted_amount or ZERO)} USD is posted. The balance is {amount_text(balance)} USD."
    )


def _ask(request: HttpRequest, customer: Customer, form: Any) -> str:
    row = manual.ask(
        customer_id=customer.pk,
        wanted=form.wanted(),
        key=f"admin:{form.cleaned_data['key']}",
        person=person_of(request),
        at=timezone.now(),
    )
    return told(row)


def _debt(customer: Customer) -> str:
    balance: Decimal = Wallet.objects.get(pk=customer.pk).balance
    return amount_text(-balance) if balance < 0 else ""


def _second_person() -> str:
    limit = manual.second_person_above()
    return "" if limit is None else f"Above {amount_text(limit)} USD it waits for a second person."


def _suspended_for(customer: Customer) -> str:
    causes = suspension.open_causes(customer.pk)
    names = ", ".join(Cause(cause).label.lower() for cause in sorted(causes)) or "the operator"
    text = f"Suspended by: {names}. All of this ends now."
    if Cause.DEBT in causes:
        text += (
            " While more is owed than the debt policy allows, its next run suspends again: write the debt off, or set a"
            " credit limit that covers it."
        )
    return text
