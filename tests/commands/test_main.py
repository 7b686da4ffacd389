"""The command line: help, JSON, exit codes, and errors that a person can act upon."""

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import LiteralString

import click
import psycopg
import pytest

from opskpi.commands.main import COMMANDS
from opskpi.commands.main import cli as commands
from support import forks
from support.events import add_channel
from support.patience import PATIENCE_S, eventually
from support.postgres import Database

ROOT = Path(__file__).resolve().parents[2]
Cli = Callable[..., subprocess.CompletedProcess[str]]
RUN = {
    "event_type": "workflow_run",
    "payload": {"outcome": "success", "workflow": "ci", "timestamp": "2026-01-05T10:00:00Z"},
}
ANSWERING = (
    ("migrate",),
    ("aggregate",),
    ("aggregate", "--period", "hour"),
    ("run",),
    ("rebuild", "--since", "2026-01-01", "--until", "2026-01-02"),
    ("kpi",),
    ("kpi", "--period", "week", "--metric", "error_rate", "--breakdowns"),
    ("slo",),
    ("slo", "export"),
    ("slo", "explain", "audit_observer_latency"),
    ("alert",),
    ("alert", "list", "--all"),
    ("alert", "list", "--channels"),
    ("alert", "deliver"),
    ("alert", "retry"),
    ("collect",),
    ("retention",),
    ("retention", "show"),
    ("retention", "set", "events", "90d", "--event-type", "api_request"),
    ("retention", "run"),
    ("retention", "run", "--dry-run"),
    ("anonymise", "rule"),
    ("anonymise", "log"),
)


def command_of(name: str) -> click.Command:
    command = commands.get_command(click.Context(commands), name)
    assert command is not None
    assert command.name == name
    return command


def every_command() -> dict[str, click.Command]:
    """Return each command by what a user types after `opskpi`."""
    found: dict[str, click.Command] = {}
    waiting = {name: command_of(name) for name in COMMANDS}
    while waiting:
        name, command = waiting.popitem()
        found[name] = command
        if isinstance(command, click.Group):
            waiting |= {f"{name} {below}": inner for below, inner in command.commands.items()}
    return found


@pytest.mark.parametrize("name", sorted(every_command()))
def test_every_command_has_help_with_an_example_json_and_dsn_and_is_in_the_readme(name: str) -> None:
    command = every_command()[name]
    text = command.get_help(click.Context(command, info_name=name))
    assert f"opskpi {name}" in text.split("Example", 1)[1]
    assert "--json" in text
    assert "--dsn" in text
    assert f"`opskpi {name}" in (ROOT / "README.md").read_text("utf-8")


@pytest.mark.parametrize("arguments", ANSWERING, ids=" ".join)
def test_every_command_answers_a_person_and_a_machine(cli: Cli, arguments: tuple[str, ...]) -> None:
    for_people = cli(*arguments)
    assert for_people.returncode == 0, for_people.stderr
    assert for_people.stdout.strip()
    for_machines = cli(*arguments, "--json")
    assert for_machines.returncode == 0, for_machines.stderr
    json.loads(for_machines.stdout)


def test_events_go_in_and_kpis_come_out(cli: Cli, tmp_path: Path) -> None:
    file = tmp_path / "events.jsonl"
    file.write_text(
        "\n".join([json.dumps(RUN), "nonsense", json.dumps(RUN | {"payload": {"outcome": "x", "workflow": "ci"}})])
    )
    loaded = cli("ingest", str(file))
    assert loaded.returncode == 0, loaded.stderr
    assert "1 accepted, 0 duplicate, 2 refused" in loaded.stdout
    assert "line 2" in loaded.stdout
    assert str(file) + ".refused.jsonl" in loaded.stdout
    [again] = json.loads(cli("ingest", str(file), "--json").stdout)
    assert (again["accepted"], again["duplicate"], again["refused"]) == (0, 1, 2)
    assert json.loads(cli("aggregate", "--json").stdout)["events"] == 1
    [kpi] = json.loads(cli("kpi", "--metric", "error_rate", "--json").stdout)
    assert (kpi["metric_value"], kpi["unit"], kpi["sample_count"]) == (0, "percent", 1)


def test_events_come_from_standard_input_too(cli: Cli) -> None:
    [summary] = json.loads(cli("ingest", "-", "--json", stdin=json.dumps([RUN])).stdout)
    assert summary["accepted"] == 1


@pytest.mark.parametrize(
    "arguments",
    [
        ("nonsense",),
        ("aggregate", "--period", "fortnight"),
        ("rebuild",),
        ("rebuild", "--since", "soon", "--until", "later"),
        ("rebuild", "--since", "2026-02-01", "--until", "2026-01-01"),
        ("ingest",),
        ("ingest", "no-such-file.jsonl"),
        ("kpi", "--unknown"),
        ("slo", "apply", "no-such-file.yaml"),
        ("slo", "validate"),
        ("slo", "validate", "no-such-file.yaml"),
        ("slo", "explain", "no_such_slo"),
        ("slo", "explain", "audit_observer_latency", "--since", "2026-02-01", "--until", "2026-01-01"),
        ("slo", "exclude", "no_such_slo", "--since", "2026-01-01", "--until", "2026-01-02", "--reason", "why"),
        ("alert", "silence", "nobody_knows_it", "--until", "2099-01-01", "--reason", "why"),
        ("alert", "test", "no-such-channel"),
        ("retention", "set", "everything", "90d"),
        ("retention", "set", "events", "soon"),
        ("retention", "set", "events", "90d", "--event-type", "no_such_type"),
        ("retention", "set", "hours", "30d"),
    ],
    ids=" ".join,
)
def test_a_bad_argument_is_one_clear_message_and_exit_64(cli: Cli, arguments: tuple[str, ...]) -> None:
    answer = cli(*arguments)
    assert answer.returncode == 64
    assert answer.stderr.strip()
    assert "Traceback" not in answer.stderr


def test_no_server_is_one_sentence_and_exit_75(cli: Cli) -> None:
    answer = cli("run", "--dsn", "postgresql://somebody:secret@127.0.0.1:1/nowhere")
    assert answer.returncode == 75
    assert "no connection to database nowhere at 127.0.0.1" in answer.stderr
    assert "secret" not in answer.stderr
    assert "Traceback" not in answer.stderr


@pytest.mark.parametrize("dsn", ["postgresql://[", "nonsense", "host=127.0.0.1 prt=5432"])
def test_a_dsn_that_cannot_be_read_is_exit_78_and_not_repeated(cli: Cli, dsn: str) -> None:
    answer = cli("run", "--dsn", dsn)
    assert answer.returncode == 78
    assert "Traceback" not in answer.stderr


def test_a_database_that_does_not_exist_is_exit_78(cli: Cli, migrated_database: Database) -> None:
    answer = cli("run", "--dsn", migrated_database.dsn.replace(migrated_database.name, "no_such_database"))
    assert answer.returncode == 78
    assert "no_such_database" in answer.stderr


def test_a_database_without_migrations_says_which_is_missing(cli: Cli, empty_database: Database) -> None:
    answer = cli("run", "--dsn", empty_database.dsn)
    assert answer.returncode == 78
    assert "opskpi_foundation" in answer.stderr
    assert "opskpi migrate" in answer.stderr
    examined = cli("doctor", "--dsn", empty_database.dsn)
    assert examined.returncode == 1
    assert "opskpi_foundation" in examined.stdout


def test_a_database_newer_than_the_program_says_which_migration_is_unknown(
    cli: Cli, database: psycopg.Connection
) -> None:
    database.execute(
        "insert into supabase_migrations.schema_migrations (version, name) values ('29990101000000', 'opskpi_future')"
    )
    answer = cli("run")
    assert answer.returncode == 78
    assert "29990101000000_opskpi_future" in answer.stderr
    assert "Upgrade opskpi" in answer.stderr


def test_a_breach_is_exit_3_only_when_asked_for(cli: Cli, database: psycopg.Connection) -> None:
    database.execute(
        "insert into telemetry_events (event_type, run_id, metadata)"
        " select 'slsa_provenance', n,"
        " jsonb_build_object('outcome', case when n <= 50 then 'failure' else 'success' end)"
        " from generate_series(1, 1000) as n"
    )
    assert cli("run").returncode == 0
    assert cli("slo").returncode == 0
    answer = cli("slo", "--fail-on-breach")
    assert answer.returncode == 3
    assert "provenance_generation_error_rate" in answer.stderr


def test_doctor_names_the_check_that_fails_and_what_to_do(cli: Cli, database: psycopg.Connection) -> None:
    answer = cli("doctor")
    assert answer.returncode == 1
    assert re.search(r"FAIL jobs: no refresh has run yet; run opskpi run", answer.stdout)
    assert "audits: slsa_audit_metrics is empty: nobody has recorded an audit" in answer.stdout
    database.execute("""select public.record_audit('{"audit_run_id": 1, "provenance_status": "success"}')""")
    assert cli("run").returncode == 0
    healthy = cli("doctor")
    assert (healthy.returncode, "FAIL" in healthy.stdout) == (0, False)


def test_doctor_names_a_channel_that_no_message_can_be_sent_to(cli: Cli, database: psycopg.Connection) -> None:
    database.execute("""select public.record_audit('{"audit_run_id": 1}')""")
    assert cli("run").returncode == 0
    add_channel(database, "on-call", kind="slak")
    answer = cli("doctor")
    assert answer.returncode == 1
    assert "on-call" in answer.stdout
    assert "slack, email, webhook, apprise" in answer.stdout
    database.execute("update ops.alert_channels set kind = 'slack' where channel_name = 'on-call'")
    assert cli("doctor").returncode == 0


def test_doctor_names_the_range_whose_counts_are_wrong_and_rebuild_mends_it(
    cli: Cli, database: psycopg.Connection
) -> None:
    database.execute("""select public.record_audit('{"audit_run_id": 1}')""")
    database.execute("insert into telemetry_events (event_type) values ('audit_complete'), ('audit_complete')")
    assert cli("run").returncode == 0
    database.execute("update ops.rollups set event_count = event_count + 1 where period = 'day'")
    answer = cli("doctor")
    assert answer.returncode == 1
    advice = re.search(r"run opskpi (rebuild --since \S+ --until \S+)", answer.stdout)
    assert advice is not None, answer.stdout
    assert cli(*advice[1].split()).returncode == 0
    assert cli("doctor").returncode == 0


def test_a_second_refresh_while_one_runs_is_done_at_once(cli: Cli, database: psycopg.Connection) -> None:
    with database.transaction():
        database.execute("select pg_advisory_xact_lock(hashtextextended('ops.refresh', 0))")
        answer = cli("run")
    assert answer.returncode == 0
    assert "another refresh is running" in answer.stdout


def test_a_failed_refresh_is_in_the_journal(cli: Cli, database: psycopg.Connection) -> None:
    database.execute("insert into telemetry_events (event_type) values ('audit_complete')")
    database.execute(
        "create function ops.broken() returns trigger language plpgsql as $$ begin raise 'broken_for_a_test'; end; $$;"
        " create trigger broken before insert on ops.rollups for each row execute function ops.broken()"
    )
    answer = cli("run")
    assert answer.returncode == 1
    assert "Traceback" not in answer.stderr
    journal = database.execute("select outcome, message from v_ops_job_runs where job = 'refresh'").fetchall()
    assert [outcome for outcome, _ in journal] == ["failure"]
    assert "broken_for_a_test" in journal[0][1]


def test_output_cut_short_by_its_reader_is_no_error(migrated_database: Database) -> None:
    with subprocess.Popen(
        [sys.executable, "-m", "opskpi", "slo", "--dsn", migrated_database.dsn],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=os.environ | {"PYTHONPATH": str(ROOT / "jobs")},
    ) as command:
        assert command.stdout is not None
        assert command.stderr is not None
        command.stdout.close()
        assert command.stderr.read() == b""
    assert command.returncode == 0


@pytest.mark.parametrize(
    "dsn",
    ["postgresql://user:pa/ssw0rd@localhost/db", "postgresql://user:p@ssw0rd@nohost.invalid/db"],
)
def test_a_password_that_is_not_quoted_is_not_printed(cli: Cli, dsn: str) -> None:
    answer = cli("run", "--dsn", dsn)
    assert answer.returncode == 78
    assert "ssw0rd" not in answer.stderr + answer.stdout
    assert "Traceback" not in answer.stderr


def test_a_full_disk_behind_the_output_is_one_sentence(migrated_database: Database) -> None:
    with Path("/dev/full").open("w") as full:
        answer = subprocess.run(
            [sys.executable, "-m", "opskpi", "slo", "--json", "--dsn", migrated_database.dsn],
            stdout=full,
            stderr=subprocess.PIPE,
            env=os.environ | {"PYTHONPATH": str(ROOT / "jobs")},
            text=True,
            check=False,
        )
    assert answer.returncode == 75
    assert answer.stderr.startswith("opskpi: the output cannot be written")
    assert "Traceback" not in answer.stderr


def test_a_file_without_a_single_event_is_a_failure(cli: Cli, tmp_path: Path) -> None:
    file = tmp_path / "photo.bin"
    file.write_bytes(bytes(range(256)) * 4)
    assert cli("ingest", str(file)).returncode == 1


def test_a_rebuild_of_all_time_ends_at_once_where_there_is_little(cli: Cli, database: psycopg.Connection) -> None:
    database.execute("insert into telemetry_events (event_type) values ('audit_complete')")
    answer = cli("rebuild", "--since", "1970-01-01", "--until", "9999-12-31", "--json")
    assert json.loads(answer.stdout)["read"] == 1


@pytest.mark.parametrize("encoding", ["LATIN1", "WIN1252", "SQL_ASCII"])
def test_texts_are_utf8_whatever_encoding_the_environment_or_the_database_names(
    cli: Cli, migrated_database: Database, encoding: str
) -> None:
    event = RUN | {"payload": RUN["payload"] | {"workflow": "Prüfung 東"}}
    with psycopg.connect(migrated_database.dsn, autocommit=True) as connection:
        connection.execute(f"alter database {migrated_database.name} set client_encoding = '{encoding}'".encode())
        answer = cli("ingest", "-", stdin=json.dumps(event, ensure_ascii=False), env={"PGCLIENTENCODING": encoding})
        assert answer.returncode == 0, answer.stderr
        connection.execute("set client_encoding = 'utf8'")
        stored = connection.execute("select metadata ->> 'workflow' from telemetry_events").fetchall()
    assert stored == [("Prüfung 東",)]
    exported = cli("export", "events", env={"PGCLIENTENCODING": encoding})
    assert json.loads(exported.stdout)["metadata"]["workflow"] == "Prüfung 東"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_command_that_is_ended_leaves_no_statement_waiting_in_the_server(
    migrated_database: Database, tmp_path: Path, number: int
) -> None:
    waiting = (
        "select exists (select from pg_locks where locktype = 'advisory' and not granted"
        " and database = (select oid from pg_database where datname = current_database()))"
    )
    with (
        psycopg.connect(migrated_database.dsn, autocommit=True) as watching,
        psycopg.connect(migrated_database.dsn) as holding,
        open(os.devnull, "wb") as nothing,  # noqa: PTH123
    ):
        holding.execute("select pg_advisory_xact_lock(hashtextextended('ops.refresh', 0))")
        process = forks.Process(
            ["rebuild", "--since", "2026-01-01", "--until", "2026-01-02", "--dsn", migrated_database.dsn],
            cwd=tmp_path,
            env=os.environ,
            stdout=nothing,
            stderr=nothing,
        )
        await_answer(watching, waiting, True)
        process.send_signal(number)
        assert process.wait(PATIENCE_S) == -number
        await_answer(watching, waiting, False)


def await_answer(connection: psycopg.Connection, question: LiteralString, answer: object) -> None:
    eventually(lambda: connection.execute(question).fetchone() == (answer,))
