"""Names that relays report, led to models."""

from decimal import Decimal

import pytest

from metering.catalog import Catalog, CatalogModel


def catalog(*models: str, aliases: dict[str, str] | None = None) -> Catalog:
    numbers = {name: number for number, name in enumerate(models, 1)}
    return Catalog.build(
        models=[CatalogModel(number, name, 1, None, None, Decimal(1)) for name, number in numbers.items()],
        aliases=[(alias, numbers[name]) for alias, name in (aliases or {}).items()],
        channels=[("anthropic", 1)],
    )


@pytest.mark.parametrize(
    "name",
    [
        "claude-opus-4-5",
        "Claude-Opus-4-5",
        "claude-opus-4-5-20251101",
        "claude-opus-4-5@20251101",
        "claude-opus-4-5-2025-11-01",
        "claude-opus-4-5-latest",
        "claude-opus-4-5@latest",
        "claude-opus-4-5@default",
        "claude-opus-4-5-20251101-v1",
        "us.anthropic.claude-opus-4-5-20251101-v1:0",
        "US.ANTHROPIC.CLAUDE-OPUS-4-5-20251101-V1:0".lower(),
    ],
)
def test_a_known_name_is_found_with_a_date_latest_or_a_deployment_version_behind_it(name: str) -> None:
    known = catalog("claude-opus-4-5", aliases={"us.anthropic.claude-opus-4-5": "claude-opus-4-5"})

    assert known.resolve(name) == 1


@pytest.mark.parametrize(
    "name",
    [
        "claude-opus-4",
        "claude-opus-4-5-fast",
        "claude-opus-4-5-v1:0",
        "claude-opus-4-5:batch",
        "claude-opus-4-5-20251301",
        "claude-opus-4-5-20251101x",
        "claude-opus-4-5-20251101\n",
        "claude-opus-4-5-２０２５１１０１",
        "claude-opus-4-5-default",
        "claude-opus-4-5-20251101-latest-20251101",
        "xclaude-opus-4-5",
        "-20251101",
        "",
    ],
)
def test_nothing_else_is_taken_for_a_known_name(name: str) -> None:
    assert catalog("claude-opus-4-5").resolve(name) is None


def test_the_exact_spelling_goes_before_the_lower_case_one() -> None:
    known = catalog("GLM-4.5", "glm-4.5")

    assert (known.resolve("GLM-4.5"), known.resolve("glm-4.5")) == (1, 2)
    assert known.resolve("Glm-4.5") is None, "either could be meant"


def test_a_public_id_goes_before_an_alias_and_a_dated_name_before_its_undated_one() -> None:
    known = catalog("o3", "o3-2025-04-16", aliases={"o3": "o3-2025-04-16"})

    assert (known.resolve("o3"), known.resolve("o3-2025-04-16"), known.resolve("o3-2025-06-10")) == (1, 2, 1)


# Names as the makers and clouds write them, and the models of the imported book that they mean.
KNOWN = {
    "claude-opus-4-20250514": (
        "claude-opus-4",
        "claude-opus-4-0",
        "claude-opus-4-latest",
        "claude-opus-4@20250514",
        "us.anthropic.claude-opus-4-20250514-v1:0",
        "anthropic/claude-opus-4",
    ),
    "claude-sonnet-4-20250514": (
        "claude-sonnet-4",
        "claude-sonnet-4-0",
        "claude-sonnet-4-latest",
        "claude-sonnet-4@20250514",
        "global.anthropic.claude-sonnet-4-20250514-v1:0",
        "anthropic.claude-sonnet-4-20250514-v1:0",
    ),
    "claude-3-5-haiku-20241022": ("claude-3-5-haiku-latest", "claude-3-5-haiku@20241022", "claude-3.5-haiku"),
    "claude-3-5-sonnet-20241022": (
        "claude-3-5-sonnet",
        "claude-3-5-sonnet-latest",
        "claude-3-5-sonnet-20240620",
        "claude-3-5-sonnet-v2@20241022",
        "anthropic.claude-3-5-sonnet-20241022-v2:0",
        "anthropic.claude-3-5-sonnet-20240620-v1:0",
    ),
    "claude-3-7-sonnet-latest": ("claude-3-7-sonnet-20250219", "claude-3-7-sonnet@20250219"),
    "claude-3-haiku": ("claude-3-haiku-20240307",),
    "claude-3-opus-latest": ("claude-3-opus-20240229",),
    "claude-opus-4-1": ("claude-opus-4-1-20250805", "anthropic/claude-opus-4.1"),
    "claude-sonnet-4-5": ("claude-sonnet-4-5-20250929", "us.anthropic.claude-sonnet-4-5-20250929-v1:0"),
    "claude-opus-4-5": ("claude-opus-4-5-20251101", "global.anthropic.claude-opus-4-5-20251101-v1:0"),
    "claude-haiku-4-5": ("claude-haiku-4-5-20251001", "claude-haiku-4-5@20251001"),
    "claude-opus-4-6": ("us.anthropic.claude-opus-4-6-v1", "claude-opus-4.6"),
    "gpt-4o": ("gpt-4o-2024-08-06", "openai/gpt-4o"),
    "o3": ("o3-2025-04-16",),
    "gemini-2.5-pro": ("google/gemini-2.5-pro", "gemini-2.5-pro-preview-06-05"),
    "GLM-4.5": ("glm-4.5", "z-ai/glm-4.5"),
    "gpt-oss-120b": ("openai.gpt-oss-120b-1:0", "openai/gpt-oss-120b", "accounts/fireworks/models/gpt-oss-120b"),
    "meta-llama/llama-3.3-70b-instruct": ("meta.llama3-3-70b-instruct-v1:0", "us.meta.llama3-3-70b-instruct-v1:0"),
}


@pytest.mark.django_db
@pytest.mark.parametrize(("public_id", "names"), KNOWN.items(), ids=KNOWN.keys())
def test_the_names_in_use_mean_their_models(public_id: str, names: tuple[str, ...]) -> None:
    book = Catalog.load()

    found = {name: book.models[book.resolve(name) or 0].public_id for name in (public_id, *names)}

    assert found == dict.fromkeys((public_id, *names), public_id)


@pytest.mark.django_db
@pytest.mark.parametrize("name", ["claude", "claude-opus", "gpt-4o-2024-05-13-fast", "ft:gpt-4o-2024-08-06:acme::x"])
def test_a_name_that_only_looks_like_one_is_unknown(name: str) -> None:
    assert Catalog.load().resolve(name) is None


@pytest.mark.django_db
def test_a_catalog_knows_limits_makers_and_channels() -> None:
    book = Catalog.load()

    model = book.models[book.resolve("claude-sonnet-4-20250514") or 0]

    assert book.channel_names[model.maker_channel_id] == "anthropic"
    assert (model.max_output_tokens, model.context_window, model.us_multiplier) == (64_000, 200_000, Decimal(1))
    assert book.models[book.resolve("claude-sonnet-4-6") or 0].us_multiplier == Decimal("1.1")
    assert {"anthropic", "bedrock", "bedrock-regional", "vertex", "azure"} <= book.channels.keys()
