"""Public identifiers and secrets. Pure: no Django.

Objects of the hot tables carry the customer's number inside their public id (`evt_<customer>_<number>`), so that a
look-up by id alone knows the customer. Everything else has a random id kept in its row.
"""

import hashlib
import secrets
from dataclasses import dataclass

_ALPHABET = "0123456789abcdefghjkmnpqrstvwxyz"
_VALUES = {letter: value for value, letter in enumerate(_ALPHABET)}
_SECRET_ALPHABET = "ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz0123456789"


def _encode(number: int) -> str:
    digits = ""
    while True:
        number, rest = divmod(number, 32)
        digits = _ALPHABET[rest] + digits
        if number == 0:
            return digits


def _decode(digits: str) -> int | None:
    if not 1 <= len(digits) <= 13 or (digits[0] == "0" and digits != "0"):
        return None
    number = 0
    for digit in digits:
        value = _VALUES.get(digit)
        if value is None:
            return None
        number = number * 32 + value
    return number if number < 2**63 else None


def hot_id(prefix: str, customer_id: int, number: int) -> str:
    """The public id of row (customer_id, number): hot_id("evt", 40, 7) is "evt_18_7"."""
    return f"{prefix}_{_encode(customer_id)}_{_encode(number)}"


def parse_hot_id(prefix: str, text: str) -> tuple[int, int] | None:
    """The (customer_id, number) inside a public id, or None for anything that is not one."""
    parts = text.split("_")
    if len(parts) != 3 or parts[0] != prefix:
        return None
    customer_id, number = _decode(parts[1]), _decode(parts[2])
    return None if customer_id is None or number is None else (customer_id, number)


def random_id(prefix: str) -> str:
    """A random public id of 80 bits: "cus_3f0k9…"."""
    return f"{prefix}_{''.join(secrets.choice(_ALPHABET) for _ in range(16))}"


@dataclass(frozen=True, slots=True)
class Secret:
    """A new secret: shown once as `text`, kept as its SHA-256 with what is needed to recognise it."""

    text: str
    digest: bytes
    prefix: str
    last4: str


def new_secret(prefix: str) -> Secret:
    """A secret of about 280 random bits behind a prefix such as "sk-"."""
    text = prefix + "".join(secrets.choice(_SECRET_ALPHABET) for _ in range(48))
    return Secret(text=text, digest=secret_digest(text), prefix=text[: len(prefix) + 6], last4=text[-4:])


def secret_digest(text: str) -> bytes:
    """SHA-256 of a secret; random secrets need no slow hash. Lone surrogates are hashed too, so no input raises."""
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()
