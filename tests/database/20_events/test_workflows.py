"""Workflows of one name in one repository have labels of their own, decided once, whoever meets them in what order."""

import psycopg
import pytest
from psycopg.types.json import Jsonb

from support.events import NIL, Connection, refresh, rows, scalar
from support.fixtures import ActingAs, Connect

ORG = "aaaaaaaa-0000-4000-8000-00000000000a"
BUILD, TEST = ".github/workflows/build.yml", ".github/workflows/test.yml"


def workflow_of(
    path: str | None, name: str = "CI", repository: str = "octo-org/shop", **more: object
) -> dict[str, object]:
    return {"repository": repository, "workflow": name, "workflow_path": path} | more


def note(connection: Connection, *workflows: object, org: str | None = None) -> None:
    connection.execute("select ops.note_workflows(%s, %s)", [org, Jsonb(workflows)])


def plain(connection: Connection) -> dict[str, bool]:
    return dict(rows(connection, "select workflow_path, has_plain_label from ops.workflows order by 1"))


def collect_runs_of(connection: Connection, *workflows: dict[str, object], org: str | None = None) -> dict[str, int]:
    """Collect a run of each workflow, which gets the number of its place; what cannot be stored fails the test."""
    events = [
        {
            "event_type": "workflow_run",
            "event_id": f"dddddddd-0000-4000-8000-{scalar(connection, 'select count(*) from telemetry_events') + place:012}",
            "event_timestamp": "2026-03-10T12:00:00Z",
            "payload": {"outcome": "success", "duration_ms": 1} | workflow,
        }
        | ({"org_id": org} if org else {})
        for place, workflow in enumerate(workflows)
    ]
    answer = scalar(connection, "select ops.collect_events(%s)", Jsonb(events))
    assert answer["refused"] == []
    return answer


def labels(connection: Connection) -> list[str]:
    return [label for (label,) in rows(connection, "select metadata ->> 'workflow' from telemetry_events order by id")]


def test_two_workflows_of_one_name_that_are_met_together_are_both_labelled_by_their_path(database: Connection) -> None:
    note(database, workflow_of(BUILD), workflow_of(TEST), workflow_of(BUILD, "Release"))
    collect_runs_of(database, workflow_of(TEST), workflow_of(BUILD), workflow_of(BUILD, "Release"))
    assert labels(database) == [f"CI ({TEST})", f"CI ({BUILD})", "Release"]


def test_a_workflow_that_is_met_first_keeps_the_name_and_a_later_one_gets_name_and_path(database: Connection) -> None:
    collect_runs_of(database, workflow_of(BUILD))
    collect_runs_of(database, workflow_of(TEST))
    collect_runs_of(database, workflow_of(BUILD), workflow_of(TEST))
    note(database, workflow_of(BUILD), workflow_of(TEST), workflow_of(".github/workflows/third.yml"))
    collect_runs_of(database, workflow_of(BUILD))
    assert labels(database) == ["CI", f"CI ({TEST})", "CI", f"CI ({TEST})", "CI"]


def test_workflows_of_one_batch_are_met_together(database: Connection) -> None:
    collect_runs_of(database, workflow_of(BUILD), workflow_of(TEST), workflow_of(BUILD))
    assert labels(database) == [f"CI ({BUILD})", f"CI ({TEST})", f"CI ({BUILD})"]
    refresh(database)
    counted = rows(
        database, "select labels ->> 'workflow' from ops.series where event_type = 'workflow_run' order by 1"
    )
    assert counted == [(f"CI ({BUILD})",), (f"CI ({TEST})",)]


def test_the_same_name_in_another_repository_or_org_is_no_clash(database: Connection) -> None:
    collect_runs_of(database, workflow_of(BUILD))
    collect_runs_of(database, workflow_of(TEST, repository="octo-org/other"))
    collect_runs_of(database, workflow_of(TEST), org=ORG)
    assert labels(database) == ["CI", "CI", "CI"]
    collect_runs_of(database, workflow_of(TEST, repository="Octo-Org/Shop"))
    assert labels(database)[-1] == f"CI ({TEST})"


def test_a_workflow_without_a_path_goes_by_its_number_and_without_both_by_its_name(database: Connection) -> None:
    collect_runs_of(database, workflow_of(None, workflow_id=7), workflow_of(None, workflow_id=8), workflow_of(None))
    assert labels(database) == ["CI (workflow 7)", "CI (workflow 8)", "CI"]


def test_a_name_may_be_that_of_a_renamed_workflow(database: Connection) -> None:
    collect_runs_of(database, workflow_of(BUILD))
    collect_runs_of(database, workflow_of(BUILD, "Build"))
    collect_runs_of(database, workflow_of(TEST, "Build"))
    assert labels(database) == ["CI", "Build", f"Build ({TEST})"]


@pytest.mark.parametrize("name", ["N" * 300, "\U0001f680" * 100, "CI"])
def test_labels_of_long_names_and_paths_differ_in_what_is_kept_of_them(database: Connection, name: str) -> None:
    paths = [f".github/workflows/{word}{'x' * 250}.yml" for word in ("a", "b")]
    collect_runs_of(database, *(workflow_of(path, name) for path in paths))
    found = labels(database)
    assert len({label[:100] for label in found}) == 2
    assert max(map(len, found)) <= 100


def test_what_does_not_fit_into_the_index_is_counted_under_its_name(database: Connection) -> None:
    collect_runs_of(database, workflow_of("\U0001f680" * 600), workflow_of("p" * 2500))
    assert labels(database) == ["CI", "CI"]
    assert plain(database) == {}


@pytest.mark.parametrize("odd", [5, None, "text", [], {}, {"workflow": 5}, {"workflow": "", "workflow_path": "p"}])
def test_what_is_no_workflow_is_passed_over(database: Connection, odd: object) -> None:
    note(database, odd, workflow_of(BUILD))
    assert plain(database) == {BUILD: True}
    answer = scalar(
        database, "select ops.collect_events(%s)", Jsonb([odd, {"payload": odd}, {"payload": {"workflow_id": odd}}])
    )
    assert len(answer["refused"]) == 3


def test_an_event_that_is_refused_notes_no_workflow(database: Connection) -> None:
    events = [{"event_type": "workflow_run", "payload": workflow_of(BUILD) | {"outcome": "nonsense"}}]
    assert len(scalar(database, "select ops.collect_events(%s)", Jsonb(events))["refused"]) == 1
    assert plain(database) == {}


def test_noting_twice_changes_nothing(database: Connection) -> None:
    for _ in range(2):
        note(database, workflow_of(BUILD), workflow_of(TEST))
        assert plain(database) == {BUILD: False, TEST: False}
    assert scalar(database, "select ops.knows_workflows(%s, %s)", NIL, Jsonb([workflow_of(BUILD)]))
    assert not scalar(database, "select ops.knows_workflows(%s, %s)", NIL, Jsonb([workflow_of(BUILD, "new")]))
    assert scalar(database, "select ops.knows_workflows(%s, '[]')", NIL)


def test_two_collectors_that_meet_two_workflows_of_one_name_at_once_give_the_name_once(
    database: Connection, connect: Connect
) -> None:
    first, second = connect(autocommit=False), connect(autocommit=False)
    second.execute("set lock_timeout = '100ms'")
    second.commit()
    note(first, workflow_of(BUILD))
    with pytest.raises(psycopg.errors.LockNotAvailable):
        note(second, workflow_of(TEST))
    second.rollback()
    first.commit()
    note(second, workflow_of(TEST))
    second.commit()
    assert plain(database) == {BUILD: True, TEST: False}


def test_a_second_workflow_under_the_plain_name_is_refused_by_the_table_itself(database: Connection) -> None:
    insert = "insert into ops.workflows values (%s, 'octo-org/shop', 'CI', %s, true)"
    database.execute(insert, [NIL, BUILD])
    with pytest.raises(psycopg.errors.UniqueViolation):
        database.execute(insert, [NIL, TEST])


def test_a_sender_of_an_org_notes_workflows_of_that_org_alone(database: Connection, acting_as: ActingAs) -> None:
    other = "bbbbbbbb-0000-4000-8000-00000000000b"
    with acting_as(database, "authenticated", ORG, commit=True):
        note(database, workflow_of(BUILD))
        collect_runs_of(database, workflow_of(BUILD), workflow_of(TEST))
    assert rows(database, "select distinct org_id::text from ops.workflows") == [(ORG,)]
    with acting_as(database, "authenticated", ORG), pytest.raises(psycopg.Error) as refusal:
        note(database, workflow_of(BUILD), org=other)
    assert refusal.value.sqlstate == "PT403"
    with acting_as(database, "authenticated", other):
        assert plain(database) == {}
    with acting_as(database, "anon"), pytest.raises(psycopg.errors.InsufficientPrivilege):
        note(database, workflow_of(BUILD))
