"""The jobs board: every scheduled job with how it stands, a page for each, and what is wrong on the home page."""

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any

from django.contrib import admin, messages
from django.http import HttpRequest, HttpResponse
from django.template.response import TemplateResponse
from django.utils import timezone
from django.utils.html import format_html, format_html_join
from django_celery_beat.models import PeriodicTask
from unfold.dataclasses import UnfoldAction
from unfold.decorators import action, display

from billing import job_board, job_starting, job_watch, jobs
from billing.admin import alarms, html
from billing.admin.base import Figure, Panel, Question, WorkAdmin, home_or, see_other
from billing.admin.operation import RUN_TONES, duration_text, result_text
from billing.job_board import Processes, Standing
from billing.models import Job, JobRun

RUNS = 50
STATE_TONES = {"overdue": "danger", "failed": "danger", "killed": "danger", "off": "", "new": "", **RUN_TONES}
STATE_WORDS = {"new": "not run yet", "done": "ok"}
LATELY = (
    "The small squares are the last runs, the newest on the right. Of runs that found nothing to do, the last is kept."
)


@admin.register(Job)
class JobAdmin(WorkAdmin):
    list_select_related = ("timetable",)
    actions_detail = ("run_now", "switch_off", "switch_on", "change_times")
    fields = ("does", ("times", "next_run"), ("task", "arguments"))

    def has_run_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return request.user.has_perm("billing.run_job")

    def has_timetable_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return request.user.has_perm("django_celery_beat.change_periodictask")

    def get_actions_detail(self, request: HttpRequest, object_id: Any) -> list[UnfoldAction]:
        job = self.get_object(request, str(object_id))
        hidden = "switch_on" if job is not None and job.timetable.enabled else "switch_off"
        shown: list[UnfoldAction] = super().get_actions_detail(request, object_id)
        return [item for item in shown if not item.action_name.endswith(hidden)]

    def changelist_view(self, request: HttpRequest, extra_context: Any = None) -> HttpResponse:
        """The board. There are few jobs, so it has neither pages nor filters."""
        if not self.has_view_permission(request):
            refused: HttpResponse = super().changelist_view(request, extra_context)
            return refused
        now = timezone.now()
        found = job_board.standings(at=now)
        known = set(Job.objects.values_list("pk", flat=True))
        ordered = sorted(found, key=lambda item: (not item.trouble, not item.entry.is_on, item.entry.name))
        processes = job_board.processes(found, at=now)
        context = {
            **self.admin_site.each_context(request),
            "opts": self.opts,
            "title": "Jobs",
            "figures": _board_figures(found, processes, now),
            "jobs": [self._row(request, item, known, now) for item in ordered],
            "note": LATELY,
            "runs_url": html.list_url(JobRun),
        }
        return TemplateResponse(request, "admin/jobs.html", context)

    def _row(self, request: HttpRequest, item: Standing, known: set[int], now: datetime) -> dict[str, object]:
        entry = item.entry
        times: object = entry.words
        if self.has_timetable_permission(request):
            times = html.link(html.object_url(PeriodicTask, entry.number), entry.words)
        is_known = entry.number in known
        may_run = is_known and self.has_run_permission(request) and item.outcome != "running"
        return {
            "trouble": item.trouble,
            "name": html.link(html.object_url(Job, entry.number), entry.name) if is_known else entry.name,
            "does": entry.does,
            "times": html.lines(times, f"shipped: {entry.shipped}" if entry.shipped else ""),
            "state": state_badge(item),
            "last": last_text(item, now),
            "result": (item.trouble == "overdue" and _beginning(job_watch.trouble_text(item))) or result_of(item.last),
            "lately": lately(item),
            "next": next_text(item, now),
            "button": html.post_button(request, html.action_url(Job, "run_now", entry.number), "Run now")
            if may_run
            else "",
        }

    def standing(self, obj: Job) -> Standing:
        """How a job stands, looked up once for a page."""
        if "standing" not in obj.__dict__:
            found = {item.entry.number: item for item in job_board.standings(at=timezone.now())}
            obj.__dict__["standing"] = found[obj.pk]
        standing: Standing = obj.__dict__["standing"]
        return standing

    def figures(self, request: HttpRequest, obj: Any) -> list[Figure]:
        item, now = self.standing(obj), timezone.now()
        state = state_of(item)
        text = _beginning(job_watch.trouble_text(item)) if item.trouble else ""
        good = html.age(now - item.succeeded_at) + " ago" if item.succeeded_at else "never"
        return [
            Figure("State", STATE_WORDS.get(state, state), text, tone=STATE_TONES[state].replace("success", "")),
            Figure("Last success", good, html.moment(item.succeeded_at) if item.succeeded_at else ""),
            Figure("Failed", f"{item.failures:,}", "runs in the last 24 hours", tone="danger" if item.failures else ""),
            Figure("Next run", next_text(item, now), item.entry.words),
        ]

    def panels(self, request: HttpRequest, obj: Any) -> list[Panel]:
        entry = self.standing(obj).entry
        runs = JobRun.objects.filter(job=entry.task, variant=entry.variant).order_by("-started_at", "-id")[:RUNS]
        return [runs_panel(list(runs), entry.task)]

    @display(description="What it does")
    def does(self, obj: Job) -> str:
        return self.standing(obj).entry.does

    @display(description="When")
    def times(self, obj: Job) -> str:
        entry = self.standing(obj).entry
        return html.lines(entry.words, f"shipped: {entry.shipped}" if entry.shipped else "")

    @display(description="Next run")
    def next_run(self, obj: Job) -> str:
        return next_text(self.standing(obj), timezone.now())

    @display(description="Task")
    def task(self, obj: Job) -> str:
        return self.standing(obj).entry.task

    @display(description="Arguments")
    def arguments(self, obj: Job) -> str:
        return self.standing(obj).entry.variant or "none"

    @action(description="Run now", url_path="run-now", icon="play_arrow", permissions=["run"])
    def run_now(self, request: HttpRequest, object_id: str) -> HttpResponse:
        job = self.get_object(request, object_id)
        if job is None:
            messages.error(request, "There is no such job any more.")
            return see_other(html.list_url(Job))
        entry = self.standing(job).entry
        page = html.object_url(Job, job.pk)
        if request.method != "POST":
            text = f"{entry.does} A worker takes it up at once; its timetable stays as it is."
            return self.ask(request, Question(f"Run “{entry.name}” now", text, "Run now", page, is_dangerous=False))
        try:
            job_starting.run_now(entry, by=request.user.get_username())
        except job_starting.AlreadyRuns:
            messages.info(
                request, f"“{entry.name}” runs already, so it was not started again. Its page shows the result."
            )
        except job_starting.NotSent as error:
            messages.error(request, f"“{entry.name}” was not started: {error}")
        else:
            self.log_change(request, job, "Run now.")
            waits = job_board.processes([], at=timezone.now()).is_worker_silent
            when = "as soon as a worker answers, which none does now" if waits else "in a moment"
            link = html.link(page, "its page")
            messages.success(
                request,
                format_html("“{}” was sent to the workers. The result stands on {} {}.", entry.name, link, when),
            )
        return see_other(home_or(request, page))

    @action(description="Switch off", url_path="switch-off", icon="pause", permissions=["timetable"])
    def switch_off(self, request: HttpRequest, object_id: str) -> HttpResponse:
        return self._switch(request, object_id, is_on=False)

    @action(description="Switch on", url_path="switch-on", icon="resume", permissions=["timetable"])
    def switch_on(self, request: HttpRequest, object_id: str) -> HttpResponse:
        return self._switch(request, object_id, is_on=True)

    def _switch(self, request: HttpRequest, object_id: str, *, is_on: bool) -> HttpResponse:
        job = self.get_object(request, object_id)
        if job is None:
            messages.error(request, "There is no such job any more.")
            return see_other(html.list_url(Job))
        entry, page, word = self.standing(job).entry, html.object_url(Job, job.pk), "on" if is_on else "off"
        if request.method != "POST":
            text = f"{entry.does} " + (
                f"It runs {entry.words} again." if is_on else "It does not run any more, and nothing will remind of it."
            )
            title = f"Switch “{entry.name}” {word}"
            return self.ask(request, Question(title, text, f"Switch {word}", page, is_dangerous=not is_on))
        if job_starting.switch(entry, is_on=is_on, at=timezone.now()):
            self.log_change(request, job, f"Switched {word}.")
        messages.success(request, f"“{entry.name}” is {word}.")
        return see_other(page)

    @action(description="Change times", url_path="times", icon="edit_calendar", permissions=["timetable"])
    def change_times(self, request: HttpRequest, object_id: str) -> HttpResponse:
        return see_other(html.object_url(PeriodicTask, object_id))


def _beginning(text: str) -> str:
    """The text as the beginning of a sentence."""
    return text[:1].upper() + text[1:]


def state_of(item: Standing) -> str:
    if item.trouble:
        return item.trouble
    return item.outcome if item.entry.is_on else "off"


def state_badge(item: Standing) -> str:
    state = state_of(item)
    return html.badge(STATE_WORDS.get(state, state), STATE_TONES[state])


def last_text(item: Standing, now: datetime) -> str:
    """When the last run was, and how long it took."""
    if item.last is None:
        return ""
    ago = f"{html.age(now - item.last.started_at)} ago"
    if item.outcome == "running":
        return f"began {ago}"
    took = duration_text(item.last.duration_ms).replace(" ", "\u00a0")
    return f"{ago}, took\u00a0{took}" if item.last.duration_ms is not None else ago


def result_of(run: JobRun | None) -> str:
    """What a run did or what went wrong, on one line."""
    if run is None:
        return ""
    if run.duration_ms is None and not run.error:
        return ""
    return jobs.error_line(run) or result_text(run)


def lately(item: Standing) -> str:
    """The last runs as small squares, the newest on the right."""
    squares = format_html_join(
        "",
        '<span class="ra-run ra-run-{}" title="{}"></span>',
        (
            (outcome, f"{html.moment(run.started_at)} UTC: {STATE_WORDS.get(outcome, outcome)}")
            for run, outcome in reversed(item.runs)
        ),
    )
    words = ", ".join(STATE_WORDS.get(outcome, outcome) for _, outcome in item.runs)
    return format_html(
        '<span class="ra-runs" role="img" aria-label="newest first: {}">{}</span>', words or "none", squares
    )


def next_text(item: Standing, now: datetime) -> str:
    if not item.entry.is_on:
        return "off"
    if item.due_at is None:
        return html.NOTHING
    left = item.due_at - now
    if left > timedelta(days=1):
        return f"{item.due_at:%Y-%m-%d %H:%M} UTC"
    if left > timedelta(minutes=1):
        return f"in {html.age(left)}"
    return "within a minute" if not item.is_overdue else "overdue"


def runs_panel(runs: Sequence[JobRun], task: str) -> Panel:
    dead = jobs.killed(runs)
    rows = []
    for run in runs:
        outcome = jobs.outcome_of(run, dead)
        rows.append(
            (
                html.link(html.object_url(JobRun, run.pk), html.moment(run.started_at)),
                html.badge(STATE_WORDS.get(outcome, outcome), STATE_TONES[outcome]),
                duration_text(run.duration_ms),
                result_of(run),
                run.begun_by or "the timetable",
            )
        )
    return Panel(
        title=f"The last {RUNS} runs",
        headers=("Began (UTC)", "Result", "Took", "What it did", "Begun by"),
        rows=rows,
        numbers=frozenset({2}),
        empty="It has not run yet.",
        note="Of runs that found nothing to do, only the last is kept; all are gone after 90 days.",
        url=html.list_url(JobRun, f"job={task}"),
    )


def _board_figures(found: Sequence[Standing], processes: Processes, now: datetime) -> list[Figure]:
    troubled = sum(bool(item.trouble) for item in found)
    off = sum(not item.entry.is_on for item in found)
    return [
        Figure("Jobs", f"{len(found):,}", f"{off:,} off" if off else "all are on"),
        Figure("In trouble", f"{troubled:,}", "failed, killed or overdue", tone="danger" if troubled else ""),
        Figure(
            "Worker",
            "silent" if processes.is_worker_silent else "answers",
            f"last {html.age(now - processes.worker_at)} ago" if processes.worker_at else "never",
            tone="danger" if processes.is_worker_silent else "",
        ),
        Figure(
            "Beat",
            "silent" if processes.is_beat_silent else "sends",
            f"last noted {html.age(now - processes.beat_at)} ago" if processes.beat_at else "never",
            tone="danger" if processes.is_beat_silent else "",
        ),
    ]


def _where(alarm: Any) -> str:
    entry = PeriodicTask.objects.filter(name=alarm.subject).first() if alarm.subject else None
    return html.object_url(Job, entry.pk) if entry else html.list_url(Job)


alarms.WHERE[job_watch.SOURCE] = _where
