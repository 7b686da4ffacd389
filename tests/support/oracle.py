"""What the aggregation must come to, computed in plain Python from the rows of the events and audits alone."""

import json
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, time, timedelta
from decimal import Decimal
from fractions import Fraction
from math import ceil
from typing import Any, cast
from uuid import UUID
from zoneinfo import ZoneInfo

from psycopg.rows import class_row

from .events import Connection, rows

PERIODS = ("hour", "day", "week", "month")
Key = tuple[Any, ...]
Labels = tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class Fact:
    """An event or audit with its labels and value, as DESIGN.md defines them."""

    org: UUID
    event_type: str
    labels: Labels
    at: datetime
    number: Fraction | None


def period_start(period: str, at: datetime, zone: ZoneInfo) -> datetime:
    """Return the start of the period in the zone, whose offsets are whole hours."""
    if period == "hour":
        return at.astimezone(UTC).replace(minute=0, second=0, microsecond=0)
    day = at.astimezone(zone).date()
    if period == "week":
        day -= timedelta(days=day.weekday())
    if period == "month":
        day = day.replace(day=1)
    return datetime.combine(day, time(), zone).astimezone(UTC)


def period_end(period: str, start: datetime, zone: ZoneInfo) -> datetime:
    if period == "hour":
        return start + timedelta(hours=1)
    inside = start + timedelta(days={"day": 1, "week": 7, "month": 31}[period], hours=12 if period != "month" else 36)
    return period_start(period, inside, zone)


def text_of(found: object) -> str | None:
    """Return what `->>` gives."""
    return found if found is None or isinstance(found, str) else json.dumps(found)


def number_of(found: object) -> Fraction | None:
    if isinstance(found, bool) or not isinstance(found, int | Decimal):
        return None
    return Fraction(found) if 0 <= found <= 10**15 else None


def nearest_rank(numbers: Iterable[Fraction], share: Decimal) -> Fraction:
    """Return what `percentile_disc(share)` gives."""
    ordered = sorted(numbers)
    return ordered[ceil(Fraction(share) * len(ordered)) - 1]


def stored_events(connection: Connection) -> Iterator[tuple[Any, ...]]:
    query = (
        "select org_id, event_type, event_timestamp, run_id, tag, agent_id, event_id, metadata::text"
        " from public.telemetry_events as event where not exists"
        " (select from ops.uncountable_events as aside where aside.org_id = event.org_id and aside.id = event.id)"
    )
    for *columns, text in rows(connection, query):
        said = json.loads(text, parse_float=Decimal) if text else None
        yield (*columns, said if isinstance(said, dict) else {})


def teams_of_agents(connection: Connection) -> dict[Key, str | None]:
    return {tuple(agent): team for *agent, team in rows(connection, "select org_id, agent_id, team from ops.agents")}


def facts(connection: Connection) -> Iterator[Fact]:
    described = rows(connection, "select event_type, label_keys, value_key from ops.event_types")
    kinds = {event_type: (keys, value_key) for event_type, keys, value_key in described}
    teams = teams_of_agents(connection)
    for org, event_type, at, _, _, agent, _, said in stored_events(connection):
        keys, value_key = kinds.get(event_type, ([], None))
        found = {key: teams.get((org, agent)) if key == "team" else text_of(said.get(key)) for key in keys}
        labels = tuple(sorted((key, text[:100]) for key, text in found.items() if text is not None))
        yield Fact(org, event_type, labels, at, number_of(said.get(value_key)))
    names = ("provenance_status", "validation_status", "sha256_verified", "predicate_type_verified")
    names += ("supabase_provenance_synced", "supabase_validation_synced")
    for org, at, *found in rows(
        connection,
        "select org_id, audit_timestamp, provenance_status, validation_status, sha256_verified::text,"
        " predicate_type_verified::text, supabase_provenance_synced::text, supabase_validation_synced::text"
        " from public.slsa_audit_metrics",
    ):
        yield Fact(org, "slsa_audit_metrics", tuple(sorted(zip(names, found, strict=True))), at, None)


def fits(labels: Labels, wanted: Mapping[str, list[str]]) -> bool:
    return all(dict(labels).get(key) in texts for key, texts in wanted.items())


def rollups(connection: Connection, zone: ZoneInfo) -> dict[Key, Key]:
    groups: defaultdict[Key, list[Fact]] = defaultdict(list)
    for fact in facts(connection):
        for period in PERIODS:
            start = period_start(period, fact.at, zone)
            groups[fact.org, fact.event_type, fact.labels, period, start].append(fact)
    summed: dict[Key, Key] = {}
    for key, members in groups.items():
        numbers = [fact.number for fact in members if fact.number is not None]
        extremes = (min(numbers), max(numbers)) if numbers else (None, None)
        summed[key] = (len(members), len(numbers), sum(numbers, Fraction()), *extremes)
    return summed


def stored_rollups(connection: Connection) -> dict[Key, Key]:
    query = (
        "select org_id, event_type, labels, period, period_start, event_count, value_count, value_sum, value_min,"
        " value_max from ops.rollups join ops.series using (org_id, series_id)"
    )
    return {
        (org, event_type, tuple(sorted(labels.items())), period, start): tuple(
            None if number is None else Fraction(number) for number in numbers
        )
        for org, event_type, labels, period, start, *numbers in rows(connection, query)
    }


@dataclass(frozen=True, slots=True)
class Definition:
    """A row of ops.kpi_definitions."""

    metric_name: str
    event_type: str | None
    numerator: dict[str, list[str]]
    denominator: dict[str, list[str]]
    measure: str
    percentile: Decimal
    unit: str
    breakdowns: list[str]
    breakdown_periods: list[str]

    def counts(self, fact: Fact) -> bool:
        return (
            self.event_type in (None, fact.event_type)
            and fits(fact.labels, self.denominator)
            and (self.measure == "ratio" or fits(fact.labels, self.numerator))
        )

    def figures(self, members: list[Fact]) -> Key | None:
        """Return value (exact), numerator, denominator and sample count; None when there is nothing to divide by."""
        numbers = [fact.number for fact in members if fact.number is not None]
        good, total = sum(fits(fact.labels, self.numerator) for fact in members), len(members)
        if self.measure == "ratio":
            return Fraction(100 * good, total), good, total, total
        if self.measure == "count":
            return Fraction(total), None, None, total
        if not numbers:
            return None
        if self.measure == "average":
            return sum(numbers) / Fraction(len(numbers)), sum(numbers), len(numbers), len(numbers)
        return nearest_rank(numbers, self.percentile), None, None, len(numbers)


def kpi_definitions(connection: Connection) -> list[Definition]:
    with connection.cursor(row_factory=class_row(Definition)) as cursor:
        query = (
            "select metric_name, event_type, numerator, denominator, measure, percentile, unit, breakdowns,"
            " breakdown_periods from ops.kpi_definitions"
        )
        return cursor.execute(query).fetchall()


def expected_kpis(connection: Connection, zone: ZoneInfo) -> dict[Key, Key]:
    """Return value (exact), numerator, denominator, sample count, end and unit of every KPI row there must be."""
    computed: dict[Key, Key] = {}
    found = list(facts(connection))
    for definition in kpi_definitions(connection):
        groups: defaultdict[Key, list[Fact]] = defaultdict(list)
        for fact in filter(definition.counts, found):
            for period in PERIODS:
                start = period_start(period, fact.at, zone)
                groups[fact.org, definition.metric_name, (), period, start].append(fact)
                for label in fact.labels:
                    if label[0] in definition.breakdowns and period in definition.breakdown_periods:
                        groups[fact.org, definition.metric_name, (label,), period, start].append(fact)
        for key, members in groups.items():
            if figures := definition.figures(members):
                computed[key] = (*figures, period_end(key[3], key[4], zone), definition.unit)
    return computed


def assert_kpis(connection: Connection, zone: ZoneInfo, found: Iterable[tuple[Any, ...]]) -> None:
    """Compare rows of ops.kpis, all columns in order, with the events."""
    percentiles = {found.metric_name for found in kpi_definitions(connection) if found.measure == "percentile"}
    computed = expected_kpis(connection, zone)
    seen: dict[Key, Key] = {}
    for org, metric, labels, period, start, end, unit, value, numerator, denominator, count in found:
        key = (org, metric, tuple(labels.items()), period, start)
        assert key not in seen, f"{key} is there twice"
        fractions = tuple(None if number is None else Fraction(number) for number in (numerator, denominator))
        seen[key] = (*fractions, count, end, unit)
        assert key in computed, f"{key} must not be there"
        exact = computed[key][0]
        allowed = exact / 100 if metric in percentiles else exact / 10**15 + Fraction(1, 2_000_000)
        if metric in percentiles and exact <= Fraction(1, 1000):
            exact = Fraction(0)
        assert abs(Fraction(value) - exact) <= allowed, f"{key} is {value}, not {float(exact)}"
    assert seen == {key: rest for key, (_, *rest) in computed.items() for rest in [tuple(rest)]}


def assert_stored_kpis(connection: Connection, zone: ZoneInfo) -> None:
    """Compare the rows of kpi_aggregations with the events."""
    query = (
        "select org_id, metric_name, metadata -> 'labels', aggregation_period, period_start, period_end,"
        " metadata ->> 'unit', metric_value, (metadata -> 'numerator')::text, (metadata -> 'denominator')::text,"
        " (metadata -> 'sample_count')::bigint from public.kpi_aggregations"
    )
    assert_kpis(
        connection,
        zone,
        (
            (*row, *(None if text == "null" else Decimal(text) for text in texts), count)
            for *row, one, other, count in rows(connection, query)
            for texts in [(one, other)]
        ),
    )


@dataclass(frozen=True, slots=True)
class Sli:
    """How a row of ops.slos counts."""

    slo_name: str
    objective: str
    event_type: str
    threshold_ms: Decimal | None
    at_most: Decimal | None
    total_labels: dict[str, list[str]]
    good_labels: dict[str, list[str]]
    bad_labels: dict[str, list[str]] | None
    group_by: list[str]

    def judge(self, labels: Labels, said: Mapping[str, Any], value: Fraction | None) -> bool | None:
        """Return whether an event of the kind is good; None when it is not counted."""
        outcome, duration = said.get("outcome"), number_of(said.get("duration_ms"))
        succeeded = outcome == "success"
        reached: bool | None
        if self.objective == "latency":
            reached = None if not succeeded or duration is None else duration < Fraction(self.threshold_ms or 0)
        elif self.objective == "measured":
            reached = None if value is None else value <= Fraction(self.at_most or 0)
        elif self.objective == "events":
            reached = True
        else:
            reached = succeeded if outcome in ("success", "failure") else None
        if reached is None or not fits(labels, self.total_labels):
            return None
        if self.bad_labels is None:
            return reached and fits(labels, self.good_labels)
        is_bad = fits(labels, self.bad_labels) and (self.objective == "events" or not reached)
        return not is_bad


def slis(connection: Connection) -> dict[Key, tuple[int, int]]:
    """Return good and total by org, objective, five minutes and group."""
    with connection.cursor(row_factory=class_row(Sli)) as cursor:
        promised = cursor.execute(
            "select slo_name, objective, event_type, threshold_ms, at_most, total_labels, good_labels, bad_labels, group_by from ops.slos"
            " where is_enabled"
        ).fetchall()
    described = rows(connection, "select event_type, label_keys, value_key from ops.event_types")
    kinds = {event_type: (keys, value_key) for event_type, keys, value_key in described}
    teams = teams_of_agents(connection)
    counted: defaultdict[Key, list[bool]] = defaultdict(list)
    units: defaultdict[Key, list[tuple[datetime, bool]]] = defaultdict(list)

    def bucket(at: datetime) -> datetime:
        return at.astimezone(UTC).replace(minute=at.minute // 5 * 5, second=0, microsecond=0)

    for org, event_type, at, run_id, tag, agent, event_id, said in stored_events(connection):
        keys, value_key = kinds.get(event_type, ([], None))
        texts = {key: text_of(said.get(key)) for key in keys} | {"team": teams.get((org, agent))}
        labels = tuple(sorted((key, text[:100]) for key, text in texts.items() if text is not None))
        for sli in promised:
            verdict = sli.judge(labels, said, number_of(said.get(value_key))) if sli.event_type == event_type else None
            if verdict is None:
                continue
            group = tuple((key, dict(labels).get(key)) for key in sorted(sli.group_by))
            if sli.objective == "availability":
                run = ("event", event_id) if run_id is None else ("run", run_id)
                units[org, sli.slo_name, group, *(run if tag is None else ("tag", tag))].append((at, verdict))
            else:
                counted[org, sli.slo_name, bucket(at), group].append(verdict)
    for (org, slo, group, *_), tries in units.items():
        first = min(at for at, _ in tries)
        counted[org, slo, bucket(first), group].append(any(succeeded for _, succeeded in tries))
    return {key: (sum(verdicts), len(verdicts)) for key, verdicts in counted.items()}


def expected_patterns(connection: Connection, zone: ZoneInfo) -> dict[Key, int]:
    """Return how often each pattern blocked, by org, period, start, hook type, pattern and team."""
    counted: defaultdict[Key, int] = defaultdict(int)
    teams = teams_of_agents(connection)
    for org, event_type, at, _, _, agent, _, said in stored_events(connection):
        summary = said.get("findings_summary")
        if event_type != "hook_execution" or said.get("result") != "blocked" or not isinstance(summary, dict):
            continue
        listed = [text_of(pattern) for pattern in summary.get("patterns", [])]
        further = ["[further patterns]"] if len(listed) > 50 else []
        for pattern in {text_of(summary.get("pattern")), *listed[:50], *further} - {None}:
            for period in PERIODS:
                start = period_start(period, at, zone)
                counted[org, period, start, said.get("hook_type") or "", pattern, teams.get((org, agent)) or ""] += 1
    return dict(counted)


def assert_slis(connection: Connection) -> None:
    """Assert that each objective, and each group of it, has counted what the events come to."""
    found = rows(connection, "select org_id, slo_name, bucket_start, slo_group, good, total from ops.slo_counts")
    counted = {
        (*key, tuple(sorted(cast("Mapping[str, str | None]", group).items()))): (good, total)
        for *key, group, good, total in found
    }
    assert counted == slis(connection)


def assert_exact(connection: Connection, zone_name: str = "UTC") -> None:
    """Assert that all that is stored equals what the events and audits come to."""
    zone = ZoneInfo(zone_name)
    assert stored_rollups(connection) == rollups(connection, zone)
    assert_stored_kpis(connection, zone)
    assert_slis(connection)
    found = rows(
        connection,
        "select org_id, period, period_start, hook_type, pattern, team, blocked_count from ops.blocked_patterns",
    )
    assert {tuple(key): count for *key, count in found} == expected_patterns(connection, zone)
