"""Names: what a provider's name for a model says, and when two names certainly mean one model. Pure.

Two names are one model when they are the same once host prefixes, deployment suffixes, case and the choice between
dot, dash and underscore are set aside, and their vendors do not contradict each other. Nothing is guessed from a
likeness: quantised, fast, batch or regional editions keep their ending and stay apart.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass

from metering.price_sources.channels import CHANNELS

# How hosts write the makers' names before a slash or, on Bedrock, a dot.
VENDORS = {
    "01-ai": "01-ai", "ai21": "ai21", "allenai": "allenai", "amazon": "amazon", "anthropic": "anthropic",
    "arcee": "arcee", "arcee-ai": "arcee", "baidu": "baidu", "bytedance-seed": "bytedance-seed",
    "cohere": "cohere", "deepseek": "deepseek", "deepseek-ai": "deepseek", "google": "google",
    "meta": "meta", "meta-llama": "meta", "meta-models": "meta", "microsoft": "microsoft",
    "minimax": "minimax", "minimaxai": "minimax", "mistral": "mistral", "mistralai": "mistral",
    "moonshotai": "moonshot", "moonshot": "moonshot", "nousresearch": "nousresearch", "nvidia": "nvidia",
    "openai": "openai", "perplexity": "perplexity", "qwen": "qwen", "reflection": "reflection",
    "thinkingmachines": "thinkingmachines", "upstage": "upstage", "voyageai": "voyage", "writer": "writer",
    "x-ai": "xai", "xai": "xai", "z-ai": "zai", "zai": "zai", "zai-org": "zai",
}  # fmt: skip
HOST_PREFIXES = re.compile(r"^(@cf/|accounts/fireworks/(models|routers)/|cerebras[/:]|zai-(?=glm))")
BEDROCK_REGION = re.compile(r"^(global|regional|us-gov|us|eu|apac|au|jp|in|ca)\.")
BEDROCK_VERSION = re.compile(r"(-v\d+)?(:\d+)?$")
FIREWORKS_POINT = re.compile(r"(?<=\d)p(?=\d)")
LLAMA_POINT = re.compile(r"^llama-?(\d)[-.](\d)-")
MAKER_CHANNELS = {channel.vendor: channel.name for channel in CHANNELS if channel.vendor}


@dataclass(frozen=True, slots=True)
class Name:
    """A model's name without its host: vendor ("" when the name does not say, "?x" for an unknown x) and the rest."""

    vendor: str
    rest: str

    @property
    def key(self) -> tuple[str, str]:
        return self.vendor, fold(self.rest)

    @property
    def is_certain(self) -> bool:
        return bool(self.vendor) and not self.vendor.startswith("?")


def fold(name: str) -> str:
    """The form in which spellings of one name agree."""
    return re.sub(r"[._@-]+", "-", name.lower())


def read_name(channel: str, name: str) -> Name:
    """Take a channel's name for a model apart."""
    rest = name.lower()
    if channel.startswith("bedrock"):
        vendor, _, tail = BEDROCK_REGION.sub("", rest).partition(".")
        if tail and vendor in VENDORS:
            return _name(vendor, BEDROCK_VERSION.sub("", tail))
        return Name("", rest)
    vendor = "zai" if re.match(r"^zai-(?=glm)", rest) else ""
    rest = HOST_PREFIXES.sub("", rest)
    if channel == "fireworks":
        rest = FIREWORKS_POINT.sub(".", rest)
    if "/" in rest:
        vendor, _, rest = rest.rpartition("/")
        if vendor == channel == "perplexity":
            vendor = ""
    return _name(vendor, rest)


def _name(vendor: str, rest: str) -> Name:
    known = VENDORS.get(vendor, f"?{vendor}" if vendor else "")
    if known == "meta":
        rest = LLAMA_POINT.sub(r"llama-\1.\2-", rest.removeprefix("meta-"))
    return Name(known, rest)


def is_full_name(text: str) -> bool:
    """Whether a fragment of a match rule can stand as a name: no wildcard, no trailing joint, no half of a date."""
    return (
        len(text) > 3
        and text.isascii()
        and not text.endswith(("-", "@", ".", ":", "/", "-v"))
        and not re.search(r"-20\d\d$|[*()\\^$| ]", text)
        and not text.startswith(("-", "/"))
    )


def unique(names: Iterable[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(names))
