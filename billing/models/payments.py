"""Payments: what customers pay in, what goes back to them, and what the payment provider told us of it."""

from decimal import Decimal
from typing import Any

from django.conf import settings
from django.db import models

from billing.models.customers import Customer
from relayadmin import ids
from relayadmin.db import AmountField
from relayadmin.money import EXACT


def new_top_up_id() -> str:
    return ids.random_id("top")


def new_refund_id() -> str:
    return ids.random_id("ref")


class PayCurrency(models.Model):
    """A currency that customers may pay in, and the methods offered for it."""

    code = models.CharField(max_length=3, primary_key=True, help_text="ISO 4217, such as USD or CNY.")
    is_offered = models.BooleanField(default=True)
    methods: Any = models.JSONField(default=list, help_text="As Stripe calls them: card, alipay, wechat_pay.")

    class Meta:
        ordering = ("code",)
        verbose_name_plural = "pay currencies"

    def __str__(self) -> str:
        return self.code


class ExchangeRate(models.Model):
    """What 1 USD of credit costs in another currency from a moment on. Append-only: a new rate is a new row."""

    currency = models.ForeignKey(PayCurrency, on_delete=models.PROTECT, related_name="rates")
    per_usd: Any = models.DecimalField(max_digits=18, decimal_places=9, help_text="Units of the currency for 1 USD.")
    margin: Any = models.DecimalField(
        max_digits=6, decimal_places=4, default=0, help_text="Added to the rate: 0.02 makes it 2 % dearer."
    )
    effective_from = models.DateTimeField()
    created_by = models.CharField(max_length=150, blank=True)
    created_at = models.DateTimeField()

    class Meta:
        ordering = ("-effective_from", "-id")
        constraints = (
            models.UniqueConstraint(fields=["currency", "effective_from"], name="exchange_rate_once_per_moment"),
            models.CheckConstraint(
                condition=models.Q(per_usd__gt=0) & models.Q(margin__gte=0) & models.Q(margin__lt=1),
                name="exchange_rate_above_zero",
            ),
        )

    def __str__(self) -> str:
        return f"{self.per_usd.normalize():f} {self.currency_id} per USD"


class PaymentAccount(models.Model):
    """The customer as the payment provider knows it."""

    customer: Any = models.ForeignKey(Customer, on_delete=models.PROTECT, related_name="+")
    is_sandbox = models.BooleanField(
        default=False, db_default=False, help_text="Known in the sandbox or in test mode: no real money."
    )
    stripe_id = models.CharField(max_length=255, unique=True)
    created_at = models.DateTimeField()
    cards_asked_at = models.DateTimeField(null=True, help_text="When a page to save a card on was last opened.")
    cards_look_at = models.DateTimeField(null=True, help_text="When the sweep asks the provider for saved cards.")

    class Meta:
        ordering = ("-id",)
        indexes = (
            models.Index(
                fields=["cards_look_at"],
                condition=models.Q(cards_look_at__isnull=False),
                name="payment_accounts_to_look_at",
            ),
        )
        constraints = (
            models.UniqueConstraint(fields=["customer", "is_sandbox"], name="one_payment_account_for_each_mode"),
        )

    def __str__(self) -> str:
        return self.stripe_id


class TopUp(models.Model):
    """A payment that ends in a paid credit grant, or pays an invoice, once. It is there before anybody is told of it.

    `amount` is what is paid in USD: of it `tax` is tax, and the rest is credited. `pay_amount` is the same in
    `currency`, at `rate` units for 1 USD with the margin in it.
    """

    class Status(models.TextChoices):
        WAITING = "waiting", "Waits for a second person"
        PENDING = "pending", "Pending"
        PROCESSING = "processing", "Being processed"
        PAID = "paid", "Paid"
        FAILED = "failed", "Failed"
        EXPIRED = "expired", "Expired"
        CANCELED = "canceled", "Canceled"
        REFUSED = "refused", "Refused: it doesn't match"

    class Origin(models.TextChoices):
        CHECKOUT = "checkout", "Checkout"
        RECHARGE = "recharge", "Automatic recharge"
        BANK_TRANSFER = "bank_transfer", "Bank transfer"
        CASH = "cash", "Cash"

    public_id = models.CharField(max_length=32, unique=True, default=new_top_up_id, editable=False)
    customer = models.ForeignKey(Customer, on_delete=models.PROTECT, related_name="+")
    origin = models.CharField(max_length=14, choices=Origin.choices)
    status = models.CharField(max_length=12, choices=Status.choices, default=Status.PENDING)
    amount: Any = AmountField()
    currency = models.CharField(max_length=3)
    pay_amount: Any = AmountField()
    rate: Any = models.DecimalField(max_digits=20, decimal_places=9, default=1)
    margin: Any = models.DecimalField(max_digits=6, decimal_places=4, default=0)
    tax: Any = AmountField(default=0, db_default=0, help_text="The tax in the amount (USD).")
    tax_name = models.CharField(max_length=40, blank=True, db_default="", help_text="Empty: not taxed.")
    tax_rate: Any = models.DecimalField(max_digits=6, decimal_places=5, default=0, db_default=0)
    tax_note = models.CharField(max_length=200, blank=True, db_default="")
    invoice: Any = models.ForeignKey(
        "billing.Invoice",
        on_delete=models.PROTECT,
        null=True,
        related_name="payments",
        help_text="The invoice that it pays; empty: it becomes credit.",
    )
    is_sandbox = models.BooleanField(default=False, help_text="Paid in the payment sandbox: no real money.")
    request: Any = models.JSONField(
        default=dict, help_text="What the checkout was asked with: sent again, it has to be the same under its key."
    )
    session_id = models.CharField(max_length=255, unique=True, null=True)
    payment_intent_id = models.CharField(max_length=255, unique=True, null=True)
    charge_id = models.CharField(max_length=255, unique=True, null=True)
    checkout_url = models.TextField(blank=True)
    method = models.CharField(max_length=40, blank=True, help_text="What it was paid with: card, alipay, wechat_pay.")
    method_detail = models.CharField(max_length=60, blank=True, help_text="Such as: visa •••• 4242.")
    saved_method: Any = models.ForeignKey(
        "billing.PaymentMethod",
        on_delete=models.PROTECT,
        null=True,
        related_name="+",
        help_text="The saved card that an automatic recharge charges.",
    )
    fee: Any = AmountField(null=True, help_text="What the provider kept, in the currency it settles in.")
    settled_amount: Any = AmountField(
        null=True, help_text="What the provider settled before its fee, in that currency."
    )
    settled_currency = models.CharField(max_length=3, blank=True)
    reference = models.CharField(max_length=255, blank=True, help_text="The bank transfer's or the receipt's number.")
    received_on = models.DateField(null=True, help_text="When a bank transfer or cash came in.")
    grant_id = models.BigIntegerField(null=True, help_text="The number of the grant that it became.")
    error_code = models.CharField(max_length=100, blank=True)
    error_message = models.CharField(max_length=500, blank=True)
    asked_by = models.CharField(max_length=150, blank=True)
    asked_by_user: Any = models.ForeignKey(
        settings.AUTH_USER_MODEL, on_delete=models.SET_NULL, null=True, related_name="+"
    )
    decided_by = models.CharField(max_length=150, blank=True)
    decided_by_user: Any = models.ForeignKey(
        settings.AUTH_USER_MODEL, on_delete=models.SET_NULL, null=True, related_name="+"
    )
    created_at = models.DateTimeField()
    expires_at = models.DateTimeField(null=True)
    paid_at = models.DateTimeField(null=True)
    look_at = models.DateTimeField(null=True, help_text="When the sweep asks the provider what became of it.")

    class Meta:
        ordering = ("-id",)
        verbose_name = "top-up"
        permissions = (("record_payment", "Can record bank transfers and cash, and decide on them"),)
        indexes = (
            models.Index(fields=["customer", "-id"], name="top_ups_of_customer"),
            models.Index(fields=["look_at"], condition=models.Q(look_at__isnull=False), name="top_ups_to_look_at"),
            models.Index(fields=["paid_at"], condition=models.Q(paid_at__isnull=False), name="top_ups_by_payment"),
            models.Index(fields=["id"], condition=models.Q(status="refused"), name="top_ups_refused"),
        )
        constraints = (
            models.CheckConstraint(
                condition=models.Q(amount__gt=0) & models.Q(pay_amount__gt=0) & models.Q(rate__gt=0),
                name="top_up_above_zero",
            ),
            models.CheckConstraint(
                condition=models.Q(tax__gte=0) & models.Q(tax__lt=models.F("amount")), name="top_up_tax_within_amount"
            ),
            models.CheckConstraint(
                condition=models.Q(status="paid", grant_id__isnull=False, paid_at__isnull=False)
                | models.Q(status="paid", invoice__isnull=False, paid_at__isnull=False)
                | (~models.Q(status="paid") & models.Q(grant_id__isnull=True, paid_at__isnull=True)),
                name="top_up_paid_has_its_grant",
            ),
            models.UniqueConstraint(
                fields=["customer", "reference"],
                condition=models.Q(origin__in=["bank_transfer", "cash"]) & ~models.Q(status="canceled"),
                name="top_up_once_per_reference",
            ),
        )

    def __str__(self) -> str:
        return self.public_id

    @property
    def credited(self) -> Decimal:
        """What becomes credit (USD), tax left out."""
        return EXACT.subtract(self.amount, self.tax)


class Refund(models.Model):
    """Money of one top-up on its way back to who paid. What it takes of the wallet is taken before the provider hears.

    `amount` is taken off the wallet and `tax` taken back (USD); `pay_amount` goes back, in the top-up's currency and at
    its rate. Without a top-up it is what closing found left of a paid grant that was given by hand, and so it is paid
    out by hand.
    """

    class Status(models.TextChoices):
        PENDING = "pending", "Pending"
        SUCCEEDED = "succeeded", "Succeeded"
        FAILED = "failed", "Failed: given back"

    class Origin(models.TextChoices):
        OPERATOR = "operator", "The operator"
        PROVIDER = "provider", "Made at the provider"
        CLOSING = "closing", "Closing of the account"
        RETURNED = "returned", "Taken back by the payer's bank"

    public_id = models.CharField(max_length=32, unique=True, default=new_refund_id, editable=False)
    customer = models.ForeignKey(Customer, on_delete=models.PROTECT, related_name="+")
    top_up = models.ForeignKey(TopUp, on_delete=models.PROTECT, null=True, related_name="refunds")
    grant_id = models.BigIntegerField(null=True, help_text="The number of the grant, where there is no top-up.")
    origin = models.CharField(max_length=10, choices=Origin.choices)
    status = models.CharField(max_length=10, choices=Status.choices, default=Status.PENDING)
    amount: Any = AmountField()
    currency = models.CharField(max_length=3)
    pay_amount: Any = AmountField()
    tax: Any = AmountField(default=0, db_default=0, help_text="What goes back of the tax, beside the amount (USD).")
    unpaid: Any = AmountField(default=0, db_default=0, help_text="The part that no credit was left for: debt (USD).")
    key = models.CharField(max_length=255, help_text="Unique per customer: the same key refunds once.")
    transfer_id = models.BigIntegerField(help_text="The transfer that took it off the wallet.")
    stripe_id = models.CharField(max_length=255, unique=True, null=True)
    reason = models.CharField(max_length=500)
    actor = models.CharField(max_length=150, blank=True)
    failure = models.CharField(max_length=500, blank=True)
    reference = models.CharField(max_length=255, blank=True, help_text="Of what was paid out by hand.")
    ended_by = models.CharField(max_length=150, blank=True, help_text="Who paid it out or gave it back by hand.")
    attempts = models.PositiveIntegerField(default=0, db_default=0)
    look_at = models.DateTimeField(null=True, help_text="When the sweep sends it, or asks what became of it.")
    created_at = models.DateTimeField()
    ended_at = models.DateTimeField(null=True)

    class Meta:
        ordering = ("-id",)
        permissions = (("refund_top_up", "Can refund top-ups"),)
        indexes = (
            models.Index(fields=["customer", "transfer_id"], name="refunds_by_transfer"),
            models.Index(fields=["look_at"], condition=models.Q(look_at__isnull=False), name="refunds_to_look_at"),
        )
        constraints = (
            models.UniqueConstraint(fields=["customer", "key"], name="refund_once_per_key"),
            models.CheckConstraint(
                condition=models.Q(amount__gt=0)
                & models.Q(pay_amount__gt=0)
                & models.Q(unpaid__gte=0)
                & models.Q(unpaid__lte=models.F("amount")),
                name="refund_above_zero",
            ),
            models.CheckConstraint(
                condition=models.Q(top_up__isnull=False, grant_id=None)
                | models.Q(top_up=None, grant_id__isnull=False, origin="closing"),
                name="refund_of_a_top_up_or_a_grant",
            ),
            models.CheckConstraint(
                condition=models.Q(status="pending", ended_at=None)
                | (~models.Q(status="pending") & models.Q(ended_at__isnull=False)),
                name="refund_ended_has_its_moment",
            ),
        )

    def __str__(self) -> str:
        return self.public_id

    @property
    def whole(self) -> Decimal:
        """What goes back (USD), tax included."""
        return EXACT.add(self.amount, self.tax)


class Dispute(models.Model):
    """A payment that the payer's bank takes back. `taken` and `returned` are what the wallet saw of it (USD)."""

    customer = models.ForeignKey(Customer, on_delete=models.PROTECT, related_name="+")
    top_up = models.ForeignKey(TopUp, on_delete=models.PROTECT, related_name="disputes")
    stripe_id = models.CharField(max_length=255, unique=True)
    status = models.CharField(max_length=40, help_text="As the provider says: needs_response, won, lost.")
    reason = models.CharField(max_length=100, blank=True)
    currency = models.CharField(max_length=3)
    pay_amount: Any = AmountField()
    taken: Any = AmountField(default=0, db_default=0)
    unpaid: Any = AmountField(default=0, db_default=0, help_text="The part that no credit was left for: debt (USD).")
    returned: Any = AmountField(default=0, db_default=0)
    taken_tax: Any = AmountField(default=0, db_default=0, help_text="The tax that went with what was taken (USD).")
    returned_tax: Any = AmountField(default=0, db_default=0)
    movements = models.PositiveIntegerField(
        default=0, db_default=0, help_text="How many of its balance transactions have been applied."
    )
    evidence_due_by = models.DateTimeField(null=True)
    look_at = models.DateTimeField(null=True, help_text="When the sweep asks the provider what became of it.")
    created_at = models.DateTimeField()
    ended_at = models.DateTimeField(null=True)

    class Meta:
        ordering = ("-id",)
        indexes = (
            models.Index(fields=["look_at"], condition=models.Q(look_at__isnull=False), name="disputes_to_look_at"),
        )
        constraints = (
            models.CheckConstraint(
                condition=models.Q(taken__gte=0)
                & models.Q(returned__gte=0)
                & models.Q(returned__lte=models.F("taken"))
                & models.Q(unpaid__gte=0)
                & models.Q(unpaid__lte=models.F("taken")),
                name="dispute_returns_at_most_what_it_took",
            ),
        )

    def __str__(self) -> str:
        return self.stripe_id


class WebhookEvent(models.Model):
    """A webhook as it came: stored first, worked off afterwards. A signal to look at an object, not the truth of it."""

    class Status(models.TextChoices):
        NEW = "new", "New"
        DONE = "done", "Done"
        IGNORED = "ignored", "Nothing for us"
        FAILED = "failed", "Failed"

    event_id = models.CharField(max_length=255, unique=True)
    type = models.CharField(max_length=100)
    object_type = models.CharField(max_length=60, blank=True)
    object_id = models.CharField(max_length=255, blank=True)
    account = models.CharField(max_length=255, blank=True, help_text="Set when it is not our own account's.")
    livemode = models.BooleanField(default=False)
    payload = models.TextField(help_text="The body, as it was signed.")
    status = models.CharField(max_length=8, choices=Status.choices, default=Status.NEW)
    attempts = models.PositiveIntegerField(default=0, db_default=0)
    look_at = models.DateTimeField(null=True, help_text="When a worker takes it up; empty when it is done with.")
    outcome = models.CharField(max_length=500, blank=True)
    error = models.CharField(max_length=500, blank=True)
    occurred_at = models.DateTimeField(null=True)
    received_at = models.DateTimeField()
    ended_at = models.DateTimeField(null=True)

    class Meta:
        ordering = ("-id",)
        permissions = (("see_webhook_payload", "Can see what webhooks carry: names and mail addresses of payers"),)
        indexes = (
            models.Index(fields=["object_id"], name="webhook_events_by_object"),
            models.Index(fields=["look_at"], condition=models.Q(look_at__isnull=False), name="webhook_events_waiting"),
            models.Index(fields=["id"], condition=models.Q(status="failed"), name="webhook_events_failed"),
        )

    def __str__(self) -> str:
        return f"{self.type} {self.event_id}"
