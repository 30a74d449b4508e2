"""What is wrong with the scheduled jobs, for the home page, and one line on all of them."""

from collections.abc import Sequence
from datetime import datetime

from django.http import HttpRequest
from django.utils.html import format_html

from billing import job_board, job_watch
from billing.admin import html
from billing.admin.base import Panel
from billing.admin.job_pages import state_badge
from billing.job_board import Standing
from billing.models import Job


def home_panels(
    request: HttpRequest, *, now: datetime, more: Sequence[Sequence[object]] = ()
) -> tuple[Panel | None, Panel]:
    """What is wrong with the jobs, or None; and one line on all of them. `more` are further rows on what is wrong."""
    found = job_board.standings(at=now)
    processes = job_board.processes(found, at=now)
    may_run = request.user.has_perm("billing.run_job")
    rows: list[Sequence[object]] = []
    is_new = not found and processes.worker_at is None
    if processes.is_worker_silent and not is_new:
        rows.append(
            (html.badge("worker", "danger"), html.lines(job_watch.worker_text(processes), job_watch.WORKER_ADVICE), "")
        )
    if processes.is_beat_silent and not is_new:
        rows.append(
            (html.badge("beat", "danger"), html.lines(job_watch.beat_text(processes), job_watch.BEAT_ADVICE), "")
        )
    for item in found:
        # Who starts nothing in time is named once, not for each job.
        is_named = processes.is_worker_silent or processes.is_beat_silent
        if item.trouble and not (item.trouble == "overdue" and is_named):
            rows.append(_home_row(request, item, may_run=may_run))
    rows += more
    troubled = sum(bool(item.trouble) for item in found)
    text = (
        f"{len(found) - troubled:,} of {len(found):,} jobs are well."
        if troubled
        else f"All {len(found):,} jobs are well."
    )
    if processes.worker_at is not None:
        text += f" A worker answered {html.age(now - processes.worker_at)} ago."
    if not found:
        text = "No job has run yet: are worker and beat running? “make run” starts both."
    url = html.list_url(Job)
    wrong = Panel(title="Jobs that need you", headers=("", "What", ""), rows=rows, url=url, tone="danger")
    return wrong if rows else None, Panel(title="Scheduled jobs", headers=(), rows=(), body=text, url=url)


def _home_row(request: HttpRequest, item: Standing, *, may_run: bool) -> Sequence[object]:
    link = html.link(html.object_url(Job, item.entry.number), item.entry.name)
    what = format_html("{} {}", link, job_watch.trouble_text(item))
    button = html.post_button(request, html.action_url(Job, "run_now", item.entry.number), "Run now", from_home=True)
    return state_badge(item), html.lines(what, job_watch.ADVICE[item.trouble]), button if may_run else ""
