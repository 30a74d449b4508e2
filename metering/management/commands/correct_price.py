from datetime import UTC, datetime
from typing import Any

from django.core.management.base import CommandError, CommandParser

from metering.price_corrections import CannotCorrect, correct_price
from relayadmin.commands import JsonCommand, amount
from relayadmin.money import amount_text


class Command(JsonCommand):
    help = "Correct a price row that was wrong all its time; then “rerate” puts right what it has charged."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("price", type=int, help="the row's number, as the price book shows it")
        parser.add_argument("unit_price", help="USD per million tokens or thousand calls, as the row has it")
        parser.add_argument("--reason", required=True, help="why it was wrong")
        parser.add_argument("--confirm", action="store_true", help="it is right, though it is free or far from before")

    def handle(self, *args: Any, **options: Any) -> None:
        try:
            price = correct_price(
                options["price"],
                amount(options["unit_price"], "unit_price"),
                who="command line",
                reason=options["reason"],
                at=datetime.now(UTC),
                is_confirmed=options["confirm"],
            )
        except CannotCorrect as error:
            raise CommandError(f"It was not corrected: {error}.") from error
        self.answer(
            {
                "price": price.pk,
                "corrects": price.corrects_id,
                "unit_price": amount_text(price.unit_price),
                "per": price.per,
            }
        )
