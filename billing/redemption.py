"""Redemption codes: made by the operator, shown once, redeemed once; guessing them is slowed down.

A code is 25 letters and digits, 125 random bits, of which 8 characters stay readable to recognise it by. What a person
types is read kindly: small letters, spaces and hyphens don't matter, O is 0, I and L are 1.
"""

import hashlib
import re
import secrets
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal

from django.db import IntegrityError

from billing import credits, manual
from billing.models import Grant, RedemptionCode, RedemptionGuesses
from relayadmin.db import in_transaction, server_cursor

MOST_AT_ONCE = 1_000
LONGEST_CREDIT_DAYS = 36_500
FAILURES_MAX = 10
FAILURES_WINDOW = timedelta(hours=1)
_ALPHABET = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
_GROUPS, _GROUP_LENGTH = 5, 5
_CODE = re.compile(f"[{_ALPHABET}]{{{_GROUPS * _GROUP_LENGTH}}}", re.ASCII)
_AS_MEANT = str.maketrans("OIL", "011", " -")


class InvalidCode(ValueError):
    """The text can't be a code."""


class Refused(Exception):
    """The code gives no credit; `code` is what a program can act upon."""

    code = "code_not_found"


class CodeNotFound(Refused):
    """There is no such code for this customer: the same for one that is another customer's."""


class CodeRedeemed(Refused):
    """The code was redeemed before."""

    code = "code_redeemed"


class CodeExpired(Refused):
    """The code, or the credit that it would give, has come to its end."""

    code = "code_expired"


class CodeVoid(Refused):
    """The operator has withdrawn the code."""

    code = "code_void"


class TooManyFailures(Exception):
    """The customer has tried too many codes in vain; it may try again after `wait`."""

    def __init__(self, wait: timedelta) -> None:
        super().__init__("too many codes were tried in vain")
        self.wait = wait


class CannotMake(ValueError):
    """These codes can't be made; `field` names what is wrong."""

    def __init__(self, field: str, message: str) -> None:
        super().__init__(message)
        self.field = field


class AlreadyMade(Exception):
    """The codes of this key were made and shown before."""


@dataclass(frozen=True, slots=True)
class Terms:
    """What codes give (USD), to whom and until when; `customer_id` None: to whoever has one."""

    kind: str
    amount: Decimal
    campaign: str
    customer_id: int | None = None
    expires_at: datetime | None = None
    credit_expires_at: datetime | None = None
    credit_days: int | None = None


def make_codes(*, terms: Terms, count: int, actor: str, key: str, at: datetime) -> list[str]:
    """Make codes, once per key; returns them as they are to be shown, once: only their hashes are kept.

    Raises CannotMake, AlreadyMade.
    """
    _check_terms(terms, at)
    if not 1 <= count <= MOST_AT_ONCE:
        raise CannotMake("count", f"count must be from 1 to {MOST_AT_ONCE:,}")
    # What one code gives, or all codes of one customer, is what one person may give by hand.
    if manual.needs_second_person(terms.amount * (1 if terms.customer_id is None else count)):
        raise CannotMake("amount", "so much needs a second person: ask for it with “Adjust” on the customer's page")
    texts = [_new_code() for _ in range(count)]
    rows = [
        RedemptionCode(
            digest=_digest(text),
            prefix=text[:4],
            last4=text[-4:],
            campaign=terms.campaign,
            kind=terms.kind,
            amount=terms.amount,
            customer_id=terms.customer_id,
            expires_at=terms.expires_at,
            credit_expires_at=terms.credit_expires_at,
            credit_days=terms.credit_days,
            made_with=key,
            position=position,
            made_by=actor,
            created_at=at,
        )
        for position, text in enumerate(texts, 1)
    ]
    try:
        in_transaction(lambda: RedemptionCode.objects.bulk_create(rows))
    except IntegrityError as error:
        if "redemption_code_made_once" in str(error):
            raise AlreadyMade("these codes were made before, and shown once") from error
        raise
    return [shown(text) for text in texts]


def _check_terms(terms: Terms, at: datetime) -> None:
    if terms.kind not in RedemptionCode.Kind.values:
        raise CannotMake("kind", f"kind must be promotional or goodwill, not {terms.kind!r}")
    if not 0 < terms.amount <= credits.LARGEST_GRANT:
        raise CannotMake("amount", f"amount must be above zero and at most {credits.LARGEST_GRANT:f}")
    if not 1 <= len(terms.campaign.strip()) <= 100 or "\x00" in terms.campaign:
        raise CannotMake("campaign", "campaign must have 1 to 100 characters, and no NUL")
    for name in ("expires_at", "credit_expires_at"):
        moment = getattr(terms, name)
        if moment is not None and moment <= at:
            raise CannotMake(name, f"{name} must be in the future")
    if terms.credit_days is not None and not 1 <= terms.credit_days <= LONGEST_CREDIT_DAYS:
        raise CannotMake("credit_days", f"credit_days must be from 1 to {LONGEST_CREDIT_DAYS:,}")
    if terms.credit_days is not None and terms.credit_expires_at is not None:
        raise CannotMake("credit_days", "the credit ends at a moment or some days after redemption, not both")


def _new_code() -> str:
    return "".join(secrets.choice(_ALPHABET) for _ in range(_GROUPS * _GROUP_LENGTH))


def shown(text: str) -> str:
    """A code in groups: "7K3QX-…"."""
    return "-".join(text[start : start + _GROUP_LENGTH] for start in range(0, len(text), _GROUP_LENGTH))


def _digest(text: str) -> bytes:
    return hashlib.sha256(text.encode()).digest()


def read_code(typed: str) -> str:
    """A code as it was made, from what a person typed. Raises InvalidCode."""
    text = typed.upper().translate(_AS_MEANT)
    if not _CODE.fullmatch(text):
        raise InvalidCode(f"a code has {_GROUPS} groups of {_GROUP_LENGTH} letters and digits")
    return text


def redeem(*, customer_id: int, code: str, at: datetime) -> Grant:
    """Turn a code (`read_code`) into credit of this customer, once; returns the grant.

    The code's row is locked before it is judged, and stays so until the credit is there. Raises Refused.
    """

    def work() -> Grant:
        row = _lock_code(code)
        if row is None or row.customer_id not in {None, customer_id}:
            raise CodeNotFound("There is no such code for this account. Compare it with what you were given.")
        if row.redeemed_at is not None:
            raise CodeRedeemed("This code was redeemed before. Each code gives its credit once.")
        if row.voided_at is not None:
            raise CodeVoid("This code has been withdrawn. Ask whoever gave it to you.")
        ends = row.credit_expires_at if row.credit_days is None else at + timedelta(days=row.credit_days)
        if any(moment is not None and moment <= at for moment in (row.expires_at, ends)):
            raise CodeExpired("This code has expired. Ask whoever gave it to you.")
        key = f"code:{row.public_id}"
        granted = credits.grant(
            customer_id=customer_id,
            amount=row.amount,
            kind=row.kind,
            reason=f"Code {row.prefix}…{row.last4}: {row.campaign}",
            reference=row.public_id,
            key=key,
            at=at,
            expires_at=ends,
        )
        grant = credits.find(granted.grant)
        row.redeemed_at, row.redeemed_by_id, row.grant_id = at, customer_id, grant.pk
        row.save(update_fields=["redeemed_at", "redeemed_by", "grant_id"])
        return grant

    return in_transaction(work)


def _lock_code(code: str) -> RedemptionCode | None:
    return RedemptionCode.objects.select_for_update().filter(digest=_digest(code)).first()


def void_codes(*, code_ids: Sequence[int], reason: str, actor: str, at: datetime) -> list[int]:
    """Withdraw codes that were not redeemed; returns which. The credit of a redeemed one is voided as a grant."""

    def work() -> list[int]:
        still_good = RedemptionCode.objects.filter(pk__in=code_ids, redeemed_at=None, voided_at=None)
        chosen = list(still_good.select_for_update().order_by("pk").values_list("pk", flat=True))
        RedemptionCode.objects.filter(pk__in=chosen).update(voided_at=at, voided_by=actor, voided_because=reason)
        return chosen

    return in_transaction(work)


@contextmanager
def counted(customer_id: int, *, at: datetime) -> Iterator[None]:
    """Let a customer try a code, unless it has tried FAILURES_MAX in vain within an hour. Raises TooManyFailures.

    The try counts before it is judged, in a transaction of its own, and is given back unless it is Refused: so tries
    at the same moment are no more than the limit, and one that is cut off counts.
    """
    _count(customer_id, at)
    is_in_vain = False
    try:
        yield
    except Refused:
        is_in_vain = True
        raise
    finally:
        if not is_in_vain:
            _give_back(customer_id)


_COUNT = """
INSERT INTO billing_redemptionguesses AS g (customer_id, since, failures)
VALUES (%(customer)s, %(at)s::timestamptz, 1)
ON CONFLICT (customer_id) DO UPDATE SET
    since = CASE WHEN g.since <= %(before)s::timestamptz THEN excluded.since ELSE g.since END,
    failures = CASE WHEN g.since <= %(before)s::timestamptz THEN 1 ELSE g.failures + 1 END
WHERE g.since <= %(before)s::timestamptz OR g.failures < %(most)s
RETURNING failures
"""


def _count(customer_id: int, at: datetime) -> None:
    with server_cursor() as cursor:
        cursor.execute(
            _COUNT, {"customer": customer_id, "at": at, "before": at - FAILURES_WINDOW, "most": FAILURES_MAX}
        )
        if cursor.fetchone() is not None:
            return
    since = RedemptionGuesses.objects.values_list("since", flat=True).get(pk=customer_id)
    raise TooManyFailures(max(since + FAILURES_WINDOW - at, timedelta(seconds=1)))


def _give_back(customer_id: int) -> None:
    with server_cursor() as cursor:
        cursor.execute(
            "UPDATE billing_redemptionguesses SET failures = failures - 1 WHERE customer_id = %s AND failures > 0",
            [customer_id],
        )
