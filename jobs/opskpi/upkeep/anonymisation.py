"""Takes personal data out of stored events by the rules of the database, batch by batch, and erases single agents."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any
from uuid import UUID

import psycopg
from psycopg.rows import class_row, scalar_row

from opskpi.access import pseudonyms
from opskpi.errors import ExitCode, OpsKpiError

BATCH = 2_000
PATIENCE_S = 60.0
PAUSE_S = 0.1


@dataclass(frozen=True, slots=True)
class Report:
    """What one batch did; `state` is more, done or busy."""

    state: str
    last_id: int | None
    looked_at: int | None
    changed: int | None
    counts: dict[str, int] | None
    kept: dict[str, int] | None


@dataclass(slots=True)
class Totals:
    """What a run did in all: events looked at and changed, and values changed by rule (rows by table for an erasure).

    `dry_run`: what it would have done. `kept`: rows by column in which an erasure leaves a name of the agent, since it
    is part of a definition that holds for all organisations.
    """

    dry_run: bool
    looked_at: int = 0
    changed: int = 0
    counts: dict[str, int] = field(default_factory=dict)
    kept: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Rule:
    """A row of `ops.anonymisation_rules`."""

    rule_name: str
    event_type: str
    path: str
    matching: str | None
    action: str
    on_ingest: bool
    is_enabled: bool


@dataclass(frozen=True, slots=True)
class Run:
    """A row of `ops.anonymisations`: what a run did, never to whom."""

    anonymisation_id: int
    kind: str
    before: datetime | None
    only_org_id: UUID | None
    only_event_type: str | None
    started_at: datetime
    finished_at: datetime | None
    looked_at: int
    changed: int
    counts: dict[str, int]


@dataclass(frozen=True, slots=True)
class Scope:
    """Which events the rules are applied to: those before an instant, of one org and one kind if these are named."""

    before: datetime
    org_id: UUID | None = None
    event_type: str | None = None


def anonymise(
    connection: psycopg.Connection,
    scope: Scope,
    *,
    dry_run: bool = False,
    on_progress: Callable[[int], None] = lambda _: None,
) -> Totals:
    """Apply the enabled rules to the counted events of the scope, a transaction a batch; `dry_run` only counts.

    A run that was killed is finished by the next. `on_progress` gets the events looked at so far. Raises OpsKpiError:
    TRY_LATER while another job does not end, CONFIGURATION for a rule that needs the key when there is none.
    """
    query = (
        "select state, last_id, looked_at, changed, counts, kept from ops.anonymise_events(before => %(before)s,"
        " only_org_id => %(org_id)s, only_event_type => %(event_type)s, after_id => %(after_id)s,"
        " max_events => %(batch)s, dry_run => %(dry_run)s, anonymisation_id => %(run_id)s)"
    )
    arguments = {"before": scope.before, "org_id": scope.org_id, "event_type": scope.event_type}
    run_id = None
    if not dry_run:
        # What is refused is no run, and leaves no row in the log.
        with connection.transaction():
            pseudonyms.pass_key(connection)
            first = {"after_id": 0, "batch": 1, "dry_run": True, "run_id": None}
            connection.execute(query, arguments | first)
        run_id = _begin(connection, "rules", scope)
    return _loop(connection, query, arguments | {"dry_run": dry_run, "run_id": run_id}, on_progress)


def erase(
    connection: psycopg.Connection,
    org_id: UUID,
    agent_id: UUID,
    *,
    dry_run: bool = False,
    without_key: bool = False,
    also: Sequence[str] = (),
    on_progress: Callable[[int], None] = lambda _: None,
) -> Totals:
    """Make the events of an agent those of the erased agent of its team, and take it out of every other table.

    `without_key` allows it although pseudonyms cannot be told without the key; `also` are other names of the agent,
    such as an e-mail address. Else as `anonymise`.
    """
    run_id = None if dry_run else _begin(connection, "erasure", org_id=org_id)
    query = (
        "select state, last_id, looked_at, changed, counts, kept from ops.erase_agent(org_id => %(org_id)s,"
        " agent_id => %(agent_id)s, after_id => %(after_id)s, max_events => %(batch)s, dry_run => %(dry_run)s,"
        " without_key => %(without_key)s, anonymisation_id => %(run_id)s, also => %(also)s)"
    )
    arguments = {"org_id": org_id, "agent_id": agent_id, "without_key": without_key, "also": list(also)}
    return _loop(connection, query, arguments | {"dry_run": dry_run, "run_id": run_id}, on_progress)


def rules(connection: psycopg.Connection) -> list[Rule]:
    """The rules, in the order in which they apply."""
    with connection.cursor(row_factory=class_row(Rule)) as cursor:
        return cursor.execute(
            "select rule_name, event_type, path, matching, action, on_ingest, is_enabled from ops.anonymisation_rules"
            ' order by rule_name collate "C"'
        ).fetchall()


def runs(connection: psycopg.Connection) -> list[Run]:
    """The runs that anonymised stored events, the newest first."""
    with connection.cursor(row_factory=class_row(Run)) as cursor:
        return cursor.execute(
            "select anonymisation_id, kind, before, only_org_id, only_event_type, started_at, finished_at, looked_at,"
            " changed, counts from ops.anonymisations order by anonymisation_id desc"
        ).fetchall()


def set_rule(connection: psycopg.Connection, rule: Rule) -> None:
    """Add a rule or change it whole. Raises psycopg.Error (OP001) for one that cannot be or would touch what counts."""
    connection.execute(
        "select from ops.set_anonymisation_rule(rule_name => %s, event_type => %s, path => %s, matching => %s,"
        " action => %s, on_ingest => %s, is_enabled => %s)",
        [rule.rule_name, rule.event_type, rule.path, rule.matching, rule.action, rule.on_ingest, rule.is_enabled],
    )


def remove_rule(connection: psycopg.Connection, rule_name: str) -> bool:
    """Take a rule away; False: there is none of that name."""
    with connection.cursor(row_factory=scalar_row) as cursor:
        removed = cursor.execute("select ops.remove_anonymisation_rule(rule_name => %s)", [rule_name]).fetchone()
    return bool(removed)


def _begin(
    connection: psycopg.Connection, kind: str, scope: Scope | None = None, org_id: UUID | None = None
) -> int | None:
    before, event_type = (scope.before, scope.event_type) if scope else (None, None)
    with connection.cursor(row_factory=scalar_row) as cursor:
        return cursor.execute(
            "select ops.begin_anonymisation(kind => %s, before => %s, only_org_id => %s, only_event_type => %s)",
            [kind, before, scope.org_id if scope else org_id, event_type],
        ).fetchone()


def _loop(
    connection: psycopg.Connection, query: Any, arguments: dict[str, object], on_progress: Callable[[int], None]
) -> Totals:
    totals = Totals(bool(arguments["dry_run"]))
    last_id, state = 0, "more"
    deadline = time.monotonic() + PATIENCE_S
    while state != "done":
        report = _batch(connection, query, arguments | {"after_id": last_id, "batch": BATCH})
        state = report.state
        if state == "busy":
            if time.monotonic() > deadline:
                raise OpsKpiError(
                    "another job has been counting or rebuilding for a minute",
                    "Run it again; what is done stays done.",
                    ExitCode.TRY_LATER,
                )
            time.sleep(PAUSE_S)
            continue
        deadline = time.monotonic() + PATIENCE_S
        last_id = report.last_id or last_id
        totals.looked_at += report.looked_at or 0
        totals.changed += report.changed or 0
        for name, count in (report.counts or {}).items():
            totals.counts[name] = totals.counts.get(name, 0) + count
        totals.kept |= report.kept or {}
        on_progress(totals.looked_at)
    return totals


def _batch(connection: psycopg.Connection, query: Any, arguments: dict[str, object]) -> Report:
    with connection.transaction():
        pseudonyms.pass_key(connection)
        with connection.cursor(row_factory=class_row(Report)) as cursor:
            report = cursor.execute(query, arguments).fetchone()
    if report is None:
        raise OpsKpiError("the batch gave no report")
    return report
