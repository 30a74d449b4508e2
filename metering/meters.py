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
    is_cache: bool = False  # a missing price is derived from the input price


METERS = (
    Meter("input", "Input tokens", PER_MILLION, True),
    Meter("cache_read", "Cache reads", PER_MILLION, True, True),
    Meter("cache_write_5m", "Cache writes, 5 minutes", PER_MILLION, True, True),
    Meter("cache_write_30m", "Cache writes, 30 minutes", PER_MILLION, True, True),
    Meter("cache_write_1h", "Cache writes, 1 hour", PER_MILLION, True, True),
    Meter("cache_write_12h", "Cache writes, 12 hours", PER_MILLION, True, True),
    Meter("audio_input", "Audio input tokens", PER_MILLION, True),
    Meter("audio_cache_read", "Audio cache reads", PER_MILLION, True),
    Meter("image_input", "Image input tokens", PER_MILLION, True),
    Meter("image_cache_read", "Image cache reads", PER_MILLION, True),
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
PROMPT_METERS = frozenset(meter.name for meter in METERS if meter.is_prompt)
