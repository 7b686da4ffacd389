"""Views as links, numbers as people read them, and charts as they are drawn."""

import xml.etree.ElementTree as ET
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from urllib.parse import parse_qsl, urlsplit

import pytest

from opskpi.dashboard import charts, figures, formats, layout, pages, pieces
from opskpi.dashboard.layout import PAGES
from opskpi.dashboard.view import View, parse
from opskpi.errors import ExitCode, OpsKpiError

NOW = datetime(2026, 3, 11, 12, tzinfo=UTC)


@pytest.mark.parametrize("page", PAGES)
@pytest.mark.parametrize(
    "said",
    [
        {},
        {"range": "24h", "period": "hour", "team": "payments", "hook_type": "pre-push"},
        {"workflow": "a b&c=d", "event_type": "workflow_run", "theme": "dark", "tz": "Asia/Tokyo"},
        {"range": "custom", "since": "2026-03-01T00:00", "until": "2026-03-02T00:00", "tz": "Europe/Berlin"},
        {"slo": "audit_observer_latency"},
        {"slo": "runs", "group": 'team="a b&c=d" workflow='},
        {"slo": "runs", "group": "overflow"},
    ],
)
def test_a_view_is_its_link(page: str, said: dict[str, str]) -> None:
    view = parse(page, said)
    link = view.link(page)
    assert link.startswith("/" if page == "overview" else f"/{page}")
    assert parse(page, dict(parse_qsl(urlsplit(link).query))) == view


def test_a_link_to_another_objective_keeps_no_group_of_this_one() -> None:
    view = View(page="slo", slo="runs", group="workflow=release")
    assert view.link("slo", slo="hooks") == "/slo?slo=hooks"
    assert view.link("alerts", slo="") == "/alerts"
    assert dict(parse_qsl(view.query(theme="dark"))) == {"slo": "runs", "group": "workflow=release", "theme": "dark"}


def test_the_answers_of_two_groups_are_two_and_what_is_of_all_groups_is_one() -> None:
    views = [View(page="slo", slo="runs", group=f"workflow={name}") for name in "ab"]
    keys = [{piece.name: piece.key for piece in pieces.of_view(view, None, NOW)} for view in views]
    assert {name for name in keys[0] if keys[0][name] != keys[1][name]} == {"burndown", "exclusions", "explain"}


@pytest.mark.parametrize(
    ("said", "group"),
    [
        ("runs workflow=release", "workflow=release"),
        ('runs workflow="nightly build"', 'workflow="nightly build"'),
        ("runs overflow", "overflow"),
        ("hooks workflow=release", ""),
        ("overflow overflow", ""),
    ],
)
def test_a_group_that_the_form_names_with_its_objective_is_dropped_with_it(said: str, group: str) -> None:
    assert parse("slo", {"slo": "runs", "group": said}).group == group


def test_the_worst_groups_of_each_objective_are_shown_and_the_others_counted() -> None:
    def rows_of(name: str, status: str, *numbers: int) -> list[dict[str, object]]:
        return [{"slo_name": name, "slo_group": {"w": str(number)}, "status": status} for number in numbers]

    status = [*rows_of("a", "breached", 1, 2), *rows_of("b", "at_risk", 1), *rows_of("a", "ok", 3, 4, 5)]
    status += [{"slo_name": "c", "slo_group": {}, "status": "ok"}]
    shown, others = figures.worst_groups(status, ("", ""), 3)
    assert shown == [("a", "w=1"), ("a", "w=2"), ("b", "w=1"), ("a", "w=3"), ("c", "")]
    assert others == {"a": {"ok": 2}}
    many = rows_of("a", "ok", *range(300))
    shown, others = figures.worst_groups(many, ("a", "w=250"))
    assert (len(shown), shown[-1], others) == (101, ("a", "w=250"), {"a": {"ok": 199}})


def test_a_custom_range_is_of_the_clock_that_the_page_shows() -> None:
    said = {"range": "custom", "since": "2026-03-01T00:00", "until": "2026-03-02T00:00", "tz": "Asia/Tokyo"}
    assert parse("overview", said).window(NOW)[0] == datetime(2026, 2, 28, 15, tzinfo=UTC)


@pytest.mark.parametrize(
    ("said", "period"),
    [
        ({"range": "1h"}, "hour"),
        ({"range": "24h"}, "hour"),
        ({"range": "7d"}, "day"),
        ({"range": "90d"}, "day"),
        ({"range": "90d", "period": "month"}, "month"),
        ({"range": "custom", "since": "2020-01-01T00:00", "until": "2022-01-01T00:00"}, "week"),
        ({"range": "custom", "since": "2000-01-01T00:00", "until": "2022-01-01T00:00"}, "month"),
    ],
)
def test_a_window_is_cut_as_suits_its_length(said: dict[str, str], period: str) -> None:
    assert parse("overview", said).effective_period() == period


@pytest.mark.parametrize(
    ("said", "names"),
    [
        ({"range": "5d"}, "range"),
        ({"period": "year"}, "period"),
        ({"tz": "../etc/passwd"}, "tz"),
        ({"tz": "x" * 201}, "tz"),
        ({"theme": "pink"}, "theme"),
        ({"page": "hooks"}, "page"),
        ({"zone": "UTC"}, "zone"),
        ({"range": "custom", "since": "2026-03-02T00:00", "until": "2026-03-02T00:00"}, "until"),
        ({"range": "custom", "since": "0001-01-01T00:00", "until": "2026-03-02T00:00", "tz": "Asia/Tokyo"}, "since"),
        ({"team": "a\nb"}, "team"),
        ({"slo": "runs", "group": "release"}, "group"),
        ({"slo": "runs", "group": 'workflow="\\u0000"'}, "group"),
        ({"slo": "runs", "group": "workflow=" + "x" * 2000}, "group"),
    ],
)
def test_a_link_with_a_fault_is_refused_by_name(said: dict[str, str], names: str) -> None:
    with pytest.raises(OpsKpiError) as caught:
        parse("overview", said)
    assert caught.value.message.startswith(f"{names} ")
    assert caught.value.hint
    assert caught.value.exit_code == ExitCode.BAD_ARGUMENT


@pytest.mark.parametrize(
    ("value", "unit", "text"),
    [
        (Decimal("99.592668"), "percent", "99.59 %"),
        (Decimal("-0.001"), "percent", "0 %"),
        (0, "percent", "0 %"),
        (950, "ms", "950 ms"),
        (1905.578, "ms", "1.91 s"),
        (120_000, "ms", "2 min"),
        (90_000_000, "ms", "1.04 d"),
        (31_764_080, "bytes", "31.76 MB"),
        (12, "bytes", "12 B"),
        (1_234_567, "count", "1,234,567"),
        (None, "ms", formats.NOTHING),
    ],
)
def test_a_number_has_its_unit(value: Decimal | float | None, unit: str, text: str) -> None:
    assert formats.in_unit(value, unit) == text


@pytest.mark.parametrize(
    ("settled", "previous", "unit", "text"),
    [
        (Decimal(12), Decimal(10), "percent", "+2 points"),
        (Decimal(10), Decimal(12), "percent", "-2 points"),
        (Decimal("0.0001"), Decimal(0), "percent", "0 points"),
        (Decimal(150), Decimal(100), "ms", "+50 %"),
        (Decimal(100), Decimal(0), "ms", ""),
        (None, Decimal(1), "ms", ""),
    ],
)
def test_a_change_is_in_points_or_percent_and_left_out_where_it_says_nothing(
    settled: Decimal | None, previous: Decimal | None, unit: str, text: str
) -> None:
    assert formats.change(settled, previous, unit) == text


def test_a_name_is_for_people() -> None:
    assert formats.name_of("hook_p95_duration_ms") == "Hook P95 duration"
    assert formats.name_of("sha256_verification_rate") == "SHA-256 verification rate"


def test_a_length_of_time_is_in_its_largest_unit() -> None:
    assert formats.duration(timedelta(hours=36)) == "1.5 d"


def axis(count: int) -> charts.Axis:
    return charts.Axis([str(number) for number in range(count)], [f"day {number}" for number in range(count)])


@pytest.mark.parametrize(
    "values",
    [[1, 2, 3], [None, None], [5], [0, 0, 0], [-3, -3], [1e-9, 2e-9], [1e12, 5, None, 7], [None, 1, None, 2, 3]],
    ids=str,
)
@pytest.mark.parametrize("draw", [charts.lines, charts.bars])
def test_a_chart_is_well_formed_within_its_frame_and_says_every_value(draw: object, values: list[float | None]) -> None:
    hostile = "<b>&\"'"
    assert callable(draw)
    text = draw(hostile, axis(len(values)), [charts.Series(hostile, values)], lambda value: f"{value:g} <ms>")
    drawing = ET.fromstring(str(text))  # noqa: S314 - our own
    assert drawing.attrib["aria-label"] == hostile
    titles = [title.text for title in drawing.iter("title")]
    assert titles == [
        f"day {number}\n{'nothing' if value is None else f'{hostile}: {value:g} <ms>'}"
        for number, value in enumerate(values)
    ]
    for shape in drawing.iter("circle"):
        assert 0 <= float(shape.attrib["cy"]) <= charts.HEIGHT
    for shape in drawing.iter("polyline"):
        for point in shape.attrib["points"].split():
            x, y = map(float, point.split(","))
            assert 0 <= x <= charts.WIDTH
            assert 0 <= y <= charts.HEIGHT


def test_a_gap_in_the_values_is_a_gap_in_the_line() -> None:
    drawing = ET.fromstring(str(charts.sparkline([1, 2, None, 3, 4, None, 5])))  # noqa: S314 - our own
    assert [shape.tag for shape in drawing] == ["polyline", "polyline", "circle"]


@pytest.mark.parametrize(
    ("share", "kind"), [(None, "none"), (-2.0, "low"), (0.25, "low"), (0.5, "good"), (7.0, "good")]
)
def test_a_meter_stays_within_its_bounds(share: float | None, kind: str) -> None:
    drawing = ET.fromstring(str(charts.meter(share, "left")))  # noqa: S314 - our own
    assert kind in drawing.attrib["class"]
    assert 0 <= float(drawing[1].attrib["width"]) <= 100


def test_every_section_has_its_template_and_reads_pieces_that_exist() -> None:
    sections = [section for page in layout.PAGES.values() for section in page.sections]
    assert {f"sections/{section.name}.html" for section in sections} == {
        name for name in pages.templates().list_templates() if name.startswith("sections/")
    }
    assert {*layout.EVERYWHERE, *(piece for section in sections for piece in section.pieces)} == set(pieces.SOURCES)


def test_a_page_asks_for_what_its_sections_show_and_for_each_piece_once() -> None:
    names = [piece.name for piece in pieces.of_view(View(page="slo", slo="audit_observer_latency"), None, NOW)]
    assert names == ["window", "choices", "freshness", "status", "burn_rates", "burndown", "exclusions", "explain"]
    assert "explain" not in [piece.name for piece in pieces.of_view(View(page="slo"), None, NOW)]
