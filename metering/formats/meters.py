"""`meters`: our own disjoint meters by name, `{"input": 1000, "cache_write_5m": 3000}`. Exclusive by definition."""

from typing import Any

from metering.formats.base import InvalidUsage, Usage, count
from metering.meters import BY_NAME, PROMPT_METERS


def read(usage: dict[str, Any]) -> Usage:
    """Read quantities by meter. Raises InvalidUsage for an unknown meter, or for none at all."""
    if not usage:
        raise InvalidUsage('usage names no meter; write {"input": 0} where nothing was used')
    quantities = {}
    prompt_tokens = 0
    for name, value in usage.items():
        if name not in BY_NAME:
            raise InvalidUsage(f"usage.{name[:60]} is not a meter; the meters are {', '.join(BY_NAME)}")
        quantity = count(value, name)
        if quantity:
            quantities[name] = quantity
        if name in PROMPT_METERS:
            prompt_tokens += quantity
    return Usage(dict(sorted(quantities.items())), prompt_tokens)
