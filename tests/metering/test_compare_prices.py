"""The price book beside LiteLLM's table: what disagrees is listed, what nobody here knows is counted."""

import json
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from django.core.management import call_command
from django.core.management.base import CommandError

pytestmark = pytest.mark.django_db

OPUS = {
    "litellm_provider": "anthropic",
    "mode": "chat",
    "max_tokens": 128000,
    "input_cost_per_token": "4e-06",
    "output_cost_per_token": "2e-05",
    "cache_read_input_token_cost": "2.0000000000000002e-07",
    "cache_creation_input_token_cost": "5e-06",
    "cache_creation_input_token_cost_above_1hr": "8e-06",
    "input_cost_per_token_batches": "2e-06",
    "search_context_cost_per_query": {"search_context_size_low": "0.02", "search_context_size_medium": "0.01"},
    "supports_vision": True,
}


def table(**entries: dict[str, Any]) -> str:
    """LiteLLM's file: prices are JSON numbers there."""
    return json.dumps(entries).replace('"!', "").replace('!"', "")


def number(text: Any) -> Any:
    if isinstance(text, dict):
        return {key: number(value) for key, value in text.items()}
    return f"!{text}!" if isinstance(text, str) and text[:1].isdecimal() else text


def compare(tmp_path: Path, models: dict[str, Any]) -> dict[str, Any]:
    file = tmp_path / "model_prices_and_context_window.json"
    file.write_text(table(**{name: number(entry) for name, entry in models.items()}))
    out = StringIO()
    call_command("compare_prices", "--litellm", str(file), stdout=out, stderr=StringIO())
    answer: dict[str, Any] = json.loads(out.getvalue())
    return answer


def brief(answer: dict[str, Any]) -> list[tuple[Any, ...]]:
    keys = ("model", "channel", "variant", "meter", "above_prompt_tokens", "ours", "theirs")
    return [tuple(item[key] for key in keys) for item in answer["disagreements"]]


def test_what_agrees_is_counted_and_the_noise_of_binary_fractions_is_no_difference(tmp_path: Path) -> None:
    answer = compare(tmp_path, {"claude-opus-5-5": OPUS})

    assert answer == {"models": 1, "figures": 7, "unknown": 0, "elsewhere": 0, "disagreements": []}


def test_disagreements_are_listed_with_both_figures(tmp_path: Path) -> None:
    wrong = {**OPUS, "output_cost_per_token": "2.5e-05", "input_cost_per_token_flex": "2e-06"}

    answer = compare(tmp_path, {"claude-opus-5-5": wrong})

    assert brief(answer) == [
        ("claude-opus-5-5", "anthropic", "standard", "output", 0, "20", "25"),
        ("claude-opus-5-5", "anthropic", "flex", "input", 0, None, "2"),
    ]
    assert answer["disagreements"][0]["per"] == 1_000_000
    assert answer["disagreements"][0]["name"] == "claude-opus-5-5"


def test_a_tier_is_compared_just_above_its_mark(tmp_path: Path) -> None:
    tiers = {
        "litellm_provider": "anthropic",
        "input_cost_per_token": "3e-06",
        "input_cost_per_token_above_200k_tokens": "6e-06",
        "output_cost_per_token_above_200k_tokens": "2e-05",
        "cache_creation_input_token_cost_above_1hr_above_200k_tokens": "1.2e-05",
        "input_cost_per_token_above_200k_tokens_batches": "3e-06",
    }

    answer = compare(tmp_path, {"claude-sonnet-4-5-20250929": tiers})

    assert answer["figures"] == 5
    assert brief(answer) == [("claude-sonnet-4-5", "anthropic", "standard", "output", 200_000, "22.5", "20")]


def test_names_and_providers_lead_to_our_models_and_channels(tmp_path: Path) -> None:
    def entry(provider: str) -> dict[str, str]:
        return {"litellm_provider": provider, "input_cost_per_token": "0.5"}

    answer = compare(
        tmp_path,
        {
            "anthropic.claude-opus-4-5-20251101-v1:0": entry("bedrock_converse"),
            "eu.anthropic.claude-opus-4-5-20251101-v1:0": entry("bedrock_converse"),
            "vertex_ai/claude-opus-4-5@20251101": entry("vertex_ai-anthropic_models"),
            "azure/gpt-4o": entry("azure"),
            "gemini/gemini-2.5-pro": entry("gemini"),
            "openrouter/anthropic/claude-opus-4.5": entry("openrouter"),
        },
    )

    assert [(row[0], row[1], row[-2]) for row in brief(answer)] == [
        ("claude-opus-4-5", "bedrock", "5"),
        ("claude-opus-4-5", "bedrock-regional", "5.5"),
        ("claude-opus-4-5", "openrouter", "5"),
        ("claude-opus-4-5", "vertex", "5"),
        ("gemini-2.5-pro", "google", "1.25"),
        ("gpt-4o", "azure", "2.5"),
    ]
    assert {row[-1] for row in brief(answer)} == {"500000"}


def test_two_names_of_one_model_disagree_once(tmp_path: Path) -> None:
    wrong = {"litellm_provider": "anthropic", "input_cost_per_token": "1e-06"}

    answer = compare(tmp_path, {"claude-opus-4-5": wrong, "claude-opus-4-5-20251101": wrong})

    assert (answer["models"], answer["figures"], len(answer["disagreements"])) == (2, 2, 1)


def test_what_we_do_not_have_is_counted_and_what_is_no_price_passed_over(tmp_path: Path) -> None:
    answer = compare(
        tmp_path,
        {
            "sample_spec": {"litellm_provider": "one of the providers", "input_cost_per_token": "0.0"},
            "nobody-knows-this": {"litellm_provider": "anthropic", "input_cost_per_token": "1e-06"},
            "ollama/llama3": {"litellm_provider": "ollama", "input_cost_per_token": "0"},
            "gpt-4o": {"litellm_provider": "anthropic", "input_cost_per_token": "1e-06"},
            "claude-opus-5": {
                "litellm_provider": "anthropic",
                "input_cost_per_token": "1e+400",
                "output_cost_per_token": None,
                "cache_read_input_token_cost": True,
                "input_cost_per_character": "1e-06",
                "input_cost_per_token_above_200k_tokens_at_night": "1e-06",
            },
            "metadata": [1, 2],
        },
    )

    assert answer == {"models": 1, "figures": 0, "unknown": 1, "elsewhere": 2, "disagreements": []}


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "can't be read: No such file or directory"),
        (b"{", "is not JSON"),
        (b"\xff", "is not JSON"),
        (b'{"a": {"input_cost_per_token": NaN}}', "NaN is not a number"),
        (b"[" * 100_000, "is not JSON"),
        (b"[]", "has no models by name"),
    ],
)
def test_a_file_that_is_no_such_table_is_refused(tmp_path: Path, content: bytes | None, said: str) -> None:
    file = tmp_path / "table.json"
    if content is not None:
        file.write_bytes(content)

    with pytest.raises(CommandError, match=said):
        call_command("compare_prices", "--litellm", str(file))
