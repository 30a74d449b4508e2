"""A decoded batch of usage, from attribution to the last commit."""

from dataclasses import dataclass
from datetime import datetime

from metering import parking, settlement
from metering.attribution import attribute
from metering.ingestion import Batch, Rejection, mask, payload_json


@dataclass(frozen=True, slots=True)
class Taken:
    """Counts of events, and the rejected ones in the order of their index."""

    accepted: int
    duplicates: int
    parked: int
    rejected: list[Rejection]


def take(batch: Batch, *, relay_token_id: int | None, at: datetime) -> Taken:
    """Settle, park or quarantine every event of a batch; all of it is committed when this returns.

    Raises django.db.OperationalError when events could not be stored: then the whole batch is to be sent again.
    """
    known, unknown = attribute(batch.events)
    settled = settlement.settle(known, at=at)
    unclaimed = parking.keep_unclaimed(unknown, at=at)
    rejected = batch.rejected + [
        Rejection(event.index, event.id, "invalid_event", f"could not be stored: {why}", mask(payload_json(event)))
        for event, why in settled.culprits + unclaimed.culprits
    ]
    rejected.sort(key=lambda item: item.index)
    parking.quarantine(rejected, relay_token_id=relay_token_id, at=at)
    return Taken(
        accepted=settled.accepted,
        duplicates=settled.duplicates + unclaimed.repeated,
        parked=settled.parked + unclaimed.new,
        rejected=rejected,
    )
