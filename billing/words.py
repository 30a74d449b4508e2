"""Words, numbers, money and days as documents show them, in the language of whoever reads them. Pure."""

from datetime import date, datetime
from decimal import Decimal, localcontext
from functools import cache
from zoneinfo import ZoneInfo

from babel import Locale
from babel.dates import format_date, format_skeleton
from babel.numbers import NumberPattern, parse_pattern

from billing.document_texts import LANGUAGES, TEXTS
from relayadmin.money import EXACT

_LOCALES = {"en": "en", "es": "es", "zh-hans": "zh_Hans_CN"}
# As wide as a digit: it pads a column's fractions, so that the points stand below one another.
FIGURE_SPACE = "\u2007"


class Words:
    """One language. Amounts keep every digit: nothing here rounds."""

    def __init__(self, language: str) -> None:
        self.place = LANGUAGES.index(language)
        self.locale = Locale.parse(_LOCALES[language])

    @property
    def lang(self) -> str:
        """ISO 639, for hyphens, quotes and the choice of glyphs."""
        return self.locale.language

    @property
    def region(self) -> str | None:
        return self.locale.territory

    def text(self, name: str, /, **filled: str) -> str:
        """A text of the table, filled in. Raises KeyError for a name that is not there."""
        text = TEXTS[name][self.place]
        return text.format(**filled) if filled else text

    def text_or(self, name: str, other: str) -> str:
        """A text of the table, or another where the table has none: of what is sold, data may know more."""
        return TEXTS[name][self.place] if name in TEXTS else other

    def number(self, number: Decimal | int, *, at_least: int = 0, width: int = 0) -> str:
        """A number with all its decimals, at least so many; its fraction is padded to `width` digits."""
        exact = Decimal(number)
        decimals = max(at_least, _decimals(exact))
        with localcontext(EXACT):  # Babel would cut at 28 digits
            text: str = _pattern(decimals).apply(exact, self.locale, decimal_quantization=False)
        return text + FIGURE_SPACE * max(0, width - decimals)

    def money(self, amount: Decimal, currency: str, *, at_least: int = 2) -> str:
        """ "1,234.50 USD": the code, for "$" is many currencies; never broken between lines."""
        return f"{self.number(amount, at_least=at_least)}\u00a0{currency}"

    def percent(self, rate: Decimal) -> str:
        """0.21 is "21%"."""
        exact = EXACT.scaleb(rate, 2)
        sign = "\u00a0%" if self.lang == "es" else "%"
        return self.number(exact) + sign

    def day(self, at: datetime | date, zone: ZoneInfo | None = None) -> str:
        """ "November 2, 2026"; a moment's day in a time zone."""
        local = at.astimezone(zone).date() if isinstance(at, datetime) else at
        return str(format_date(local, "long", locale=self.locale))

    def month(self, month: date) -> str:
        """ "November 2026"."""
        return str(format_skeleton("yMMMM", month, locale=self.locale))

    def country(self, code: str) -> str:
        """A country's name; its code where there is none."""
        return str(self.locale.territories.get(code.upper(), code))


@cache
def words(language: str) -> Words:
    """The words of a language; English where a document is in one that is no more."""
    return Words(language if language in LANGUAGES else "en")


@cache
def _pattern(decimals: int) -> NumberPattern:
    return parse_pattern("#,##0" + "." * bool(decimals) + "0" * decimals)


def decimals(amounts: list[Decimal], *, at_least: int) -> int:
    """The decimals of the one that has most: the width of a column's fractions."""
    return max([at_least, *map(_decimals, amounts)])


def _decimals(number: Decimal) -> int:
    exponent = EXACT.normalize(number).as_tuple().exponent
    return max(0, -exponent) if isinstance(exponent, int) else 0
