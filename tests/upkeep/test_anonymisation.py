"""`opskpi anonymise`: the command, its key, its log, whoever stores events, and being killed at any moment."""

import json
import os
import signal
import subprocess
import threading
from collections.abc import Callable
from typing import Any
from uuid import UUID, uuid4

import psycopg
import pytest
from psycopg.types.json import Jsonb

from opskpi.access import agents, pseudonyms
from opskpi.errors import ExitCode, OpsKpiError
from opskpi.github import storing
from opskpi.provenance import recording
from opskpi.upkeep import anonymisation
from support import forks
from support.events import NIL, add_event, ingest, refresh, refused, rows, scalar, states

KEY = {"OPSKPI_ANONYMISATION_KEY": "a key of the tests, long enough"}
NONE = {"OPSKPI_ANONYMISATION_KEY": ""}
ANNA = UUID("11111111-2222-4333-8444-555555555555")
Cli = Callable[..., subprocess.CompletedProcess[str]]

DYING = """
import os, signal, sys
from datetime import UTC, datetime
from uuid import UUID
import psycopg
from opskpi.upkeep import anonymisation
dsn, what, number = sys.argv[1], sys.argv[2], int(sys.argv[3])
made = 0
execute = psycopg.Cursor.execute
def step():
    global made
    made += 1
    if made == number:
        os.kill(os.getpid(), signal.SIGKILL)
def counting(self, *arguments, **named):
    step()
    answer = execute(self, *arguments, **named)
    step()
    return answer
psycopg.Cursor.execute = counting
anonymisation.BATCH = 20
with psycopg.connect(dsn, autocommit=True) as connection:
    if what == "rules":
        anonymisation.anonymise(connection, anonymisation.Scope(datetime(2026, 4, 1, tzinfo=UTC)))
    else:
        anonymisation.erase(connection, UUID(int=0), UUID(what))
"""


def override_by_anna(**said: object) -> dict[str, Any]:
    payload = {"agent_id": str(ANNA), "org_id": str(NIL), "hook_type": "pre-push", "override_reason": "secret reason"}
    payload |= {"findings_count": 2, "severity": "high", "timestamp": "2026-03-10T12:00:00Z", "event_id": str(uuid4())}
    return {"event_type": "hook_override", "payload": payload | said}


def fill_with_anna(connection: psycopg.Connection) -> None:
    connection.execute("select ops.assign_team(%s, %s, 'red')", [NIL, ANNA])
    ingest(connection, override_by_anna(), override_by_anna())
    add_event(connection, "deploy", outcome="failure", duration_ms=3, file="src/anna.py", note="ask anna@example.com")
    refresh(connection)


def answered(result: subprocess.CompletedProcess[str]) -> Any:
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout)


def stored_text(connection: psycopg.Connection) -> str:
    return scalar(connection, "select string_agg(metadata::text, ' ') from public.telemetry_events")


def test_the_command_counts_first_then_does_it_and_then_has_nothing_to_do(cli, database):
    fill_with_anna(database)
    before = states(database)
    arguments = ("anonymise", "--before", "90d", "--json")
    counts = {"agent-ids": 2, "e-mail-addresses": 1, "files": 1, "override-reasons": 2}
    expected = {"dry_run": True, "looked_at": 3, "changed": 3, "counts": counts, "kept": {}}
    old = ("anonymise", "--before", "2026-04-01", "--json")
    assert answered(cli(*old, "--dry-run", env=KEY)) == expected
    assert "secret reason" in stored_text(database)
    assert answered(cli(*old, env=KEY)) == expected | {"dry_run": False}
    assert "anna" not in stored_text(database)
    assert "secret reason" not in stored_text(database)
    assert answered(cli(*old, env=KEY))["changed"] == 0
    assert answered(cli(*arguments, env=KEY))["changed"] == 0
    assert states(database) == before


def test_an_age_is_the_instant_that_long_ago(cli, database):
    database.execute(
        "insert into public.telemetry_events (event_type, event_timestamp, metadata)"
        " select 'deploy', now() - age, '{\"reason\": \"x\"}' from unnest(array['50 hours', '46 hours']::interval[]) as age"
    )
    refresh(database)
    assert answered(cli("anonymise", "--before", "2d", "--json", "--event-type", "deploy"))["changed"] == 1


def test_without_a_key_it_is_a_matter_of_configuration_and_says_what_to_do(cli, database):
    fill_with_anna(database)
    answer = cli("anonymise", "--before", "2026-04-01", env=NONE)
    assert answer.returncode == 78
    assert "OPSKPI_ANONYMISATION_KEY" in answer.stderr
    short = cli("anonymise", "--before", "2026-04-01", env={"OPSKPI_ANONYMISATION_KEY": "fifteen letters"})
    assert short.returncode == 78
    assert "fifteen letters" not in short.stderr


@pytest.mark.parametrize(
    "arguments",
    [
        (),
        ("--before", "soon"),
        ("--before", "0d"),
        ("--before", "2026-01-01", "--agent", str(ANNA)),
        ("--agent", "anna"),
        ("--agent", str(ANNA), "--event-type", "deploy"),
        ("--before", "2026-01-01", "--without-key"),
        ("rule", "set", "it", "--path", "$.outcome", "--action", "remove"),
        ("rule", "set", "it", "--path", "outcome", "--action", "remove"),
        ("rule", "set", "it", "--path", "$.x", "--action", "shred"),
        ("rule", "remove", "nothing-like-it"),
    ],
    ids=" ".join,
)
def test_a_bad_argument_is_one_clear_message_and_exit_64(cli, arguments):
    answer = cli("anonymise", *arguments)
    assert answer.returncode == 64
    assert answer.stderr.strip()
    assert "Traceback" not in answer.stderr


def test_rules_are_shown_set_and_removed(cli, database):
    shown = {rule["rule_name"]: rule for rule in answered(cli("anonymise", "rule", "--json"))}
    assert shown["reasons"] == {
        **{"rule_name": "reasons", "event_type": "", "path": "$.**.reason", "matching": None, "action": "remove"},
        **{"on_ingest": False, "is_enabled": True},
    }
    assert "override-reasons" in cli("anonymise", "rule").stdout
    setting = ("anonymise", "rule", "set", "tickets", "--path", "$.**", "--matching", "T-[0-9]+", "--action", "hmac")
    assert "tickets is set" in cli(*setting, "--on-ingest", env=KEY).stdout
    assert "OPSKPI_ANONYMISATION_KEY" in cli(*setting, "--on-ingest", env=NONE).stderr
    kept = answered(cli(*setting, "--disabled", "--json"))
    assert (kept["on_ingest"], kept["is_enabled"]) == (False, False)
    assert kept in answered(cli("anonymise", "rule", "--json"))
    assert answered(cli("anonymise", "rule", "remove", "tickets", "--json")) == {"removed": "tickets"}
    assert cli("anonymise", "rule", "remove", "reasons").stdout.strip() == "reasons is removed"


def test_an_agent_is_erased_and_a_second_time_nothing_is_left(cli, database):
    fill_with_anna(database)
    before = states(database)
    expected = cli("anonymise", "--agent", str(ANNA), "--dry-run").stdout
    assert "2 of 2 events would be changed" in expected
    assert cli("anonymise", "--agent", str(ANNA)).stdout == expected.replace("would be changed", "changed")
    assert cli("anonymise", "--agent", str(ANNA)).stdout.strip() == "nothing of this agent is left"
    assert states(database) == before


def test_other_names_of_the_agent_are_erased_and_where_one_stays_is_said(cli, database):
    add_event(database, "deploy", note="by anna@example.com", agent_id=ANNA)
    database.execute("update ops.slos set description = 'Ask anna@example.com' where slo_name like '%availability'")
    answer = cli("anonymise", "--agent", str(ANNA), "--also", "anna@example.com")
    assert answer.returncode == 0
    assert "stays in 3 row(s) of ops.slos.description" in answer.stdout
    assert "anna" not in stored_text(database)
    answer = cli("anonymise", "--before", "90d", "--also", "anna@example.com")
    assert (answer.returncode, "--also" in answer.stderr) == (64, True)


def test_the_log_says_what_was_done_and_neither_to_whom_nor_with_what(cli, database):
    assert cli("anonymise", "log").stdout.strip() == "nothing was anonymised yet"
    fill_with_anna(database)
    assert cli("anonymise", "--before", "2026-04-01", "--event-type", "deploy", env=KEY).returncode == 0
    assert cli("anonymise", "--agent", str(ANNA), env=KEY).returncode == 0
    shown = cli("anonymise", "log", "--json").stdout
    runs = json.loads(shown)
    assert [(run["kind"], run["changed"], run["finished_at"] is None) for run in runs] == [
        ("erasure", 2, False),
        ("rules", 1, False),
    ]
    table = " ".join(str(row) for row in rows(database, "select * from ops.anonymisations"))
    for secret in (str(ANNA), "secret reason", *KEY.values()):
        assert secret not in shown + table
    assert cli("anonymise", "log").returncode == 0


def test_a_team_reaches_the_pseudonym_when_the_key_is_there_and_else_that_is_said(cli, database):
    fill_with_anna(database)
    assert cli("anonymise", "--before", "2026-04-01", env=KEY).returncode == 0
    assert cli("agent", "assign", str(ANNA), "blue", env=KEY).stderr == ""
    teams = "select team from ops.agents order by is_pseudonym"
    assert rows(database, teams) == [("blue",), ("blue",)]
    answer = cli("agent", "assign", str(ANNA), "green", env=NONE)
    assert answer.returncode == 0
    assert "OPSKPI_ANONYMISATION_KEY" in answer.stderr
    assert rows(database, teams) == [("green",), ("blue",)]
    assert [agent.is_pseudonym for agent in agents.known(database, None)].count(True) == 1


# Whoever stores events has the key


@pytest.fixture
def on_ingest(database: psycopg.Connection) -> psycopg.Connection:
    database.execute("update ops.anonymisation_rules set on_ingest = true")
    database.execute(
        "insert into ops.anonymisation_rules (rule_name, path, action, on_ingest) values ('notes', '$.note', 'hmac', true)"
    )
    return database


def test_a_file_is_read_by_both_lanes_with_the_key(cli, on_ingest, tmp_path):
    file = tmp_path / "events.jsonl"
    file.write_text("".join(json.dumps(override_by_anna(number=number)) + "\n" for number in range(4500)))
    refusal = cli("ingest", str(file), env=NONE)
    assert refusal.returncode == 78
    assert scalar(on_ingest, "select count(*) from public.telemetry_events") == 0
    [summary] = answered(cli("ingest", str(file), "--json", env=KEY))
    assert (summary["accepted"], summary["refused"]) == (4500, 0)
    assert str(ANNA) not in stored_text(on_ingest)
    assert "secret reason" not in stored_text(on_ingest)
    [summary] = answered(cli("ingest", str(file), "--json", env=KEY))
    assert (summary["accepted"], summary["duplicate"]) == (0, 4500)


def test_collected_runs_and_audits_are_stored_with_the_key(on_ingest, monkeypatch):
    event = {"event_type": "workflow_run", "event_id": str(uuid4()), "event_timestamp": "2026-03-10T12:00:00Z"}
    event |= {"payload": {"outcome": "success", "workflow": "ci", "note": "Anna"}}
    audit = {"audit_run_id": 5, "provenance_status": "success", "validation_status": "success"}
    outcome = {"outcome": "success", "note": "Anna"}
    with refused("OP003"):
        storing.store_requests(on_ingest, [event])
    with refused("OP003"):
        recording.record(on_ingest, audit, outcome)
    monkeypatch.setenv(*next(iter(KEY.items())))
    storing.store_requests(on_ingest, [event])
    assert recording.record(on_ingest, audit, outcome).events_stored == 1
    assert (
        scalar(on_ingest, "select count(*) from public.telemetry_events where metadata ->> 'note' like 'hmac:%%'") == 2
    )
    assert scalar(on_ingest, "select current_setting('opskpi.anonymisation_key', true)") in ("", None)


def test_a_key_is_long_and_an_empty_one_is_none():
    assert pseudonyms.key({}) is None
    assert pseudonyms.key(NONE) is None
    assert pseudonyms.key(KEY) == KEY["OPSKPI_ANONYMISATION_KEY"]
    with pytest.raises(OpsKpiError) as caught:
        pseudonyms.key({"OPSKPI_ANONYMISATION_KEY": "fifteen letters"})
    assert caught.value.exit_code == ExitCode.CONFIGURATION
    assert caught.value.hint
    assert "fifteen" not in caught.value.message + caught.value.hint


# Killed, kept waiting


def many(connection: psycopg.Connection) -> None:
    """Three batches of 20 events, of an agent whose team is known."""
    connection.execute("select ops.assign_team(%s, %s, 'red')", [NIL, ANNA])
    said = {"hook_type": "pre-push", "override_reason": "secret reason", "findings_count": 2, "severity": "high"}
    connection.execute(
        "insert into public.telemetry_events (event_type, event_timestamp, metadata, agent_id, event_id)"
        " select 'hook_override', '2026-03-10T12:00:00Z'::timestamptz + number * interval '1 second',"
        "  %s || jsonb_build_object('number', number), %s, md5(number::text)::uuid from generate_series(1, 50) as number",
        [Jsonb(said | {"agent_id": str(ANNA), "org_id": str(NIL)}), ANNA],
    )
    refresh(connection)


def run_until_killed(dsn: str, what: str, number: int) -> int:
    return forks.run(dsn, what, number, code=DYING, env=os.environ | KEY).returncode


@pytest.mark.parametrize("what", ["rules", str(ANNA)], ids=["rules", "erasure"])
def test_killed_before_or_after_any_statement_it_leaves_a_consistent_state_and_the_next_run_finishes_it(
    database, migrated_database, create_database, template, what
):
    stored = "select event_id, agent_id, metadata from public.telemetry_events order by 1"
    whole = create_database(template)
    with psycopg.connect(whole.dsn, autocommit=True) as twin:
        many(twin)
        assert run_until_killed(whole.dsn, what, 0) == 0
        finished = rows(twin, stored)
    many(database)
    before, counted = rows(database, stored), states(database)
    both = {repr(row) for row in before} | {repr(row) for row in finished}
    for number in range(1, 100):
        code = run_until_killed(migrated_database.dsn, what, number)
        now = rows(database, stored)
        assert len(now) == len(before)
        assert {repr(row) for row in now} <= both
        assert states(database) == counted
        if code == 0:
            break
        assert code == -signal.SIGKILL
    else:
        pytest.fail("it never came to its end")
    # Before and after each statement: the rules are looked at once before the first batch.
    assert number == (19 if what == "rules" else 15)
    assert now == finished
    assert run_until_killed(migrated_database.dsn, what, 0) == 0
    assert rows(database, stored) == finished
    database.execute("select ops.rebuild('2020-01-01Z', '2030-01-01Z')")
    assert states(database)["rollups"] == counted["rollups"]


def test_it_waits_for_a_refresh_that_runs_and_then_goes_on(cli, database, connect):
    fill_with_anna(database)
    other = connect(autocommit=False)
    other.execute("select pg_advisory_xact_lock(hashtextextended('ops.refresh', 0))")
    answers: list[Any] = []
    thread = threading.Thread(
        target=lambda: answers.append(cli("anonymise", "--before", "2026-04-01", "--json", env=KEY))
    )
    thread.start()
    while not scalar(database, "select count(*) from ops.anonymisations"):
        assert thread.is_alive()
    other.rollback()
    thread.join(30)
    assert answered(answers[0])["changed"] == 3


def test_a_refresh_that_never_ends_is_told_after_a_while(database, connect, monkeypatch):
    fill_with_anna(database)
    monkeypatch.setattr(anonymisation, "PATIENCE_S", 0.0)
    connect(autocommit=False).execute("select pg_advisory_xact_lock(hashtextextended('ops.refresh', 0))")
    with pytest.raises(OpsKpiError) as caught:
        anonymisation.erase(database, NIL, ANNA)
    assert caught.value.exit_code == ExitCode.TRY_LATER


@pytest.mark.parametrize("arguments", [("--before", "2026-06-01"), ("--agent", str(ANNA))])
def test_a_key_that_is_no_text_is_refused_and_never_shown(cli: Cli, arguments: tuple[str, ...]) -> None:
    answer = cli("anonymise", *arguments, env={"OPSKPI_ANONYMISATION_KEY": "secret\udcff\udcfe and long enough"})
    assert answer.returncode == 78
    assert "secret" not in answer.stderr
    assert "UTF-8" in answer.stderr


@pytest.mark.parametrize(
    "arguments",
    [
        ("--before", "9999-12-31T23:59:59-01:00"),
        ("--before", "2300-01-01"),
        ("--before", "2026-01-01", "--event-type", "nope"),
        ("rule", "set", "mine", "--path", "$.x", "--action", "remove", "--event-type", "nope"),
    ],
    ids=" ".join,
)
def test_what_nothing_can_be_meant_by_is_refused_and_leaves_no_trace(
    cli: Cli, database: psycopg.Connection, arguments: tuple[str, ...]
) -> None:
    fill_with_anna(database)
    answer = cli("anonymise", *arguments, env=KEY)
    assert answer.returncode == 64, answer.stderr
    assert "Traceback" not in answer.stderr
    assert answered(cli("anonymise", "log", "--json")) == []
    assert rows(database, "select from ops.anonymisation_rules where rule_name = 'mine'") == []


def test_a_rule_with_a_key_that_is_too_short_is_not_set(cli: Cli, database: psycopg.Connection) -> None:
    wanted = ("rule", "set", "mine", "--path", "$.x", "--action", "hmac", "--on-ingest")
    answer = cli("anonymise", *wanted, env={"OPSKPI_ANONYMISATION_KEY": "short"})
    assert answer.returncode == 78
    assert rows(database, "select from ops.anonymisation_rules where rule_name = 'mine'") == []


def test_the_erased_of_a_team_stay_in_it(database: psycopg.Connection) -> None:
    fill_with_anna(database)
    anonymisation.erase(database, NIL, ANNA)
    erased = scalar(database, "select ops.erased_agent_id(%s, 'red')", NIL)
    with refused("OP001"):
        database.execute("select ops.assign_team(%s, %s, 'blue')", [NIL, erased])
    database.execute("select ops.assign_team(%s, %s, 'red')", [NIL, erased])
