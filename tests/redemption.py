"""Redemption codes for tests."""

from datetime import UTC, datetime
from decimal import Decimal
from typing import Any
from uuid import uuid4

from billing import redemption


def make_codes(count: int = 1, **changes: Any) -> list[str]:
    """So many codes of 5 USD promotional credit for whoever has one, unless changed; as they are shown."""
    terms: dict[str, Any] = {"kind": "promotional", "amount": Decimal(5), "campaign": "Spring"}
    at = changes.pop("at", datetime.now(UTC))
    made = redemption.Terms(**{**terms, **changes})
    return redemption.make_codes(terms=made, count=count, actor="staff", key=uuid4().hex, at=at)
