"""When runs ended: by their jobs where these are known, by `updated_at` only as long as that is to be believed.

GitHub moves `updated_at` of a run that is over (reviews of deployments, logs and artifacts that are deleted, a further
attempt), so it is the end of the run in the webhook `completed` alone. The `completed_at` of a job never moves.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta

from opskpi.github.fields import Json, Malformed, instant, mapping, required_instant, text, whole

# GitHub ends a run after 35 days, waiting for approval included.
LONGEST_RUN = timedelta(days=35)
# A job of a hosted runner ends after 6 hours, so a longer run has several, one after the other, or waits for people.
BELIEVED = timedelta(hours=24)
# Of 140 runs of a real repository one took longer; asking for the jobs of each run would double the requests.
WORTH_ASKING = timedelta(hours=1)
CLOCKS_DIFFER = timedelta(minutes=1)


@dataclass(frozen=True, slots=True)
class Ending:
    """The known facts about the end of an attempt beside the attempt itself.

    `jobs_ended_at` is the end of its last job; `updated_at` the earliest that was seen; `is_told` whether that came
    with the webhook which GitHub sends at the end; `is_latest` is false where another attempt followed.
    """

    jobs_ended_at: datetime | None = None
    updated_at: datetime | None = None
    is_told: bool = False
    is_latest: bool = True


UNKNOWN = Ending()


def began_at(run: Json) -> datetime | None:
    """When an attempt began; None when it is not known. Raises Malformed."""
    started_at = instant(run, "run_started_at")
    if started_at is None and whole(run, "run_attempt", default=1) == 1:
        return instant(run, "created_at")
    return started_at


def times(run: Json, ending: Ending) -> tuple[timedelta | None, datetime]:
    """The duration of an attempt, None when it is not known, and its end; its begin where the end is not known.

    Raises Malformed.
    """
    started_at = began_at(run)
    updated_at = min(filter(None, [required_instant(run, "updated_at"), ending.updated_at]))
    if started_at is None:
        return None, ending.jobs_ended_at or updated_at
    jobs_ended_at = ending.jobs_ended_at
    # Jobs that were carried over from the attempt before ended before this one began.
    if jobs_ended_at is not None and jobs_ended_at >= started_at - CLOCKS_DIFFER:
        ended_at, longest = jobs_ended_at, LONGEST_RUN
    else:
        ended_at, longest = updated_at, LONGEST_RUN if ending.is_told else BELIEVED
        if not ending.is_latest and not ending.is_told:
            return None, started_at
    duration = ended_at - started_at
    return (None, started_at) if duration > longest else (duration, ended_at)


def is_doubtful(run: Json) -> bool:
    """Whether `updated_at` is so long after the begin that the jobs should be asked. Raises Malformed."""
    started_at = began_at(run)
    return started_at is None or required_instant(run, "updated_at") - started_at > WORTH_ASKING


def end_of(jobs: Iterable[object]) -> datetime | None:
    """When the last job ended; None without jobs, and while one of them goes on or does not tell."""
    ends: list[datetime] = []
    for job in jobs:
        try:
            found = mapping(job)
            if text(found, "status") != "completed":
                return None
            ends.append(required_instant(found, "completed_at"))
        except Malformed:
            return None
    return max(ends, default=None)
