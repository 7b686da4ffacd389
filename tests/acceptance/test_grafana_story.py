"""The dashboards in a Grafana that is not there: every query as its Postgres data source would send it, as the README's login."""

import json
import re
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime, timedelta
from itertools import product
from pathlib import Path
from typing import Any, LiteralString, cast
from uuid import UUID, uuid4

import psycopg
import pytest
from psycopg import postgres as types
from psycopg import sql
from psycopg.types.json import Jsonb

from opskpi.demo import story
from opskpi.grafana import files
from support.events import add_audit, add_event, add_row, add_slo, refresh, rows
from support.postgres import Database, Server, janitor

ROOT = Path(__file__).resolve().parents[2]
Json = dict[str, Any]
OURS, THEIRS = UUID(int=0), UUID("5ec0a1d0-0000-4000-8000-000000000002")
LOGIN = "grafana_reader"
UNTIL = datetime.now(UTC) + timedelta(hours=1)
SINCE = UNTIL - timedelta(days=30)
# What the data source turns into numbers, texts and instants; others it refuses or shows as it pleases.
NUMBERS = {types.types[name].oid for name in ("numeric", "int8", "int4", "float8")}
TEXTS = {types.types[name].oid for name in ("text", "bool")}
INSTANTS = {types.types[name].oid for name in ("timestamptz", "date")}

DASHBOARDS: dict[str, Json] = {
    path.stem: json.loads(text)
    for path, text in files(Path("out"), "opskpi", show_org=False, provisioning=False).items()
}
TARGETS = [
    pytest.param(dashboard, panel, id=f"{uid}: {panel['title']}")
    for uid, dashboard in DASHBOARDS.items()
    for panel in dashboard["panels"]
]


def readme_sql(first_words: str) -> LiteralString:
    """Return the block of SQL in the README that starts so."""
    blocks = re.findall(r"```sql\n(.*?)```", (ROOT / "README.md").read_text("utf-8"), re.DOTALL)
    [found] = [block for block in blocks if block.startswith(first_words) and LOGIN in block]
    return cast("LiteralString", found)


def bind_reader(connection: psycopg.Connection, org: UUID) -> None:
    """Do what the README says, to a role that is there."""
    _, _, binding = readme_sql("create role").partition("\n")
    connection.execute(cast("LiteralString", binding.replace(str(UUID(int=0)), str(org))))


@pytest.fixture(scope="module")
def sample(server: Server, template: Database) -> Iterator[Database]:
    """Have the demo's month, a KPI by workflow, alerts, and a stranger's org; and the login of the README."""
    name = "opskpi_grafana"
    with janitor(server, name, template=template.name):
        with psycopg.connect(server.dsn(name), autocommit=True) as connection:
            connection.execute(
                "update ops.kpi_definitions set breakdowns = '{workflow}' where metric_name = 'workflow_run_p95_duration_ms'"
            )
            story.run(server.dsn(name), quiet=True)
            add_strangers(connection)
            add_slo(connection, "runs", event_type="workflow_run", group_by=["workflow"], target="0.999")
            add_row(connection, "alert_channels", channel_name="ops", kind="webhook", **{"secret_env": "OPS_URL"})
            refresh(connection, as_of=datetime.now(UTC), max_wait="10 s")
            connection.execute("select ops.evaluate_alerts()")
            connection.execute(readme_sql("create role"))
            bind_reader(connection, OURS)
        yield server.database(name)
        with psycopg.connect(server.dsn(name), autocommit=True) as connection:
            login = sql.Identifier(LOGIN)
            connection.execute(sql.SQL("drop owned by {0}; drop role {0}").format(login))


def add_strangers(connection: psycopg.Connection) -> None:
    agent = uuid4()
    add_row(connection, "agents", org_id=THEIRS, agent_id=agent, team="stranger")
    for days in range(3):
        at = datetime.now(UTC) - timedelta(days=days)
        hook = {"hook_type": "stranger", "result": "blocked", "duration_ms": 7}
        hook |= {"findings_summary": {"pattern": "stranger"}}
        add_event(connection, "hook_execution", at, org_id=THEIRS, agent_id=agent, metadata=Jsonb(hook))
        add_event(connection, "workflow_run", at, org_id=THEIRS, outcome="failure", workflow="stranger", duration_ms=9)
        add_audit(connection, days + 1, at, org_id=str(THEIRS), validation_status="failure")
    connection.execute("select public.set_policy('{}', org_id => %s)", [THEIRS])


@pytest.fixture
def reader(sample: Database) -> Iterator[psycopg.Connection]:
    """Connect as the login that the README makes."""
    with psycopg.connect(sample.dsn, user=LOGIN, autocommit=True) as connection:
        yield connection


def interpolate(text: str, values: Mapping[str, str | list[str]]) -> str:
    """Put variables in as the data source's front end does: lists quoted, single texts escaped for the quotes around them."""

    def of(found: re.Match[str]) -> str:
        value = values.get(found[1] or found[2])
        if value is None:
            return found[0]
        if value == ["$__all"]:
            # A custom "all" goes in as it is.
            return "'*'"
        if isinstance(value, list):
            return ",".join("'" + choice.replace("'", "''") + "'" for choice in value)
        return value.replace("'", "''")

    return re.sub(r"\$(\w+)|\$\{(\w+)\}", of, text)


def expand(text: str) -> LiteralString:
    """Expand macros as the data source's back end does."""
    since, until = (at.isoformat(timespec="milliseconds").replace("+00:00", "Z") for at in (SINCE, UNTIL))

    def of(found: re.Match[str]) -> str:
        arguments = [argument.strip() for argument in found[2].split(",")]
        match found[1]:
            case "__timeFilter":
                return f"{arguments[0]} BETWEEN '{since}' AND '{until}'"
            case "__timeFrom":
                return f"'{since}'"
            case "__timeTo":
                return f"'{until}'"
            case name:
                raise AssertionError(f"unknown macro {name}")

    expanded = re.sub(r"\$([_a-zA-Z0-9]+)\(([^)]*)\)", of, text)
    assert "$" not in expanded
    return cast("LiteralString", expanded)


def ask_panel(
    connection: psycopg.Connection, text: str, values: Mapping[str, str | list[str]]
) -> tuple[dict[str, int], list[tuple[Any, ...]]]:
    """Return the types of the columns by name, and the rows."""
    cursor = connection.execute(expand(interpolate(text, values)))
    assert cursor.description
    columns = {column.name: column.type_code for column in cursor.description}
    assert len(columns) == len(cursor.description)
    return columns, cursor.fetchall()


def variables(dashboard: Json) -> dict[str, Json]:
    return {variable["name"]: variable for variable in dashboard["templating"]["list"]}


def defaults(connection: psycopg.Connection, dashboard: Json) -> dict[str, str | list[str]]:
    """Return what each variable is when somebody opens the dashboard."""
    values: dict[str, str | list[str]] = {}
    for name, variable in variables(dashboard).items():
        if variable["type"] == "query" and not variable["multi"]:
            _, found = ask_panel(connection, variable["query"], values)
            values[name] = str(found[0][0]) if found else ""
        else:
            values[name] = variable["current"]["value"]
    return values


@pytest.mark.parametrize(("dashboard", "panel"), TARGETS)
def test_every_panel_answers_with_what_its_format_needs(
    reader: psycopg.Connection, dashboard: Json, panel: Json
) -> None:
    values = defaults(reader, dashboard)
    assert values["org"] == str(OURS)
    [target] = panel["targets"]
    columns, found = ask_panel(reader, target["rawSql"], values)
    # The month of the demo has something of everything.
    assert found, panel["title"]
    assert "stranger" not in str(found)
    assert set(columns.values()) <= NUMBERS | TEXTS | INSTANTS, columns
    if target["format"] == "time_series":
        assert next(iter(columns)) == "time"
        assert columns["time"] in INSTANTS
        assert columns.get("metric", types.types["text"].oid) == types.types["text"].oid
        assert {oid for name, oid in columns.items() if name not in ("time", "metric")} <= NUMBERS
        assert len(columns) == 3 or "metric" not in columns
        series = [row[: 2 if "metric" in columns else 1] for row in found]
        assert None not in [part for row in series for part in row]
        # Grafana refuses what is not in the order of time, and keeps one of two values of an instant.
        assert [row[0] for row in series] == sorted(row[0] for row in series)
        assert len(set(series)) == len(series)
    assert {override["matcher"]["options"] for override in panel["fieldConfig"]["overrides"]} <= set(columns)


@pytest.mark.parametrize(("dashboard", "panel"), TARGETS)
def test_every_panel_answers_whatever_is_chosen(reader: psycopg.Connection, dashboard: Json, panel: Json) -> None:
    [target] = panel["targets"]
    first = defaults(reader, dashboard)
    used = {name for name in first if re.search(rf"\${name}\b", target["rawSql"])}
    choices: dict[str, list[str | list[str]]] = {}
    for name in used - {"org"}:
        variable = variables(dashboard)[name]
        if variable["type"] == "custom":
            choices[name] = [option["value"] for option in variable["options"]]
        else:
            _, found = ask_panel(reader, variable["query"], first)
            known = [str(value) for (value,) in found]
            assert known
            choices[name] = [["$__all"], known[:1], known, ["O'Brien", 'x"y\\']]
    for chosen in product(*choices.values()):
        ask_panel(reader, target["rawSql"], first | dict(zip(choices, chosen, strict=True)))
    for org in ("", str(THEIRS)):
        _, found = ask_panel(reader, target["rawSql"], first | {"org": org})
        assert panel["type"] == "stat" or found == []


def test_every_choice_is_one_of_the_own_org(reader: psycopg.Connection) -> None:
    for dashboard in DASHBOARDS.values():
        values = defaults(reader, dashboard)
        for variable in variables(dashboard).values():
            if variable["type"] == "query":
                columns, found = ask_panel(reader, variable["query"], values)
                assert list(columns.values()) == [types.types["text"].oid]
                assert found
                assert len(set(found)) == len(found)
                assert "stranger" not in str(found)
                assert str(THEIRS) not in str(found)


def test_a_choice_narrows_what_is_shown(reader: psycopg.Connection) -> None:
    dashboard = DASHBOARDS["opskpi-hooks"]
    [panel] = [panel for panel in dashboard["panels"] if panel["title"] == "Teams"]
    values = defaults(reader, dashboard)
    for teams in (["payments"], ["data", "payments"], ["nobody"]):
        _, found = ask_panel(reader, panel["targets"][0]["rawSql"], values | {"team": teams})
        assert {row[1] for row in found} == set(teams) - {"nobody"}


def test_a_group_of_an_objective_is_a_line_by_itself_and_may_be_chosen(reader: psycopg.Connection) -> None:
    dashboard = DASHBOARDS["opskpi-slo"]
    values = defaults(reader, dashboard) | {"slo": ["runs"]}
    _, groups = ask_panel(reader, variables(dashboard)["group"]["query"], values)
    assert len(groups) > 1
    [panel] = [panel for panel in dashboard["panels"] if panel["title"] == "SLI by day"]
    for chosen in ([name for (name,) in groups], [groups[0][0]]):
        _, found = ask_panel(reader, panel["targets"][0]["rawSql"], values | {"group": chosen})
        assert {metric for _, metric, _ in found} == {f"runs {name}" for name in chosen}


def test_alerts_are_marked_in_every_chart(reader: psycopg.Connection) -> None:
    for dashboard in DASHBOARDS.values():
        [annotation] = dashboard["annotations"]["list"]
        columns, found = ask_panel(reader, annotation["target"]["rawSql"], defaults(reader, dashboard))
        assert list(columns) == ["time", "timeend", "text", "tags"]
        assert found


ATTEMPTS: list[LiteralString] = [
    "select 1",
    "select set_config('request.jwt.claims', %s, false)",
    "set role authenticated",
    "set role authenticated; select set_config('request.jwt.claims', '{}', false)",
]


@pytest.mark.parametrize("attempt", ATTEMPTS)
def test_the_login_sees_its_own_org_only_whatever_sql_is_sent(
    reader: psycopg.Connection, attempt: LiteralString
) -> None:
    claims = json.dumps({"role": "authenticated", "app_metadata": {"org_id": str(THEIRS), "scopes": ["admin"]}})
    reader.execute(cast("LiteralString", attempt.replace("%s", f"'{claims}'")))
    if attempt.startswith("set role"):
        reader.execute("select set_config('request.jwt.claims', %s, false)", [claims])
    for view in ("v_ops_kpi_daily", "v_ops_hook_teams", "v_ops_blocked_patterns", "v_ops_slsa_audit_failures"):
        orgs = {org for (org,) in reader.execute(sql.SQL("select org_id from {}").format(sql.Identifier(view)))}
        assert orgs == {OURS}
    assert rows(reader, "select count(*) from public.telemetry_events where org_id = %s", THEIRS) == [(0,)]
    for org in (OURS, THEIRS):
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            reader.execute("insert into public.telemetry_events (event_type, org_id) values ('forged', %s)", [org])
    with pytest.raises(psycopg.Error) as refusal:
        reader.execute("select public.set_policy('{}')")
    assert refusal.value.sqlstate in {"42501", "PT403"}


def test_the_login_of_another_org_sees_that(sample: Database, reader: psycopg.Connection) -> None:
    with psycopg.connect(sample.dsn, autocommit=True) as owner:
        bind_reader(owner, THEIRS)
        try:
            assert rows(reader, "select distinct org_id from v_ops_hook_teams") == [(THEIRS,)]
            for dashboard in DASHBOARDS.values():
                values = defaults(reader, dashboard)
                assert values["org"] == str(THEIRS)
                for panel in dashboard["panels"]:
                    ask_panel(reader, panel["targets"][0]["rawSql"], values)
        finally:
            bind_reader(owner, OURS)


def test_others_see_what_they_saw(sample: Database) -> None:
    with psycopg.connect(sample.dsn) as owner:
        owner.execute("set local role authenticated")
        claims = json.dumps({"app_metadata": {"org_id": str(THEIRS)}})
        owner.execute("select set_config('request.jwt.claims', %s, true)", [claims])
        assert rows(owner, "select distinct org_id from v_ops_hook_teams") == [(THEIRS,)]
        owner.execute("insert into public.telemetry_events (event_type) values ('deploy')")
        owner.rollback()
