"""The main job on one command: a month of events in, KPIs and SLO status out. Every step can be killed and resumed."""

import json
import tempfile
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

import psycopg
from psycopg.rows import scalar_row
from psycopg.types.json import Jsonb

from opskpi import console
from opskpi.counting import refresh
from opskpi.demo import sample
from opskpi.errors import ExitCode, OpsKpiError
from opskpi.ingestion import files
from opskpi.objectives import reporting
from opskpi.postgres import connecting, embedded, history, migrations
from opskpi.postgres.installation import find_installation
from opskpi.status import reading
from opskpi.status.reading import Kpi, Slo

NEXT_STEPS = """
What to try next:
  opskpi serve --no-auth                    the dashboard, on http://127.0.0.1:8787 (or opskpi demo --serve)
  opskpi kpi --period week --breakdowns     the same by team and hook type
  opskpi slo --fail-on-breach               exit code 3 while an objective is breached
  opskpi doctor                             is all well?
  opskpi ingest FILE                        your own events, JSON lines
  opskpi stop                               stop the embedded server
  {psql} -c 'select * from v_ops_hook_effectiveness limit 5'"""


@dataclass(frozen=True, slots=True)
class Episode:
    """Something that went wrong: in [since, until) `events` burned the budget of an objective, as `command` shows."""

    what: str
    slo_name: str
    since: datetime
    until: datetime
    events: int
    command: str


@dataclass(frozen=True, slots=True)
class Demo:
    """The story of the demo: events loaded by this run, the newest KPIs, objectives, what went wrong, what to try."""

    loaded: int
    kpis: list[Kpi]
    slos: list[Slo]
    episodes: list[Episode]
    next_steps: str


def run(dsn: str | None, *, quiet: bool = False) -> Demo:
    """Load, count and read a month of sample events in the embedded server, or in the database of `dsn`.

    `quiet` leaves out the progress bars. A second run loads nothing. Raises OpsKpiError when the database holds events
    that are not the demo's.
    """
    # Not the DSN of the environment: nobody wants a sample in production because a variable was set.
    target = dsn or embedded.ensure_running(console.notice)
    with connecting.connect(target) as connection:
        with console.progress("applying migrations", None, quiet=quiet) as bar:
            total = len(history.pending(connection))
            names: list[str] = []
            migrations.migrate(connection, lambda name: (names.append(name), bar.update(len(names), total))[0])
        loaded = _load(connection, target, quiet=quiet)
        refresh.maintain(connection)
        with console.progress("counting hours, days, weeks, months", None, quiet=quiet) as bar:
            refresh.refresh(connection, lambda done, left: bar.update(done, done + left))
        # A DSN that was given may hold a password.
        psql = "psql DSN" if dsn else f"{find_installation().bin_dir / 'psql'} '{target}'"
        return Demo(
            loaded,
            reading.kpis(connection, "day", None, breakdowns=False),
            reading.slos(connection),
            _episodes(connection),
            NEXT_STEPS.format(psql=psql),
        )


def _episodes(connection: psycopg.Connection) -> list[Episode]:
    found: list[Episode] = []
    for what, name, since, until in sample.episodes(_begin(connection)):
        command = f"opskpi slo explain {name} --since {since:%Y-%m-%dT%H:%M} --until {until:%Y-%m-%dT%H:%M}"
        events = len(reporting.explain(connection, name, since, until, None))
        found.append(Episode(what, name, since, until, events, command))
    return found


def _load(connection: psycopg.Connection, dsn: str, *, quiet: bool) -> int:
    until = _begin(connection)
    if _note(connection, "demo_loaded") is not None:
        return 0
    _load_teams_and_audits(connection, until)
    with (
        tempfile.TemporaryDirectory() as folder,
        console.progress("loading a month of events", None, quiet=quiet) as bar,
    ):
        file = Path(folder) / "month.jsonl"
        with file.open("w", encoding="utf-8") as lines:
            lines.writelines(json.dumps(event) + "\n" for event in sample.month(until))
        summary = files.ingest(
            connection,
            str(file),
            on_progress=lambda done, total, _: bar.update(done, total),
            open_another=partial(connecting.connect, dsn),
        )
    _note(connection, "demo_loaded", str(summary.read), "Events of the demo's month (count).")
    return summary.accepted


def _begin(connection: psycopg.Connection) -> datetime:
    """The end of the sample month: now on the first run, the same instant ever after."""
    known = _note(connection, "demo_until")
    if known is None:
        with connection.cursor(row_factory=scalar_row) as cursor:
            if cursor.execute("select exists (select from public.telemetry_events)").fetchone():
                raise OpsKpiError(
                    "this database holds events that are not the demo's",
                    "The demo fills an empty database; name another one with --dsn.",
                    ExitCode.BAD_ARGUMENT,
                )
        known = _note(
            connection,
            "demo_until",
            datetime.now(UTC).isoformat(),
            "The demo fills the month before this instant.",
        )
    return datetime.fromisoformat(str(known))


def _note(connection: psycopg.Connection, name: str, value: str | None = None, description: str = "") -> str | None:
    """What is noted under `name`; the first note stays, whoever else runs a demo at this moment."""
    if value is not None:
        connection.execute(
            "insert into ops.settings (name, value, description) values (%s, %s, %s) on conflict do nothing",
            [name, value, description],
        )
    with connection.cursor(row_factory=scalar_row) as cursor:
        return cursor.execute("select ops.setting(name => %s)", [name]).fetchone()


def _load_teams_and_audits(connection: psycopg.Connection, until: datetime) -> None:
    dumps = partial(json.dumps, default=str)
    with connection.transaction(), connection.cursor() as cursor:
        cursor.executemany(
            "select ops.assign_team(org_id => %s, agent_id => %s, team => %s)",
            [(sample.ORG_ID, agent_id, team) for agent_id, team in sample.teams().items()],
        )
        cursor.executemany(
            "select public.record_audit(audit => %s)",
            [(Jsonb(audit, dumps=dumps),) for audit in sample.audits(until)],
        )
