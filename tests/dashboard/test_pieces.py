"""What the pages ask: each source is of one org alone, also for the owner of the tables, whom no policy binds."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import LiteralString

import psycopg
import pytest
from psycopg.types.json import Jsonb

from opskpi.dashboard import figures, pages, pieces
from opskpi.dashboard.pieces import BURNDOWNS, SOURCES, query_of
from opskpi.dashboard.view import View
from support.events import add_slo
from support.postgres import Database
from support.tenants import MARKS, ORG_A, ORG_B, fill_both_orgs, marks_in

PARAMETERS = {
    "period": "day",
    "since": "2026-01-01T00:00Z",
    "until": "2026-03-01T00:00Z",
    "as_of": "2026-03-01T00:00Z",
    "filters": "{}",
    "event_type": None,
    "slo": "provenance_generation_error_rate",
    "slos": ["provenance_generation_error_rate"],
    "slo_group": "{}",
    "slo_groups": ["{}"],
    "events_explained": 100,
    "alerts_shown": 100,
}
TEMPLATES = Path(pieces.__file__).with_name("templates")


@pytest.fixture
def filled(migrated_database: Database) -> Iterator[psycopg.Connection]:
    """Connect as the owner to a database in which each row of each tenant has a mark of its own."""
    with psycopg.connect(migrated_database.dsn, autocommit=True) as connection:
        fill_both_orgs(connection)
        yield connection


def test_each_source_answers_the_owner_with_rows_of_the_org_that_is_asked_for_and_no_other(
    filled: psycopg.Connection,
) -> None:
    telling = set[str]()
    sources: dict[str, LiteralString] = {**SOURCES, "burndowns": BURNDOWNS}
    for name, source in sources.items():
        for org in (ORG_A, ORG_B):
            [answer] = filled.execute(query_of(source), PARAMETERS | {"org_id": org}).fetchone() or [""]
            assert marks_in(answer) <= {MARKS[org], org}, name
            telling |= {name} if marks_in(answer) or json.loads(answer) else set()
    # What nobody has rows of proves nothing.
    assert telling >= set(SOURCES) - {"explain", "burndown", "exclusions", "deliveries"}


def test_no_section_marks_a_text_as_html() -> None:
    sections = list((TEMPLATES / "sections").glob("*.html"))
    assert len(sections) > 10
    assert [file.name for file in sections if re.search(r"\|\s*safe|autoescape", file.read_text("utf-8"))] == []


def test_a_group_shows_the_exclusions_that_hold_for_it_and_the_labels_of_each(database: psycopg.Connection) -> None:
    add_slo(database, "mine", event_type="workflow_run", group_by=["team", "workflow"])
    for group in ({}, {"team": None}, {"workflow": "a"}, {"workflow": "b"}, {"team": None, "workflow": "a"}):
        database.execute(
            "select ops.exclude_from_slo('mine', '2026-02-01Z', '2026-02-02Z', 'why', 'me', %s, %s)",
            [ORG_A, Jsonb(group)],
        )
    asked = {"org_id": ORG_A, "slo": "mine", "slo_group": json.dumps({"team": None, "workflow": "a"})}
    [answer] = database.execute(query_of(SOURCES["exclusions"]), PARAMETERS | asked).fetchone() or [""]
    view = View(page="slo", slo="mine", group="team= workflow=a")
    known = {"view": view, "chosen": None, "must_choose": False, "at": str, "promise_of": figures.promise_of}
    html = pages.html_of("exclusions", known | {"data": {"exclusions": json.loads(answer)}}, "exclusions")
    cells = re.findall(r"<td[^>]*>(?:<[^>]+>)*([^<]*)", html)
    assert sorted(cells[3::4]) == ["all groups", "team=", "team= workflow=a", "workflow=a"]
