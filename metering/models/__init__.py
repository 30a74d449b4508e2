from metering.models.adjustments import Rerating, ReratingNote, UsageAdjustment
from metering.models.catalog import Channel, Model, ModelAlias
from metering.models.keys import ApiKey, RelayToken
from metering.models.price_imports import PriceBookChange, PriceBookSettings, PriceImport, PriceImportLine
from metering.models.prices import (
    CustomerPlan,
    Plan,
    PlanPolicy,
    PlanRule,
    Price,
    PriceBookVersion,
    PriceSet,
    UpstreamAccount,
    UpstreamTerms,
)
from metering.models.tiers import CustomerTier, UsageTier
from metering.models.usage import (
    EventConflict,
    EventKey,
    ParkedEvent,
    QuarantinedEvent,
    UnclaimedEvent,
    UsageEvent,
    UsageHour,
)
from metering.models.verification import VerifiedUsage

__all__ = [
    "ApiKey",
    "Channel",
    "CustomerPlan",
    "CustomerTier",
    "EventConflict",
    "EventKey",
    "Model",
    "ModelAlias",
    "ParkedEvent",
    "Plan",
    "PlanPolicy",
    "PlanRule",
    "Price",
    "PriceBookChange",
    "PriceBookSettings",
    "PriceBookVersion",
    "PriceImport",
    "PriceImportLine",
    "PriceSet",
    "QuarantinedEvent",
    "RelayToken",
    "Rerating",
    "ReratingNote",
    "UnclaimedEvent",
    "UpstreamAccount",
    "UpstreamTerms",
    "UsageAdjustment",
    "UsageEvent",
    "UsageHour",
    "UsageTier",
    "VerifiedUsage",
]
