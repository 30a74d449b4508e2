from typing import Any

from django.db import models

from metering.meters import METERS
from metering.models.catalog import Channel, Model

METER_CHOICES = [(meter.name, meter.label) for meter in METERS]
# What a request can ask for beside the standard, each with prices of its own; "" is the standard.
VARIANTS = {"": "Standard", "batch": "Batch", "flex": "Flex", "priority": "Priority", "fast": "Fast"}


class PriceBookVersion(models.Model):
    """One row, read by every authorization and settlement: cached price tables of another version are rebuilt."""

    version = models.BigIntegerField(default=0)
    changed_at = models.DateTimeField(auto_now=True)

    class Meta:
        constraints = (models.CheckConstraint(condition=models.Q(id=1), name="one_price_book_version"),)

    def __str__(self) -> str:
        return str(self.version)


class CurrentPrices(models.Manager["Price"]):
    """The rows that hold: those that a correction has superseded are left out."""

    def get_queryset(self) -> models.QuerySet["Price"]:
        return super().get_queryset().filter(superseded_at=None)


class Price(models.Model):
    """What one meter of one model costs on one channel, or its maker's list price that plans start from.

    A price of the past is never changed: where it was wrong, another row of the same moments stands in its place, and
    it is marked as superseded.
    """

    class Kind(models.TextChoices):
        COST = "cost", "Cost on the channel"
        CHARGE = "charge", "List price"

    kind = models.CharField(max_length=6, choices=Kind.choices)
    channel = models.ForeignKey(
        Channel, on_delete=models.PROTECT, null=True, blank=True, help_text="Empty for a list price."
    )
    model = models.ForeignKey(Model, on_delete=models.PROTECT, related_name="prices")
    variant = models.CharField(
        max_length=10,
        choices=list(VARIANTS.items()),
        blank=True,
        default="",
        db_default="",
        help_text="Batch, priority, flex and fast requests have prices of their own.",
    )
    meter = models.CharField(max_length=40, choices=METER_CHOICES)
    above_prompt_tokens = models.PositiveIntegerField(
        default=0, help_text="The tier: holds for prompts of more tokens than this; 0 holds for every prompt."
    )
    unit_price: Any = models.DecimalField(max_digits=20, decimal_places=9, help_text="USD per million or thousand.")
    per = models.PositiveIntegerField(help_text="1,000,000 tokens or 1,000 calls.")
    effective_from = models.DateTimeField(null=True, blank=True, help_text="Empty: from the beginning of time.")
    effective_until = models.DateTimeField(null=True, blank=True, help_text="Empty: until further notice.")
    daily_from = models.TimeField(null=True, blank=True, help_text="UTC; a window of the day.")
    daily_until = models.TimeField(null=True, blank=True)
    derived = models.CharField(max_length=60, blank=True, help_text="By which rule, if the source gives no price.")
    source = models.CharField(max_length=60)
    created_at = models.DateTimeField(auto_now_add=True)
    superseded_at = models.DateTimeField(null=True, blank=True, help_text="Since when a corrected row holds instead.")
    corrects: Any = models.OneToOneField(
        "self", on_delete=models.PROTECT, null=True, blank=True, related_name="corrected_by"
    )
    corrected_why = models.CharField(max_length=500, blank=True, db_default="", help_text="Who says so, and why.")

    objects = CurrentPrices()
    with_superseded = models.Manager["Price"]()

    class Meta:
        base_manager_name = "with_superseded"
        ordering = ("model", "channel", "kind", "variant", "meter", "above_prompt_tokens")
        constraints = (
            models.UniqueConstraint(
                fields=[
                    "kind",
                    "channel",
                    "model",
                    "variant",
                    "meter",
                    "above_prompt_tokens",
                    "effective_from",
                    "daily_from",
                ],
                condition=models.Q(superseded_at__isnull=True),
                name="one_price_per_moment",
                nulls_distinct=False,
            ),
            models.CheckConstraint(condition=models.Q(unit_price__gte=0), name="price_not_negative"),
            models.CheckConstraint(
                condition=models.Q(kind="cost", channel__isnull=False) | models.Q(kind="charge", channel__isnull=True),
                name="price_cost_has_channel",
            ),
            models.CheckConstraint(
                condition=models.Q(effective_until__isnull=True)
                | models.Q(effective_from__isnull=True)
                | models.Q(effective_until__gt=models.F("effective_from")),
                name="price_ends_after_it_begins",
            ),
        )

    def __str__(self) -> str:
        return f"{self.model_id} {self.meter} {self.unit_price}"


class PriceSet(models.Model):
    """The unit prices one event was rated at, by meter, with the rows they come from. Content-addressed.

    `content`: {"model", "channel", "plan", "meters": {meter: {"charge", "cost", "per", "charge_price", "cost_price",
    "rule"}}}; unit prices are strings in USD per `per`, the others numbers of rows, `rule` null where the plan's own
    multiplier holds. Only where they apply: "variant", "place" ("us"), "geo" (its multiplier of token prices), "prompt"
    (between which prompt sizes it holds: {"above", "up_to"} in tokens), "account" (the upstream account's name) with
    "contract", "waived" (why the customer pays nothing, or not all). An event is rated again by what is said here.
    """

    digest = models.BinaryField(max_length=32, unique=True)
    content: Any = models.JSONField()
    created_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        ordering = ("-id",)

    def __str__(self) -> str:
        return f"Price set {self.pk}"


class Plan(models.Model):
    """How a customer's prices come from the list prices."""

    name = models.CharField(max_length=60, unique=True)
    multiplier = models.DecimalField(
        max_digits=9,
        decimal_places=6,
        default=1,
        help_text="On every list price where no rule says otherwise: 1.2 is a markup of 20 per cent.",
    )
    created_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        ordering = ("name",)
        constraints = (models.CheckConstraint(condition=models.Q(multiplier__gte=0), name="plan_not_negative"),)

    def __str__(self) -> str:
        return self.name


class PlanRule(models.Model):
    """An exception of a plan: another multiplier, or a unit price of its own, for what it names, from a moment on.

    Of several that fit, the most specific wins: a model before a family (the longest first) before neither; then one
    that names the meter; then one that names the channel; of equals the one that began last.
    """

    plan = models.ForeignKey(Plan, on_delete=models.PROTECT, related_name="rules")
    model = models.ForeignKey(Model, on_delete=models.PROTECT, null=True, blank=True, related_name="+")
    family = models.CharField(
        max_length=100, blank=True, help_text='Models whose name begins so, such as "claude-opus-"; empty for all.'
    )
    meter = models.CharField(max_length=40, choices=METER_CHOICES, blank=True, help_text="Empty for all meters.")
    channel = models.ForeignKey(
        Channel, on_delete=models.PROTECT, null=True, blank=True, related_name="+", help_text="Empty for all channels."
    )
    multiplier: Any = models.DecimalField(
        max_digits=9, decimal_places=6, null=True, blank=True, help_text="On the list price; 0 makes it free."
    )
    unit_price: Any = models.DecimalField(
        max_digits=20,
        decimal_places=9,
        null=True,
        blank=True,
        help_text="USD per million or thousand, in place of the standard list price of one meter.",
    )
    effective_from = models.DateTimeField(null=True, blank=True, help_text="Empty: from the beginning of time.")
    effective_until = models.DateTimeField(null=True, blank=True, help_text="Empty: until further notice.")
    reason = models.CharField(max_length=200, blank=True)
    created_by = models.CharField(max_length=150, blank=True)
    created_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        ordering = ("plan", "id")
        constraints = (
            models.CheckConstraint(
                condition=models.Q(multiplier__isnull=False, unit_price__isnull=True)
                | models.Q(multiplier__isnull=True, unit_price__isnull=False),
                name="plan_rule_multiplies_or_fixes",
            ),
            models.CheckConstraint(
                condition=models.Q(unit_price__isnull=True) | ~models.Q(meter=""),
                name="plan_rule_fixes_one_meter",
            ),
            models.CheckConstraint(
                condition=models.Q(model__isnull=True) | models.Q(family=""), name="plan_rule_model_or_family"
            ),
            models.CheckConstraint(
                condition=(models.Q(multiplier__isnull=True) | models.Q(multiplier__gte=0))
                & (models.Q(unit_price__isnull=True) | models.Q(unit_price__gte=0)),
                name="plan_rule_not_negative",
            ),
            models.CheckConstraint(
                condition=models.Q(effective_until__isnull=True)
                | models.Q(effective_from__isnull=True)
                | models.Q(effective_until__gt=models.F("effective_from")),
                name="plan_rule_ends_after_it_begins",
            ),
        )

    def __str__(self) -> str:
        return f"rule {self.pk} of {self.plan}"

    def says(self) -> str:
        """What it does, in a few words: "× 1.2" or "2 in place of the list price"."""
        if self.multiplier is not None:
            return f"× {self.multiplier.normalize():f}"
        return f"{self.unit_price.normalize():f} for {self.meter} in place of the list price"


class PlanPolicy(models.Model):
    """What a plan charges for requests that did not complete, from a moment on. The cost is booked in full."""

    class Charged(models.TextChoices):
        KNOWN = "known", "All that is known to have been used"
        INPUT = "input", "The input side only"
        NOTHING = "nothing", "Nothing"

    plan = models.ForeignKey(Plan, on_delete=models.PROTECT, related_name="policies")
    aborted = models.CharField(max_length=7, choices=Charged.choices, default=Charged.KNOWN)
    failed = models.CharField(max_length=7, choices=Charged.choices, default=Charged.KNOWN)
    effective_from = models.DateTimeField(null=True, blank=True, help_text="Empty: from the beginning of time.")

    class Meta:
        ordering = ("plan", "effective_from")
        verbose_name_plural = "plan policies"
        constraints = (
            models.UniqueConstraint(
                fields=["plan", "effective_from"], name="one_plan_policy_per_moment", nulls_distinct=False
            ),
        )

    def __str__(self) -> str:
        return f"{self.plan}: aborted {self.aborted}, failed {self.failed}"


class CustomerPlan(models.Model):
    """Which plan a customer is on from a moment on; without a row, and before the first, it is `list`."""

    customer: Any = models.ForeignKey("billing.Customer", on_delete=models.PROTECT, related_name="plan_assignments")
    plan = models.ForeignKey(Plan, on_delete=models.PROTECT)
    effective_from = models.DateTimeField(null=True, blank=True, help_text="Empty: from the beginning of time.")

    class Meta:
        ordering = ("customer", models.F("effective_from").asc(nulls_first=True))
        constraints = (
            models.UniqueConstraint(
                fields=["customer", "effective_from"], name="one_plan_per_moment", nulls_distinct=False
            ),
        )

    def __str__(self) -> str:
        return f"{self.customer_id}: {self.plan}"


class UpstreamAccount(models.Model):
    """One of the operator's own accounts at a channel; its contract makes what the channel charges cheaper."""

    name = models.CharField(max_length=100, unique=True, help_text="What relays report as `upstream_account`.")
    channel = models.ForeignKey(Channel, on_delete=models.PROTECT, related_name="accounts")
    created_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        ordering = ("name",)

    def __str__(self) -> str:
        return self.name


class UpstreamTerms(models.Model):
    """What an upstream account pays of the channel's price from a moment on: 0.85 is a discount of 15 per cent."""

    account = models.ForeignKey(UpstreamAccount, on_delete=models.PROTECT, related_name="terms")
    multiplier: Any = models.DecimalField(max_digits=9, decimal_places=6)
    effective_from = models.DateTimeField(null=True, blank=True, help_text="Empty: from the beginning of time.")

    class Meta:
        ordering = ("account", "effective_from")
        verbose_name_plural = "upstream terms"
        constraints = (
            models.UniqueConstraint(
                fields=["account", "effective_from"], name="one_upstream_terms_per_moment", nulls_distinct=False
            ),
            models.CheckConstraint(condition=models.Q(multiplier__gte=0), name="upstream_terms_not_negative"),
        )

    def __str__(self) -> str:
        return f"{self.account}: × {self.multiplier}"
