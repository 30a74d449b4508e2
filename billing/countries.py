"""Countries by their two letters (ISO 3166), as the time zone database lists them; and numbers that their tax office
gives, checked by form and check digits (python-stdnum). Nothing is asked over the network."""

from functools import cache
from importlib import resources

from stdnum import get_cc_module
from stdnum.eu import vat as eu_vat
from stdnum.exceptions import ValidationError

# Where the number's own letters are others than the country's.
_PREFIXES = {"GR": "EL"}


class InvalidTaxNumber(ValueError):
    """The number is none of this country's: its form or its check digits are wrong."""


@cache
def names() -> dict[str, str]:
    """By two letters, the English name: {"ES": "Spain", …}."""
    text = (resources.files("tzdata.zoneinfo") / "iso3166.tab").read_text(encoding="utf-8")
    rows = (line.split("\t") for line in text.splitlines() if line and not line.startswith("#"))
    return {row[0]: row[1] for row in rows}


def check_tax_number(country: str, number: str) -> tuple[str, bool]:
    """A number as it stands on documents, and whether it could be checked; where nobody knows how, it stands as given.

    In the European Union it begins with the country's letters, added if they are missing. Raises InvalidTaxNumber.
    """
    given = number.strip()
    in_union = country.lower() in eu_vat.MEMBER_STATES or country == "GR"
    module = None if in_union else get_cc_module(country.lower(), "vat")
    if not in_union and module is None:
        return given, False
    try:
        if module is not None:
            return str(module.validate(given)), True
        prefix = _PREFIXES.get(country, country)
        compact = "".join(sign for sign in given.upper() if sign.isalnum())
        return str(eu_vat.validate(compact if compact.startswith(prefix) else prefix + compact)), True
    except ValidationError as error:
        raise InvalidTaxNumber(f"{given} is not a tax number of {names().get(country, country)}") from error
