from datetime import UTC, datetime
from typing import Any

from django.core.management.base import CommandError, CommandParser

from billing import stripe_reconciliation
from billing.stripe_objects import GatewayRejected, GatewayUnavailable, PaymentsNotConfigured
from relayadmin.commands import JsonCommand
from relayadmin.money import amount_text

DAYS_MAX = 3_653


class Command(JsonCommand):
    help = "Hold Stripe's balance transactions against the payments; exits with 1 if a difference is open."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--days", type=int, help="look so many days back, not only since the last run")

    def handle(self, *args: Any, **options: Any) -> None:
        days = options["days"]
        if days is not None and not 1 <= days <= DAYS_MAX:
            raise CommandError(f"--days must be from 1 to {DAYS_MAX}.")
        try:
            done = stripe_reconciliation.reconcile(at=datetime.now(UTC), days=days)
        except (GatewayRejected, GatewayUnavailable, PaymentsNotConfigured) as error:
            raise CommandError(f"{error}.") from error
        standing = stripe_reconciliation.standing()
        sums = {"at_stripe": amount_text(standing.at_stripe), "in_ledger": amount_text(standing.in_ledger)}
        self.answer({"ok": not done.differences, **done.as_dict(), **sums, "unbooked": standing.unbooked})
        if done.differences:
            raise SystemExit(1)
