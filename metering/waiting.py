"""What waits, told apart by reason and subject: how much, since when, and what to do about it.

Two ways to count. The home page asks `groups`, which reads no more than it shows, however many rows wait. The watch
asks `over_limits`, which reads the whole index of open rows once.
"""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from metering.ingestion import Event, kept_name, mask
from relayadmin.db import server_cursor, text_array

GROUPS_SHOWN = 50
# Rows read in all to count: so many for a single group, the fewer the more groups there are, but never below the other.
READ_MOST = 100_000
COUNTED_LEAST = 1_000
_NAME_LENGTH_MAX = 255


@dataclass(frozen=True, slots=True)
class Kind:
    """A table of what waits: columns that say why, about what, and (if it is known) whose.

    `is_swept`: settled by itself once what it lacks is there; the others wait for a person.
    """

    name: str
    table: str
    reason: str
    subject: str = ""
    customer: str = ""
    detail: str = "detail"
    occurred: str = "occurred_at"
    is_swept: bool = False


KINDS = {
    kind.name: kind
    for kind in (
        Kind("parked", "metering_parkedevent", "reason", subject="subject", customer="customer_id", is_swept=True),
        Kind("unclaimed", "metering_unclaimedevent", "reason", subject="key", is_swept=True),
        Kind("conflict", "metering_eventconflict", "kind", customer="customer_id", occurred="received_at"),
        Kind("quarantined", "metering_quarantinedevent", "code", detail="message", occurred="received_at"),
    )
}


@dataclass(frozen=True, slots=True)
class Group:
    """Open rows of one kind, reason and subject. `count` and `customers` are at least so many if `is_capped`."""

    kind: str
    reason: str
    subject: str
    count: int
    is_capped: bool
    customers: int | None
    oldest_received_at: datetime
    newest_received_at: datetime
    oldest_occurred_at: datetime
    newest_detail: str

    @property
    def label(self) -> str:
        return label_of(self.reason, self.subject)


# What a parked event waits for, by its reason; its model, as reported, where nothing else is said.
_SUBJECTS: dict[str, Callable[[Event], str]] = {
    "unknown_channel": lambda event: event.channel or "",
    "unknown_upstream_account": lambda event: event.upstream_account or "",
    "unknown_service_tier": lambda event: event.usage.service_tier,
    "unknown_speed": lambda event: event.usage.speed,
    "unknown_inference_geo": lambda event: event.usage.inference_geo,
    "unknown_counter": lambda event: f"{event.usage.unknown} of {event.format}",
    "clock_ahead": lambda event: "",
    "replaces_unknown": lambda event: "",
    "replaces_parked": lambda event: "",
    "replaces_final": lambda event: "",
    "replaced_before": lambda event: "",
    "replaces_refused": lambda event: "",
}


def subject_of(reason: str, detail: str, event: Event) -> str:
    """What an event parked for this reason waits for; many events should share it."""
    if reason == "unknown_model" and event.usage.parts:
        return _unknown_part(detail, event)[:_NAME_LENGTH_MAX]
    find = _SUBJECTS.get(reason)
    return kept_name(event.model if find is None else find(event))[:_NAME_LENGTH_MAX]


def _unknown_part(detail: str, event: Event) -> str:
    """Of several models in one response the one that the reason names."""
    names = [part.model for part in event.usage.parts if part.model is not None]
    return next((name for name in names if detail.endswith(repr(name))), event.model)


def label_of(reason: str, subject: str) -> str:
    """A subject for people, logs and mails: on one line, secrets masked, a key's name shortened."""
    if reason == "unknown_key":
        return _short_key(subject)
    return " ".join(mask(subject).split())


def _short_key(name: str) -> str:
    if name.startswith("sha256:"):
        return f"{name[:13]}…"
    shown = min(12, len(name) // 2)
    return f"{' '.join(mask(name[:shown]).split())}…"


_ELSE = "Open the list: each event says what it lacks."
_AGAIN = "Nothing was charged: correct what the relay sends, have it report these again, then mark them as dealt with."
_WORD = "This version has no prices for {0}: correct what the relay reports, or install a version that has."
# By reason: what it is, and what to do. {0} is the subject.
_REASONS = {
    "unknown_model": ("Unknown model", "Add {0} as an alias of a model that has prices, or as a model with its own."),
    "no_price": (
        "No price",
        "Add a price for {0} that holds from the oldest event on, or an alias to a model that has one.",
    ),
    "unknown_channel": ("Unknown channel", "Add a channel called {0} with prices, or correct its name at the relay."),
    "unknown_key": ("Unknown key", "Find out at the relay whose key {0} is, and see that this customer has it here."),
    "clock_ahead": ("Ahead of our clock", "Set the relay's clock; each event is settled when its moment has come."),
    "unknown_counter": (
        "Unknown counter",
        "The provider counts something that has no meter here: install a version that reads {0}.",
    ),
    "unknown_upstream_account": (
        "Unknown upstream account",
        "Add the upstream account {0} at its channel, or correct its name at the relay.",
    ),
    "unknown_service_tier": ("Unknown service tier", _WORD),
    "unknown_speed": ("Unknown speed", _WORD),
    "unknown_inference_geo": ("Unknown geography", _WORD),
    "replaces_unknown": (
        "Correction of nothing known",
        "Have the relay report the events that these replace; each is settled when its own has come. If one never will,"
        " charge its correction as it stands, or refuse it, in the list.",
    ),
    "replaces_parked": ("Correction of a correction", "Settle the events that these replace; each follows its own."),
    "replaces_final": (
        "Correction of no estimate",
        "Not charged, for the first report stands: find out why the relay corrects what it had not estimated.",
    ),
    "replaced_before": (
        "Corrected twice",
        "Not charged, for the first correction stands: find out why the relay sent another, and which one is right.",
    ),
    "replaces_refused": (
        "Correction of what was set aside",
        "Not charged, as little as what it replaces: find out which of the relay's reports is right.",
    ),
    "replaces_itself": (
        "Correction of itself",
        "Charged once, as any event: find out which event the relay meant, and whether both were charged.",
    ),
    "replaces_in_ring": (
        "Corrections in a ring",
        "One call, charged once: find out why the relay sent corrections of one another, and which of them is right.",
    ),
    "came_after_correction": (
        "Estimate after its correction",
        "Not charged, for the correction was charged as it stands by an operator: compare the two, then mark these as"
        " dealt with.",
    ),
    "other_content": (
        "Same id, other content",
        "The first report counts: find out why the relay used an id twice, then mark these as dealt with.",
    ),
    "unknown_authorization": (
        "Unknown authorization",
        "They were charged without a hold: find out why the relay names an authorization that is not the customer's,"
        " then mark these as dealt with.",
    ),
    "invalid_event": ("Malformed event", _AGAIN),
    "invalid_usage": ("Malformed usage", _AGAIN),
}


def title_of(reason: str) -> str:
    """What a reason is called."""
    known = _REASONS.get(reason)
    return reason.replace("_", " ").capitalize() if known is None else known[0]


def advice_of(reason: str, label: str) -> str:
    """What to do about it, in a sentence."""
    known = _REASONS.get(reason)
    return _ELSE if known is None else known[1].format(label)


def groups(kind: Kind, *, groups_most: int = GROUPS_SHOWN, read_most: int = READ_MOST) -> list[Group]:
    """Open rows by reason and subject, in that order: at most so many groups, reading about so many rows in all.

    From one group to the next by a look into the index, which skips all rows between.
    """
    with server_cursor() as cursor:
        cursor.execute(_groups_sql(kind), [groups_most, COUNTED_LEAST, read_most])
        rows = cursor.fetchall()
    return [_group(kind, row) for row in rows]


def _group(kind: Kind, row: Sequence[Any]) -> Group:
    reason, subject, most, count, customers, occurred, oldest, newest, detail = row
    return Group(
        kind=kind.name,
        reason=reason,
        subject=subject,
        count=min(count, most),
        is_capped=count > most,
        customers=customers if kind.customer else None,
        oldest_received_at=oldest,
        newest_received_at=newest,
        oldest_occurred_at=occurred,
        newest_detail=detail,
    )


def _groups_sql(kind: Kind) -> str:
    columns = {"reason": kind.reason} | ({"subject": kind.subject} if kind.subject else {})
    names, listed = ", ".join(columns), ", ".join(columns.values())
    at_g = ", ".join(f"g.{name}" for name in columns)
    this = " AND ".join(f"{column} = g.{name}" for name, column in columns.items())
    subject = "g.subject" if kind.subject else "''"
    open_rows = f"FROM {kind.table} WHERE resolved_at IS NULL"
    return f"""
        WITH RECURSIVE found ({names}) AS (
            (SELECT {listed} {open_rows} ORDER BY {listed} LIMIT 1)
            UNION ALL
            SELECT following.* FROM found g CROSS JOIN LATERAL
                (SELECT {listed} {open_rows} AND ({listed}) > ({at_g}) ORDER BY {listed} LIMIT 1) following
        ), g AS MATERIALIZED (SELECT * FROM found LIMIT %s),
        cap AS MATERIALIZED (SELECT greatest(%s::bigint, %s::bigint / greatest(count(*), 1)) AS most FROM g)
        SELECT g.reason, {subject}, (SELECT most FROM cap), counted.rows, counted.customers, counted.occurred,
            oldest.received_at, newest.received_at, newest.detail
        FROM g CROSS JOIN LATERAL (
            SELECT count(*) AS rows, count(DISTINCT customer) AS customers, min(occurred) AS occurred FROM (
                SELECT {kind.customer or "NULL::bigint"} AS customer, {kind.occurred} AS occurred
                {open_rows} AND {this} ORDER BY received_at LIMIT (SELECT most + 1 FROM cap)
            ) counted_rows
        ) counted CROSS JOIN LATERAL (
            SELECT received_at {open_rows} AND {this} ORDER BY received_at LIMIT 1
        ) oldest CROSS JOIN LATERAL (
            SELECT received_at, {kind.detail} AS detail {open_rows} AND {this} ORDER BY received_at DESC LIMIT 1
        ) newest
    """


def reasons(kind: Kind, *, counted_most: int = READ_MOST) -> list[tuple[str, int]]:
    """The reasons among open rows, each with its rows counted no further than so."""
    reason, open_rows = kind.reason, f"FROM {kind.table} WHERE resolved_at IS NULL"
    sql = f"""
        WITH RECURSIVE found (reason) AS (
            (SELECT {reason} {open_rows} ORDER BY {reason} LIMIT 1)
            UNION ALL
            SELECT following.* FROM found g CROSS JOIN LATERAL
                (SELECT {reason} {open_rows} AND {reason} > g.reason ORDER BY {reason} LIMIT 1) following
        )
        SELECT g.reason, (SELECT count(*) FROM (SELECT 1 {open_rows} AND {reason} = g.reason LIMIT %s) counted)
        FROM found g LIMIT %s
    """
    with server_cursor() as cursor:
        cursor.execute(sql, [counted_most, GROUPS_SHOWN])
        return [(name, count) for name, count in cursor.fetchall()]


@dataclass(frozen=True, slots=True)
class Crowd:
    """A group counted to the end."""

    reason: str
    subject: str
    count: int
    oldest_received_at: datetime


def over_limits(
    kind: Kind, *, more_than: int, before: datetime, always: Collection[tuple[str, str]] = ()
) -> list[Crowd]:
    """Groups of more open rows than `more_than`, or with one received before `before`; and all those in `always`."""
    subject = kind.subject or "''"
    columns = f"{kind.reason}, {kind.subject}" if kind.subject else kind.reason
    with server_cursor() as cursor:
        cursor.execute(
            f"SELECT {kind.reason}, {subject}, count(*), min(received_at) FROM {kind.table}"
            f" WHERE resolved_at IS NULL GROUP BY {columns}"
            f" HAVING count(*) > %s OR min(received_at) < %s OR ({kind.reason}, {subject}) IN"
            "  (SELECT * FROM unnest(%s::text[], %s::text[]))"
            f" ORDER BY {columns}",
            [
                more_than,
                before,
                text_array([reason for reason, _ in always]),
                text_array([name for _, name in always]),
            ],
        )
        return [Crowd(*row) for row in cursor.fetchall()]
