"""An objective that gets another name: all that names it goes along, and nothing fires or ends because of it."""

from datetime import UTC, datetime, timedelta

import pytest
from psycopg import sql

from support.events import Connection, add_rule, add_slo, alerts, rows, run_jobs, told

pytestmark = pytest.mark.database

NAMED = """
  select format('%%I.%%I', class.relnamespace::regnamespace, class.relname), attribute.attname,
    attribute.atttypid::regtype::text
  from pg_class as class
  join pg_attribute as attribute on attribute.attrelid = class.oid
  where class.relkind in ('r', 'p') and not class.relispartition
    and class.relnamespace in ('ops'::regnamespace, 'public'::regnamespace)
    and attribute.attnum > 0 and not attribute.attisdropped and attribute.attgenerated = ''
    and attribute.atttypid in ('text'::regtype, 'jsonb'::regtype, 'text[]'::regtype)
"""
# Messages, and the names of before.
STAYS = {
    ("ops.alert_deliveries", "message"),
    ("ops.slo_changes", "previous_name"),
}


def naming(connection: Connection, name: str) -> set[tuple[str, str]]:
    """The columns in which the name stands."""
    found = set()
    for table, column, _ in rows(connection, NAMED):
        query = sql.SQL("select exists (select from {} where {}::text like {})").format(
            sql.SQL(table), sql.Identifier(column), sql.Literal(f"%{name}%")
        )
        with connection.cursor() as cursor:
            if cursor.execute(query).fetchone() == (True,):
                found.add((table, column))
    return found


@pytest.mark.own_database
def test_a_new_name_is_taken_everywhere_and_nothing_but_messages_keeps_the_old_one(paged: Connection) -> None:
    add_rule(paged, "deploys/own", "budget_exhausted", slo_name="deploys")
    run_jobs(paged, datetime.now(UTC) + timedelta(seconds=1))
    # What still waits would be taken back by the silences below.
    paged.execute("update ops.alert_deliveries set state = 'delivered', settled_at = now()")
    paged.execute("select ops.enable_slos('{deploys}', false)")
    paged.execute("select ops.enable_slos('{deploys}', true)")
    exclude = "select ops.exclude_from_slo('deploys', '2026-03-10', '2026-03-11', 'moved', 'anna')"
    paged.execute(exclude)
    for matcher in ("deploys", "deploys/own", "shop"):
        paged.execute("select ops.silence_alerts(%s, '2199-01-01', 'moved', 'anna')", [matcher])
    before = naming(paged, "deploys")
    assert {
        ("ops.slos", "slo_name"),
        ("ops.slo_versions", "slo_name"),
        ("ops.slo_exclusions", "slo_name"),
        ("ops.slo_changes", "slo_name"),
        ("ops.alert_rules", "slo_name"),
        ("ops.alert_rules", "rule_name"),
        ("ops.alerts", "subject"),
        ("ops.alerts", "rule_name"),
        ("ops.alert_silences", "matcher"),
    } <= before
    # A table that is added later fails here until the test fills it and a new name is carried to it.
    assert {(table, column) for table, column, _ in rows(paged, NAMED) if column == "slo_name"} <= before
    paged.execute("update ops.slos set slo_name = 'rollouts' where slo_name = 'deploys'")
    assert naming(paged, "deploys") == STAYS & before | {("ops.slo_changes", "previous_name")}
    assert naming(paged, "rollouts") == before - STAYS
    assert rows(paged, "select matcher from ops.alert_silences order by alert_silence_id") == [
        ("rollouts",),
        ("rollouts/own",),
        ("shop",),
    ]
    told_before = told(paged)
    run_jobs(paged, datetime.now(UTC) + timedelta(seconds=2))
    assert {(subject, state) for _, subject, state in alerts(paged)} == {("rollouts", "firing")}
    assert told(paged) == told_before


def test_a_silence_that_is_meant_for_a_service_of_the_old_name_too_stays_for_that(database: Connection) -> None:
    add_slo(database, "shop")
    database.execute("select ops.silence_alerts('shop', '2199-01-01', 'moved', 'anna')")
    database.execute("update ops.slos set slo_name = 'rollouts' where slo_name = 'shop'")
    assert rows(database, "select matcher, author from ops.alert_silences order by 1") == [
        ("rollouts", "anna"),
        ("shop", "anna"),
    ]
