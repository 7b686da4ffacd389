"""Tables fit their width: columns go before a key is cut, and a key that is too long has lines of its own."""

import io
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len
from rich.console import Console

from opskpi import console, tables
from opskpi.columns import Column
from opskpi.groups import Group
from opskpi.objectives.reporting import Cost
from opskpi.orgs import NIL_ORG
from opskpi.status import reading, showing

NAME = "release_of_everything_that_the_platform_team_ships_on_fridays.of-all-attempts-those-that-succeeded-within-fifteen-minute"
SLO = reading.Slo(
    org_id=NIL_ORG, slo_name=NAME, service="release", objective="error_rate", status="breached", target=Decimal("0.999"),
    sli=Decimal("0.987654"), good=12_345, total=12_500, budget_left=Decimal("-11.3"), burn_rate_1h=Decimal("14.4"),
    burn_rate_6h=Decimal(6), burn_rate_1d=Decimal(3), burn_rate_3d=None, time_to_exhaustion=timedelta(days=3),
    events_needed=1000, window_start=datetime(2026, 3, 1, tzinfo=UTC), counted_since=None, slo_group={},
)  # fmt: skip


def printed_lines(capsys: pytest.CaptureFixture[str]) -> list[str]:
    return capsys.readouterr().out.splitlines()


@pytest.fixture
def narrow(monkeypatch: pytest.MonkeyPatch) -> None:
    """A terminal of 80 columns."""
    monkeypatch.setenv("COLUMNS", "80")


def like_slo(**columns: Any) -> reading.Slo:
    return reading.Slo(**{name: getattr(SLO, name) for name in reading.Slo.__slots__} | columns)


def test_a_table_of_the_shipped_objectives_fits_80_columns_with_whole_names(narrow, capsys):
    names = ["provenance_validation_availability", "audit_observer_latency"]
    showing.show_slos([like_slo(slo_name=name) for name in names])
    found = printed_lines(capsys)
    assert max(map(len, found)) <= 80
    assert [sum(name in line for line in found) for name in names] == [1, 1]
    head = "".join(found[2:4])
    assert all(word in head for word in ("SLO", "status", "SLI", "budget", "left"))
    assert "target, good, total" in found[-2]
    assert "--json has everything" in " ".join(found[-2:])


def test_an_objective_that_changed_within_its_window_says_which_versions_judge_it(monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "240")
    showing.show_slos([like_slo(slo_name="deploys", versions=[2, 3]), like_slo(slo_name="short", versions=[1])])
    said = [line for line in printed_lines(capsys) if "versions" in line]
    assert said == ["deploys: its definition changed within the window; versions 2, 3 judge it, each its own time"]


def test_a_name_of_120_characters_has_lines_of_its_own(narrow, capsys):
    assert len(NAME) == 120
    showing.show_slos([SLO, like_slo(slo_name="short")])
    found = printed_lines(capsys)
    assert max(map(len, found)) <= 80
    assert NAME in "".join(line.rstrip() for line in found)
    assert [line.split()[:4] for line in found if "breached" in line] == [["breached", "99.900", "%", "98.765"]] * 2


def test_nothing_is_left_out_where_everything_fits(monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "240")
    showing.show_slos([SLO])
    found = printed_lines(capsys)
    assert "left out" not in "".join(found)
    assert [cell.strip() for cell in found[4].strip("│").split("│")] == [
        *(NAME, "breached", "99.900 %", "98.765 %", "12,345", "12,500", "-1130.0 %", "14.40", "3.00", "3.0 d", "1,000"),
    ]


def test_an_explanation_keeps_the_whole_event_id_and_its_cost_at_80_columns(narrow, capsys):
    event = UUID("5d0c1a7e-9f4b-4a55-8f0e-3c2b1a09f8e7")
    at = datetime(2026, 3, 1, 2, tzinfo=UTC)
    said = ("provenance_validate", 1_234_567_890, "checkout-api/v1.2.3", "failed", Decimal("0.25"))
    console.show_rows(
        "What burned",
        [Cost(NIL_ORG, at, event, *said, {}, 1, "counted", at)],
        "nothing",
        keys=["event_id"],
        without=["slo_group", "version", "budget_basis", "budget_since"],
        dispensable=["event_type", "tag", "run_id", "reason"],
    )
    found = printed_lines(capsys)
    assert max(map(len, found)) <= 80
    assert sum(str(event) in line and "0.250000" in line and "2026-03-01" in line for line in found) == 1


def test_a_group_is_shown_whole_beside_its_objective_at_80_columns(narrow, capsys):
    groups: list[Group] = [{"workflow": "release"}, {"team": "payments", "workflow": "w" * 100}, {}]
    showing.show_slos([like_slo(slo_name="runs", slo_group=group) for group in groups])
    found = printed_lines(capsys)
    assert max(map(len, found)) <= 80
    assert "runs  workflow=release" in [line.strip() for line in found]
    assert f"runs  team=payments workflow={'w' * 100}" in "".join(line.rstrip("\n") for line in found)


def test_no_column_of_groups_is_shown_where_nothing_is_grouped(narrow, capsys):
    showing.show_slos([like_slo(slo_name="runs")])
    assert "group" not in "".join(printed_lines(capsys))


@dataclass(frozen=True, slots=True)
class Noted:
    name: str
    seen_at: datetime | None
    note: str | None


def test_an_empty_column_is_left_out_before_any_other_and_a_text_takes_several_lines(narrow, capsys):
    note = "a long note about what was seen and why nobody needs to look at it again before Monday"
    console.show_rows("Notes", [Noted("n" * 45, None, note)], "nothing")
    found = printed_lines(capsys)
    assert max(map(len, found)) <= 80
    assert "n" * 45 in "".join(found)
    cells = [line.strip("│").split("│") for line in found if line.startswith("│")]
    assert " ".join(line[-1].strip() for line in cells) == note
    assert "left out" not in "".join(found)


text = st.text(st.characters(categories=["Lu", "Ll", "Lo", "Nd"]) | st.sampled_from("[]_-./ 東😀"), max_size=40)


@given(
    key=st.text(st.characters(categories=["Ll", "Lo", "Nd"]) | st.sampled_from("[]_-./"), min_size=1, max_size=120),
    cells=st.lists(text, max_size=8),
    width=st.integers(40, 200),
    wraps=st.booleans(),
)
def test_no_line_is_wider_than_the_terminal_and_no_key_is_cut(key, cells, width, wraps):
    printed = io.StringIO()
    columns = [Column("key", is_key=True), *(Column(f"c {n}", wraps=wraps) for n in range(len(cells)))]
    row = [console.safe(cell) for cell in (key, *cells)]
    tables.show(Console(file=printed, width=width), "Title", columns, [row, row])
    found = printed.getvalue().splitlines()
    assert max(map(cell_len, found)) <= width
    assert key in "".join(line.rstrip() for line in found)
