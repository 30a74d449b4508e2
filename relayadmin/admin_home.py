"""The operator's home page and the sidebar."""

from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any

from django.apps import apps
from django.db import connection
from django.db.models import Count, Q, Sum
from django.http import HttpRequest
from django.templatetags.static import static
from django.urls import reverse
from django.utils import timezone
from django.utils.html import format_html

from billing.admin import alarms, html, job_home, profile_forms
from billing.admin.base import MOST_ROWS, Figure
from billing.models import CreditNoteRequest, Customer, TopUp, Wallet, WalletAdjustment
from billing.periods import bounds, month_of, operator_timezone
from metering import uninvoiced
from metering.admin import waiting_panel
from metering.admin.not_invoiced import NOT_INVOICED, NOT_INVOICED_ADVICE
from metering.models import (
    ApiKey,
    EventConflict,
    Model,
    ParkedEvent,
    PriceImport,
    QuarantinedEvent,
    RelayToken,
    UnclaimedEvent,
)
from relayadmin.money import ZERO, amount_text, to_cents

DAYS = 14
BAR_PX = 120

# (group, [(title, model, icon)]); a group without anything the user may see is left out.
SIDEBAR: tuple[tuple[str, tuple[tuple[str, str, str], ...]], ...] = (
    (
        "Money",
        (
            ("Wallets", "billing.Wallet", "account_balance_wallet"),
            ("Transfers", "billing.Transfer", "swap_horiz"),
            ("Entries", "billing.Entry", "format_list_numbered"),
            ("Credit grants", "billing.Grant", "redeem"),
            ("Grant uses", "billing.GrantUse", "local_fire_department"),
            ("Returns to grants", "billing.GrantReturn", "undo"),
            ("Scheduled grants", "billing.ScheduledGrant", "schedule_send"),
            ("Changes of grants", "billing.GrantChange", "edit_note"),
            ("Redemption codes", "billing.RedemptionCode", "confirmation_number"),
            ("Redemption guesses", "billing.RedemptionGuesses", "password"),
            ("Holds", "billing.Hold", "hourglass_top"),
            ("Spend limits", "billing.SpendLimit", "speed"),
            ("Spend counters", "billing.SpendCounter", "data_usage"),
            ("Adjustments by hand", "billing.WalletAdjustment", "exposure"),
            ("Closings of months", "billing.PeriodClosing", "event_available"),
            ("Closings of customers", "billing.CustomerClosing", "rule"),
            ("Invoices", "billing.Invoice", "receipt_long"),
            ("Invoice lines", "billing.InvoiceLine", "list_alt"),
            ("Invoice series", "billing.InvoiceSeries", "tag"),
            ("Payments that went back", "billing.InvoiceReopening", "money_off"),
            ("Credit notes", "billing.CreditNote", "undo"),
            ("Credit note lines", "billing.CreditNoteLine", "list_alt"),
            ("Credit notes asked for", "billing.CreditNoteRequest", "approval"),
            ("Taxes of invoices", "billing.InvoiceTax", "percent"),
            ("Billing profiles", "billing.BillingProfile", "badge"),
            ("Tax rates", "billing.TaxRate", "percent"),
        ),
    ),
    (
        "Payments",
        (
            ("Top-ups", "billing.TopUp", "payments"),
            ("Refunds", "billing.Refund", "undo"),
            ("Disputes", "billing.Dispute", "gavel"),
            ("Receipts", "billing.Receipt", "receipt"),
            ("Automatic recharges", "billing.Recharge", "autorenew"),
            ("Saved cards", "billing.PaymentMethod", "credit_card"),
            ("Payment accounts", "billing.PaymentAccount", "contacts"),
            ("Pay currencies", "billing.PayCurrency", "currency_exchange"),
            ("Exchange rates", "billing.ExchangeRate", "trending_up"),
            ("Webhooks", "billing.WebhookEvent", "webhook"),
            ("Stripe's transactions", "billing.StripeTransaction", "account_balance"),
            ("Differences with Stripe", "billing.StripeDifference", "rule"),
        ),
    ),
    (
        "Usage",
        (
            ("Usage events", "metering.UsageEvent", "bolt"),
            ("Hourly usage", "metering.UsageHour", "schedule"),
            ("Adjustments", "metering.UsageAdjustment", "difference"),
            ("Re-ratings", "metering.Rerating", "price_check"),
            ("Re-ratings' credit notes", "metering.ReratingNote", "undo"),
            ("Parked events", "metering.ParkedEvent", "pause_circle"),
            ("Unclaimed events", "metering.UnclaimedEvent", "help"),
            ("Conflicts", "metering.EventConflict", "error"),
            ("Quarantine", "metering.QuarantinedEvent", "gpp_bad"),
            ("Event keys", "metering.EventKey", "fingerprint"),
        ),
    ),
    (
        "Price book",
        (
            ("Models", "metering.Model", "smart_toy"),
            ("Model aliases", "metering.ModelAlias", "label"),
            ("Channels", "metering.Channel", "storefront"),
            ("Prices", "metering.Price", "sell"),
            ("Price imports", "metering.PriceImport", "rule"),
            ("Imported lines", "metering.PriceImportLine", "difference"),
            ("Price sets", "metering.PriceSet", "data_object"),
            ("Plans", "metering.Plan", "percent"),
            ("Plan rules", "metering.PlanRule", "rule"),
            ("Plan policies", "metering.PlanPolicy", "policy"),
            ("Customers' plans", "metering.CustomerPlan", "assignment_ind"),
            ("Upstream accounts", "metering.UpstreamAccount", "handshake"),
            ("Upstream terms", "metering.UpstreamTerms", "contract"),
            ("Changes", "metering.PriceBookChange", "history"),
            ("Version", "metering.PriceBookVersion", "numbers"),
            ("Price settings", "metering.PriceBookSettings", "tune"),
        ),
    ),
    (
        "People",
        (
            ("Customers", "billing.Customer", "groups"),
            ("API keys", "metering.ApiKey", "vpn_key"),
            ("Usage tiers", "metering.UsageTier", "speed"),
            ("Customers' tiers", "metering.CustomerTier", "stairs"),
            ("Memberships", "billing.Membership", "badge"),
            ("Access tokens", "billing.AccessToken", "token"),
            ("Account changes", "billing.AccountChange", "manage_history"),
            ("Users", "auth.User", "person"),
            ("Groups", "auth.Group", "group"),
        ),
    ),
    (
        "Messages",
        (
            ("Notices", "billing.Notice", "campaign"),
            ("Deliveries", "billing.Delivery", "outgoing_mail"),
            ("Webhook endpoints", "billing.WebhookEndpoint", "webhook"),
            ("Addresses and thresholds", "billing.NotificationSettings", "alternate_email"),
            ("Kinds that customers chose", "billing.NoticePreference", "tune"),
            ("Low balances", "billing.LowBalance", "trending_down"),
        ),
    ),
    (
        "Operation",
        (
            ("Alarms", "billing.Alarm", "notifications"),
            ("Jobs", "billing.Job", "manufacturing"),
            ("Job runs", "billing.JobRun", "play_circle"),
            ("Verified ledgers", "billing.VerifiedWallet", "verified"),
            ("Verified usage", "metering.VerifiedUsage", "fact_check"),
            ("Timetable", "django_celery_beat.PeriodicTask", "event_repeat"),
            ("Intervals", "django_celery_beat.IntervalSchedule", "timer"),
            ("Crontabs", "django_celery_beat.CrontabSchedule", "calendar_month"),
            ("Clocked", "django_celery_beat.ClockedSchedule", "alarm"),
            ("Solar", "django_celery_beat.SolarSchedule", "wb_sunny"),
            ("Relay tokens", "metering.RelayToken", "router"),
            ("Idempotent answers", "billing.IdempotentAnswer", "replay"),
            ("Settings", "billing.OperatorSettings", "settings"),
        ),
    ),
)


def stylesheet(request: HttpRequest) -> str:
    return static("relayadmin/admin.css")


def favicon(request: HttpRequest) -> str:
    return static("relayadmin/favicon.svg")


def may_see(request: HttpRequest, label: str) -> bool:
    """Whether this user may look at a model."""
    app, name = label.lower().split(".")
    user = request.user
    return user.has_perm(f"{app}.view_{name}") or user.has_perm(f"{app}.change_{name}")


def navigation(request: HttpRequest) -> list[dict[str, Any]]:
    """The sidebar: what this user may see, in groups."""
    groups: list[dict[str, Any]] = [
        {"items": [{"title": "Home", "icon": "home", "link": reverse("admin:index")}]},
    ]
    if request.user.has_perm("billing.see_books"):
        books = reverse("admin:billing_transfer_monthly_summary")
        groups[0]["items"].append({"title": "Monthly summary", "icon": "menu_book", "link": books})
    for title, entries in SIDEBAR:
        items = [
            {
                "title": name,
                "icon": icon,
                "link": html.list_url(apps.get_model(label)),
            }
            for name, label, icon in entries
            if may_see(request, label)
        ]
        if items:
            groups.append({"title": title, "separator": True, "items": items})
    return groups


@dataclass(frozen=True, slots=True)
class Step:
    """One thing to do on a new installation."""

    text: str
    is_done: bool
    url: str = ""
    how: str = ""


@dataclass(frozen=True, slots=True)
class Group:
    title: str
    figures: list[Figure]


@dataclass(frozen=True, slots=True)
class Bar:
    """One day's charge; `height_px` against the highest day."""

    day: str
    label: str
    charge: str
    short: str
    requests: str
    height_px: int


def dashboard(request: HttpRequest, context: dict[str, Any]) -> dict[str, Any]:
    """What the home page shows, as far as this user may see it."""
    now = timezone.now()
    groups, panels, bars, steps = [], [], [], []
    zone = operator_timezone()
    if may_see(request, "metering.UsageHour"):
        days = _days(now)
        groups.append(Group("Usage", _usage_figures(days, now)))
        bars = _bars(days, now)
    if may_see(request, "billing.Wallet"):
        groups.insert(0, Group("Money", _money_figures()))
    waiting = _waiting_figures(request)
    if waiting:
        groups.append(Group("To work through", waiting))
    if may_see(request, "billing.TaxRate") and (untaxed := profile_forms.untaxed_panel()):
        panels.append(untaxed)
    wrong = None
    if may_see(request, "billing.Job") or may_see(request, "billing.JobRun"):
        wrong, summary = job_home.home_panels(request, now=now, more=_uninvoiced_rows(request, now))
        panels.append(summary)
    if request.user.is_superuser:
        steps = _first_steps()
    shown = alarms.home_panel(request) if may_see(request, "billing.Alarm") else None
    context["home"] = {
        "alarms": shown,
        "jobs": wrong,
        "waiting": waiting_panel.home_panel(request, now=now),
        "groups": groups,
        "panels": panels,
        "bars": bars,
        "has_charge": any(bar.height_px for bar in bars),
        "steps": [] if all(step.is_done for step in steps) else steps,
        "timezone": zone.key,
    }
    if not (groups or panels or shown):
        context["home"] = {}
    return context


def _money_figures() -> list[Figure]:
    sums = Wallet.objects.exclude(customer__is_house=True).aggregate(
        credit=Sum("balance", filter=Q(balance__gt=0)),
        debt=Sum("balance", filter=Q(balance__lt=0)),
        held=Sum("held"),
        owing=Count("pk", filter=Q(balance__lt=0)),
    )
    customers = Customer.objects.exclude(is_house=True).count()
    wallets = html.list_url(Wallet)
    debt = -(sums["debt"] or ZERO)
    return [
        Figure("Customers", f"{customers:,}", url=html.list_url(Customer)),
        Figure("Credit outstanding", amount_text(sums["credit"] or ZERO), "USD, balances above zero", wallets),
        Figure(
            "Debt",
            amount_text(debt),
            f"USD, owed by {sums['owing']:,} customer{'' if sums['owing'] == 1 else 's'}",
            html.list_url(Wallet, "debt=yes&o=3"),
            "danger" if debt else "",
        ),
        Figure("Held", amount_text(sums["held"] or ZERO), "USD, for requests that run now", f"{wallets}?o=-4"),
    ]


@dataclass(frozen=True, slots=True)
class Day:
    """Sums of one day in the operator's time zone; `in_month`: those billed in this month."""

    day: date
    period: date
    requests: int
    charge: Decimal
    cost: Decimal


def _days(now: datetime) -> list[Day]:
    """Hourly usage of this billing month and of the last days, by day and billing period; one query."""
    zone = operator_timezone()
    month = month_of(now, zone)
    first = datetime.combine(now.astimezone(zone).date() - timedelta(days=DAYS - 1), datetime.min.time(), zone)
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT (hour AT TIME ZONE %s)::date AS day, period, sum(requests), sum(charge), sum(cost)"
            " FROM metering_usagehour WHERE hour >= %s OR period = %s GROUP BY 1, 2",
            [zone.key, min(first, bounds(month, zone)[0]).astimezone(UTC), month],
        )
        return [Day(*row) for row in cursor.fetchall()]


def _usage_figures(days: list[Day], now: datetime) -> list[Figure]:
    zone = operator_timezone()
    today, month = now.astimezone(zone).date(), month_of(now, zone)
    figures = []
    for name, rows in (
        ("today", [row for row in days if row.day == today]),
        ("this month", [row for row in days if row.period == month]),
    ):
        requests = sum(row.requests for row in rows)
        charge = sum((row.charge for row in rows), ZERO)
        cost = sum((row.cost for row in rows), ZERO)
        url = html.list_url(apps.get_model("metering.UsageHour"))
        margin = charge - cost
        figures += [
            Figure(f"Charge {name}", amount_text(charge), f"USD, {requests:,} requests", url),
            Figure(f"Cost {name}", amount_text(cost), "USD", url),
            Figure(f"Margin {name}", amount_text(margin), "USD", url, "danger" if margin < 0 else ""),
        ]
    return figures


def _bars(days: list[Day], now: datetime) -> list[Bar]:
    today = now.astimezone(operator_timezone()).date()
    wanted = [today - timedelta(days=back) for back in reversed(range(DAYS))]
    charges = {day: sum((row.charge for row in days if row.day == day), ZERO) for day in wanted}
    requests = {day: sum(row.requests for row in days if row.day == day) for day in wanted}
    highest = max(charges.values())
    return [
        Bar(
            day=day.isoformat(),
            label=f"{day:%a} {day.day}",
            charge=amount_text(charge),
            short=str(to_cents(charge)) if charge else "",
            requests=f"{requests[day]:,}",
            height_px=max(1, int(charge / highest * BAR_PX)) if charge > 0 else 0,
        )
        for day, charge in charges.items()
    ]


def _waiting_figures(request: HttpRequest) -> list[Figure]:
    """Open rows of the lists to work through; partial indexes serve the counts, which end somewhere."""
    lists: tuple[tuple[str, Any, str, str], ...] = (
        ("Parked", ParkedEvent, "no price, unknown model, …", "warning"),
        ("Unclaimed", UnclaimedEvent, "nobody's key", "warning"),
        ("Conflicts", EventConflict, "same id, other content", "danger"),
        ("Quarantined", QuarantinedEvent, "malformed", "danger"),
    )
    figures = []
    for title, model, hint, tone in lists:
        if may_see(request, model._meta.label):
            count = model.objects.filter(resolved_at=None).order_by()[:MOST_ROWS].count()
            more = "+" if count == MOST_ROWS else ""
            figures.append(Figure(title, f"{count:,}{more}", hint, html.list_url(model), tone if count else ""))
    if may_see(request, "billing.WalletAdjustment"):
        asked = WalletAdjustment.objects.filter(status=WalletAdjustment.Status.PENDING).count()
        url = html.list_url(WalletAdjustment, "status__exact=pending")
        figures.append(Figure("Adjustments", f"{asked:,}", "wait for a second person", url, "warning" if asked else ""))
    if may_see(request, "billing.TopUp"):
        came = TopUp.objects.filter(status=TopUp.Status.WAITING).count()
        url = html.list_url(TopUp, "status__exact=waiting")
        figures.append(Figure("Payments", f"{came:,}", "wait for a second person", url, "warning" if came else ""))
    if may_see(request, "billing.CreditNoteRequest"):
        notes = CreditNoteRequest.objects.filter(status=CreditNoteRequest.Status.PENDING).count()
        url = html.list_url(CreditNoteRequest, "status__exact=pending")
        tone = "warning" if notes else ""
        figures.append(Figure("Credit notes", f"{notes:,}", "wait for a second person", url, tone))
    if may_see(request, "metering.PriceImport"):
        pending = PriceImport.objects.filter(status=PriceImport.Status.PENDING).count()
        url = html.list_url(PriceImport, "status__exact=pending")
        figures.append(
            Figure("Price imports", f"{pending:,}", "changed prices to approve", url, "warning" if pending else "")
        )
    return figures


def _uninvoiced_rows(request: HttpRequest, now: datetime) -> list[tuple[object, ...]]:
    """One row if there are customers whose usage of a closed month stands on no invoice."""
    if not may_see(request, "billing.Customer"):
        return []
    found = uninvoiced.recent(at=now)
    if not found.customers:
        return []
    count = f"{len(found.customers):,}{'+' if found.is_cut else ''}"
    who = "customer has" if count == "1" else "customers have"
    link = html.link(html.list_url(Customer, f"{NOT_INVOICED}=yes"), f"{count} {who} usage that no invoice covers")
    what = format_html("{}, of {} or before.", link, f"{found.through:%B %Y}")
    return [(html.badge("not invoiced", "danger"), html.lines(what, NOT_INVOICED_ADVICE), "")]


def _first_steps() -> list[Step]:
    """What a new installation still needs, in the order to do it."""
    return [
        Step("Load the price book", Model.objects.exists(), how="python manage.py import_prices"),
        Step(
            "Make a token for the relay",
            RelayToken.objects.filter(revoked_at=None).exists(),
            reverse("admin:metering_relaytoken_add"),
        ),
        Step(
            "Add the first customer",
            Customer.objects.exclude(is_house=True).exists(),
            reverse("admin:billing_customer_add"),
        ),
        Step("Give the customer an API key", ApiKey.objects.exists(), reverse("admin:metering_apikey_add")),
    ]
