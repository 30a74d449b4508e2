"""The operator's pages for keys, the price book and usage."""

from metering.admin import (
    adjustments,
    catalog,
    closing,
    keys,
    month_closings,
    on_customers,
    plans,
    price_imports,
    prices,
    spend_limits,
    tiers,
    usage,
    verified,
    waiting,
    waiting_panel,
)

__all__ = [
    "adjustments",
    "catalog",
    "closing",
    "keys",
    "month_closings",
    "on_customers",
    "plans",
    "price_imports",
    "prices",
    "spend_limits",
    "tiers",
    "usage",
    "verified",
    "waiting",
    "waiting_panel",
]
