"""Exclusions from the command line: groups as tables show them, and groups in which nobody has counted anything."""

import json
import subprocess
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from uuid import UUID

import psycopg
import pytest

from opskpi.objectives import reporting
from opskpi.orgs import NIL_ORG
from support.events import add_events, add_slo, refresh, rows, scalar
from support.grouped import RELEASES, add_runs

Cli = Callable[..., subprocess.CompletedProcess[str]]
pytestmark = pytest.mark.database
AT = "2026-03-10T12:00Z"
SPAN = ("--since", "2026-03-10T00:00", "--until", "2026-03-11T00:00", "--reason", "why")
# With what a table could not show as it is, or a command could read otherwise.
WORKFLOWS = (
    *("s1", "a, b", "a=b c=d", 'say "hi"', "\\[bold]x[/]", ":bug:", "", " ", "trailing ", "tab\tnl\nx", "it's"),
    *("no\u00a0break", "zero\u200bwidth", "\u202eright", "\x7f", "\U000e0001tag", "日本", "overflow", None),
)


@pytest.fixture
def by_team(database: psycopg.Connection) -> psycopg.Connection:
    add_slo(database, "mine", event_type="workflow_run", group_by=["team", "workflow"])
    for name in ("release", "hotfix"):
        add_events(database, 1, "workflow_run", AT, outcome="failure", workflow=name)
    return database


def test_every_group_that_a_table_shows_can_be_given_as_it_stands_there(
    connect: Callable[..., psycopg.Connection], cli: Cli, tmp_path: Path
) -> None:
    database = connect()
    (tmp_path / "runs.yaml").write_text(RELEASES.replace("[workflow]", "[team, workflow]"))
    assert cli("slo", "apply", "runs.yaml").returncode == 0
    for name in WORKFLOWS:
        add_runs(database, name, datetime.now(UTC).isoformat(), bad=1)
    assert cli("aggregate").returncode == 0
    cells = [line.split("│") for line in cli("slo").stdout.splitlines()]
    shown = [cell[2].strip() for cell in cells if len(cell) > 2 and cell[1].strip() == "runs"]
    assert len(shown) == len(WORKFLOWS)
    found = []
    for group in shown:
        excluded = cli("slo", "exclude", "runs", *SPAN, "--group", group)
        assert (excluded.returncode, excluded.stderr) == (0, "")
        found += [cost["slo_group"] for cost in json.loads(explained(cli, group).stdout)]
        silenced = cli("alert", "silence", f"runs {group}", "--until", "2099-01-01", "--reason", "known")
        assert silenced.returncode == 0, silenced.stderr
    expected = sorted(({"team": None, "workflow": name} for name in WORKFLOWS), key=str)
    assert sorted(found, key=str) == expected
    assert (
        sorted((group for (group,) in rows(database, "select slo_group from ops.slo_exclusions")), key=str) == expected
    )
    silences = "select count(*) from ops.sli_groups where ops.is_silenced(%s, '', 'runs', '', now(), slo_group)"
    assert scalar(database, silences, NIL_ORG) == len(WORKFLOWS)


def explained(cli: Cli, group: str) -> subprocess.CompletedProcess[str]:
    return cli("slo", "explain", "runs", "--group", group, "--json")


def test_a_group_that_nobody_has_counted_is_excluded_with_a_notice_of_those_like_it(cli: Cli, connect) -> None:
    database = connect()
    add_slo(database, "mine", event_type="workflow_run", group_by=["workflow"])
    for name in ("release", "hot fix"):
        add_events(database, 1, "workflow_run", AT, outcome="failure", workflow=name)
    missed = cli("slo", "exclude", "mine", *SPAN, "--group", "workflow=relaese")
    assert (missed.returncode, "exclusion 1: mine workflow=relaese" in missed.stdout) == (0, True)
    assert "nothing has been counted in workflow=relaese yet" in missed.stderr
    assert "counted groups like it: workflow=release" in missed.stderr
    assert "overflow" not in missed.stderr
    as_json = cli("slo", "exclude", "mine", *SPAN, "--group", "workflow=hot-fix", "--json")
    assert (json.loads(as_json.stdout), 'workflow="hot fix"' in as_json.stderr) == ({"exclusion": 2}, True)
    known = cli("slo", "exclude", "mine", *SPAN, "--group", "workflow=hot fix")
    assert (known.returncode, known.stderr) == (0, "")


@pytest.mark.parametrize(
    ("group", "is_known"),
    [
        ({}, True),
        ({"team": None, "workflow": "release"}, True),
        ({"workflow": "release"}, True),
        ({"team": None}, True),
        ({"team": "red", "workflow": "release"}, False),
        ({"overflow": True}, False),
    ],
)
@pytest.mark.parametrize("is_counted", [True, False])
def test_a_group_is_known_once_it_or_a_group_that_contains_it_has_an_event(
    by_team: psycopg.Connection, group: dict[str, str | bool | None], *, is_counted: bool, is_known: bool
) -> None:
    if is_counted:
        refresh(by_team)
    assert (reporting.unknown(by_team, "mine", NIL_ORG, group) is None) == is_known
    assert (reporting.unknown(by_team, "mine", UUID(int=7), group) is None) == (group == {})


def test_beyond_a_thousand_groups_the_notice_says_that_a_new_one_is_counted_in_overflow(
    by_team: psycopg.Connection,
) -> None:
    refresh(by_team)
    fill = (
        "insert into ops.sli_groups (org_id, of_sli_id, slo_group, sli_id)"
        " select %s, version.sli_id, named.slo_group, ops.group_key(version.sli_id, named.slo_group)"
        " from ops.slo_versions as version cross join generate_series(%s::integer, %s) as number"
        " cross join lateral (select jsonb_build_object('team', null, 'workflow', 'w' || number) as slo_group) as named"
        " where version.slo_name = 'mine'"
    )
    group = {"team": None, "workflow": "new"}
    # Two have events, so that 998 more take all places.
    for first, last, is_full in ((1, 997, False), (998, 998, True)):
        by_team.execute(fill, [NIL_ORG, first, last])
        unknown = reporting.unknown(by_team, "mine", NIL_ORG, dict(group))
        assert unknown is not None
        said = reporting.unknown_in_words("team= workflow=new", unknown)
        assert (unknown.is_full, "would be counted in overflow" in said) == (is_full, is_full)
    by_team.execute("update ops.slos set is_enabled = false where slo_name = 'mine'")
    assert reporting.unknown(by_team, "mine", NIL_ORG, {"workflow": "w5"}) is None
    assert rows(by_team, "select ops.counted_groups('none', %s) = '{}'", NIL_ORG) == [(True,)]
