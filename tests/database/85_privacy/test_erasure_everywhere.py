"""An erased agent is found wherever it is written, in any spelling: in every column of the catalogue, labels and tags included."""

import re
import subprocess
from collections import defaultdict
from collections.abc import Iterator
from uuid import UUID

import psycopg
import pytest
from psycopg.types.json import Jsonb

from support.events import Connection, add_event, add_slo, ingest, rebuild, refresh, refused, rows, scalar, states
from support.oracle import assert_exact
from support.postgres import Database, Server
from support.privacy import ANNA, BEN, ORG_A, ORG_B, blocked_push_of, erase, pseudonym, sorted_states
from support.tenants import fill_both_orgs

pytestmark = pytest.mark.database

AGENT = UUID("a1b2c3d4-e5f6-4a7b-8c9d-0e1f2a3b4c5d")
EMAIL = "Anna.O'Neill+ci@example.com"
OTHER = UUID("b1b2c3d4-e5f6-4a7b-8c9d-0e1f2a3b4c5d")
HEX = AGENT.hex
SPELLINGS = {
    "as it is": str(AGENT),
    "capitals": str(AGENT).upper(),
    "no hyphens": HEX,
    "capitals without hyphens": HEX.upper(),
    "hyphens elsewhere": "-".join(HEX[start : start + 4] for start in range(0, 32, 4)),
    "a URN": f"urn:uuid:{AGENT}",
}
SINCE, UNTIL = "2026-03-01T00:00Z", "2026-04-01T00:00Z"
PARTITION = re.compile(r"^ops\.telemetry_events_(default|\d{4}_\d{2})$")


def columns_with_text(connection: Connection) -> list[tuple[str, str, str]]:
    """Every stored text, JSON or text array column of a table, with its type."""
    return rows(
        connection,
        "select class.oid::regclass::text, attribute.attname, format_type(attribute.atttypid, null)"
        " from pg_class as class join pg_attribute as attribute on attribute.attrelid = class.oid"
        " where class.relnamespace in ('ops'::regnamespace, 'public'::regnamespace) and class.relkind in ('r', 'p')"
        " and not class.relispartition and attribute.attnum > 0 and not attribute.attisdropped"
        " and attribute.attgenerated = '' and attribute.atttypid in ('text'::regtype, 'jsonb'::regtype, 'text[]'::regtype)"
        " order by 1, 2",
    )


def plant(connection: Connection, table: str, column: str, kind: str, text: str) -> bool:
    """Write the text into a column of a row, and say whether the constraints let it be there."""
    value = {
        "text": "%s",
        "text[]": "array[%s]",
        "jsonb": "jsonb_build_object('of ' || %s, jsonb_build_array(1, %s::text, jsonb_build_object('a', 'by ' || %s)))",
    }[kind]
    has_org = "org_id" if scalar(connection, HAS_COLUMN, table, "org_id") else None
    has_org = has_org or ("only_org_id" if scalar(connection, HAS_COLUMN, table, "only_org_id") else None)
    owned = f"where {has_org} = '{ORG_A}'" if has_org else ""
    statement = f"update {table} set {column} = {value} where ctid = (select min(ctid) from {table} {owned})" + (
        f" and {has_org} = '{ORG_A}'" if has_org else ""
    )
    try:
        with connection.transaction():
            cursor = connection.execute(statement.encode(), [text] * value.count("%s"))
            return cursor.rowcount > 0
    except psycopg.Error:
        return False


HAS_COLUMN = (
    "select exists (select from pg_attribute where attrelid = %s::regclass and attname = %s and not attisdropped)"
)


def dumped(server: Server, database: Database) -> Iterator[tuple[str, str]]:
    """Each value of pg_dump with the name of its column; that of a partition is that of the events."""
    text = subprocess.run(
        [server.bin_dir / "pg_dump", "--data-only", database.dsn], capture_output=True, encoding="utf-8", check=True
    ).stdout
    names: list[str] = []
    for line in text.splitlines():
        if found := re.match(r"COPY (\S+) \((.*)\) FROM stdin;", line):
            table = "public.telemetry_events" if PARTITION.match(found[1]) else found[1]
            names = [f"{table}.{name}" for name in found[2].replace('"', "").split(", ")]
        elif line == "\\.":
            names = []
        elif names:
            yield from zip(names, line.split("\t"), strict=True)


def left_in(server: Server, database: Database, words: list[str]) -> set[str]:
    lowered = [word.lower() for word in words]
    return {name for name, value in dumped(server, database) if any(word in value.lower() for word in lowered)}


@pytest.mark.parametrize("spelling", SPELLINGS.values(), ids=SPELLINGS)
def test_what_names_the_agent_in_any_column_is_gone_from_a_dump_or_listed_as_staying(
    database, server, migrated_database, spelling
):
    fill_both_orgs(database)
    for number, text in enumerate([f"x {spelling} y", f"x {EMAIL} y"]):
        planted: defaultdict[bool, set[str]] = defaultdict(set)
        for table, column, kind in columns_with_text(database):
            planted[plant(database, table, column, kind, text)].add(f"{table}.{column}")
        assert len(planted[True]) > 25, planted[False]
        if number == 0:
            assert {"ops.policies.policy", "ops.api_keys.name"} & planted[True]
            assert {"ops.slo_exclusions.reason", "slsa_audit_metrics.tag", "ops.collections.source"} <= planted[True]
            first = erase(database, AGENT, also=[EMAIL])
            assert first.kept is not None
            assert left_in(server, migrated_database, [HEX, str(AGENT), spelling]) == set(first.kept)
    expected = erase(database, AGENT, also=[EMAIL], dry_run=True)
    found = erase(database, AGENT, also=[EMAIL])
    assert found == expected
    assert found.kept is not None
    assert left_in(server, migrated_database, [HEX, str(AGENT), spelling, EMAIL, EMAIL.replace("'", "''")]) == set(
        found.kept
    )
    of_tenants = [name.rpartition(".") for name in found.kept]
    assert {column for table, _, column in of_tenants if scalar(database, HAS_COLUMN, table, "org_id")} <= {
        "event_type",
        "metric_name",
        "slo_name",
        "rule_name",
        "channel_name",
        "channels",
    }


def test_neither_labels_nor_tags_nor_patterns_block_an_erasure_and_the_counts_move_to_the_new_name(database):
    for name, outcomes in (("tried", ["failure", "success"]), ("failed", ["failure"])):
        add_slo(database, name, objective="availability", event_type="slsa_provenance", total={"outcome": outcomes})
    for name, objective in (("grouped_units", "availability"), ("grouped_runs", "error_rate")):
        add_slo(database, name, objective=objective, event_type="slsa_provenance", group_by=["workflow"])
    for number, spelling in enumerate(SPELLINGS.values()):
        push = {"hook_type": spelling, "findings_summary": {"pattern": f"of {spelling}", "patterns": [spelling]}}
        assert ingest(database, blocked_push_of(AGENT, **push), blocked_push_of(BEN, **push))["refused"] == []
        for outcome in ("failure", "success"):
            add_event(
                database,
                outcome=outcome,
                workflow=f"w {spelling}",
                duration_ms=number,
                tag=f"v {spelling}",
                org_id=ORG_A,
            )
        add_event(database, outcome="failure", tag=("v" * 300) + spelling, org_id=ORG_A)
    refresh(database)
    add_event(database, outcome="success", workflow=str(AGENT), tag=f"v {AGENT}", org_id=ORG_A)
    counted = "select sum(event_count), sum(value_sum) from ops.rollups where org_id = %s"
    before = rows(database, counted, ORG_A), rows(database, "select sum(blocked_count) from ops.blocked_patterns")
    erased = erase(database, AGENT)
    assert (erased.state, erased.changed) == ("done", 31)
    assert (
        rows(database, counted, ORG_A),
        rows(database, "select sum(blocked_count) from ops.blocked_patterns"),
    ) == before
    refresh(database)
    assert_exact(database)
    before_rebuild = sorted_states(database)
    rebuild(database, SINCE, UNTIL)
    assert sorted_states(database) == before_rebuild
    assert not re.search(f"{AGENT}|{HEX}", str(states(database)), re.IGNORECASE)


def test_two_erased_agents_whose_label_becomes_one_add_up_in_its_kpis(database):
    database.execute(
        "insert into ops.kpi_definitions (metric_name, description, unit, measure, event_type, breakdowns) values"
        " ('runs', 'Runs.', 'count', 'count', 'workflow_run', '{workflow}'),"
        " ('run_ms', 'Average.', 'ms', 'average', 'workflow_run', '{workflow}')"
    )
    for number, agent in enumerate((AGENT, OTHER), start=1):
        add_event(
            database, "workflow_run", workflow=f"ci {agent}", duration_ms=100 * number, agent_id=agent, org_id=ORG_A
        )
    refresh(database)
    for agent in (AGENT, OTHER):
        # The test is one transaction, whose now() would be before the definitions.
        database.execute("update public.kpi_aggregations set created_at = clock_timestamp()")
        assert erase(database, agent).state == "done"
    assert_exact(database)
    before_rebuild = sorted_states(database)
    rebuild(database, SINCE, UNTIL)
    assert sorted_states(database) == before_rebuild


def test_an_erasure_in_batches_that_is_interrupted_is_finished_by_the_next(database):
    for spelling in SPELLINGS.values():
        add_event(database, outcome="failure", workflow=spelling, tag=spelling, org_id=ORG_A)
        add_event(database, outcome="success", workflow=spelling, tag=("v" * 300) + spelling, org_id=ORG_A)
    refresh(database)
    assert erase(database, AGENT, max_events=5).state == "more"
    rebuild(database, SINCE, UNTIL)
    last_id = 0
    while (batch := erase(database, AGENT, max_events=5, after_id=last_id)).state == "more":
        last_id = batch.last_id
    assert_exact(database)
    assert not re.search(f"{AGENT}|{HEX}", str(states(database)), re.IGNORECASE)


def test_an_id_of_digits_alone_is_found_in_numbers(database):
    event_id = add_event(
        database,
        "deploy",
        metadata=Jsonb({"n": ANNA.int, "deep": {"n": int(ANNA.hex), "of": [int("9" + ANNA.hex + "9")]}}),
        org_id=ORG_A,
    )
    erase(database, ANNA)
    found = scalar(database, "select metadata::text from public.telemetry_events where id = %s", event_id)
    assert ANNA.hex not in found


def test_the_same_names_in_another_org_stay(database):
    add_event(database, outcome="success", workflow=HEX, tag=HEX, org_id=ORG_B, note=EMAIL)
    database.execute("select ops.record_collection(%s, %s, now(), now(), null)", [ORG_B, f"github.com/{HEX}/shop"])
    refresh(database)
    before = sorted_states(database), rows(database, "select source from ops.collections")
    erase(database, AGENT, also=[EMAIL])
    assert (sorted_states(database), rows(database, "select source from ops.collections")) == before


def test_names_that_would_become_the_same_are_told_apart(database):
    for spelling in SPELLINGS.values():
        database.execute(
            "select ops.record_collection(%s, %s, now(), now(), null)", [ORG_A, f"github.com/{spelling}/shop"]
        )
    found = erase(database, AGENT)
    assert found.counts == {"ops.collections": len(SPELLINGS)}
    sources = [source for (source,) in rows(database, "select source from ops.collections")]
    assert len(set(sources)) == len(SPELLINGS)
    assert not re.search(f"{AGENT}|{HEX}", " ".join(sources), re.IGNORECASE)


def test_the_pseudonym_is_found_in_every_spelling_too(database):
    shown = pseudonym(AGENT, ORG_A)
    add_event(database, "deploy", note=f"by {shown.hex.upper()}", org_id=ORG_A)
    assert erase(database, AGENT).changed == 1


@pytest.mark.parametrize("name", ["", "    ", "Anna"])
def test_a_name_that_is_too_short_to_search_for_is_refused(database, name):
    with refused():
        erase(database, AGENT, also=[name])
