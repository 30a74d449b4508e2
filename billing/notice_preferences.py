"""What customers are told and where: read with the defaults filled in, and set."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal

from django.core.exceptions import ValidationError
from django.core.validators import validate_email

from billing.accounts import lock_account
from billing.models import Customer, NoticePreference, NotificationSettings, OperatorSettings
from billing.notice_kinds import KINDS
from relayadmin.db import in_transaction

ADDRESSES_MAX = 5


class InvalidPreference(ValueError):
    """What can't be set; `field` names what is wrong."""

    def __init__(self, field: str, message: str) -> None:
        super().__init__(message)
        self.field = field


@dataclass(frozen=True, slots=True)
class Choice:
    """How one kind is told."""

    mail: bool
    webhook: bool


@dataclass(frozen=True, slots=True)
class Preferences:
    """All that a customer has chosen, or would get. `low_balance_below` None: the operator's, `default_below` (USD)."""

    addresses: Sequence[str]
    goes_to: Sequence[str]
    low_balance_below: Decimal | None
    default_below: Decimal
    kinds: Mapping[str, Choice]


def of_customer(customer: Customer) -> Preferences:
    """What a customer is told, and where."""
    row = NotificationSettings.objects.filter(customer=customer).first()
    set_kinds = {one.kind: one for one in NoticePreference.objects.filter(customer=customer)}
    chosen = {name: set_kinds.get(name, kind) for name, kind in KINDS.items()}
    addresses = list(row.addresses) if row else []
    return Preferences(
        addresses=addresses,
        goes_to=addresses or [customer.email] * bool(customer.email),
        low_balance_below=row.low_balance_below if row else None,
        default_below=OperatorSettings.objects.values_list("low_balance_below", flat=True).get(pk=1),
        kinds={
            name: Choice(mail=one.mail, webhook=one.webhook and KINDS[name].webhook) for name, one in chosen.items()
        },
    )


def set_preferences(
    *,
    customer_id: int,
    addresses: Sequence[str],
    low_balance_below: Decimal | None,
    kinds: Mapping[str, Choice],
    at: datetime,
) -> None:
    """Set where mail goes, below which balance to tell (USD), and these kinds; other kinds stay as they are.

    Raises InvalidPreference.
    """
    _check(addresses, kinds)

    def work() -> None:
        lock_account(customer_id)
        NotificationSettings.objects.update_or_create(
            customer_id=customer_id,
            defaults={
                "addresses": list(dict.fromkeys(addresses)),
                "low_balance_below": low_balance_below,
                "updated_at": at,
            },
        )
        for name, choice in sorted(kinds.items()):
            NoticePreference.objects.update_or_create(
                customer_id=customer_id, kind=name, defaults={"mail": choice.mail, "webhook": choice.webhook}
            )

    in_transaction(work)


def _check(addresses: Sequence[str], kinds: Mapping[str, Choice]) -> None:
    if len(addresses) > ADDRESSES_MAX:
        raise InvalidPreference("addresses", f"there can be {ADDRESSES_MAX} addresses at most")
    for address in addresses:
        try:
            if len(address) > 254:
                raise ValidationError("too long")
            validate_email(address)
        except ValidationError as error:
            raise InvalidPreference("addresses", f"{address[:80]!r} is not a mail address") from error
    for name, choice in kinds.items():
        if name not in KINDS:
            raise InvalidPreference("kinds", f"there is no kind {name[:60]!r}")
        if choice.webhook and not KINDS[name].webhook:
            raise InvalidPreference("kinds", f"{name} is told by mail only")
