"""The meters: kinds of billable quantity. Token meters are disjoint. Pure: no Django.

Each has a column of its own name in `UsageHour`; a new meter is an entry here and a migration there.
"""

from dataclasses import dataclass

PER_MILLION = 1_000_000
PER_THOUSAND = 1_000


@dataclass(frozen=True, slots=True)
class Meter:
    name: str
    label: str
    per: int
    is_prompt: bool  # counts towards the prompt size that chooses a tier
    plain: str = ""  # of a meter of caching, the one that its tokens would have counted in without a cache


METERS = (
    Meter("input", "Input tokens", PER_MILLION, True),
    Meter("cache_read", "Cache reads", PER_MILLION, True, "input"),
    Meter("cache_write_5m", "Cache writes, 5 minutes", PER_MILLION, True, "input"),
    Meter("cache_write_30m", "Cache writes, 30 minutes", PER_MILLION, True, "input"),
    Meter("cache_write_1h", "Cache writes, 1 hour", PER_MILLION, True, "input"),
    Meter("cache_write_12h", "Cache writes, 12 hours", PER_MILLION, True, "input"),
    Meter("audio_input", "Audio input tokens", PER_MILLION, True),
    Meter("audio_cache_read", "Audio cache reads", PER_MILLION, True, "audio_input"),
    Meter("image_input", "Image input tokens", PER_MILLION, True),
    Meter("image_cache_read", "Image cache reads", PER_MILLION, True, "image_input"),
    Meter("video_input", "Video input tokens", PER_MILLION, True),
    Meter("output", "Output tokens", PER_MILLION, False),
    Meter("audio_output", "Audio output tokens", PER_MILLION, False),
    Meter("image_output", "Image output tokens", PER_MILLION, False),
    Meter("video_output", "Video output tokens", PER_MILLION, False),
    Meter("web_search", "Web searches", PER_THOUSAND, False),
    Meter("file_search", "File searches", PER_THOUSAND, False),
    Meter("request", "Requests", PER_THOUSAND, False),
)
BY_NAME = {meter.name: meter for meter in METERS}
NAMES = tuple(BY_NAME)
PLAIN_METER = {meter.name: meter.plain for meter in METERS if meter.plain}
# How the book marks a price that it has only taken over, and from which meter, for want of one of its own.
INPUT_PRICE, READ_PRICE = "input price", "cache read price"
TAKEN_OVER = {INPUT_PRICE: "input", READ_PRICE: "cache_read"}
PROMPT_METERS = frozenset(meter.name for meter in METERS if meter.is_prompt)
