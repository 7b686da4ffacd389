"""`opskpi export`: the same rows in every format, back again without a difference, and never half a file."""

import gzip
import json
import os
import pty
import re
import resource
import signal
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from psycopg import sql
from psycopg.conninfo import make_conninfo
from psycopg.types.json import Jsonb
from pyarrow import parquet

from opskpi.errors import OpsKpiError
from opskpi.exporting import subjects, writing
from opskpi.exporting.formats import Format
from opskpi.exporting.subjects import AUDITS, EVENTS, KPIS, SLO, Subject
from opskpi.exporting.writing import Selection
from opskpi.ingestion import files as importing
from support import forks
from support.events import NOON, add_audit, add_event, add_events, ingest, refresh, rows, scalar, states
from support.fixtures import CreateDatabase
from support.patience import PATIENCE_S, eventually
from support.postgres import Database

JOBS = Path(__file__).resolve().parents[2] / "jobs"
SUBJECTS = (EVENTS, KPIS, AUDITS, SLO)
OURS, THEIRS = UUID(int=1), UUID(int=2)
AGENTS = [UUID(int=number) for number in range(100, 104)]
SUFFIXES = {Format.JSONL: ".jsonl", Format.CSV: ".csv", Format.PARQUET: ".parquet"}
Cli = Callable[..., subprocess.CompletedProcess[str]]


def exported_rows(
    connection: psycopg.Connection, folder: Path, subject: Subject, form: Format = Format.JSONL, **filters: Any
) -> list[dict[str, Any]]:
    """Export to a file and read it as its readers would; CSV has None for null, and text for all else."""
    file = folder / f"export{SUFFIXES[form]}"
    selection = Selection(subject, subjects.understand(filters), form)
    summary = writing.to_file(connection, selection, file, zipped=False, on_progress=lambda _: None)
    found = read_export(file, form)
    assert (summary.rows, summary.bytes) == (len(found), file.stat().st_size)
    return found


def read_export(file: Path, form: Format) -> list[dict[str, Any]]:
    if form is Format.JSONL:
        return [json.loads(line, parse_float=Decimal, parse_int=Decimal) for line in file.read_bytes().splitlines()]
    if form is Format.PARQUET:
        return parquet.read_table(file).to_pylist()
    names, *lines = csv_rows(file.read_bytes().decode())
    return [dict(zip(map(str, names), line, strict=True)) for line in lines]


def csv_rows(text: str) -> Iterator[list[str | None]]:
    """RFC 4180, and null where nothing is written, which Python's reader cannot tell from an empty text."""
    row: list[str | None] = []
    place = 0
    while place < len(text):
        if text[place] == '"':
            end = place + 1
            while text[end] != '"' or text[end + 1 : end + 2] == '"':
                end += 2 if text[end] == '"' else 1
            row.append(text[place + 1 : end].replace('""', '"'))
            place = end + 1
        else:
            end = min(found for found in (text.find(",", place), text.find("\n", place)) if found >= 0)
            row.append(text[place:end] or None)
            place = end
        if text[place] == "\n":
            yield row
            row = []
        place += 1


def put_everything(connection: psycopg.Connection) -> None:
    """Events of every kind of two orgs, with teams, retries and late ones, all as ingest_events takes them."""
    for number, agent in enumerate(AGENTS):
        connection.execute(
            "select ops.assign_team(%s, %s, %s)", [OURS if number % 2 else THEIRS, agent, f"team {number % 3}"]
        )
    documents = []
    for number in range(240):
        org = OURS if number % 2 else THEIRS
        said: dict[str, object] = {
            "timestamp": f"2026-03-{1 + number % 28:02}T{number % 24:02}:00:00.{number:06}Z",
            "event_id": str(UUID(int=number + 1)),
            "org_id": str(org),
        }
        if number % 3 == 0:
            said |= {
                "agent_id": str(AGENTS[number % 4]),
                "hook_type": ["pre-commit", "pre-push"][number % 2],
                "result": ["allowed", "blocked", "overridden"][number % 5 % 3],
                "findings_summary": {"pattern": f"p{number % 4}", "total": number},
                "duration_ms": number + 0.125,
            }
            documents.append({"event_type": "hook_execution", "payload": said})
        else:
            kind = ["slsa_provenance", "provenance_validate", "audit_observer", "workflow_run"][number % 4]
            said |= {
                "outcome": ["success", "success", "failure", "cancelled", "skipped"][number % 5],
                "workflow": f"w{number % 3}",
                "duration_ms": 1000 * number,
                "run_id": number // 2,
            }
            documents.append({"event_type": kind, "payload": said | ({"tag": f"v{number // 6}"} if number % 7 else {})})
    answer = ingest(connection, *documents)
    assert (answer["accepted"], answer["refused"]) == (240, [])


def import_file(connection: psycopg.Connection, file: Path) -> importing.Summary:
    return importing.ingest(connection, str(file), on_progress=lambda *_: None)


@pytest.fixture
def another_database(create_database: CreateDatabase, template: Database) -> Iterator[psycopg.Connection]:
    """Connect to a second migrated database, with the same teams."""
    with psycopg.connect(create_database(template).dsn, autocommit=True) as connection:
        for number, agent in enumerate(AGENTS):
            connection.execute(
                "select ops.assign_team(%s, %s, %s)", [OURS if number % 2 else THEIRS, agent, f"team {number % 3}"]
            )
        yield connection


def test_events_exported_and_ingested_elsewhere_give_the_same_kpis_and_slos_to_the_digit(
    database: psycopg.Connection, another_database: psycopg.Connection, tmp_path: Path
) -> None:
    put_everything(database)
    refresh(database)
    exported_rows(database, tmp_path, EVENTS)
    loaded = import_file(another_database, tmp_path / "export.jsonl")
    assert (loaded.accepted, loaded.duplicate, loaded.refused) == (240, 0, 0)
    refresh(another_database)
    assert states(another_database) == states(database)
    assert all(states(another_database).values())
    columns = "event_type, event_timestamp, run_id, tag, metadata, event_id, org_id, agent_id, outcome, duration_ms"
    query = f"select {columns} from public.telemetry_events order by event_id"
    assert rows(another_database, query) == rows(database, query)  # type: ignore[arg-type]


@pytest.mark.own_database
def test_events_ingested_into_the_database_they_came_from_are_only_duplicates(
    database: psycopg.Connection, tmp_path: Path
) -> None:
    put_everything(database)
    exported_rows(database, tmp_path, EVENTS)
    loaded = import_file(database, tmp_path / "export.jsonl")
    assert (loaded.accepted, loaded.duplicate, loaded.refused) == (0, 240, 0)


def test_what_ingest_refuses_comes_back_by_csv(
    database: psycopg.Connection, another_database: psycopg.Connection, tmp_path: Path
) -> None:
    # Plain inserts are never refused: unknown kinds, odd metadata, and columns that differ from it.
    put_everything(database)
    add_event(database, "deploy", metadata=None)
    add_event(database, "slsa_provenance", "1999-01-01T00:00:00Z", run_id=-1, tag="x" * 2000, outcome="failure")
    add_event(
        database, "slsa_provenance", run_id=None, metadata=Jsonb({"run_id": 7, "tag": "v1", "outcome": "failure"})
    )
    add_event(database, "hook_execution", metadata=Jsonb({"agent_id": str(AGENTS[0]), "duration_ms": "many"}))
    add_event(database, "hook_execution", metadata=Jsonb([1, None, "x"]))
    database.execute("insert into public.telemetry_events (event_type, metadata) values ('odd', null)")
    exported_rows(database, tmp_path, EVENTS, Format.CSV)
    readme = (JOBS.parent / "README.md").read_text("utf-8")
    create, copying, inserting = (
        readme[readme.index("create temporary table exported") :].split("```")[0].split("\n", 2)
    )
    another_database.execute(create.encode())
    with (
        another_database.cursor() as cursor,
        cursor.copy("copy exported from stdin with (format csv, header match)") as copy,
    ):
        assert copying.startswith(r"\copy exported from 'events.csv' with (format csv, header match)")
        copy.write((tmp_path / "export.csv").read_bytes())
    another_database.execute(inserting.encode())
    assert another_database.execute(inserting.encode()).rowcount == 0
    refresh(database)
    refresh(another_database)
    assert states(another_database) == states(database)


def test_audits_come_back_by_record_audit(
    database: psycopg.Connection, another_database: psycopg.Connection, tmp_path: Path
) -> None:
    for number in range(1, 30):
        add_audit(
            database,
            number,
            f"2026-03-{number:02}T12:00:00.000{number:03}Z",
            provenance_status=["success", "failure", "skipped"][number % 3],
            sha256_verified=bool(number % 2),
            org_id=str(OURS if number % 4 else THEIRS),
        )
    for audit in exported_rows(database, tmp_path, AUDITS):
        another_database.execute(
            "select public.record_audit(%s)", [Jsonb(audit, dumps=lambda value: json.dumps(value, default=int))]
        )
    refresh(database)
    refresh(another_database)
    assert states(another_database) == states(database)
    assert states(another_database)["kpis"]


FORMULAS = [
    "=1+1",
    "+1",
    "-2+3",
    "@SUM(A1)",
    "\t=1",
    "\r=1",
    "\n=1",
    "  =1",
    "＝1",
    "＠x",
    "a;=1",
    "a\n=1",
    "a\t@x",
    "a;;  +1|-1",
    'a;"=1+1;b',
    'a\t"=1+1',
    'a\n""=1',
    '"=1',
    "\u00a0=1",
    "\u3000+1",
    "\u200b@x",
    "\ufeff-1",
    "\x01=1",
]


@pytest.mark.parametrize("text", FORMULAS)
def test_a_spreadsheet_runs_no_cell_whatever_its_separator(
    database: psycopg.Connection, tmp_path: Path, text: str
) -> None:
    database.execute(
        "insert into public.telemetry_events (event_type, event_timestamp, tag, metadata)"
        " values (%(text)s, %(at)s, %(text)s, %(metadata)s)",
        {"text": text, "at": NOON, "metadata": Jsonb({"said": text})},
    )
    file = tmp_path / "events.csv"
    for is_safe in (False, True):
        selection = Selection(EVENTS, {}, Format.CSV, is_spreadsheet_safe=is_safe)
        writing.to_file(database, selection, file, zipped=False, on_progress=lambda _: None)
        [row] = read_export(file, Format.CSV)
        if not is_safe:
            assert (row["event_type"], row["tag"]) == (text, text)
            continue
        assert row["tag"].replace("'", "") == text
        # However the text is cut into cells, none begins with what starts a formula.
        for value in (row["event_type"], row["tag"], row["metadata"]):
            for cell in re.split("[;|\t\r\n]", value):
                first = cell.lstrip(' "\x01\u00a0\u3000\u200b\ufeff')[:1]
                assert not first or first not in "=+-@＝＋－＠"


def test_marks_for_spreadsheets_leave_numbers_instants_and_harmless_text_as_they_are(
    database: psycopg.Connection, tmp_path: Path
) -> None:
    add_event(database, event_type="x-y", tag="v1=2", metadata=Jsonb({"a": -1, "b": "c@d"}), run_id=-5)
    files = [tmp_path / "raw.csv", tmp_path / "safe.csv"]
    for file, is_safe in zip(files, (False, True), strict=True):
        selection = Selection(EVENTS, {}, Format.CSV, is_spreadsheet_safe=is_safe)
        writing.to_file(database, selection, file, zipped=False, on_progress=lambda _: None)
    assert files[0].read_bytes() == files[1].read_bytes()


@pytest.mark.parametrize("form", ["jsonl", "parquet"])
def test_only_csv_is_marked_for_spreadsheets(cli: Cli, form: str) -> None:
    answer = cli("export", "events", "--spreadsheet-safe", "--format", form)
    assert (answer.returncode, "only CSV is marked" in answer.stderr) == (64, True)


TEXTS = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=20) | st.sampled_from(
    ["", "NULL", "null", "NaN", "nan", "inf", "-Infinity", "\\.", "\\N", '"', '""', "a,b", "a\nb", "a\r\nb", "\r", "\n", "\x01", "\x02", "\x7f", "\x85\u2028", "  ", "1e400", "true", "0x1", "2026-01-01", "😀", "\ufeff"]
)  # fmt: skip
NUMBERS = st.integers(-(10**30), 10**30) | st.sampled_from([0, 2**63, 10**300, -(10**300)])
VALUES = st.recursive(
    st.none() | st.booleans() | NUMBERS | TEXTS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3),
    max_leaves=6,
)
DURATIONS = st.none() | st.decimals(0, 10**15, places=12, allow_nan=False)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    texts=st.lists(st.tuples(TEXTS.filter(bool), st.none() | TEXTS, VALUES, DURATIONS), min_size=1, max_size=5),
)
def test_odd_texts_and_numbers_are_the_same_in_every_format(
    database: psycopg.Connection, tmp_path: Path, texts: list[tuple[str, str | None, Any, Decimal | None]]
) -> None:
    database.execute("truncate public.telemetry_events")
    for number, (event_type, tag, value, duration) in enumerate(texts):
        metadata = json.dumps({"value": value, "duration_ms": 0} if duration is not None else {"value": value})
        if duration is not None:
            metadata = metadata.replace('"duration_ms": 0', f'"duration_ms": {duration:f}')
        database.execute(
            "insert into public.telemetry_events (event_type, event_timestamp, tag, metadata, event_id)"
            " values (%s, %s, %s, %s::jsonb, %s)",
            [event_type, NOON, tag, metadata, UUID(int=number)],
        )
    for form in Format:
        found = {UUID(row["event_id"]).int: row for row in exported_rows(database, tmp_path, EVENTS, form)}
        assert len(found) == len(texts)
        for number, (event_type, tag, value, duration) in enumerate(texts):
            row = found[number]
            assert (row["event_type"], row.get("tag")) == (event_type, tag)
            metadata = row["metadata"]
            if isinstance(metadata, str):
                metadata = json.loads(metadata, parse_float=Decimal, parse_int=Decimal)
            assert metadata["value"] == value
            if form is not Format.JSONL:
                kept = row["duration_ms"]
                assert (None if kept is None else Decimal(kept)) == duration


@pytest.mark.parametrize("form", list(Format))
def test_instants_and_numbers_are_exact_and_utc_whatever_the_session_thinks(
    migrated_database: Database, database: psycopg.Connection, tmp_path: Path, form: Format
) -> None:
    at = datetime(2026, 3, 29, 1, 30, 0, 123456, tzinfo=UTC)
    add_event(database, at=at, run_id=2**63 - 1, duration_ms=41.000001)
    with psycopg.connect(
        migrated_database.dsn,
        autocommit=True,
        client_encoding="latin1",
        options="-c timezone=Asia/Kathmandu -c datestyle=German -c extra_float_digits=0 -c standard_conforming_strings=off",
    ) as abroad:
        abroad.execute("set escape_string_warning = off")
        [row] = exported_rows(abroad, tmp_path, EVENTS, form, since=at, until=datetime(2026, 3, 30, tzinfo=UTC))
    instant = row["event_timestamp"]
    assert instant == (at if form is Format.PARQUET else "2026-03-29T01:30:00.123456Z")
    assert int(row["run_id"]) == 2**63 - 1
    if form is Format.JSONL:
        assert row["metadata"]["duration_ms"] == Decimal("41.000001")
    else:
        assert Decimal(row["duration_ms"]) == Decimal("41.000001")


@pytest.mark.parametrize("form", list(Format))
@pytest.mark.parametrize("subject", SUBJECTS, ids=lambda subject: subject.name)
def test_every_subject_is_the_same_in_every_format_and_half_open(
    database: psycopg.Connection, tmp_path: Path, subject: Subject, form: Format
) -> None:
    put_everything(database)
    add_audit(database, 1, "2026-03-10T00:00:00Z", org_id=str(OURS))
    refresh(database)
    relation = sql.Identifier(*subject.relation)
    conditions = sql.SQL("labels = '{}'" if subject is KPIS else "true")
    query = sql.SQL("select count(*) from {} where {} and {} >= %s and {} < %s").format(
        relation, conditions, sql.Identifier(subject.instant), sql.Identifier(subject.instant)
    )
    since, until = datetime(2026, 3, 10, tzinfo=UTC), datetime(2026, 3, 12, tzinfo=UTC)
    found = exported_rows(database, tmp_path, subject, form, since=since, until=until)
    [(wanted,)] = database.execute(query, [since, until]).fetchall()
    assert len(found) == wanted > 0
    names = [column.name for column in subject.columns if form is not Format.JSONL or column.in_lines]
    assert all(set(row) <= set(names) for row in found)
    if form is not Format.JSONL:
        assert list(found[0]) == names
    assert exported_rows(database, tmp_path, subject, form, org=uuid4()) == []
    both = [len(exported_rows(database, tmp_path, subject, form, org=org)) for org in (OURS, THEIRS)]
    assert sum(both) == len(exported_rows(database, tmp_path, subject, form))


@pytest.mark.parametrize(
    ("subject", "filters", "condition"),
    [
        (EVENTS, {"event_type": ("workflow_run", "slsa_provenance")}, "event_type in ('workflow_run', 'slsa_provenance')"),
        (EVENTS, {"tag": "v3"}, "tag = 'v3'"),
        (EVENTS, {"run_id": 5}, "run_id = 5"),
        (KPIS, {"metric": ("error_rate",)}, "metric_name = 'error_rate' and labels = '{}'"),
        (KPIS, {"period": ("week", "month")}, "aggregation_period in ('week', 'month') and labels = '{}'"),
        (KPIS, {"breakdowns": True}, "true"),
        (KPIS, {"label": ("team=team 1",)}, """labels @> '{"team": "team 1"}'"""),
        (AUDITS, {"tag": "v1"}, "tag = 'v1'"),
        (AUDITS, {"status": "failure"}, "'failure' in (provenance_status, validation_status)"),
        (SLO, {"slo": ("audit_observer_latency",)}, "slo_name = 'audit_observer_latency'"),
    ],
)  # fmt: skip
def test_filters_choose_the_rows(
    database: psycopg.Connection, tmp_path: Path, subject: Subject, filters: dict[str, Any], condition: str
) -> None:
    put_everything(database)
    add_audit(database, 1, provenance_status="failure")
    add_audit(database, 2)
    database.execute("update public.slsa_audit_metrics set tag = 'v' || audit_run_id")
    refresh(database)
    query = f"select count(*) filter (where {condition}), count(*) from {'.'.join(subject.relation)}"
    [(wanted, all_rows)] = rows(database, query)  # type: ignore[arg-type]
    assert len(exported_rows(database, tmp_path, subject, **filters)) == wanted > 0
    assert wanted < all_rows or condition == "true"


def test_events_not_yet_counted_are_in_the_kpis(database: psycopg.Connection, tmp_path: Path) -> None:
    add_events(database, 3, "workflow_run", NOON, outcome="success", workflow="ci")
    add_events(database, 1, "workflow_run", NOON, outcome="failure", workflow="ci")
    [kpi] = exported_rows(database, tmp_path, KPIS, metric=("error_rate",), period=("day",))
    assert (kpi["metric_value"], kpi["numerator"], kpi["denominator"], kpi["sample_count"]) == (25, 1, 4, 4)
    assert (kpi["unit"], kpi["period_start"]) == ("percent", "2026-03-10T00:00:00.000000Z")


def test_instants_beyond_the_calendar_are_as_postgres_writes_them_and_no_parquet(
    database: psycopg.Connection, tmp_path: Path
) -> None:
    for number, at in enumerate(["infinity", "0044-03-15 00:00:00+00 BC", "12026-01-01 00:00:00+00"]):
        add_audit(database, number + 1, at)
    for form in (Format.JSONL, Format.CSV):
        found = exported_rows(database, tmp_path, AUDITS, form)
        for row in found:
            back = scalar(
                database,
                "select %s::timestamptz = audit_timestamp from public.slsa_audit_metrics where audit_run_id = %s",
                row["audit_timestamp"],
                int(row["audit_run_id"]),
            )
            assert back is True
        assert len(found) == 3
    with pytest.raises(OpsKpiError, match="Parquet cannot hold") as refused:
        exported_rows(database, tmp_path, AUDITS, Format.PARQUET)
    assert "CSV" in refused.value.hint
    assert not (tmp_path / "export.parquet").exists()


def test_an_export_is_one_snapshot_and_a_row_of_many_megabytes_fits(
    database: psycopg.Connection, tmp_path: Path
) -> None:
    long = "x" * 12_000_000
    add_event(database, "deploy", said=long)
    for form in Format:
        [row] = exported_rows(database, tmp_path, EVENTS, form)
        metadata = json.loads(row["metadata"]) if isinstance(row["metadata"], str) else row["metadata"]
        assert metadata == {"said": long}


# The command.


def test_json_lines_come_out_on_standard_output_and_go_back_in(cli: Cli, database: psycopg.Connection) -> None:
    put_everything(database)
    answer = cli("export", "events", "--org", str(OURS), "--event-type", "hook_execution")
    assert (answer.returncode, answer.stderr) == (0, "")
    found = [json.loads(line) for line in answer.stdout.splitlines()]
    assert {(row["org_id"], row["event_type"]) for row in found} == {(str(OURS), "hook_execution")}
    [again] = json.loads(cli("ingest", "-", "--json", stdin=answer.stdout).stdout)
    assert (again["accepted"], again["duplicate"]) == (0, len(found))


@pytest.mark.parametrize("name", ["e.jsonl", "e.ndjson", "e.csv", "e.parquet", "e.jsonl.gz", "e.csv.gz", "E.CSV"])
def test_the_ending_of_the_file_says_the_format(
    cli: Cli, database: psycopg.Connection, tmp_path: Path, name: str
) -> None:
    put_everything(database)
    answer = cli("export", "events", "--out", name, "--json")
    assert answer.returncode == 0, answer.stderr
    summary = json.loads(answer.stdout)
    file = tmp_path / name
    assert (summary["rows"], summary["bytes"], summary["file"]) == (240, file.stat().st_size, name)
    if name.endswith(".gz"):
        file = tmp_path / name.removesuffix(".gz")
        file.write_bytes(gzip.decompress((tmp_path / name).read_bytes()))
    assert len(read_export(file, Format(summary["format"]))) == 240
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".e")] == []
    said = cli("export", "events", "--out", name)
    assert "240 rows of events" in said.stdout


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (("events", "--metric", "error_rate"), "--metric"),
        (("kpis", "--event-type", "deploy"), "--event-type"),
        (("audits", "--run-id", "1"), "--run-id"),
        (("slo", "--tag", "v1"), "--tag"),
        (("events", "--since", "2026-02-01", "--until", "2026-02-01"), "range is empty"),
        (("events", "--since", "0001-01-01T00:00:00+14:00"), "beyond the calendar"),
        (("kpis", "--label", "team"), "KEY=VALUE"),
        (("kpis", "--period", "decade"), "decade"),
        (("events", "--out", "events.xlsx"), "events.xlsx"),
        (("events", "--out", "events.parquet.gz"), "compressed already"),
        (("events", "--out", "no/such/folder/events.csv"), "there is no folder"),
        (("events", "--out", "."), "names no format"),
        (("events", "--format", "csv", "--out", "/dev/null"), "no regular file"),
        (("events", "--json"), "--out"),
        (("events", "--org", "me"), "me"),
        (("nonsense",), "nonsense"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else None,
)  # fmt: skip
def test_what_does_not_fit_is_refused_by_name(cli: Cli, arguments: tuple[str, ...], named: str) -> None:
    answer = cli("export", *arguments)
    assert answer.returncode == 64, answer.stderr
    assert named in answer.stderr
    assert "Traceback" not in answer.stderr


def test_without_pyarrow_the_line_that_installs_it_is_said(tmp_path: Path) -> None:
    code = (
        "import importlib.util as finder\n"
        "found = finder.find_spec\n"
        "finder.find_spec = lambda name, package=None: None if name == 'pyarrow' else found(name, package)\n"
        "from opskpi.commands.main import main\n"
        "main()\n"
    )
    answer = forks.run("export", "events", "--out", "e.parquet", code=code, cwd=tmp_path, env=os.environ)
    assert answer.returncode == 78
    assert "pip install 'opskpi[parquet]'" in answer.stderr
    assert not (tmp_path / "e.parquet").exists()


def test_a_role_that_row_level_security_binds_is_refused_not_shown_a_part(
    cli: Cli, migrated_database: Database, database: psycopg.Connection, tmp_path: Path
) -> None:
    put_everything(database)
    login = f"analyst_of_{migrated_database.name}"
    database.execute(sql.SQL("create role {} login in role authenticated").format(sql.Identifier(login)))
    database.execute(
        sql.SQL("grant usage on schema supabase_migrations to {0}; grant select on supabase_migrations.schema_migrations to {0}").format(sql.Identifier(login))
    )  # fmt: skip
    try:
        for subject in SUBJECTS:
            answer = cli(
                *("export", subject.name, "--out", "part.csv"),
                "--dsn",
                make_conninfo(migrated_database.dsn, user=login),
            )
            assert answer.returncode == 78, answer.stderr
            assert "row-level security" in answer.stderr
            assert not (tmp_path / "part.csv").exists()
    finally:
        database.execute(sql.SQL("drop owned by {0}; drop role {0}").format(sql.Identifier(login)))


def test_a_replaced_file_keeps_its_permissions_and_a_link_stays_one(
    cli: Cli, database: psycopg.Connection, tmp_path: Path
) -> None:
    add_event(database)
    real, link = tmp_path / "real.jsonl", tmp_path / "link.jsonl"
    real.write_text("old")
    real.chmod(0o600)
    link.symlink_to(real)
    assert cli("export", "events", "--out", "link.jsonl").returncode == 0
    assert link.is_symlink()
    assert stat.S_IMODE(real.stat().st_mode) == 0o600
    assert json.loads(real.read_text("utf-8"))["event_type"] == "slsa_provenance"


# What goes wrong.


@contextmanager
def exporting(
    database: Database,
    folder: Path,
    *arguments: str,
    stderr: int = subprocess.PIPE,
    preexec_fn: Callable[[], None] | None = None,
) -> Iterator[subprocess.Popen[bytes]]:
    """Run `opskpi export events`, and end it however the test ends."""
    with subprocess.Popen(
        [sys.executable, "-m", "opskpi", "export", "events", "--dsn", database.dsn, *arguments],
        env=os.environ | {"PYTHONPATH": str(JOBS)},
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=stderr,
        preexec_fn=preexec_fn,  # noqa: PLW1509
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def put_many_deploys(connection: psycopg.Connection, count: int) -> None:
    for index in ("idx_telemetry_events_event_type", "idx_telemetry_events_event_timestamp", "telemetry_events_id_idx"):
        connection.execute(sql.SQL("drop index if exists public.{}").format(sql.Identifier(index)))
    connection.execute(
        "insert into public.telemetry_events (event_type, event_timestamp, metadata)"
        " select 'deploy', timestamptz '2026-03-10 00:00+00' + number * interval '1 second',"
        " jsonb_build_object('outcome', 'success', 'number', number, 'text', repeat('x', 80))"
        " from generate_series(1, %s) as number",
        [count],
    )


COPIES = "from pg_stat_activity where query like 'copy (select%' and pid <> pg_backend_pid()"


def part_of(folder: Path) -> list[Path]:
    return list(folder.glob(".events.*.part"))


def suspended_midway(process: subprocess.Popen[bytes], folder: Path) -> None:
    """Stop the process once the first bytes are in its unfinished file."""
    eventually(lambda: any(path.stat().st_size for path in part_of(folder)))
    process.send_signal(signal.SIGSTOP)


@pytest.mark.parametrize("name", ["events.jsonl", "events.csv.gz", "events.parquet"])
def test_a_lost_connection_leaves_the_old_file_and_nothing_half(
    migrated_database: Database, database: psycopg.Connection, tmp_path: Path, name: str
) -> None:
    put_many_deploys(database, 60_000)
    (tmp_path / name).write_text("old")
    with exporting(migrated_database, tmp_path, "--out", name) as process:
        suspended_midway(process, tmp_path)
        ended = database.execute(f"select pg_terminate_backend(pid) {COPIES}").fetchall()
        assert ended == [(True,)]
        eventually(lambda: not database.execute(f"select pid {COPIES}").fetchall())
        process.send_signal(signal.SIGCONT)
        _, said = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 75
    assert b"terminating connection" in said or b"connection was lost" in said
    assert b"Traceback" not in said
    assert ((tmp_path / name).read_text(), part_of(tmp_path)) == ("old", [])


def test_a_killed_export_leaves_the_old_file(
    migrated_database: Database, database: psycopg.Connection, tmp_path: Path
) -> None:
    put_many_deploys(database, 60_000)
    (tmp_path / "events.jsonl").write_text("old")
    with exporting(migrated_database, tmp_path, "--out", "events.jsonl") as process:
        suspended_midway(process, tmp_path)
        process.kill()
        process.wait()
    assert (tmp_path / "events.jsonl").read_text() == "old"
    # What is left does not look like an export, and no longer ends as one.
    [left] = part_of(tmp_path)
    assert left.suffix == ".part"


def test_an_interrupted_export_leaves_nothing(
    migrated_database: Database, database: psycopg.Connection, tmp_path: Path
) -> None:
    put_many_deploys(database, 60_000)
    with exporting(migrated_database, tmp_path, "--out", "events.jsonl") as process:
        suspended_midway(process, tmp_path)
        process.send_signal(signal.SIGINT)
        process.send_signal(signal.SIGCONT)
        process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 130
    assert [path.name for path in tmp_path.iterdir()] == []


@pytest.mark.parametrize("name", ["events.jsonl", "events.csv.gz", "events.parquet"])
def test_a_full_disk_is_one_sentence_and_leaves_the_old_file(
    migrated_database: Database, database: psycopg.Connection, tmp_path: Path, name: str
) -> None:
    put_many_deploys(database, 60_000)
    (tmp_path / name).write_text("old")

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))

    with exporting(migrated_database, tmp_path, "--out", name, preexec_fn=limit) as process:
        _, said = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 75
    assert said.decode().startswith(f"opskpi: {tmp_path / name} cannot be written: File too large")
    assert ((tmp_path / name).read_text(), part_of(tmp_path)) == ("old", [])


def test_a_full_disk_behind_standard_output_is_one_sentence(
    migrated_database: Database, database: psycopg.Connection
) -> None:
    add_event(database)
    with Path("/dev/full").open("w") as full:
        answer = subprocess.run(
            [sys.executable, "-m", "opskpi", "export", "events", "--dsn", migrated_database.dsn],
            stdout=full,
            stderr=subprocess.PIPE,
            env=os.environ | {"PYTHONPATH": str(JOBS)},
            text=True,
            check=False,
        )
    assert answer.returncode == 75
    assert answer.stderr == "opskpi: the output cannot be written: No space left on device\n"


def test_a_reader_that_goes_away_is_told_of_since_the_export_is_not_whole(
    migrated_database: Database, database: psycopg.Connection, tmp_path: Path
) -> None:
    put_many_deploys(database, 20_000)
    with exporting(migrated_database, tmp_path) as process:
        assert process.stdout is not None
        process.stdout.readline()
        process.stdout.close()
        process.stdout = None
        _, said = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 1
    assert said.decode().startswith("opskpi: whoever read the export went away before its end")
    assert b"Traceback" not in said


def test_twenty_times_the_events_take_the_same_memory(
    migrated_database: Database, database: psycopg.Connection, tmp_path: Path
) -> None:
    put_many_deploys(database, 400_000)

    def peak(name: str, *filters: str) -> int:
        with exporting(migrated_database, tmp_path, "--out", name, *filters) as process:
            _, status, usage = os.wait4(process.pid, 0)
            process.returncode = os.waitstatus_to_exitcode(status)
        assert process.returncode == 0
        return usage.ru_maxrss * 1024

    for name in ("events.jsonl", "events.csv", "events.csv.gz", "events.parquet"):
        few = peak(name, "--until", "2026-03-10T05:33:21")
        size = (tmp_path / name).stat().st_size
        assert peak(name) < few + 30_000_000, name
        assert (tmp_path / name).stat().st_size > 15 * size


def test_a_bar_shows_the_progress_on_a_terminal_and_nothing_of_it_is_in_the_output(
    migrated_database: Database, database: psycopg.Connection, tmp_path: Path
) -> None:
    put_many_deploys(database, 20_000)
    ours, theirs = pty.openpty()
    with exporting(migrated_database, tmp_path, stderr=theirs) as process:
        os.close(theirs)
        assert process.stdout is not None
        lines = process.stdout.read().splitlines()
        assert process.wait() == 0
    shown = b""
    with suppress(OSError), os.fdopen(ours, "rb", buffering=0) as terminal:
        while part := terminal.read(1 << 16):
            shown += part
    assert b"exporting events" in shown
    assert b"20000/?" in shown
    assert len([json.loads(line) for line in lines]) == 20_000


def test_a_link_that_leads_to_itself_is_no_file(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "loop.csv").symlink_to(tmp_path / "loop.csv")
    answer = cli("export", "events", "--out", str(tmp_path / "loop.csv"))
    assert answer.returncode == 64
    assert "Traceback" not in answer.stderr
