"""The channels, and what genai-prices calls them. docs/channels.md shows this table. Pure."""

import re
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class ChannelSpec:
    """Where models are bought.

    `vendor` is the maker whose own API the channel is, empty for clouds, hosts and gateways. `foreign` matches the
    genai-prices ids on a maker's own channel that are somebody else's models, or not sold there.
    """

    name: str
    label: str
    provider: str
    vendor: str = ""
    foreign: re.Pattern[str] | None = None

    def makes(self, model_id: str) -> bool:
        return bool(self.vendor) and not (self.foreign and self.foreign.search(model_id))


def _own(name: str, label: str, provider: str, vendor: str, foreign: str = "") -> ChannelSpec:
    return ChannelSpec(name, label, provider, vendor, re.compile(foreign) if foreign else None)


# In the order of precedence: a model that several makers name belongs to the first, and one that no maker's own
# channel sells has the first channel that does as its maker.
CHANNELS = (
    _own("anthropic", "Anthropic API", "anthropic", "anthropic"),
    _own("openai", "OpenAI API", "openai", "openai"),
    _own("google", "Gemini API", "google", "google", r"claude|-maas$"),
    _own("deepseek", "DeepSeek API", "deepseek", "deepseek"),
    _own("xai", "xAI API", "x-ai", "xai"),
    _own("moonshot", "Moonshot AI platform", "moonshotai", "moonshot"),
    _own("minimax", "MiniMax platform", "minimax", "minimax"),
    _own("zai", "Z.AI platform", "zai", "zai"),
    _own("meta", "Meta model API", "meta", "meta"),
    _own("mistral", "Mistral La Plateforme", "mistral", "mistral", r"^(deepseek|zai)-"),
    _own("cohere", "Cohere platform", "cohere", "cohere"),
    _own("perplexity", "Perplexity API", "perplexity", "perplexity", r"^perplexity/(?!sonar)"),
    _own("voyage", "Voyage AI API", "voyageai", "voyage"),
    _own("arcee", "Arcee AI API", "arcee", "arcee", r"/"),
    ChannelSpec("bedrock", "Amazon Bedrock, global endpoint", "aws"),
    ChannelSpec("bedrock-regional", "Amazon Bedrock, regional endpoints", "aws"),
    ChannelSpec("vertex", "Google Cloud Vertex AI", "google"),
    ChannelSpec("azure", "Microsoft Azure AI Foundry, global deployments", "azure"),
    ChannelSpec("groq", "Groq", "groq"),
    ChannelSpec("together", "Together AI", "together"),
    ChannelSpec("fireworks", "Fireworks AI", "fireworks"),
    ChannelSpec("cerebras", "Cerebras", "cerebras"),
    ChannelSpec("cloudflare", "Cloudflare Workers AI", "cloudflare"),
    ChannelSpec("baseten", "Baseten", "baseten"),
    ChannelSpec("novita", "Novita AI", "novita"),
    ChannelSpec("avian", "Avian", "avian"),
    ChannelSpec("openrouter", "OpenRouter", "openrouter"),
)
BY_NAME = {channel.name: channel for channel in CHANNELS}

LEFT_OUT = {
    "cursor": "an editor's subscription, not an API that a relay can buy",
    "github-copilot": "an editor's subscription, not an API that a relay can buy",
    "huggingface_cerebras": "passes requests on to hosts that have channels of their own",
    "huggingface_fireworks-ai": "passes requests on to hosts that have channels of their own",
    "huggingface_groq": "passes requests on to hosts that have channels of their own",
    "huggingface_hyperbolic": "a mirror of a host's prices",
    "huggingface_nebius": "a mirror of a host's prices",
    "huggingface_novita": "passes requests on to hosts that have channels of their own",
    "huggingface_nscale": "a mirror of a host's prices",
    "huggingface_ovhcloud": "a mirror of a host's prices",
    "huggingface_publicai": "a mirror of a host's prices",
    "huggingface_sambanova": "a mirror of a host's prices",
    "huggingface_together": "passes requests on to hosts that have channels of their own",
    "databricks": "bills in its own units, converted at one region's rate",
    "zhipuai": "bills in yuan, converted at a fixed rate; `zai` is its dollar platform",
    "elevenlabs": "speech, billed by the hour, for which there is no meter",
    "openai-decisions": "one free-standing product, billed apart from the API",
    "doubleword": "a batch-only host",
    "modal": "a host of other makers' models; add it when an operator buys there",
    "ovhcloud": "a host of other makers' models; add it when an operator buys there",
    "quicksilverpro": "a reseller of other makers' models; add it when an operator buys there",
    "typesafe": "one product of its own; add it when an operator buys there",
}
