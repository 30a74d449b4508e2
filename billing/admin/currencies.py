"""Currencies that customers pay in, their rates, and customers as the payment provider knows them."""

from typing import Any

from django.contrib import admin
from django.db.models import OuterRef, Prefetch, QuerySet, Subquery
from django.forms import ModelForm
from django.http import HttpRequest
from django.utils import timezone
from unfold.decorators import display

from billing import exchange
from billing.admin import html
from billing.admin.base import OperatorAdmin, Panel, ReadOnlyAdmin
from billing.admin.filters import CustomerFilter, DaysFilter
from billing.admin.ledger import CustomerColumn
from billing.admin.payment_forms import METHODS, ExchangeRateForm, PayCurrencyForm
from billing.models import ExchangeRate, PayCurrency, PaymentAccount, TopUp

OFFER_TONES = {"offered": "success", "no rate yet": "warning", "not offered": ""}
RATE_TONES = {"holds now": "success", "later": "info", "past": ""}
MODE_TONES = {"real": "success", "trial": "info"}
ROWS = 20


def mode_of(row: PaymentAccount | TopUp) -> str:
    """Whether it is about real money: not in the sandbox, and not in the provider's test mode."""
    return "trial" if row.is_sandbox else "real"


def rate_text(row: ExchangeRate | None) -> str:
    """A rate as it is asked, with what it is made of."""
    if row is None:
        return html.NOTHING
    asked = _plain(exchange.with_margin(row.per_usd, row.margin))
    margin = row.margin.scaleb(2)
    return asked if not margin else html.lines(asked, f"{_plain(row.per_usd)} and a margin of {_plain(margin)} %")


def _plain(number: Any) -> str:
    return f"{number.normalize():f}"


@admin.register(PayCurrency)
class PayCurrencyAdmin(OperatorAdmin):
    form = PayCurrencyForm
    list_display = ("code", "offer_badge", "method_names", "present_rate")
    search_fields = ("code",)
    search_help_text = "Currency code"
    fields = ("code", "is_offered", "methods")

    def get_readonly_fields(self, request: HttpRequest, obj: Any = None) -> tuple[str, ...]:
        return () if obj is None else ("code",)

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """It is not offered any more; what was paid in it stays."""
        return False

    def panels(self, request: HttpRequest, obj: Any) -> list[Panel]:
        if obj.code == exchange.USD:
            return [Panel(title="Rates", headers=(), rows=(), body="1 USD is 1 USD.")]
        present = exchange.present_rate(obj.code, at=timezone.now())
        add = f"{html.action_url(ExchangeRate, 'add')}?currency={obj.code}"
        return [
            Panel(
                title="Rates: units for 1 USD",
                headers=("Asked", "Holds from", "State", "Entered by", "At"),
                rows=[
                    (
                        html.link(html.object_url(ExchangeRate, row.pk), rate_text(row)),
                        html.moment(row.effective_from),
                        html.badge(state := rate_state(row, present.pk if present else None), RATE_TONES[state]),
                        row.created_by or html.NOTHING,
                        html.moment(row.created_at),
                    )
                    for row in obj.rates.all()[:ROWS]
                ],
                empty="No rate yet, so it is not offered: add one.",
                url=html.list_url(ExchangeRate, f"currency__code__exact={obj.code}"),
                more=[(add, "Add a rate")],
            )
        ]

    @display(description="Offered", label=OFFER_TONES)
    def offer_badge(self, obj: PayCurrency) -> str:
        if not obj.is_offered:
            return "not offered"
        return "offered" if obj.code == exchange.USD or self._present(obj) else "no rate yet"

    @display(description="Methods")
    def method_names(self, obj: PayCurrency) -> str:
        names = dict(METHODS)
        return ", ".join(names.get(method, method) for method in obj.methods)

    @display(description="Units for 1 USD now")
    def present_rate(self, obj: PayCurrency) -> str:
        return "1" if obj.code == exchange.USD else rate_text(self._present(obj))

    def get_queryset(self, request: HttpRequest) -> QuerySet[PayCurrency]:
        held = ExchangeRate.objects.filter(effective_from__lte=timezone.now())
        present = held.order_by("currency_id", "-effective_from").distinct("currency_id")
        queryset: QuerySet[PayCurrency] = super().get_queryset(request)
        return queryset.prefetch_related(Prefetch("rates", present, to_attr="present"))

    def _present(self, obj: PayCurrency) -> ExchangeRate | None:
        return next(iter(obj.__dict__["present"]), None)


def rate_state(row: ExchangeRate, present: int | None) -> str:
    """Whether a rate holds; `present` is the number of the one that does."""
    if row.pk == present:
        return "holds now"
    return "later" if row.effective_from > timezone.now() else "past"


@admin.register(ExchangeRate)
class ExchangeRateAdmin(OperatorAdmin):
    """Rates are added, never changed: what was quoted keeps its rate."""

    form = ExchangeRateForm
    empty_text = "No rates yet. Add a currency, then its rate."
    list_display = ("currency", "asked", "state_badge", "effective_from", "created_by", "created_at")
    list_filter = ("currency", ("effective_from", DaysFilter))
    list_select_related = ("currency",)
    search_fields = ("currency__code",)
    search_help_text = "Currency code"
    sortable_by = ()

    def get_fields(self, request: HttpRequest, obj: Any = None) -> Any:
        if obj is None:
            return ("currency", "per_usd", "margin", "effective_from")
        return ("currency", "per_usd", "margin", "asked", "effective_from", "state_badge", "created_by", "created_at")

    def get_readonly_fields(self, request: HttpRequest, obj: Any = None) -> Any:
        return () if obj is None else self.get_fields(request, obj)

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def save_model(self, request: HttpRequest, obj: ExchangeRate, form: ModelForm, change: bool) -> None:
        told = form.cleaned_data
        made = exchange.add_rate(
            currency=told["currency"].code,
            per_usd=told["per_usd"],
            margin=told["margin"],
            effective_from=told["effective_from"],
            actor=request.user.get_username(),
            at=timezone.now(),
        )
        obj.__dict__.update(made.__dict__)

    @display(description="Asked: units for 1 USD")
    def asked(self, obj: ExchangeRate) -> str:
        return rate_text(obj)

    def get_queryset(self, request: HttpRequest) -> QuerySet[ExchangeRate]:
        held = ExchangeRate.objects.filter(currency=OuterRef("currency"), effective_from__lte=timezone.now())
        queryset: QuerySet[ExchangeRate] = super().get_queryset(request)
        return queryset.annotate(present=Subquery(held.order_by("-effective_from").values("pk")[:1]))

    @display(description="State", label=RATE_TONES)
    def state_badge(self, obj: ExchangeRate) -> str:
        return rate_state(obj, obj.__dict__["present"])


@admin.register(PaymentAccount)
class PaymentAccountAdmin(CustomerColumn, ReadOnlyAdmin):
    empty_text = "No customer has paid through the payment provider yet."
    list_display = ("stripe_id", "customer_link", "mode", "created_at")
    list_filter = (CustomerFilter, "is_sandbox")
    list_select_related = ("customer",)
    search_fields = ("stripe_id__exact", "customer__name", "customer__public_id__exact")
    search_help_text = "Stripe's cus_… or ours, or a customer's name"
    sortable_by = ()
    fields = ("stripe_id", "customer_link", "mode", "created_at")

    def panels(self, request: HttpRequest, obj: Any) -> list[Panel]:
        rows = TopUp.objects.filter(customer_id=obj.customer_id, is_sandbox=obj.is_sandbox)[:ROWS]
        return [
            Panel(
                title="Newest top-ups",
                headers=("Top-up", "Status", "Credit (USD)", "At"),
                rows=[
                    (
                        html.link(html.object_url(TopUp, row.pk), row.public_id),
                        row.get_status_display(),
                        html.amount(row.amount),
                        html.moment(row.created_at),
                    )
                    for row in rows
                ],
                numbers=frozenset({2}),
                empty="Nothing was paid in yet.",
            )
        ]

    @display(description="Mode", label=MODE_TONES)
    def mode(self, obj: PaymentAccount) -> str:
        return mode_of(obj)
