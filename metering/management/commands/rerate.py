from datetime import UTC, datetime
from typing import Any

from django.core.management.base import CommandError, CommandParser

from billing.models import Customer
from metering import pricing, rerating
from metering.rerating import CannotRerate, Outcome, Sums
from metering.rerating_pages import Scope
from relayadmin.commands import JsonCommand
from relayadmin.money import EXACT, ZERO, amount_text, cents_text, total


class Command(JsonCommand):
    help = "Show what events would be charged at the price book's present prices; with --apply, put them right."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--start", required=True, help="of when the calls ended, such as 2026-10-01T00:00:00Z")
        parser.add_argument("--end", required=True, help="the first moment after it")
        parser.add_argument("--model", default="", help="an id or an alias: what counts as this model now, or ever did")
        parser.add_argument("--customer", default="", help="cus_…, for this customer only")
        parser.add_argument("--reparse", action="store_true", help="read the providers' usage again, too")
        parser.add_argument("--reason", default="", help="of --apply: stands on the transfers, for customers")
        parser.add_argument(
            "--by-credit-note",
            action="store_true",
            help="what gets cheaper of issued invoices ends in credit notes; without, it stands on the next invoice",
        )
        parser.add_argument("--apply", action="store_true", help="change it; without, nothing is written")

    def handle(self, *args: Any, **options: Any) -> None:
        scope = _scope(options)
        by_credit_note = options["by_credit_note"]
        if options["apply"]:
            outcome = _apply(scope, options["reason"], by_credit_note=by_credit_note)
        else:
            outcome = rerating.preview(scope, by_credit_note=by_credit_note)
        for reason, count in sorted(outcome.left.items()):
            self.note(f"{count} events were left as they are: {reason}.")
        self.answer(_body(outcome, is_applied=options["apply"]))


def _apply(scope: Scope, reason: str, *, by_credit_note: bool) -> Outcome:
    at = datetime.now(UTC)
    try:
        return rerating.apply(scope, reason=reason, actor="command line", at=at, by_credit_note=by_credit_note)
    except CannotRerate as error:
        raise CommandError(f"Nothing was changed: {error}, with --reason.") from error


def _scope(options: dict[str, Any]) -> Scope:
    start, end = _moment("--start", options["start"]), _moment("--end", options["end"])
    if start >= end:
        raise CommandError("--start must be before --end.")
    customer = model_id = None
    if options["customer"]:
        customer = Customer.objects.filter(public_id=options["customer"]).first()
        if customer is None:
            raise CommandError(f"There is no customer {options['customer']!r}.")
    if options["model"]:
        model_id = pricing.current().catalog.resolve(options["model"])
        if model_id is None:
            raise CommandError(f"There is no model {options['model']!r}.")
    return Scope(start, end, model_id, None if customer is None else customer.pk, options["reparse"])


def _moment(name: str, text: str) -> datetime:
    try:
        moment = datetime.fromisoformat(text)
    except ValueError as error:
        raise CommandError(f"{name} {text!r} is not a time; write 2026-10-01T00:00:00Z.") from error
    if moment.tzinfo is None:
        raise CommandError(f"{name} needs an offset, such as Z.")
    return moment


def _body(outcome: Outcome, *, is_applied: bool) -> dict[str, Any]:
    names = dict(Customer.objects.filter(pk__in=outcome.customers).values_list("pk", "public_id"))
    everybody = Sums(events=sum(sums.events for sums in outcome.customers.values()))
    for name in ("old_charge", "new_charge", "old_cost", "new_cost"):
        setattr(everybody, name, total([getattr(sums, name) for sums in outcome.customers.values()] or [ZERO]))
    return {
        "applied": is_applied,
        "rerating": None if outcome.rerating is None else outcome.rerating.pk,
        "events": outcome.events,
        "left": outcome.left,
        "total": _figures(everybody),
        "customers": [
            {"customer": names[number], **_figures(sums), **_endings(outcome, number, is_applied=is_applied)}
            for number, sums in sorted(outcome.customers.items())
        ],
    }


def _endings(outcome: Outcome, customer_id: int, *, is_applied: bool) -> dict[str, Any]:
    """Where a customer's difference stands: the credit notes that were issued, or what would come of it by invoice."""
    if is_applied:
        notes = [note for note in outcome.notes if note.customer_id == customer_id]
        return {"credit_notes": [{"number": note.number, "total": cents_text(note.total)} for note in notes]}
    return {
        "ends": [
            {
                "billed": f"{ending.billed:%Y-%m}",
                "difference": amount_text(ending.difference),
                "invoice": None if ending.invoice is None else ending.invoice.number,
                "as": "next_invoice" if ending.note is None else "credit_note",
                "credit_note": None
                if ending.note is None
                else {"subtotal": cents_text(ending.note.subtotal), "tax": cents_text(ending.note.tax)},
                "why": ending.why,
            }
            for ending in outcome.endings[customer_id]
        ]
    }


def _figures(sums: Sums) -> dict[str, Any]:
    """The events that differ: what they are charged, and cost, before and after."""
    return {
        "changed": sums.events,
        "old": amount_text(sums.old_charge),
        "new": amount_text(sums.new_charge),
        "difference": amount_text(EXACT.subtract(sums.new_charge, sums.old_charge)),
        "old_cost": amount_text(sums.old_cost),
        "new_cost": amount_text(sums.new_cost),
        "cost_difference": amount_text(EXACT.subtract(sums.new_cost, sums.old_cost)),
    }
