"""Whose key is it: API key ids and hashes → (key, customer), remembered per process because a key never moves."""

from collections.abc import Sequence

from metering.ingestion import Event
from metering.models import ApiKey

_MAX_KNOWN = 500_000
_by_id: dict[str, tuple[int, int]] = {}
_by_digest: dict[bytes, tuple[int, int]] = {}


def attribute(events: Sequence[Event]) -> tuple[list[Event], list[Event]]:
    """Fill in key and customer; returns the events with a (known, unknown) key. Revoked and expired keys are known."""
    _look_up(
        {event.key_id for event in events if event.key_id is not None} - _by_id.keys(),
        {event.key_digest for event in events if event.key_digest is not None} - _by_digest.keys(),
    )
    known, unknown = [], []
    for event in events:
        if event.key_id is not None:
            found = _by_id.get(event.key_id)
        else:
            found = _by_digest.get(event.key_digest or b"")
        if found is None:
            unknown.append(event)
        else:
            event.api_key_pk, event.customer_id = found
            known.append(event)
    return known, unknown


def _look_up(public_ids: set[str], digests: set[bytes]) -> None:
    if len(_by_id) + len(_by_digest) > _MAX_KNOWN:
        forget()
    if public_ids:
        # A NUL can't be in a text of PostgreSQL's, so it can't be in an id of ours either.
        askable = [public_id for public_id in public_ids if "\x00" not in public_id]
        rows = ApiKey.objects.filter(public_id__in=askable).values_list("public_id", "pk", "customer_id")
        _by_id.update({public_id: (pk, customer_id) for public_id, pk, customer_id in rows})
    if digests:
        found = ApiKey.objects.filter(digest__in=digests).values_list("digest", "pk", "customer_id")
        _by_digest.update({bytes(digest): (pk, customer_id) for digest, pk, customer_id in found})


def forget() -> None:
    """Drop what is remembered; for tests that roll back."""
    _by_id.clear()
    _by_digest.clear()
