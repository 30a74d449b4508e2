"""The providers' own SDK types, dumped: a counter that we misname, or that an SDK adds, is noticed here.

Each sample sets every counter of its type. A type that grows one makes its sample incomplete, and the first test fails
until the sample, and then the format, knows it.
"""

import json
from collections.abc import Iterator
from typing import Annotated, Any, get_args, get_origin

import botocore.loaders
import botocore.model
import botocore.parsers
import pytest
from anthropic.types import MessageDeltaUsage
from anthropic.types import Usage as AnthropicUsage
from anthropic.types.beta import BetaMessageDeltaUsage, BetaUsage
from google.genai.types import GenerateContentResponseUsageMetadata
from openai.types import CompletionUsage
from openai.types.beta import BetaResponseUsage
from openai.types.responses import ResponseUsage
from pydantic import BaseModel

from metering import formats

WRITES = {
    "cache_creation": {"ephemeral_5m_input_tokens": 3, "ephemeral_1h_input_tokens": 4},
    "cache_creation_input_tokens": 7,
    "cache_read_input_tokens": 5,
}
CALL = {"input_tokens": 1, "output_tokens": 6, **WRITES}
WHOLE = {
    **CALL,
    "output_tokens_details": {"thinking_tokens": 2},
    "server_tool_use": {"web_fetch_requests": 1, "web_search_requests": 2},
    "service_tier": "standard",
    "speed": "standard",
    "inference_geo": "us",
}
DELTA = {name: WHOLE[name] for name in WHOLE if name in MessageDeltaUsage.model_fields}
ITERATIONS = [
    {"type": "compaction", **CALL},
    {"type": "advisor_message", "model": "claude-opus-5", **CALL},
    {"type": "message", "model": "claude-fable-5", **CALL},
    {"type": "fallback_message", "model": "claude-opus-5", **CALL},
]
RESPONSES = {
    "input_tokens": 20,
    "input_tokens_details": {
        "cached_tokens": 5,
        "cache_write_tokens": 7,
        "cache_write_tokens_details": {"ttl_30m_tokens": 3, "ttl_12h_tokens": 4},
    },
    "output_tokens": 9,
    "output_tokens_details": {"reasoning_tokens": 2},
    "total_tokens": 29,
}
CLAUDE = {"input": 1, "cache_read": 5, "cache_write_5m": 3, "cache_write_1h": 4, "output": 6}
# A delta has no split of its own: its writes live for the default.
IN_A_DELTA = {"input": 1, "cache_read": 5, "cache_write_5m": 7, "output": 6, "web_search": 2}
FOUR_CALLS = {meter: 4 * quantity for meter, quantity in CLAUDE.items()}
OPENAI = {"input": 8, "cache_read": 5, "cache_write_30m": 3, "cache_write_12h": 4, "output": 9}
TEXT = [{"modality": "TEXT", "token_count": 1}]
PYDANTIC = {
    "anthropic": ("anthropic.messages", AnthropicUsage, WHOLE, {**CLAUDE, "web_search": 2}),
    "anthropic stream": ("anthropic.messages", MessageDeltaUsage, DELTA, IN_A_DELTA),
    "anthropic beta": (
        "anthropic.messages",
        BetaUsage,
        {**WHOLE, "iterations": ITERATIONS},
        {**FOUR_CALLS, "web_search": 2},
    ),
    "anthropic beta stream": (
        "anthropic.messages",
        BetaMessageDeltaUsage,
        {**DELTA, "iterations": ITERATIONS},
        {**FOUR_CALLS, "web_search": 2},
    ),
    "openai chat": (
        "openai.chat",
        CompletionUsage,
        {
            "prompt_tokens": 40,
            "prompt_tokens_details": {
                "cached_tokens": 5,
                "cache_write_tokens": 7,
                "audio_tokens": 3,
                "text_tokens": 2,
                "image_tokens": 1,
            },
            "completion_tokens": 20,
            "completion_tokens_details": {
                "reasoning_tokens": 1,
                "audio_tokens": 2,
                "text_tokens": 3,
                "accepted_prediction_tokens": 4,
                "rejected_prediction_tokens": 5,
            },
            "total_tokens": 60,
        },
        {"input": 25, "cache_read": 5, "cache_write_30m": 7, "audio_input": 3, "output": 18, "audio_output": 2},
    ),
    "openai responses": ("openai.responses", ResponseUsage, RESPONSES, OPENAI),
    "openai beta responses": ("openai.responses", BetaResponseUsage, RESPONSES, OPENAI),
    "gemini": (
        "gemini.generate",
        GenerateContentResponseUsageMetadata,
        {
            "prompt_token_count": 40,
            "prompt_tokens_details": TEXT,
            "cached_content_token_count": 5,
            "cache_tokens_details": TEXT,
            "tool_use_prompt_token_count": 6,
            "tool_use_prompt_tokens_details": TEXT,
            "candidates_token_count": 7,
            "candidates_tokens_details": TEXT,
            "thoughts_token_count": 8,
            "total_token_count": 61,
            "traffic_type": "ON_DEMAND",
        },
        {"input": 41, "cache_read": 5, "output": 15},
    ),
}


def counters_of(kind: Any) -> Iterator[str]:
    """The dotted names of all whole numbers inside a type; a list adds nothing to the name."""
    if get_origin(kind) is Annotated:
        yield from counters_of(get_args(kind)[0])
    elif get_args(kind):
        for inner in get_args(kind):
            yield from counters_of(inner)
    elif kind is int:
        yield ""
    elif isinstance(kind, type) and issubclass(kind, BaseModel):
        for name, field in kind.model_fields.items():
            for counter in counters_of(field.annotation):
                yield f"{name}.{counter}".rstrip(".")


def counters_in(value: object) -> Iterator[str]:
    """The dotted names of all whole numbers above zero inside a dumped object."""
    if isinstance(value, dict):
        for name, inner in value.items():
            for counter in counters_in(inner):
                yield f"{name}.{counter}".rstrip(".")
    elif isinstance(value, list):
        for item in value:
            yield from counters_in(item)
    elif type(value) is int and value > 0:
        yield ""


@pytest.mark.parametrize(("name", "kind", "fields", "meters"), PYDANTIC.values(), ids=PYDANTIC)
def test_every_counter_of_the_type_is_in_its_sample(
    name: str, kind: type[BaseModel], fields: dict[str, Any], meters: dict[str, int]
) -> None:
    assert set(counters_in(kind.model_validate(fields).model_dump())) == set(counters_of(kind))


@pytest.mark.parametrize(("name", "kind", "fields", "meters"), PYDANTIC.values(), ids=PYDANTIC)
def test_every_counter_of_the_type_is_known_and_counted(
    name: str, kind: type[BaseModel], fields: dict[str, Any], meters: dict[str, int]
) -> None:
    dumped = json.loads(kind.model_validate(fields).model_dump_json(by_alias=True))
    read = formats.read(name, dumped)
    assert read.unknown == ""
    assert read.quantities == meters
    assert read.service_tier == "standard"


def test_the_calls_of_the_beta_type_are_priced_by_their_own_models() -> None:
    usage = BetaUsage.model_validate({**WHOLE, "iterations": ITERATIONS}).model_dump(mode="json")
    parts = formats.read("anthropic.messages", usage).parts
    assert [(part.kind, part.model) for part in parts] == [
        ("compaction", None),
        ("advisor_message", "claude-opus-5"),
        ("message", "claude-fable-5"),
        ("fallback_message", "claude-opus-5"),
    ]


@pytest.mark.parametrize("kind", [BetaUsage, BetaMessageDeltaUsage])
def test_the_one_call_of_the_beta_type_tells_its_lifetimes(kind: type[BaseModel]) -> None:
    top = {**DELTA, "iterations": [{"type": "message", "model": "claude-fable-5", **CALL}]}
    read = formats.read("anthropic.messages", json.loads(kind.model_validate(top).model_dump_json()))
    assert read.quantities == {**CLAUDE, "web_search": 2}
    assert (read.unknown, read.parts) == ("", ())


@pytest.fixture(scope="module")
def service() -> botocore.model.ServiceModel:
    description = botocore.loaders.Loader().load_service_model("bedrock-runtime", "service-2")
    return botocore.model.ServiceModel(description, "bedrock-runtime")


class TestBotocore:
    USAGE = {
        "inputTokens": 1,
        "outputTokens": 2,
        "totalTokens": 15,
        "cacheReadInputTokens": 5,
        "cacheWriteInputTokens": 7,
        "cacheDetails": [{"ttl": "1h", "inputTokens": 4}, {"ttl": "5m", "inputTokens": 3}],
    }

    def test_the_sample_holds_every_member(self, service: botocore.model.ServiceModel) -> None:
        usage = service.shape_for("TokenUsage")
        assert set(self.USAGE) == set(usage.members)
        assert {"ttl", "inputTokens"} == set(usage.members["cacheDetails"].member.members)
        assert service.shape_for("CacheTTL").enum == ["5m", "1h"]

    def test_what_botocore_parses_of_an_answer_is_known_and_counted(self, service: botocore.model.ServiceModel) -> None:
        answer = {"body": json.dumps({"usage": self.USAGE}).encode(), "headers": {}, "status_code": 200}
        shape = service.operation_model("Converse").output_shape
        parsed = botocore.parsers.create_parser("rest-json").parse(answer, shape)["usage"]
        read = formats.read("bedrock.converse", parsed)
        assert read.unknown == ""
        assert read.quantities == {"input": 1, "cache_read": 5, "cache_write_5m": 3, "cache_write_1h": 4, "output": 2}
