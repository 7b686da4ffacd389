"""OpenSLO definitions and the database: what stands there, and making it what files say."""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any, LiteralString

import psycopg
from psycopg.rows import class_row, dict_row, scalar_row
from psycopg.types.json import Jsonb

from opskpi.errors import OpsKpiError
from opskpi.openslo import group_holds
from opskpi.openslo.definitions import Definitions, as_json, from_json
from opskpi.postgres import connecting

# Intervals as text, since a month has no length in Python.
STORED: dict[str, LiteralString] = {
    "services": "select service_name, display_name, description, labels, annotations from ops.services",
    "slos": """
      select
        slo_name, service, objective, event_type, target, coalesce(indicator_name, slo_name) as indicator_name,
        description, threshold_ms, at_most, total_labels, good_labels, bad_labels, group_by,
        case when calendar_period is null then 'rolling' else 'calendar' end as window_kind,
        rolling_window::text, calendar_period,
        case when calendar_period is not null then coalesce(time_zone, ops.time_zone()) end as time_zone,
        budgeting_method, time_slice::text, slice_target, expected_interval::text,
        case when not is_enabled then false end as is_enabled, previous_name, min_failures, display_name, labels,
        annotations
      from ops.slos
    """,
    "rules": """
      select
        rule_name, kind, severity, slo_name, metric_name, event_type, budget_share, factor, long_window::text,
        short_window::text, comparison, threshold, lasting::text, alert_after::text, silent_for::text, channels,
        notify_resolved, description, display_name, labels, annotations
      from ops.alert_rules
    """,
    "channels": """
      select
        channel_name, kind, secret_env, settings, severities, repeat_interval::text, description, display_name, labels,
        annotations
      from ops.alert_channels
    """,
}

HOW_TO_GO_ON = (
    "no new objective of its SLO promises the same; apply the SLO with one that does, which goes on with its history,"
    " and change that one afterwards"
)


@dataclass(frozen=True, slots=True)
class Change:
    """The change of one definition: renamed, created, changed (fields as [before, after]), unchanged or removed."""

    kind: str
    name: str
    change: str
    differences: dict[str, tuple[Any, Any]] | None


@dataclass(frozen=True, slots=True)
class LeftOut:
    """A rule for every objective that leaves an objective out, since it can mean nothing for it, and why.

    One that `never_fires` is out of reach; any other would fire although the budget is kept.
    """

    slo_name: str
    rule_name: str
    because: str
    never_fires: bool


@dataclass(frozen=True, slots=True)
class Bundle:
    """Files that belong together, by name: what they make is theirs.

    `adopt` makes all that they define theirs, whatever made it; `prune` removes what is theirs and that they no longer
    define. `author` is who applies them; None is the role of the database.
    """

    name: str = "default"
    adopt: bool = False
    prune: bool = False
    author: str | None = None


def apply(
    connection: psycopg.Connection,
    definitions: Definitions,
    bundle: Bundle = Bundle(),
    *,
    dry_run: bool = False,
    on_left_out: Callable[[LeftOut], None] | None = None,
    on_note: Callable[[str], None] | None = None,
) -> list[Change]:
    """Make the stored definitions what these say, in one transaction; `dry_run` finds out what would change.

    `on_left_out` gets each rule for every objective that leaves one of these out, `on_note` a line for each exclusion
    or silence of groups that holds no more, and each history that ends. Raises psycopg.Error: OP001 for a rule that can
    mean nothing, a name that is taken or an object of another bundle, 23503 for a KPI that is unknown.
    """
    with connection.transaction(force_rollback=dry_run):
        before = group_holds.standing(connection)
        cut = _cut_histories(connection, definitions, bundle)
        changes = make(connection, definitions, bundle)
        if on_note:
            for name in cut:
                on_note(f"{name} does not go on: {HOW_TO_GO_ON}")
            for hold in group_holds.lost(before, group_holds.standing(connection)):
                on_note(f"holds no more: {group_holds.in_words(hold)}")
        if on_left_out:
            for each in _left_out(connection, definitions):
                on_left_out(each)
        return changes


def make(connection: psycopg.Connection, definitions: Definitions, bundle: Bundle = Bundle()) -> list[Change]:
    """Make the stored definitions what these say, in the open transaction."""
    with connection.cursor(row_factory=class_row(Change)) as cursor:
        return cursor.execute(
            "select kind, name, change, differences from ops.apply_definitions(definitions => %(definitions)s,"
            " bundle => %(name)s, adopt => %(adopt)s, prune => %(prune)s, author => %(author)s)",
            {"definitions": Jsonb(as_json(definitions)), **asdict(bundle)},
        ).fetchall()


def _cut_histories(connection: psycopg.Connection, definitions: Definitions, bundle: Bundle) -> list[str]:
    """The objectives that their SLO defines no more, none of whose new ones promises what they did."""
    with connection.cursor(row_factory=scalar_row) as cursor:
        return cursor.execute(
            "select old_name from ops.continued_slos(definitions => %s, bundle => %s, adopt => %s)"
            " where new_name is null order by 1",
            [Jsonb(as_json(definitions)), bundle.name, bundle.adopt],
        ).fetchall()


def _left_out(connection: psycopg.Connection, definitions: Definitions) -> list[LeftOut]:
    names = [slo.slo_name for slo in definitions.slos if slo.is_enabled is not False]
    with connection.cursor(row_factory=class_row(LeftOut)) as cursor:
        return cursor.execute(
            "select slo_name, rule_name, because, never_fires from ops.useless_rules()"
            " where slo_name = any (%s) and not is_own order by slo_name, rule_name",
            [names],
        ).fetchall()


def channel_names(connection: psycopg.Connection) -> list[str]:
    """The channels that files may name without defining them."""
    with connection.cursor(row_factory=scalar_row) as cursor:
        return cursor.execute("select channel_name from ops.alert_channels").fetchall()


def stored(connection: psycopg.Connection) -> Definitions:
    """All definitions as they stand."""
    rows: dict[str, list[dict[str, Any]]] = {}
    with connecting.unfiltered(connection), connection.cursor(row_factory=dict_row) as cursor:
        for kind, query in STORED.items():
            rows[kind] = cursor.execute(query).fetchall()
            for row in rows[kind]:
                _check_sayable(kind, row)
    return from_json(rows)


def _check_sayable(kind: str, row: dict[str, Any]) -> None:
    """Name the row that no file can say."""
    try:
        from_json({kind: [row]})
    except OpsKpiError as error:
        name = next(iter(row.values()))
        raise OpsKpiError(f"{name} (in ops.{kind}): {error.message}", error.hint, error.exit_code) from error
