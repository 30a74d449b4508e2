"""Names: what a channel's name for a model says, and when two names certainly mean one model. Pure.

Two names are one model when they are the same once host prefixes, deployment suffixes, case and the choice between
dot, dash and underscore are set aside, and the vendors they name do not differ. Nothing is guessed from a likeness:
quantised, fast, batch or regional editions keep their ending and stay apart.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass

# Spellings of a vendor before the slash (on Bedrock, the dot) that differ from ours. Any other stands for itself.
VENDORS = {
    "arcee-ai": "arcee", "deepseek-ai": "deepseek", "meta-llama": "meta", "meta-models": "meta",
    "minimaxai": "minimax", "mistralai": "mistral", "moonshotai": "moonshot", "voyageai": "voyage",
    "x-ai": "xai", "xiaomimimo": "xiaomi", "z-ai": "zai", "zai-org": "zai",
}  # fmt: skip
# Of vendors with several spellings, the one in the public ids of models that no maker's own channel sells.
PUBLIC_VENDORS = {
    "arcee": "arcee-ai", "mistral": "mistralai", "moonshot": "moonshotai", "voyage": "voyageai", "xai": "x-ai",
    "zai": "z-ai",
}  # fmt: skip
HOST_PREFIX = re.compile(r"^(@cf/|accounts/fireworks/(models|routers)/|cerebras[/:])")
BEDROCK_REGION = re.compile(r"^(global|regional|us-gov|us|eu|apac|au|jp|in)\.")
BEDROCK_VERSION = re.compile(r"((?<=-20\d{6})-v\d+(:\d+)?|-v1(:\d+)?|-v0:\d+|-1:0|:0)$")
FIREWORKS_POINT = re.compile(r"(?<=\d)p(?=\d)")
VENDOR_IN_NAME = re.compile(r"^(zai-(?=glm)|meta-(?=llama-))")
LLAMA_POINT = re.compile(r"^llama-?(\d)[-.](\d)-")
LLAMA_WHOLE = re.compile(r"^llama(\d)-")
LLAMA_EXPERTS = {"llama-4-maverick-17b-instruct": "128e", "llama-4-scout-17b-instruct": "16e"}
EDITION = re.compile(r"-(latest|20\d{6})$")


@dataclass(frozen=True, slots=True)
class Name:
    """A model's name without its host: the vendor, "" when the name does not say, and the rest."""

    vendor: str
    rest: str

    @property
    def key(self) -> tuple[str, str]:
        return self.vendor, fold(self.rest)

    @property
    def public_id(self) -> str:
        vendor = PUBLIC_VENDORS.get(self.vendor, self.vendor)
        if vendor == "meta" and self.rest.startswith("llama-"):
            vendor = "meta-llama"
        return f"{vendor}/{self.rest}"


def fold(name: str) -> str:
    """The form in which spellings of one name agree."""
    return re.sub(r"[._@-]+", "-", name.lower())


def plain(name: str) -> str:
    """Folded, without its date or `-latest`."""
    return fold(EDITION.sub("", name))


def read_name(channel: str, name: str) -> Name:
    """Take a channel's name for a model apart."""
    rest = name.lower()
    if channel.startswith("bedrock"):
        vendor, dot, tail = BEDROCK_REGION.sub("", rest).partition(".")
        if dot and vendor.isalpha():
            return _name(vendor, BEDROCK_VERSION.sub("", tail))
        return Name("", BEDROCK_VERSION.sub("", rest))
    rest = HOST_PREFIX.sub("", rest)
    if channel == "fireworks":
        rest = FIREWORKS_POINT.sub(".", rest)
    vendor, _, rest = rest.rpartition("/")
    if vendor == channel:
        vendor = ""
    written = VENDOR_IN_NAME.match(rest)
    if not vendor and written:
        return _name(written[0].rstrip("-"), rest[written.end() :])
    return _name(vendor, rest)


def _name(vendor: str, rest: str) -> Name:
    known = VENDORS.get(vendor, vendor)
    if known == "meta":
        rest = LLAMA_POINT.sub(r"llama-\1.\2-", rest.removeprefix("meta-"))
        rest = LLAMA_WHOLE.sub(r"llama-\1-", rest)
        if rest in LLAMA_EXPERTS:
            rest = rest.replace("-17b-", f"-17b-{LLAMA_EXPERTS[rest]}-")
    if known == "amazon":
        rest = rest.removesuffix("-v1")
    return Name(known, rest)


def is_full_name(text: str) -> bool:
    """Whether a fragment of a match rule can stand as a name: no wildcard, no trailing joint, no half of a date."""
    return (
        len(text) > 3
        and text.isascii()
        and not text.startswith(("-", "/"))
        and not text.endswith(("-", "@", ".", ":", "/", "-v", "-0"))
        and not re.search(r"-20\d\d$|[*()\\^$| ]", text)
    )


def unique(names: Iterable[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(names))
