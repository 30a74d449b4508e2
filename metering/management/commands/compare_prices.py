import json
from argparse import ArgumentParser
from decimal import Decimal
from pathlib import Path
from typing import Any, NoReturn

from django.core.management.base import CommandError
from django.utils import timezone

from metering import pricing
from metering.meters import BY_NAME
from metering.price_comparison import Disagreement, compare
from relayadmin.commands import JsonCommand


class Command(JsonCommand):
    help = "Compare the price book with LiteLLM's model_prices_and_context_window.json; lists where they disagree."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("--litellm", required=True, metavar="FILE", help="LiteLLM's table, as downloaded.")

    def handle(self, *args: Any, **options: Any) -> None:
        found = compare(_read(options["litellm"]), pricing.current(), at=timezone.now())
        self.answer(
            {
                "models": found.models,
                "figures": found.figures,
                "unknown": found.unknown,
                "elsewhere": found.elsewhere,
                "disagreements": [_shown(item) for item in found.disagreements],
            }
        )
        self.note(f"{len(found.disagreements)} of {found.figures} prices differ; neither table is always right.")


def _read(path: str) -> dict[str, Any]:
    """The file as JSON, numbers exact. Raises CommandError."""
    try:
        document = json.loads(Path(path).read_bytes(), parse_float=Decimal, parse_constant=_refuse)
    except OSError as error:
        raise CommandError(f"{path} can't be read: {error.strerror}.") from error
    except (ValueError, RecursionError) as error:
        raise CommandError(f"{path} is not JSON: {error}.") from error
    if not isinstance(document, dict):
        raise CommandError(f"{path} is not LiteLLM's table: it has no models by name.")
    return document


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is not a number")


def _shown(found: Disagreement) -> dict[str, object]:
    figure = found.figure
    return {
        "model": found.model,
        "channel": found.channel,
        "variant": figure.variant or "standard",
        "meter": figure.meter,
        "above_prompt_tokens": figure.above_prompt_tokens,
        "per": BY_NAME[figure.meter].per,
        "ours": None if found.ours is None else f"{found.ours.normalize():f}",
        "theirs": f"{figure.unit_price.normalize():f}",
        "name": found.name,
    }
