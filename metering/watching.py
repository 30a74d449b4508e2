"""The watch over what waits: one alarm for each thing that many events wait for, or one for long."""

from collections.abc import Sequence
from datetime import datetime, timedelta

from billing import alarms
from billing.alarms import Sighting
from billing.models import OperatorSettings
from metering import waiting
from metering.waiting import Crowd, Kind

SOURCE = "waiting"
# So many alarms of one kind and reason may be open; a relay that makes up names opens one for all further ones.
ALARMS_BY_REASON = 10
THEN = " What waits is then settled by itself, each event at the price of its own moment."


def watch_what_waits(*, at: datetime) -> alarms.Watched:
    """Open, update and resolve the alarms over waiting events, by the operator's limits."""
    limits = OperatorSettings.objects.get(pk=1)
    before = at - timedelta(minutes=limits.waiting_alarm_minutes)
    is_open = alarms.open_subjects(source=SOURCE)
    seen: list[Sighting] = []
    for kind in waiting.KINDS.values():
        prefix = alarm_kind(kind.name, "")
        always = {(name.removeprefix(prefix), subject) for name, subject in is_open if name.startswith(prefix)}
        crowds = waiting.over_limits(kind, more_than=limits.waiting_alarm_count, before=before, always=always)
        for reason in dict.fromkeys(crowd.reason for crowd in crowds):
            seen += _sightings(kind, [crowd for crowd in crowds if crowd.reason == reason], is_open)
    return alarms.report(seen, source=SOURCE, at=at)


def alarm_kind(kind: str, reason: str) -> str:
    """What an alarm over waiting events is called: waiting.parked.no_price."""
    return f"{SOURCE}.{kind}.{reason}"


def _sightings(kind: Kind, crowds: Sequence[Crowd], is_open: set[tuple[str, str]]) -> list[Sighting]:
    """One for each group of a reason; if there are too many, one more for all that have no alarm yet.

    While that one is open, all that is new belongs to it: its parts don't open alarms one after the other.
    """
    name = alarm_kind(kind.name, crowds[0].reason)
    known = [crowd for crowd in crowds if (name, crowd.subject) in is_open]
    fresh = [crowd for crowd in crowds if (name, crowd.subject) not in is_open]
    for_all = (name, "") in is_open and not any(crowd.subject == "" for crowd in known)
    if not fresh or not (for_all or len(crowds) > ALARMS_BY_REASON):
        return [_of_one(kind, crowd) for crowd in crowds]
    return [*(_of_one(kind, crowd) for crowd in known), _of_all(name, fresh)]


def _of_one(kind: Kind, crowd: Crowd) -> Sighting:
    label = waiting.label_of(crowd.reason, crowd.subject)
    what = f"{waiting.title_of(crowd.reason)} {label}".strip()
    return Sighting(
        kind=alarm_kind(kind.name, crowd.reason),
        subject=crowd.subject,
        label=label,
        count=crowd.count,
        message=f"{what}: {_wait(crowd.count)} since {crowd.oldest_received_at:%Y-%m-%d %H:%M} UTC.",
        advice=waiting.advice_of(crowd.reason, label) + (THEN if kind.is_swept else ""),
    )


def _of_all(name: str, crowds: Sequence[Crowd]) -> Sighting:
    count = sum(crowd.count for crowd in crowds)
    oldest = min(crowd.oldest_received_at for crowd in crowds)
    many = "1 more name" if len(crowds) == 1 else f"{len(crowds):,} names"
    return Sighting(
        kind=name,
        subject="",
        label=many,
        count=count,
        message=f"{waiting.title_of(crowds[0].reason)}, {many}: {_wait(count)} since {oldest:%Y-%m-%d %H:%M} UTC.",
        advice="So many different names seldom come from customers: look at what the relay reports.",
    )


def _wait(count: int) -> str:
    return "1 event waits" if count == 1 else f"{count:,} events wait"
