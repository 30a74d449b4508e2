"""What an operator may decide on parked corrections whose estimate never came; asked first, from the list or a page."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from django.contrib import admin, messages
from django.contrib.admin.helpers import ACTION_CHECKBOX_NAME
from django.db.models import QuerySet
from django.http import HttpRequest, HttpResponse
from django.utils import timezone
from unfold.dataclasses import UnfoldAction
from unfold.decorators import action

from billing.admin import html
from billing.admin.base import Question, WorkAdmin, see_other
from metering import decisions
from metering.models import ParkedEvent

MOST_AT_ONCE = 500
NOTHING_LEFT = "There is nothing left to decide here: it does not wait for an estimate that never came."


@dataclass(frozen=True, slots=True)
class _Decision:
    """`name` is the list action's. `done` and `trace` say what was done: to the operator, and in the admin's log."""

    name: str
    title: str
    text: str
    done: str
    trace: str
    decide: Callable[..., set[int]]
    is_dangerous: bool = False


_CHARGE = _Decision(
    name="charge_chosen",
    title="Charge as it stands",
    text="The estimate that it replaces has not come. It is charged as an ordinary event, at the price of its own"
    " moment. If the estimate comes after all, it is not charged, and recorded as a conflict.",
    done="charged as it stands",
    trace="Charged as it stands.",
    decide=decisions.charge_as_they_stand,
)
_REFUSE = _Decision(
    name="refuse_chosen",
    title="Refuse",
    text="The estimate that it replaces has not come. It is not charged now or later, and kept among what is dealt"
    " with. If the estimate comes after all, that is charged.",
    done="refused",
    trace="Refused.",
    decide=decisions.refuse,
    is_dangerous=True,
)


def is_undecided(row: ParkedEvent) -> bool:
    """Whether it waits for an estimate that has not come."""
    return row.resolved_at is None and row.reason == decisions.REASON


class DecisionAdmin(WorkAdmin):
    """Actions for the list and the page of parked events."""

    actions: Any = ("charge_chosen", "refuse_chosen")
    actions_detail = ("charge_one", "refuse_one")

    def get_actions_detail(self, request: HttpRequest, object_id: Any) -> list[UnfoldAction]:
        row = self.get_object(request, str(object_id))
        if row is None or not is_undecided(row):
            return []
        shown: list[UnfoldAction] = super().get_actions_detail(request, object_id)
        return shown

    @admin.action(description="Charge as it stands (its estimate never came)", permissions=["work"])
    def charge_chosen(self, request: HttpRequest, queryset: QuerySet[ParkedEvent]) -> HttpResponse | None:
        return self._decide_on_chosen(request, queryset, _CHARGE)

    @admin.action(description="Refuse (its estimate never came)", permissions=["work"])
    def refuse_chosen(self, request: HttpRequest, queryset: QuerySet[ParkedEvent]) -> HttpResponse | None:
        return self._decide_on_chosen(request, queryset, _REFUSE)

    @action(description="Charge as it stands", url_path="charge", icon="payments", permissions=["work"])
    def charge_one(self, request: HttpRequest, object_id: str) -> HttpResponse:
        return self._decide_on_one(request, object_id, _CHARGE)

    @action(description="Refuse", url_path="refuse", icon="block", permissions=["work"])
    def refuse_one(self, request: HttpRequest, object_id: str) -> HttpResponse:
        return self._decide_on_one(request, object_id, _REFUSE)

    def _decide_on_chosen(
        self, request: HttpRequest, queryset: QuerySet[ParkedEvent], decision: _Decision
    ) -> HttpResponse | None:
        undecided = queryset.filter(resolved_at=None, reason=decisions.REASON)
        rows = list(undecided.order_by("pk")[:MOST_AT_ONCE])
        if not rows:
            self.message_user(request, "None of these waits for an estimate that never came.", messages.WARNING)
            return None
        if "confirmed" in request.POST:
            self._decide(request, rows, decision)
            return None
        chosen = [(ACTION_CHECKBOX_NAME, str(row.pk)) for row in rows]
        question = Question(
            title=f"{decision.title}: {len(rows):,}",
            text=f"For each of {len(rows):,} corrections: {decision.text}",
            button=decision.title,
            back=html.list_url(self.model),
            is_dangerous=decision.is_dangerous,
            hidden=[("action", decision.name), ("confirmed", "yes"), *chosen],
        )
        return self.ask(request, question)

    def _decide_on_one(self, request: HttpRequest, object_id: str, decision: _Decision) -> HttpResponse:
        row = self.get_object(request, object_id)
        if row is None or not is_undecided(row):
            messages.info(request, NOTHING_LEFT)
            return see_other(html.list_url(self.model) if row is None else html.object_url(self.model, row.pk))
        back = html.object_url(self.model, row.pk)
        if request.method == "POST":
            self._decide(request, [row], decision)
            return see_other(back)
        question = Question(
            title=f"{decision.title}: {row}",
            text=decision.text,
            button=decision.title,
            back=back,
            is_dangerous=decision.is_dangerous,
        )
        return self.ask(request, question)

    def _decide(self, request: HttpRequest, rows: Sequence[ParkedEvent], decision: _Decision) -> None:
        """Decide, and leave in the admin's log who did it."""
        decided = decision.decide(
            parked_ids=[row.pk for row in rows], actor=request.user.get_username(), at=timezone.now()
        )
        for row in rows:
            if row.pk in decided:
                self.log_change(request, row, decision.trace)
        left = len(rows) - len(decided)
        if decided:
            self.message_user(request, f"{len(decided):,} {decision.done}.", messages.SUCCESS)
        if left:
            self.message_user(
                request,
                f"{left:,} left alone: settled meanwhile, or what it replaces has come or counts as replaced, or it has"
                " no price.",
                messages.WARNING,
            )
