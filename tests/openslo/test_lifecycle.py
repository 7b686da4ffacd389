"""Objectives that are pruned, renamed, removed, disabled and listed from the command line."""

import json
import subprocess
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import psycopg
import pytest

from opskpi import openslo
from opskpi.errors import ExitCode
from opskpi.orgs import NIL_ORG
from support.events import add_event, add_slo, rows
from support.openslo_texts import SLO

pytestmark = pytest.mark.own_database

Cli = Callable[..., subprocess.CompletedProcess[str]]
PLAIN = SLO.partition("  alertPolicies")[0].replace("eventType: release", "eventType: workflow_run")


def annotated(name: str, annotations: str) -> str:
    return PLAIN.replace("  name: release_speed", f"  name: {name}\n  annotations: {annotations}")


@pytest.fixture
def slo_file(tmp_path: Path) -> Path:
    path = tmp_path / "slo.yaml"
    path.write_text(PLAIN, "utf-8")
    return path


def test_pruning_shows_what_it_would_remove_and_removes_it(
    cli: Cli, database: psycopg.Connection, slo_file: Path
) -> None:
    shipped = rows(database, "select count(*) from ops.slos")
    assert cli("slo", "apply", str(slo_file)).stdout == "created   slo release_speed\n"
    slo_file.write_text(PLAIN.replace("release_speed", "new_speed"), "utf-8")
    said = "created   slo new_speed\nremoved   slo release_speed\n"
    tried = cli("slo", "apply", "--prune", "--dry-run", str(slo_file))
    assert tried.stdout == said + "nothing was changed: this was a dry run\n"
    assert cli("slo", "apply", "--prune", "--bundle", "others", "--dry-run", str(slo_file)).stdout.count("removed") == 0
    assert cli("slo", "apply", "--prune", "--author", "anna", str(slo_file)).stdout == said
    assert cli("slo", "apply", "--prune", str(slo_file)).stdout == "unchanged slo new_speed\n"
    assert rows(database, "select slo_name, change, author from ops.slo_changes") == [
        ("release_speed", "removed", "anna")
    ]
    assert rows(database, "select count(*) - 1 from ops.slos") == shipped


def test_a_dry_run_says_which_rules_mean_nothing_for_a_short_window(cli: Cli, slo_file: Path) -> None:
    slo_file.write_text(PLAIN.replace("duration: 30d", "duration: 7d"), "utf-8")
    tried = cli("slo", "apply", "--dry-run", str(slo_file))
    assert tried.stdout.splitlines() == [
        "created   slo release_speed",
        "left out  rule slow_burn for release_speed: its factor is 0.7, and a burn rate below 1 leaves a part of the budget",
        "left out  rule trickle for release_speed: its factor is 0.2333, and a burn rate below 1 leaves a part of the budget",
        "nothing was changed: this was a dry run",
    ]
    assert cli("slo", "apply", str(slo_file)).stdout == "created   slo release_speed\n"


def test_a_file_of_another_bundle_is_refused_with_the_way_out(
    cli: Cli, database: psycopg.Connection, slo_file: Path
) -> None:
    cli("slo", "apply", "--bundle", "team-a", str(slo_file))
    slo_file.write_text(PLAIN.replace("target: 0.9", "target: 0.8"), "utf-8")
    refused = cli("slo", "apply", str(slo_file))
    assert refused.returncode == ExitCode.BAD_ARGUMENT
    assert "release_speed belongs to the bundle team-a" in refused.stderr
    assert "--adopt" in refused.stderr
    assert "bundle: team-a -> default" in cli("slo", "apply", "--adopt", str(slo_file)).stdout


def test_an_objective_gets_another_name_from_a_file_and_an_export_says_so(
    cli: Cli, database: psycopg.Connection, slo_file: Path
) -> None:
    cli("slo", "apply", str(slo_file))
    slo_file.write_text(annotated("delivery_speed", "{opskpi.dev/previous-name: release_speed}"), "utf-8")
    assert "renamed   slo delivery_speed\n            slo_name: release_speed -> delivery_speed\n" in (
        cli("slo", "apply", str(slo_file)).stdout
    )
    assert cli("slo", "apply", str(slo_file)).stdout == "unchanged slo delivery_speed\n"
    exported = cli("slo", "export").stdout
    assert "opskpi.dev/previous-name: release_speed" in exported
    slo_file.write_text(exported, "utf-8")
    assert set(json.loads(cli("slo", "apply", "--json", str(slo_file)).stdout)[0]) >= {"change"}
    assert {change["change"] for change in json.loads(cli("slo", "apply", "--json", str(slo_file)).stdout)} == {
        "unchanged"
    }


def test_an_slo_of_several_objectives_takes_the_history_of_each_along(
    cli: Cli, database: psycopg.Connection, slo_file: Path
) -> None:
    two = "  objectives:\n    - {displayName: most, target: 0.9}\n    - {displayName: all, target: 0.99}\n"
    slo_file.write_text(PLAIN.replace("  objectives:\n    - target: 0.9\n", two), "utf-8")
    cli("slo", "apply", str(slo_file))
    renamed = annotated("delivery_speed", "{opskpi.dev/previous-name: release_speed}")
    slo_file.write_text(renamed.replace("  objectives:\n    - target: 0.9\n", two), "utf-8")
    said = cli("slo", "apply", str(slo_file)).stdout
    for objective in ("most", "all"):
        assert f"slo_name: release_speed.{objective} -> delivery_speed.{objective}" in said
    assert rows(database, "select slo_name, version from ops.slo_versions where slo_name ~ 'speed' order by 1") == [
        ("delivery_speed.all", 1),
        ("delivery_speed.most", 1),
    ]


def test_a_file_disables_and_enables_an_objective(cli: Cli, database: psycopg.Connection, slo_file: Path) -> None:
    for word in ("false", "true"):
        slo_file.write_text(annotated("release_speed", f'{{opskpi.dev/enabled: "{word}"}}'), "utf-8")
        cli("slo", "apply", str(slo_file))
        assert rows(database, "select is_enabled::text from ops.slos where slo_name = 'release_speed'") == [(word,)]
    cli("slo", "disable", "release_speed")
    assert 'opskpi.dev/enabled: "false"' in cli("slo", "export").stdout.replace("'", '"')


@pytest.mark.parametrize(
    ("annotations", "fault"),
    [
        ("{opskpi.dev/enabled: false}", "false is no text for every reader of YAML"),
        ('{opskpi.dev/enabled: "off"}', "off is not one of true, false"),
        ("{opskpi.dev/previous-name: fast}", "fast is its name now"),
        ("{opskpi.dev/previous-name: old}", "the SLO fast was called so, too"),
    ],
)
def test_an_annotation_that_means_nothing_is_refused(
    faults: Callable[..., list[str]], annotations: str, fault: str
) -> None:
    second = annotated("slow", "{opskpi.dev/previous-name: old}")
    (message,) = faults(annotated("fast", annotations), *([second] if "old" in annotations else []))
    assert fault in message


def test_a_deleted_objective_says_what_goes_and_what_stays(cli: Cli, database: psycopg.Connection) -> None:
    add_slo(database)
    database.execute(
        "insert into ops.alert_rules (rule_name, kind, slo_name, severity) values ('deploys/own', 'budget_exhausted', 'deploys', 'page')"
    )
    gone = "removed   slo deploys\nremoved   rule deploys/own\nkept      1 versions with their days, 0 exclusions\n"
    assert cli("slo", "delete", "--dry-run", "deploys").stdout == gone + "nothing was changed: this was a dry run\n"
    assert cli("slo", "delete", "deploys", "--author", "anna").stdout == gone
    again = cli("slo", "delete", "deploys")
    assert again.returncode == ExitCode.BAD_ARGUMENT
    assert "there is no objective deploys" in again.stderr
    listed = json.loads(cli("slo", "list", "--all", "--json").stdout)
    assert [(row["slo_name"], row["state"], row["author"]) for row in listed if row["service"] == "shop"] == [
        ("deploys", "removed", "anna")
    ]
    assert "deploys" not in cli("slo", "list").stdout


def test_a_deleted_objective_of_a_bundle_names_the_files_that_would_make_it_again(
    cli: Cli, database: psycopg.Connection, slo_file: Path
) -> None:
    cli("slo", "apply", str(slo_file))
    assert "files of the bundle default make it again" in cli("slo", "delete", "release_speed").stdout


def test_an_objective_is_disabled_and_enabled(cli: Cli, database: psycopg.Connection) -> None:
    add_slo(database)
    assert "is_enabled: True -> False" in cli("slo", "disable", "deploys").stdout
    assert cli("slo", "disable", "deploys").stdout == "unchanged slo deploys\n"
    assert "deploys" not in cli("slo").stdout
    assert "disabled" in cli("slo", "list", "--all").stdout
    assert "is_enabled: False -> True" in cli("slo", "enable", "deploys").stdout


def test_an_alert_that_ended_is_over_and_shown_with_those_that_are(cli: Cli, database: psycopg.Connection) -> None:
    database.execute(
        "insert into ops.alerts (org_id, rule_name, kind, severity, subject, state, pending_since, firing_since, resolved_at,"
        " evaluated_at, channels, notify_resolved, description, detail)"
        " values (%s, 'burn', 'burn_rate', 'page', 'deploys', 'ended', now(), now(), now(), now(), '{}', true, '', '{}')",
        [NIL_ORG],
    )
    assert "deploys" not in cli("alert").stdout
    assert "ended" in cli("alert", "list", "--all").stdout


def test_an_objective_whose_window_begins_before_its_events_says_so(cli: Cli, database: psycopg.Connection) -> None:
    yesterday = datetime.now(UTC).replace(microsecond=0) - timedelta(days=1)
    add_event(database, "deploy", datetime.now(UTC), outcome="success")
    add_slo(database)
    database.execute("select ops.refresh()")
    assert "are counted" not in cli("slo").stdout
    database.execute("update ops.slis set counted_since = %s where event_type = 'deploy'", [yesterday])
    said = f"deploys: only events since {yesterday:%Y-%m-%d} are counted; retention had removed the older ones\n"
    assert cli("slo").stdout.endswith(said)
    assert yesterday.isoformat()[:10] in cli("slo", "list").stdout


def test_what_is_disabled_can_be_simulated_under_another_name(
    cli: Cli, database: psycopg.Connection, slo_file: Path
) -> None:
    cli("slo", "apply", str(slo_file))
    slo_file.write_text(
        annotated("other", '{opskpi.dev/previous-name: release_speed, opskpi.dev/enabled: "false"}'), "utf-8"
    )
    before = rows(database, "select to_jsonb(slo) from ops.slos as slo order by slo_name")
    assert "nothing would have fired" in cli("slo", "simulate", "--days", "1", str(slo_file)).stdout
    assert rows(database, "select to_jsonb(slo) from ops.slos as slo order by slo_name") == before
    assert openslo.read([slo_file]).slos[0].is_enabled is False
