"""The watch over the scheduled jobs: an alarm for each that failed, was killed or did not run, and for beat's silence.

The worker sends it to itself every minute, so it goes on when beat does not; of the worker's own silence the home page
and the metrics tell.
"""

from datetime import datetime

from billing import alarms, job_board, jobs, timetable
from billing.alarms import Sighting
from billing.job_board import Processes, Standing

SOURCE = "jobs"


def watch(*, at: datetime) -> alarms.Watched:
    """Open, update and resolve the alarms over jobs."""
    timetable.observe(at=at)
    found = job_board.standings(at=at)
    processes = job_board.processes(found, at=at)
    seen = [_of_beat(processes)] if processes.is_beat_silent else []
    for standing in found:
        # Without beat nothing runs in time, which is one alarm and not thirty.
        if standing.trouble and not (processes.is_beat_silent and standing.trouble == "overdue"):
            seen.append(_of_job(standing))
    return alarms.report(seen, source=SOURCE, at=at)


def _of_beat(processes: Processes) -> Sighting:
    return Sighting(
        kind=f"{SOURCE}.beat_silent",
        subject="",
        label="beat",
        count=1,
        message=beat_text(processes),
        advice=BEAT_ADVICE,
    )


def _of_job(standing: Standing) -> Sighting:
    return Sighting(
        kind=f"{SOURCE}.{standing.trouble}",
        subject=standing.entry.name,
        label=standing.entry.name,
        count=max(1, standing.failures),
        message=f"The job “{standing.entry.name}” {trouble_text(standing)}",
        advice=ADVICE[standing.trouble],
    )


WORKER_ADVICE = "Start the worker, or look into its log. Jobs wait in the queue; nothing is lost."
BEAT_ADVICE = "Start beat, or look into its log: without it no job is started in time."
ADVICE = {
    "failed": "Its page says what went wrong. It runs again when it is due, or by Run now.",
    "killed": "Its process died, perhaps of too little memory. It runs again when it is due, or by Run now.",
    "overdue": "See that worker and beat run and keep up. Run now starts it at once.",
}


def trouble_text(standing: Standing) -> str:
    """What is wrong with a job, as the end of a sentence that begins with its name."""
    last, due_at = standing.last, standing.due_at
    if standing.trouble == "failed" and last:
        return f"failed at {_moment(last.started_at)}: {jobs.error_line(last)}"
    if standing.trouble == "killed" and last:
        return f"was killed in the middle; it had begun at {_moment(last.started_at)}."
    if standing.trouble == "overdue" and last and standing.outcome == "running":
        return f"has been running since {_moment(last.started_at)}, so it can't begin anew."
    if standing.trouble == "overdue" and due_at:
        before = f"last ran at {_moment(last.started_at)}" if last else "has never run"
        return f"did not run when it was due, at {_moment(due_at)}; it {before}."
    return ""


def worker_text(processes: Processes) -> str:
    if processes.worker_at is None:
        return "No worker has answered yet."
    return f"The worker has not answered since {_moment(processes.worker_at)}."


def beat_text(processes: Processes) -> str:
    if processes.beat_at is None:
        return "Beat has not sent any job yet."
    return f"Beat has not sent any job since {_moment(processes.beat_at)}."


def _moment(value: datetime) -> str:
    return f"{value:%Y-%m-%d %H:%M} UTC"
