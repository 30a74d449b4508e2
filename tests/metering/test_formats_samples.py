"""A table of samples for each format: the provider's object, and the disjoint meters it stands for."""

import re
from pathlib import Path
from typing import Any

import pytest

from metering import formats
from metering.formats import InvalidUsage, Usage

ANTHROPIC = {"input_tokens": 100, "output_tokens": 50}
CHAT = {"prompt_tokens": 100, "completion_tokens": 50}
RESPONSES = {"input_tokens": 100, "output_tokens": 50}
CONVERSE = {"inputTokens": 100, "outputTokens": 50}
INVOKE = {"inputTokenCount": 100, "outputTokenCount": 50}
GEMINI = {"promptTokenCount": 100}
METRICS = "amazon-bedrock-invocationMetrics"

SAMPLES = [
    # new-api: its cached_tokens are inside the prompt, unless it says otherwise
    (
        "openai.chat",
        {**CHAT, "total_tokens": 150, "prompt_tokens_details": {"cached_tokens": 60, "cached_creation_tokens": 30}},
        {"input": 10, "cache_read": 60, "cache_write_5m": 30, "output": 50},
    ),
    (
        "openai.chat",
        {
            **CHAT,
            "prompt_tokens_details": {"cached_tokens": 60, "cached_creation_tokens": 30},
            "claude_cache_creation_5_m_tokens": 10,
            "claude_cache_creation_1_h_tokens": 20,
            "usage_semantic": "openai",
        },
        {"input": 10, "cache_read": 60, "cache_write_5m": 10, "cache_write_1h": 20, "output": 50},
    ),
    (
        "openai.chat",
        {
            **CHAT,
            "total_tokens": 150,
            "prompt_tokens_details": {"cached_tokens": 600, "cached_creation_tokens": 30},
            "usage_semantic": "anthropic",
        },
        {"input": 100, "cache_read": 600, "cache_write_5m": 30, "output": 50},
    ),
    (
        "openai.chat",
        {**CHAT, "total_tokens": 750, "prompt_tokens_details": {"cached_tokens": 600}, "usage_semantic": "anthropic"},
        {"input": 100, "cache_read": 600, "output": 50},
    ),
    (
        "openai.chat",
        {**CHAT, "prompt_tokens_details": {"cache_write_tokens": 30}, "usage_semantic": "anthropic"},
        {"input": 100, "cache_write_5m": 30, "output": 50},
    ),
    (
        "openai.chat",
        {
            **CHAT,
            "prompt_tokens_details": {"cache_write_tokens": 30, "cached_creation_tokens": 30},
            "claude_cache_creation_5_m_tokens": 0,
        },
        {"input": 70, "cache_write_30m": 30, "output": 50},
    ),
    (
        "openai.chat",
        {**CHAT, "prompt_cache_hit_tokens": 64, "prompt_cache_miss_tokens": 36},
        {"input": 36, "cache_read": 64, "output": 50},
    ),
    (
        "openai.chat",
        {**CHAT, "prompt_cache_hit_tokens": 64, "prompt_tokens_details": {"cached_tokens": 64}},
        {"input": 36, "cache_read": 64, "output": 50},
    ),
    (
        "openai.chat",
        {**CHAT, "prompt_tokens_details": {"cached_tokens": 90, "image_tokens": 80, "text_tokens": 20}},
        {"input": 10, "cache_read": 90, "output": 50},
    ),
    (
        "openai.chat",
        {**CHAT, "completion_tokens_details": {"image_tokens": 30, "audio_tokens": 5, "rejected_prediction_tokens": 9}},
        {"input": 100, "output": 15, "audio_output": 5, "image_output": 30},
    ),
    (
        "openai.responses",
        {
            **RESPONSES,
            "total_tokens": 150,
            "input_tokens_details": {
                "cached_tokens": 40,
                "cache_write_tokens": 30,
                "cache_write_tokens_details": {"ttl_30m_tokens": 10, "ttl_12h_tokens": 20},
            },
            "output_tokens_details": {"reasoning_tokens": 50},
        },
        {"input": 30, "cache_read": 40, "cache_write_30m": 10, "cache_write_12h": 20, "output": 50},
    ),
    (
        "openai.responses",
        {**RESPONSES, "input_tokens_details": {"cache_write_tokens": 30, "cache_write_tokens_details": None}},
        {"input": 70, "cache_write_30m": 30, "output": 50},
    ),
    ("openai.responses", {**RESPONSES, "input_tokens_details": None}, {"input": 100, "output": 50}),
    (
        "bedrock.converse",
        {
            **CONVERSE,
            "totalTokens": 5150,
            "cacheReadInputTokens": 4000,
            "cacheWriteInputTokens": 1000,
            "cacheDetails": [{"ttl": "1h", "inputTokens": 400}, {"ttl": "5m", "inputTokens": 600}],
        },
        {"input": 100, "cache_read": 4000, "cache_write_5m": 600, "cache_write_1h": 400, "output": 50},
    ),
    (
        "bedrock.converse",
        {**CONVERSE, "totalTokens": 1150, "cacheWriteInputTokens": 1000, "cacheDetails": []},
        {"input": 100, "cache_write_5m": 1000, "output": 50},
    ),
    (
        "bedrock.converse",
        {**CONVERSE, "cacheReadInputTokens": None, "cacheWriteInputTokens": None, "cacheDetails": None},
        {"input": 100, "output": 50},
    ),
    (
        "bedrock.invoke",
        {
            METRICS: {
                **INVOKE,
                "cacheReadInputTokenCount": 7,
                "cacheWriteInputTokenCount": 9,
                "invocationLatency": 1305,
                "firstByteLatency": 402,
            },
            "type": "message_stop",
        },
        {"input": 100, "cache_read": 7, "cache_write_5m": 9, "output": 50},
    ),
    ("bedrock.invoke", {**INVOKE, "cacheReadInputTokenCount": None}, {"input": 100, "output": 50}),
    (
        "gemini.generate",
        {
            **GEMINI,
            "cachedContentTokenCount": 60,
            "candidatesTokenCount": 20,
            "thoughtsTokenCount": 30,
            "toolUsePromptTokenCount": 5,
            "totalTokenCount": 155,
            "trafficType": "ON_DEMAND",
        },
        {"input": 45, "cache_read": 60, "output": 50},
    ),
    (
        "gemini.generate",
        {
            **GEMINI,
            "cachedContentTokenCount": 60,
            "candidatesTokenCount": 20,
            "toolUsePromptTokenCount": 8,
            "promptTokensDetails": [
                {"modality": "TEXT", "tokenCount": 10},
                {"modality": "AUDIO", "tokenCount": 40},
                {"modality": "IMAGE", "tokenCount": 30},
                {"modality": "VIDEO", "tokenCount": 15},
                {"modality": "DOCUMENT", "tokenCount": 5},
            ],
            "cacheTokensDetails": [
                {"modality": "AUDIO", "tokenCount": 25},
                {"modality": "IMAGE", "tokenCount": 20},
                {"modality": "VIDEO", "tokenCount": 10},
                {"modality": "TEXT", "tokenCount": 5},
            ],
            "toolUsePromptTokensDetails": [{"modality": "IMAGE", "tokenCount": 6}, {"tokenCount": 2}],
            "candidatesTokensDetails": [{"modality": "IMAGE", "tokenCount": 12}, {"modality": "text", "tokenCount": 8}],
        },
        {
            "input": 5 + 5 + 2,
            "cache_read": 10 + 5,
            "audio_input": 15,
            "audio_cache_read": 25,
            "image_input": 10 + 6,
            "image_cache_read": 20,
            "video_input": 5,
            "output": 8,
            "image_output": 12,
        },
    ),
    ("gemini.generate", {**GEMINI, "totalTokenCount": 100}, {"input": 100}),
    (
        "litellm",
        {
            **CHAT,
            "total_tokens": 150,
            "cache_creation_input_tokens": 30,
            "cache_read_input_tokens": 60,
            "prompt_tokens_details": {"cached_tokens": 60, "cache_creation_tokens": 30, "text_tokens": 10},
            "completion_tokens_details": {"reasoning_tokens": 10, "text_tokens": 40},
            "server_tool_use": {"web_search_requests": 3},
            "cost": 0.0123,
        },
        {"input": 10, "cache_read": 60, "cache_write_5m": 30, "output": 50, "web_search": 3},
    ),
    (
        "litellm",
        {
            **CHAT,
            "prompt_tokens_details": {
                "cache_write_tokens": 50,
                "cache_creation_token_details": {
                    "ephemeral_5m_input_tokens": 5,
                    "ephemeral_30m_input_tokens": 10,
                    "ephemeral_1h_input_tokens": 15,
                    "ephemeral_12h_input_tokens": 20,
                },
            },
        },
        {
            "input": 50,
            "cache_write_5m": 5,
            "cache_write_30m": 10,
            "cache_write_1h": 15,
            "cache_write_12h": 20,
            "output": 50,
        },
    ),
    (
        "litellm",
        {**CHAT, "prompt_tokens_details": {"cache_write_tokens": 30, "cache_creation_token_details": None}},
        {"input": 70, "cache_write_30m": 30, "output": 50},
    ),
    (
        "litellm",
        {
            **CHAT,
            "prompt_tokens_details": {"cached_tokens": 90, "image_tokens": 80, "audio_tokens": 4},
            "completion_tokens_details": {"image_tokens": 30},
        },
        {"input": 6, "cache_read": 90, "audio_input": 4, "output": 20, "image_output": 30},
    ),
    (
        "litellm",
        {**CHAT, "prompt_cache_hit_tokens": 64, "prompt_cache_miss_tokens": 36},
        {"input": 36, "cache_read": 64, "output": 50},
    ),
]

# xAI's completions leave reasoning out. One of its own answers, and what else may stand in its place.
GROK = {
    "prompt_tokens": 37,
    "completion_tokens": 530,
    "total_tokens": 800,
    "prompt_tokens_details": {"text_tokens": 37, "audio_tokens": 0, "image_tokens": 0, "cached_tokens": 8},
    "completion_tokens_details": {
        "reasoning_tokens": 233,
        "audio_tokens": 0,
        "accepted_prediction_tokens": 0,
        "rejected_prediction_tokens": 0,
    },
    "num_sources_used": 0,
}
REASONING = [
    (GROK, 763),
    ({**GROK, "total_tokens": 567}, 530),
    ({**GROK, "total_tokens": None}, 530),
    ({**GROK, "completion_tokens": 1, "total_tokens": 271}, 234),
    ({**GROK, "completion_tokens": 0, "total_tokens": 270}, 233),
    ({**GROK, "completion_tokens": 233, "total_tokens": None}, 233),
    ({**GROK, "total_tokens": 567, "completion_tokens_details": {"reasoning_tokens": 0}}, 530),
]
NO_REASONING = [
    ({**GROK, "total_tokens": 799}, r"total_tokens is 799, but .* add up to 567, or to 800 with reasoning beside"),
    ({**GROK, "completion_tokens": 1, "total_tokens": 38}, r"completion_tokens is 1, but .*reasoning_tokens is 233"),
    ({**GROK, "completion_tokens": 1, "total_tokens": None}, r"reasoning_tokens is 233, and .* does not count them"),
    ({**GROK, "completion_tokens_details": {"reasoning_tokens": 0}}, r"total_tokens is 800, but .* add up to 567$"),
    (
        {**GROK, "completion_tokens_details": {"reasoning_tokens": 233, "audio_tokens": 531}},
        r"completion_tokens is 530, but audio \(531\)",
    ),
    ({**GROK, "total_tokens": 10**12 + 1}, r"total_tokens must be at most 10\^12"),
]

# new-api's answer in OpenAI's shape to 100 tokens of input, 30 read, 50 written and 20 of output of a Claude model.
NEW_API = {
    "prompt_tokens": 180,
    "completion_tokens": 20,
    "total_tokens": 200,
    "usage_semantic": "openai",
    "usage_source": "anthropic",
    "prompt_tokens_details": {
        "cached_tokens": 30,
        "cached_creation_tokens": 50,
        "text_tokens": 0,
        "audio_tokens": 0,
        "image_tokens": 0,
    },
    "completion_tokens_details": {"text_tokens": 0, "audio_tokens": 0, "image_tokens": 0, "reasoning_tokens": 0},
    "input_tokens": 180,
    "output_tokens": 0,
    "input_tokens_details": None,
    "claude_cache_creation_5_m_tokens": 30,
    "claude_cache_creation_1_h_tokens": 20,
}
NEW_API_METERS = {"input": 100, "cache_read": 30, "cache_write_5m": 30, "cache_write_1h": 20, "output": 20}
UNSPLIT = {"claude_cache_creation_5_m_tokens": 0, "claude_cache_creation_1_h_tokens": 0}
# What relays and channels that we name send in OpenAI's shape: (who, its object, our meters).
RELAYED = [
    ("new-api", NEW_API, NEW_API_METERS),
    ("new-api, both names", {**NEW_API, "output_tokens": 20}, NEW_API_METERS),
    (
        "new-api with OpenAI's name for cache writes",
        {**NEW_API, "prompt_tokens_details": {**NEW_API["prompt_tokens_details"], "cache_write_tokens": 50}},
        NEW_API_METERS,
    ),
    (
        "new-api that doesn't know lifetimes",
        {
            **NEW_API,
            **UNSPLIT,
            "prompt_tokens_details": {**NEW_API["prompt_tokens_details"], "cache_write_tokens": 50},
        },
        {"input": 100, "cache_read": 30, "cache_write_5m": 50, "output": 20},
    ),
    (
        "new-api with the details under both names",
        {**NEW_API, "input_tokens_details": NEW_API["prompt_tokens_details"]},
        NEW_API_METERS,
    ),
    (
        "new-api with the upstream's object",
        {
            **NEW_API,
            "billing_usage": {
                "source": "claude_messages",
                "semantic": "anthropic",
                "claude_usage": {
                    "input_tokens": 100,
                    "cache_creation_input_tokens": 50,
                    "cache_read_input_tokens": 30,
                    "output_tokens": 20,
                    "cache_creation": {"ephemeral_5m_input_tokens": 30, "ephemeral_1h_input_tokens": 20},
                    "claude_cache_creation_5_m_tokens": 0,
                    "claude_cache_creation_1_h_tokens": 0,
                },
            },
        },
        NEW_API_METERS,
    ),
    (
        "new-api, exclusive",
        {**NEW_API, "usage_semantic": "anthropic", "prompt_tokens": 100, "input_tokens": 100, "total_tokens": 120},
        NEW_API_METERS,
    ),
    (
        "new-api before an OpenAI channel",
        {
            "prompt_tokens": 151,
            "completion_tokens": 30,
            "total_tokens": 181,
            "prompt_tokens_details": {"cached_tokens": 100, "text_tokens": 0, "audio_tokens": 0, "image_tokens": 0},
            "input_tokens": 0,
            "output_tokens": 0,
            "input_tokens_details": None,
            **UNSPLIT,
            "billing_usage": {
                "source": "oai_chat",
                "semantic": "openai",
                "openai_usage": {
                    "prompt_tokens": 151,
                    "completion_tokens": 30,
                    "total_tokens": 181,
                    "prompt_tokens_details": {"cached_tokens": 100, "text_tokens": 0},
                    **UNSPLIT,
                },
            },
        },
        {"input": 51, "cache_read": 100, "output": 30},
    ),
    (
        "Groq",
        {
            "queue_time": 0.037493756,
            "prompt_tokens": 18,
            "prompt_time": 0.000680594,
            "completion_tokens": 556,
            "completion_time": 0.463333333,
            "total_tokens": 574,
            "total_time": 0.464013927,
            "prompt_tokens_details": {"cached_tokens": 10},
        },
        {"input": 8, "cache_read": 10, "output": 556},
    ),
    (
        "OpenRouter",
        {
            "prompt_tokens": 818,
            "completion_tokens": 260,
            "total_tokens": 1078,
            "cost": 0.004756,
            "is_byok": False,
            "prompt_tokens_details": {
                "cached_tokens": 0,
                "cache_write_tokens": 0,
                "audio_tokens": 0,
                "video_tokens": 0,
            },
            "cost_details": {
                "upstream_inference_cost": 0.004756,
                "upstream_inference_prompt_cost": 0.001636,
                "upstream_inference_completions_cost": 0.00312,
            },
            "completion_tokens_details": {"reasoning_tokens": 228, "image_tokens": 0, "audio_tokens": 0},
        },
        {"input": 818, "output": 260},
    ),
    (
        "Moonshot",
        {"prompt_tokens": 19, "completion_tokens": 21, "total_tokens": 40, "cached_tokens": 10},
        {"input": 9, "cache_read": 10, "output": 21},
    ),
    (
        "Moonshot under both names",
        {
            "prompt_tokens": 1336,
            "completion_tokens": 31,
            "total_tokens": 1367,
            "cached_tokens": 1280,
            "prompt_tokens_details": {"cached_tokens": 1280},
        },
        {"input": 56, "cache_read": 1280, "output": 31},
    ),
    (
        "Perplexity",
        {
            "prompt_tokens": 18,
            "completion_tokens": 170,
            "total_tokens": 188,
            "search_context_size": "low",
            "cost": {
                "input_tokens_cost": 0.00005,
                "output_tokens_cost": 0.00255,
                "request_cost": 0.006,
                "total_cost": 0.0086,
            },
        },
        {"input": 18, "output": 170},
    ),
    (
        "xAI",
        {
            "prompt_tokens": 89705,
            "completion_tokens": 917,
            "total_tokens": 91186,
            "prompt_tokens_details": {"text_tokens": 89705, "audio_tokens": 0, "image_tokens": 0, "cached_tokens": 128},
            "completion_tokens_details": {"reasoning_tokens": 564, "audio_tokens": 0},
            "num_sources_used": 0,
            "cost_in_usd_ticks": 1156993500,
        },
        {"input": 89577, "cache_read": 128, "output": 1481},
    ),
]

REFUSED = [
    ("openai.chat", {**CHAT, "input_tokens": 5}, r"prompt_tokens is 100, but usage\.input_tokens is 5"),
    ("openai.chat", {**CHAT, "output_tokens": 51}, r"completion_tokens is 50, but usage\.output_tokens is 51"),
    ("openai.chat", {**CHAT, "output_tokens": -1}, r"output_tokens must be ≥ 0, not -1"),
    (
        "openai.chat",
        {**CHAT, "cached_tokens": 60, "prompt_tokens_details": {"cached_tokens": 61}},
        r"cached_tokens is 61, but usage\.cached_tokens is 60",
    ),
    ("openai.chat", {**CHAT, "cached_tokens": 101}, r"prompt_tokens is 100, but cached \(101\)"),
    # An older new-api leaves writes over whose lifetime it doesn't know. The split doesn't add up, as Claude's mustn't.
    (
        "openai.chat",
        {**NEW_API, "claude_cache_creation_5_m_tokens": 10},
        r"cached_creation_tokens is 50, but .* add up to 30",
    ),
    ("litellm", {**CHAT, "input_tokens": 5}, r"prompt_tokens is 100, but usage\.input_tokens is 5"),
    ("litellm", {**CHAT, "cached_tokens": 60, "cache_read_input_tokens": 61}, r"cached_tokens is 60, but .* is 61"),
    (
        "openai.chat",
        {**CHAT, "prompt_cache_hit_tokens": 64, "prompt_cache_miss_tokens": 37},
        r"is 100, .* add up to 101",
    ),
    (
        "openai.chat",
        {**CHAT, "prompt_cache_hit_tokens": 64, "prompt_tokens_details": {"cached_tokens": 63}},
        r"cached_tokens is 63, but usage\.prompt_cache_hit_tokens is 64",
    ),
    (
        "openai.chat",
        {**CHAT, "prompt_tokens_details": {"cached_creation_tokens": 30}, "claude_cache_creation_1_h_tokens": 20},
        r"cached_creation_tokens is 30, .* add up to 20",
    ),
    (
        "openai.chat",
        {**CHAT, "prompt_tokens_details": {"cached_creation_tokens": 30, "cache_write_tokens": 31}},
        r"cached_creation_tokens is 30, but .*cache_write_tokens is 31",
    ),
    (
        "openai.chat",
        {**CHAT, "total_tokens": 151, "prompt_tokens_details": {"cached_tokens": 6}, "usage_semantic": "anthropic"},
        r"total_tokens is 151, .* 150",
    ),
    ("openai.chat", {**CHAT, "prompt_tokens_details": {"image_tokens": 101}}, r"image_tokens is 101, .* 100"),
    ("openai.chat", {**CHAT, "completion_tokens_details": {"image_tokens": 51}}, r"completion_tokens is 50, .*51"),
    ("openai.responses", {**RESPONSES, "total_tokens": 151}, r"total_tokens is 151, .* add up to 150"),
    (
        "openai.responses",
        {**RESPONSES, "input_tokens_details": {"cached_tokens": 60, "cache_write_tokens": 41}},
        r"input_tokens is 100, but cached \(60\), cache-write \(41\)",
    ),
    (
        "openai.responses",
        {
            **RESPONSES,
            "input_tokens_details": {
                "cache_write_tokens": 30,
                "cache_write_tokens_details": {"ttl_30m_tokens": 30, "ttl_12h_tokens": 1},
            },
        },
        r"cache_write_tokens is 30, .* adds up to 31",
    ),
    ("openai.responses", {**RESPONSES, "output_tokens_details": {"reasoning_tokens": 51}}, r"is 51, more than .* 50"),
    ("bedrock.converse", {**CONVERSE, "totalTokens": 151}, r"totalTokens is 151, .* add up to 150"),
    (
        "bedrock.converse",
        {**CONVERSE, "cacheWriteInputTokens": 10, "cacheDetails": [{"ttl": "1h", "inputTokens": 9}]},
        r"cacheWriteInputTokens is 10, .* adds up to 9",
    ),
    ("bedrock.converse", {**CONVERSE, "cacheDetails": [{"ttl": "1h"}]}, r"cacheDetails\[0\]\.inputTokens is missing"),
    ("bedrock.converse", {**CONVERSE, "cacheDetails": {}}, r"cacheDetails must be a list"),
    ("bedrock.invoke", {METRICS: {"inputTokenCount": 1}}, rf"{METRICS}\.outputTokenCount is missing"),
    ("bedrock.invoke", {METRICS: 5}, rf"{METRICS} must be an object, not 5"),
    ("gemini.generate", {**GEMINI, "candidatesTokenCount": 5, "totalTokenCount": 106}, r"is 106, .* add up to 105"),
    ("gemini.generate", {**GEMINI, "cachedContentTokenCount": 101}, r"is 101, more than usage\.promptTokenCount, 100"),
    (
        "gemini.generate",
        {**GEMINI, "promptTokensDetails": [{"modality": "AUDIO", "tokenCount": 101}]},
        r"promptTokenCount is 100, .* adds up to 101",
    ),
    (
        "gemini.generate",
        {
            **GEMINI,
            "cachedContentTokenCount": 50,
            "promptTokensDetails": [{"modality": "AUDIO", "tokenCount": 5}],
            "cacheTokensDetails": [{"modality": "AUDIO", "tokenCount": 6}],
        },
        r"6 AUDIO tokens, .* only 5",
    ),
    (
        "gemini.generate",
        {
            **GEMINI,
            "cachedContentTokenCount": 50,
            "promptTokensDetails": [{"modality": "AUDIO", "tokenCount": 60}],
        },
        r"promptTokenCount is 100, but cached tokens \(50\) and .* \(60\) are more",
    ),
    ("gemini.generate", {**GEMINI, "trafficType": "ON_DEMAND_FLEX", "serviceTier": "priority"}, r"flex, .* priority"),
    (
        "litellm",
        {**CHAT, "cache_read_input_tokens": 6, "prompt_tokens_details": {"cached_tokens": 5}},
        r"cached_tokens is 5, but usage\.cache_read_input_tokens is 6",
    ),
    (
        "litellm",
        {**CHAT, "cache_creation_input_tokens": 0, "prompt_tokens_details": {"cache_creation_tokens": 5}},
        r"cache_creation_input_tokens is 0, but .*cache_creation_tokens is 5",
    ),
    (
        "litellm",
        {
            **CHAT,
            "cache_creation_input_tokens": 5,
            "prompt_tokens_details": {"cache_creation_token_details": {"ephemeral_1h_input_tokens": 6}},
        },
        r"cache_creation_input_tokens is 5, .* adds up to 6",
    ),
    ("litellm", {**CHAT, "total_tokens": 149}, r"total_tokens is 149, .* add up to 150"),
    ("litellm", {**CHAT, "cache_read_input_tokens": 101}, r"prompt_tokens is 100, but cached \(101\)"),
    ("litellm", {**CHAT, "prompt_cache_hit_tokens": 1, "prompt_cache_miss_tokens": 1}, r"is 100, .* add up to 2"),
    (
        "litellm",
        {**CHAT, "server_tool_use": {"web_search_requests": 1}, "prompt_tokens_details": {"web_search_requests": 2}},
        r"web_search_requests is 1, but .* is 2",
    ),
]

WAITING = [
    ("openai.chat", {**CHAT, "input_tokens_details": {"cached_tokens": 5}}, "input_tokens_details.cached_tokens"),
    ("openai.chat", {**CHAT, "cost": {"total_cost": 0.1, "search_tokens": 5}}, "cost.search_tokens"),
    ("openai.chat", {**CHAT, "cost": {"fees_cost": {"search_tokens": 5}}}, "cost.fees_cost.search_tokens"),
    ("openai.chat", {**CHAT, "cost_details": {"server_tool_calls": 1}}, "cost_details.server_tool_calls"),
    ("openai.chat", {**CHAT, "total_time": {"audio_tokens": 5}}, "total_time.audio_tokens"),
    ("openai.chat", {**CHAT, "search_time": 5}, "search_time"),
    ("openai.chat", {**CHAT, "num_sources_used": 5, "cost_in_usd_ticks": 7}, "num_sources_used"),
    ("openai.chat", {**CHAT, "num_search_queries": 2, "cost": {"total_cost": 0.1}}, "num_search_queries"),
    ("openai.chat", {**CHAT, "server_tool_use": {"web_search_requests": 1}}, "server_tool_use.web_search_requests"),
    (
        "openai.chat",
        {
            **CHAT,
            "billing_usage": {
                "source": "claude_messages",
                "claude_usage": {
                    "input_tokens": 100,
                    "output_tokens": 50,
                    "server_tool_use": {"web_search_requests": 2},
                },
            },
        },
        "billing_usage.claude_usage.server_tool_use.web_search_requests",
    ),
    ("openai.responses", {**RESPONSES, "cost": {"total_cost": 0.1, "tool_calls": 1}}, "cost.tool_calls"),
    ("litellm", {**CHAT, "cost": {"total_cost": 0.1, "search_tokens": 5}}, "cost.search_tokens"),
    (
        "openai.responses",
        {**RESPONSES, "input_tokens_details": {"audio_tokens": 5}},
        "input_tokens_details.audio_tokens",
    ),
    ("openai.responses", {**RESPONSES, "output_tokens_details": {"x": 5}}, "output_tokens_details.x"),
    (
        "openai.responses",
        {
            **RESPONSES,
            "input_tokens_details": {"cache_write_tokens": 9, "cache_write_tokens_details": {"ttl_7d_tokens": 9}},
        },
        "input_tokens_details.cache_write_tokens_details.ttl_7d_tokens",
    ),
    ("bedrock.converse", {**CONVERSE, "reasoningTokens": 5}, "reasoningTokens"),
    (
        "bedrock.converse",
        {**CONVERSE, "cacheWriteInputTokens": 5, "cacheDetails": [{"ttl": "24h", "inputTokens": 5}]},
        "cacheDetails[].24h",
    ),
    ("bedrock.converse", {**CONVERSE, "cacheDetails": [{"ttl": "1h", "inputTokens": 0, "x": 1}]}, "cacheDetails[].x"),
    ("bedrock.invoke", {**INVOKE, "reasoningTokenCount": 5}, "reasoningTokenCount"),
    ("bedrock.invoke", {METRICS: {**INVOKE, "x": 1}}, f"{METRICS}.x"),
    ("bedrock.invoke", {METRICS: INVOKE, "inputTokenCount": 7}, "inputTokenCount"),
    ("gemini.generate", {**GEMINI, "responseTokenCount": 5}, "responseTokenCount"),
    (
        "gemini.generate",
        {**GEMINI, "promptTokensDetails": [{"modality": "SMELL", "tokenCount": 5}]},
        "promptTokensDetails[].SMELL",
    ),
    ("gemini.generate", {**GEMINI, "promptTokensDetails": [{"x": 5}]}, "promptTokensDetails[].x"),
    ("litellm", {**CHAT, "server_tool_use": {"browser_open_requests": 1}}, "server_tool_use.browser_open_requests"),
    (
        "litellm",
        {**CHAT, "prompt_tokens_details": {"cached_tokens_details": {"audio_tokens": 1, "text_tokens": 5}}},
        "prompt_tokens_details.cached_tokens_details.audio_tokens",
    ),
    (
        "litellm",
        {**CHAT, "prompt_tokens_details": {"cache_creation_token_details": {"ephemeral_7d_input_tokens": 5}}},
        "prompt_tokens_details.cache_creation_token_details.ephemeral_7d_input_tokens",
    ),
    ("litellm", {**CHAT, "prompt_tokens_details": {"tool_use_tokens": 5}}, "prompt_tokens_details.tool_use_tokens"),
]

# The provider's own total, or the whole that a counter is part of, contains what is new to us. We can't add up then.
WAITING_INSIDE_A_SUM = [
    (
        "anthropic.messages",
        {
            **ANTHROPIC,
            "cache_creation_input_tokens": 9,
            "cache_creation": {"ephemeral_5m_input_tokens": 2, "ephemeral_1h_input_tokens": 3},
            "cache_creation_24h_input_tokens": 4,
        },
        "cache_creation_24h_input_tokens",
    ),
    (
        "anthropic.messages",
        {
            "message_start": {
                **ANTHROPIC,
                "cache_creation_input_tokens": 9,
                "cache_creation": {"ephemeral_5m_input_tokens": 5},
                "cache_creation_24h_input_tokens": 4,
            },
            "message_delta": {"output_tokens": 50, "cache_creation_input_tokens": 9},
        },
        "cache_creation_24h_input_tokens",
    ),
    (
        "anthropic.messages",
        {**ANTHROPIC, "output_tokens_details": {"thinking_tokens": 51, "replayed_tokens": 10}},
        "output_tokens_details.replayed_tokens",
    ),
    (
        "anthropic.messages",
        {
            **ANTHROPIC,
            "cache_creation_input_tokens": 9,
            "iterations": [
                {
                    "type": "message",
                    **ANTHROPIC,
                    "cache_creation_input_tokens": 9,
                    "cache_creation": {"ephemeral_5m_input_tokens": 5},
                    "cache_creation_24h_input_tokens": 4,
                }
            ],
        },
        "iterations[].cache_creation_24h_input_tokens",
    ),
    ("openai.chat", {**CHAT, "total_tokens": 160, "search_tokens": 10}, "search_tokens"),
    (
        "openai.chat",
        {**CHAT, "total_tokens": 160, "completion_tokens_details": {"draft_tokens": 10}},
        "completion_tokens_details.draft_tokens",
    ),
    (
        "openai.chat",
        {**CHAT, "prompt_tokens_details": {"cached_tokens": 60, "audio_tokens": 50, "cached_audio_tokens": 10}},
        "prompt_tokens_details.cached_audio_tokens",
    ),
    (
        "openai.chat",
        {**CHAT, "prompt_tokens_details": {"image_tokens": 101, "video_tokens": 9}},
        "prompt_tokens_details.video_tokens",
    ),
    (
        "openai.chat",
        {**CHAT, "prompt_cache_hit_tokens": 60, "prompt_cache_miss_tokens": 30, "prompt_cache_write_tokens": 10},
        "prompt_cache_write_tokens",
    ),
    (
        "openai.chat",
        {
            **CHAT,
            "prompt_tokens_details": {"cached_creation_tokens": 9},
            "claude_cache_creation_5_m_tokens": 5,
            "claude_cache_creation_24_h_tokens": 4,
        },
        "claude_cache_creation_24_h_tokens",
    ),
    ("openai.responses", {**RESPONSES, "total_tokens": 160, "search_tokens": 10}, "search_tokens"),
    (
        "openai.responses",
        {**RESPONSES, "output_tokens_details": {"reasoning_tokens": 60, "hidden_tokens": 10}},
        "output_tokens_details.hidden_tokens",
    ),
    (
        "openai.responses",
        {**RESPONSES, "input_tokens_details": {"cached_tokens": 105, "cached_audio_tokens": 5}},
        "input_tokens_details.cached_audio_tokens",
    ),
    ("bedrock.converse", {**CONVERSE, "totalTokens": 160, "reasoningTokens": 10}, "reasoningTokens"),
    (
        "bedrock.converse",
        {
            **CONVERSE,
            "cacheWriteInputTokens": 9,
            "cacheDetails": [{"ttl": "1h", "inputTokens": 5}],
            "cacheWriteLongInputTokens": 4,
        },
        "cacheWriteLongInputTokens",
    ),
    ("bedrock.invoke", {**INVOKE, "totalTokenCount": 160, "reasoningTokenCount": 10}, "reasoningTokenCount"),
    (
        "gemini.generate",
        {**GEMINI, "candidatesTokenCount": 50, "newKindTokenCount": 10, "totalTokenCount": 160},
        "newKindTokenCount",
    ),
    (
        "gemini.generate",
        {**GEMINI, "promptTokensDetails": [{"tokenCount": 100}, {"modality": "SMELL", "tokenCount": 5}]},
        "promptTokensDetails[].SMELL",
    ),
    (
        "gemini.generate",
        {
            **GEMINI,
            "cachedContentTokenCount": 60,
            "promptTokensDetails": [{"modality": "AUDIO", "tokenCount": 40}],
            "cacheTokensDetails": [{"modality": "SMELL", "tokenCount": 10}, {"modality": "AUDIO", "tokenCount": 45}],
        },
        "cacheTokensDetails[].SMELL",
    ),
    ("litellm", {**CHAT, "total_tokens": 160, "search_tokens": 10}, "search_tokens"),
    (
        "litellm",
        {
            **CHAT,
            "prompt_tokens_details": {
                "cached_tokens": 60,
                "audio_tokens": 50,
                "cached_tokens_details": {"text_tokens": 30, "audio_tokens": 30},
            },
        },
        "prompt_tokens_details.cached_tokens_details.audio_tokens",
    ),
    (
        "litellm",
        {
            **CHAT,
            "cache_creation_input_tokens": 9,
            "prompt_tokens_details": {"cache_creation_token_details": {"ephemeral_5m_input_tokens": 5}},
            "cache_creation_24h_input_tokens": 4,
        },
        "cache_creation_24h_input_tokens",
    ),
    (
        "litellm",
        {**CHAT, "prompt_cache_hit_tokens": 60, "prompt_cache_miss_tokens": 30, "prompt_cache_write_tokens": 10},
        "prompt_cache_write_tokens",
    ),
]

TIERS = [
    ("openai.chat", {**CHAT, "service_tier": "default"}, "standard"),
    ("openai.chat", {**CHAT, "service_tier": "priority"}, "priority"),
    ("openai.responses", {**RESPONSES, "service_tier": "auto"}, "standard"),
    ("openai.responses", {**RESPONSES, "service_tier": "ultrafast"}, "ultrafast"),
    ("bedrock.converse", {**CONVERSE, "serviceTier": {"type": "default"}}, "standard"),
    ("bedrock.converse", {**CONVERSE, "serviceTier": {"type": "flex"}}, "flex"),
    ("bedrock.converse", {**CONVERSE, "serviceTier": "reserved"}, "reserved"),
    ("gemini.generate", {**GEMINI, "trafficType": "ON_DEMAND_PRIORITY"}, "priority"),
    ("gemini.generate", {**GEMINI, "trafficType": "ON_DEMAND_FLEX"}, "flex"),
    ("gemini.generate", {**GEMINI, "trafficType": "PROVISIONED_THROUGHPUT"}, "PROVISIONED_THROUGHPUT"),
    ("gemini.generate", {**GEMINI, "trafficType": "ON_DEMAND_OFFPEAK"}, "ON_DEMAND_OFFPEAK"),
    ("gemini.generate", {**GEMINI, "serviceTier": "unspecified"}, "standard"),
    ("gemini.generate", {**GEMINI, "serviceTier": "priority", "trafficType": None}, "priority"),
    ("gemini.generate", {**GEMINI, "serviceTier": "flex", "trafficType": "ON_DEMAND"}, "flex"),
    ("litellm", {**CHAT, "service_tier": "batch"}, "batch"),
]

REQUIRED = [
    ("openai.responses", RESPONSES),
    ("bedrock.converse", CONVERSE),
    ("bedrock.invoke", INVOKE),
    ("gemini.generate", GEMINI),
    ("litellm", CHAT),
]


@pytest.mark.parametrize(("name", "usage", "meters"), SAMPLES)
def test_a_sample_becomes_disjoint_meters(name: str, usage: dict[str, Any], meters: dict[str, int]) -> None:
    read = formats.read(name, usage)
    assert read.quantities == meters
    assert read.unknown == ""


@pytest.mark.parametrize("name", ["openai.chat", "litellm"])
@pytest.mark.parametrize(("usage", "output"), REASONING)
def test_the_total_tells_whether_reasoning_stands_beside_the_completion(
    name: str, usage: dict[str, Any], output: int
) -> None:
    read = formats.read(name, usage)
    assert read == Usage({"input": 29, "cache_read": 8, "output": output}, 37)


@pytest.mark.parametrize("name", ["openai.chat", "litellm"])
@pytest.mark.parametrize(("usage", "figures"), NO_REASONING)
def test_reasoning_that_fits_neither_reading_is_refused(name: str, usage: dict[str, Any], figures: str) -> None:
    with pytest.raises(InvalidUsage, match=figures):
        formats.read(name, usage)


def test_reasoning_may_stand_beside_the_completion_of_an_exclusive_prompt_too() -> None:
    usage = {**GROK, "usage_semantic": "anthropic"}
    assert formats.read("openai.chat", usage).quantities == {"input": 37, "cache_read": 8, "output": 763}
    assert formats.read("openai.chat", {**usage, "total_tokens": 808}).quantities["output"] == 763
    assert formats.read("openai.chat", {**usage, "total_tokens": 575}).quantities["output"] == 530


@pytest.mark.parametrize(("usage", "meters"), [case[1:] for case in RELAYED], ids=[case[0] for case in RELAYED])
def test_a_relay_s_own_fields_neither_park_an_event_nor_change_it(
    usage: dict[str, Any], meters: dict[str, int]
) -> None:
    read = formats.read("openai.chat", usage)
    assert read.quantities == meters
    assert read.unknown == ""


@pytest.mark.parametrize(
    ("usage", "meters"),
    [case[1:] for case in RELAYED if not case[0].startswith("new-api")],
    ids=[case[0] for case in RELAYED if not case[0].startswith("new-api")],
)
def test_a_channel_s_own_fields_come_through_litellm(usage: dict[str, Any], meters: dict[str, int]) -> None:
    read = formats.read("litellm", usage)
    assert read.quantities == meters
    assert read.unknown == ""


def test_what_a_response_cost_is_no_counter_of_it() -> None:
    usage = {**RESPONSES, "cost": {"currency": "USD", "input_cost": 0.1, "total_cost": 1}, "cost_in_usd_ticks": 10**9}
    assert formats.read("openai.responses", usage) == Usage({"input": 100, "output": 50}, 100)


@pytest.mark.parametrize(("name", "usage", "figures"), REFUSED)
def test_a_contradiction_is_refused_with_both_figures(name: str, usage: dict[str, Any], figures: str) -> None:
    with pytest.raises(InvalidUsage, match=figures):
        formats.read(name, usage)


@pytest.mark.parametrize(("name", "usage", "unknown"), [*WAITING, *WAITING_INSIDE_A_SUM])
def test_a_counter_above_zero_that_is_new_to_us_waits(name: str, usage: dict[str, Any], unknown: str) -> None:
    read = formats.read(name, usage)
    assert read.unknown == unknown
    assert read.parts == ()
    assert all(quantity > 0 for quantity in read.quantities.values())


def test_every_provider_s_format_waits_for_a_counter_inside_a_sum() -> None:
    assert {name for name, _, _ in WAITING_INSIDE_A_SUM} == set(formats.FORMATS) - {"meters"}


@pytest.mark.parametrize(
    ("name", "usage", "field"),
    [
        ("anthropic.messages", {**ANTHROPIC, "output_tokens_details": {"thinking_tokens": -1}}, "thinking_tokens"),
        ("openai.chat", {**CHAT, "total_tokens": -1}, "total_tokens"),
        ("openai.chat", {**CHAT, "prompt_cache_miss_tokens": -1}, "prompt_cache_miss_tokens"),
        ("openai.responses", {**RESPONSES, "total_tokens": -1}, "total_tokens"),
        ("bedrock.converse", {**CONVERSE, "totalTokens": -1}, "totalTokens"),
        ("bedrock.invoke", {**INVOKE, "cacheReadInputTokenCount": -1}, "cacheReadInputTokenCount"),
        ("gemini.generate", {**GEMINI, "totalTokenCount": -1}, "totalTokenCount"),
        ("litellm", {**CHAT, "total_tokens": -1}, "total_tokens"),
        ("litellm", {**CHAT, "prompt_cache_miss_tokens": -1}, "prompt_cache_miss_tokens"),
    ],
)
def test_a_new_counter_excuses_no_impossible_count(name: str, usage: dict[str, Any], field: str) -> None:
    with pytest.raises(InvalidUsage, match=rf"{field} must be ≥ 0, not -1"):
        formats.read(name, {**usage, "a_new_counter": 5})


@pytest.mark.parametrize(("name", "usage", "tier"), TIERS)
def test_the_standard_tier_by_any_name_is_standard_and_others_stay(name: str, usage: dict[str, Any], tier: str) -> None:
    assert formats.read(name, usage).service_tier == tier


@pytest.mark.parametrize(("name", "usage"), REQUIRED)
@pytest.mark.parametrize("value", [None, -1, 0.5, "1", True, 10**13])
def test_a_required_count_that_is_none_or_impossible_is_refused_by_name(
    name: str, usage: dict[str, int], value: object
) -> None:
    for field in usage:
        with pytest.raises(InvalidUsage, match=rf"usage\.{field} (is missing|must be)"):
            formats.read(name, {**usage, field: value})


def test_speed_and_geography_come_through_litellm() -> None:
    usage = formats.read("litellm", {**CHAT, "speed": "fast", "inference_geo": "us"})
    assert usage == Usage({"input": 100, "output": 50}, 100, speed="fast", inference_geo="us")


def test_the_documentation_lists_every_format() -> None:
    page = (Path(__file__).parents[2] / "docs" / "formats.md").read_text()
    assert re.findall(r"^\| `([a-z.]+)` \| (?:inclusive|exclusive)", page, re.MULTILINE) == list(formats.FORMATS)
