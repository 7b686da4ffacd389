"""Polling the REST API: a real HTTP server and a real database; no request waits, no clock is the real one."""

import json
import logging
from collections.abc import Iterator
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from opskpi.errors import ExitCode, OpsKpiError
from opskpi.github.api import ATTEMPTS, GitHub
from opskpi.github.polling import poll
from opskpi.github.rules import Rules, read_rules
from opskpi.github.storing import Summary
from support.events import NIL, Connection, kpis, refresh, rows, scalar
from support.fixtures import Connect
from support.rest_api import NOW, REPOSITORY, RUNS, TOKEN, Json, Reply, Rest, artifact, workflow_run

ARTIFACT = (
    '[{"event_type": "artifact", "event_id": "cccccccc-0000-4000-8000-00000000000c", "event_timestamp": "%s",'
    ' "payload": {"size_bytes": 1}}]'
)

FIELDS = st.none() | st.integers() | st.text() | st.booleans() | st.dictionaries(st.text(), st.integers(), max_size=2)
ANSWERS = st.fixed_dictionaries(
    {
        "total_count": FIELDS,
        "workflow_runs": FIELDS
        | st.lists(
            FIELDS
            | st.dictionaries(st.sampled_from(sorted(workflow_run(1))), FIELDS).map(
                lambda changes: workflow_run(1) | changes
            ),
            max_size=3,
        ),
    }
)


@pytest.fixture
def waits() -> list[float]:
    """Return the seconds that the client would have slept."""
    return []


@pytest.fixture
def github(rest: Rest, waits: list[float]) -> Iterator[GitHub]:
    with GitHub(rest.url, {"GITHUB_TOKEN": TOKEN}, sleep=waits.append, now=lambda: NOW) as client:
        yield client


def collected(connection: Connection, github: GitHub, *, now: datetime = NOW, **options: Any) -> Summary:
    return poll(connection, github, REPOSITORY, read_rules(connection), now=now, **options)


def counts(summary: Summary) -> tuple[int, int, int, int]:
    return summary.accepted, summary.duplicate, summary.refused, summary.still_running


def stored_attempts(connection: Connection, event_type: str = "workflow_run") -> list[tuple[int, int, str]]:
    """Return run, attempt and outcome of the stored events, in order."""
    return rows(
        connection,
        "select run_id, (metadata -> 'run_attempt')::integer, outcome from telemetry_events where event_type = %s"
        " order by 1, 2",
        event_type,
    )


def asked(rest: Rest) -> list[str]:
    """Return the paths that were asked for, without the query."""
    return [target.partition("?")[0] for target in rest.asked]


def hours(first: int, count: int, **said: Any) -> list[Json]:
    """Return runs that began an hour apart."""
    began = datetime.fromisoformat("2026-03-01T00:00:00Z")
    return [
        workflow_run(first + number, at=(began + timedelta(hours=number)).strftime("%Y-%m-%dT%H:%M:%SZ"), **said)
        for number in range(count)
    ]


def test_every_page_is_read_and_each_run_is_stored_once(database: Connection, rest: Rest, github: GitHub) -> None:
    rest.runs, rest.page_size = hours(1, 25), 10
    assert counts(collected(database, github)) == (25, 0, 0, 0)
    assert [number for number, _, _ in stored_attempts(database)] == list(range(1, 26))
    assert asked(rest).count(RUNS) == 3
    assert counts(collected(database, github, since=NOW - timedelta(days=20))) == (0, 25, 0, 0)


def test_more_runs_than_a_filter_lists_are_found_by_filtering_on(
    database: Connection, rest: Rest, github: GitHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("opskpi.github.listing.LISTED_AT_MOST", 10)
    rest.runs, rest.page_size, rest.listed_at_most = hours(1, 34), 5, 10
    assert collected(database, github).accepted == 34
    assert [number for number, _, _ in stored_attempts(database)] == list(range(1, 35))


@pytest.mark.parametrize("earlier", [0, 3, 12])
def test_more_runs_in_one_second_than_are_listed_are_named_and_all_others_are_stored(
    database: Connection, rest: Rest, github: GitHub, monkeypatch: pytest.MonkeyPatch, earlier: int
) -> None:
    for module in ("listing", "polling"):
        monkeypatch.setattr(f"opskpi.github.{module}.LISTED_AT_MOST", 10)
    rest.page_size, rest.listed_at_most = 5, 10
    crowd = [workflow_run(100 + number, at="2026-03-05T12:00:00Z") for number in range(14)]
    rest.runs = [*hours(1, earlier), *crowd, workflow_run(200, at="2026-03-06T00:00:00Z")]
    summary = collected(database, github)
    assert summary.accepted == earlier + 10 + 1
    assert summary.unlisted == ["GitHub lists 10 runs of the second 2026-03-05T12:00:00Z: 4 of 14 cannot be polled"]
    assert rows(database, "select resume_at from ops.collections") == [
        (datetime.fromisoformat("2026-03-06T00:00:00Z"),)
    ]


def test_as_many_runs_in_one_second_as_are_listed_are_all_there(
    database: Connection, rest: Rest, github: GitHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("opskpi.github.listing.LISTED_AT_MOST", 10)
    rest.page_size, rest.listed_at_most = 5, 10
    rest.runs = [*hours(1, 3), *(workflow_run(100 + number, at="2026-03-05T12:00:00Z") for number in range(10))]
    summary = collected(database, github)
    assert (summary.accepted, summary.unlisted) == (13, [])


def test_the_next_poll_reads_from_the_newest_run_on_and_then_asks_whether_anything_changed(
    database: Connection, rest: Rest, github: GitHub
) -> None:
    rest.runs = hours(1, 3)
    collected(database, github)
    assert counts(collected(database, github)) == (0, 1, 0, 0)
    assert "created=%3E%3D2026-03-01T02%3A00%3A00Z" in rest.asked[-1]
    unchanged = collected(database, github)
    assert (counts(unchanged), unchanged.api_requests) == ((0, 0, 0, 0), 1)
    assert "if-none-match" in rest.headers[-1]
    rest.runs += [workflow_run(9, at="2026-03-02T00:00:00Z")]
    assert collected(database, github).accepted == 1


def test_a_first_poll_that_finds_nothing_says_what_the_token_needs(
    database: Connection, rest: Rest, github: GitHub
) -> None:
    [note] = collected(database, github).notes
    assert "no run was listed since 2026-02-10" in note
    assert "Actions: read" in note
    assert collected(database, github).notes == []


def test_a_run_still_going_is_no_event_and_is_seen_again(database: Connection, rest: Rest, github: GitHub) -> None:
    rest.runs = [workflow_run(1, None, at="2026-03-10T10:00:00Z"), workflow_run(2, at="2026-03-10T11:00:00Z")]
    assert counts(collected(database, github)) == (1, 0, 0, 1)
    assert stored_attempts(database) == [(2, 1, "success")]
    rest.runs[0] = workflow_run(1, "failure", at="2026-03-10T10:00:00Z")
    assert counts(collected(database, github)) == (1, 1, 0, 0)
    assert stored_attempts(database) == [(1, 1, "failure"), (2, 1, "success")]


def test_a_rerun_is_another_attempt_and_the_one_before_is_not_lost(
    database: Connection, rest: Rest, github: GitHub
) -> None:
    rest.runs = [
        workflow_run(1, "success", attempt=3, run_started_at="2026-03-10T13:00:00Z", updated_at="2026-03-10T13:01:00Z")
    ]
    rest.attempts = {(1, 1): workflow_run(1, "failure"), (1, 2): workflow_run(1, "timed_out", attempt=2)}
    assert collected(database, github).accepted == 3
    assert stored_attempts(database) == [(1, 1, "failure"), (1, 2, "failure"), (1, 3, "success")]
    durations = rows(
        database,
        "select duration_ms from telemetry_events where event_type = 'workflow_run' order by metadata -> 'run_attempt'",
    )
    # Of an earlier attempt GitHub tells when the next was asked for, not when it ended.
    assert durations == [(None,), (None,), (60_000,)]


def test_an_attempt_that_was_forgotten_is_left_out(database: Connection, rest: Rest, github: GitHub) -> None:
    rest.runs = [workflow_run(1, attempt=2)]
    assert counts(collected(database, github)) == (1, 0, 0, 0)


def test_an_old_run_that_is_run_again_is_found_within_a_day(database: Connection, rest: Rest, github: GitHub) -> None:
    rest.runs = [workflow_run(1, "failure", at="2026-03-01T00:00:00Z"), workflow_run(2, at="2026-03-11T00:00:00Z")]
    collected(database, github)
    rest.runs[0] = workflow_run(
        1,
        at="2026-03-01T00:00:00Z",
        attempt=2,
        run_started_at="2026-03-12T00:00:00Z",
        updated_at="2026-03-12T00:01:00Z",
    )
    assert collected(database, github, now=NOW + timedelta(hours=1)).accepted == 0
    assert collected(database, github, now=NOW + timedelta(days=1, hours=1)).accepted == 1
    assert stored_attempts(database) == [(1, 1, "failure"), (1, 2, "success"), (2, 1, "success")]


def test_a_run_whose_time_moved_later_is_still_the_same(database: Connection, rest: Rest, github: GitHub) -> None:
    rest.runs = [workflow_run(1)]
    collected(database, github)
    rest.runs = [workflow_run(1, updated_at="2026-03-11T09:00:00Z")]
    assert counts(collected(database, github)) == (0, 1, 0, 0)
    assert scalar(database, "select duration_ms from telemetry_events where event_type = 'workflow_run'") == 60_000


def test_what_was_read_is_kept_when_a_later_page_fails_and_nothing_is_lost(
    database: Connection, rest: Rest, github: GitHub
) -> None:
    rest.runs, rest.page_size = hours(1, 25), 10
    rest.reply(RUNS, None, *[Reply(502, b"")] * ATTEMPTS)
    with pytest.raises(OpsKpiError) as failure:
        collected(database, github)
    assert failure.value.exit_code == ExitCode.TRY_LATER
    assert "502" in failure.value.message
    assert "10 events were stored before that" in failure.value.message
    assert len(stored_attempts(database)) == 10
    assert rows(database, "select from ops.collections") == []
    assert counts(collected(database, github)) == (15, 10, 0, 0)


def test_a_run_whose_artifacts_cannot_be_read_waits_for_the_next_poll(
    database: Connection, rest: Rest, github: GitHub
) -> None:
    rest.runs = [workflow_run(1, at="2026-03-10T10:00:00Z"), workflow_run(2, at="2026-03-10T11:00:00Z")]
    rest.artifacts = {1: [artifact(11, 100)]}
    rest.reply(
        f"{RUNS}/1/artifacts", Reply(403, b"{}", {"x-ratelimit-remaining": "0", "x-ratelimit-reset": "1900000000"})
    )
    with pytest.raises(OpsKpiError):
        collected(database, github)
    assert [number for number, _, _ in stored_attempts(database)] == [2]
    assert counts(collected(database, github)) == (2, 1, 0, 0)
    assert (
        scalar(database, "select metadata -> 'size_bytes' from telemetry_events where event_type = 'artifact'") == 100
    )


def test_artifacts_of_known_runs_are_not_asked_for_again(database: Connection, rest: Rest, github: GitHub) -> None:
    rest.runs, rest.artifacts = [workflow_run(1)], {1: [artifact(11, 100), artifact(12, 300, "app.intoto.jsonl")]}
    assert collected(database, github).accepted == 3
    rest.asked.clear()
    assert collected(database, github).duplicate == 1
    assert asked(rest) == [RUNS]
    assert rows(
        database,
        "select run_id, metadata ->> 'kind', (metadata -> 'size_bytes')::integer from telemetry_events"
        " where event_type = 'artifact' order by 3",
    ) == [(1, "other", 100), (1, "provenance", 300)]


@pytest.mark.parametrize(
    ("headers", "waited"),
    [
        ({"retry-after": "7"}, 7),
        ({"x-ratelimit-remaining": "0", "x-ratelimit-reset": str(int(NOW.timestamp()) + 20)}, 21),
    ],
)
@pytest.mark.parametrize("status", [403, 429])
def test_a_short_rate_limit_is_waited_for(
    database: Connection,
    rest: Rest,
    github: GitHub,
    waits: list[float],
    status: int,
    headers: dict[str, str],
    waited: int,
) -> None:
    rest.runs = [workflow_run(1)]
    rest.reply(RUNS, Reply(status, b"{}", headers))
    assert collected(database, github).accepted == 1
    assert waits == [waited]


def test_a_limit_that_does_not_say_for_how_long_is_a_minute(
    database: Connection, rest: Rest, github: GitHub, waits: list[float]
) -> None:
    rest.runs = [workflow_run(1)]
    rest.reply(RUNS, Reply(403, b'{"message": "You have exceeded a secondary rate limit."}'))
    assert collected(database, github).accepted == 1
    assert waits == [60]


def test_a_long_rate_limit_ends_the_poll_and_says_until_when(
    database: Connection, rest: Rest, github: GitHub, waits: list[float]
) -> None:
    rest.runs, rest.page_size = hours(1, 12), 10
    reset = str(int((NOW + timedelta(minutes=40)).timestamp()) - 1)
    rest.reply(RUNS, None, Reply(403, b"{}", {"x-ratelimit-remaining": "0", "x-ratelimit-reset": reset}))
    with pytest.raises(OpsKpiError) as failure:
        collected(database, github)
    assert failure.value.exit_code == ExitCode.TRY_LATER
    assert "until 2026-03-12T00:40:00Z" in failure.value.message
    assert (waits, len(stored_attempts(database))) == ([], 10)


@pytest.mark.parametrize(
    "fault", [Reply(500), Reply(503), Reply(200, b'{"workflow_runs": [', cut=True), Reply(200, b'{"workflow_runs": [')]
)
def test_a_passing_failure_is_tried_again_after_a_pause(
    database: Connection, rest: Rest, github: GitHub, waits: list[float], fault: Reply
) -> None:
    rest.runs = [workflow_run(1)]
    rest.reply(RUNS, fault, fault)
    assert collected(database, github).accepted == 1
    assert [0.5 <= wait <= 3 for wait in waits] == [True, True]
    failed = rows(database, "select metadata -> 'status' from telemetry_events where outcome = 'failure'")
    assert failed == [(fault.status,)] * (2 if fault.status >= 500 or fault.cut else 0)


@pytest.mark.parametrize(
    "fault",
    [
        Reply(200, b'{"workflow_runs": [{"id": 1', cut=True),
        Reply(200, b'{"workflow_runs": [{'),
        Reply(302, b"", {"Location": "http://a:b/"}),
    ],
)
def test_an_answer_that_stays_cut_short_is_refused(
    database: Connection, rest: Rest, github: GitHub, fault: Reply
) -> None:
    rest.reply(RUNS, *[fault] * ATTEMPTS)
    with pytest.raises(OpsKpiError, match="cut short") as failure:
        collected(database, github)
    assert failure.value.exit_code == ExitCode.TRY_LATER


@pytest.mark.parametrize(
    ("reply", "code", "words"),
    [
        (Reply(401, b'{"message": "Bad credentials"}'), ExitCode.CONFIGURATION, "Bad credentials"),
        (Reply(403, b'{"message": "Resource not accessible"}'), ExitCode.CONFIGURATION, "not accessible"),
        (Reply(404, b'{"message": "Not Found"}'), ExitCode.BAD_ARGUMENT, "404 Not Found"),
        (Reply(422, b"[]"), ExitCode.FAILED, "422"),
        (Reply(200, b"[]"), ExitCode.FAILED, "without a list of workflow_runs"),
        (Reply(200, b'{"workflow_runs": {}}'), ExitCode.FAILED, "without a list of workflow_runs"),
        (Reply(302, b"", {"Location": "https://elsewhere.example/runs?token=x"}), ExitCode.FAILED, "elsewhere.example"),
        (Reply(302, b"", {"Location": "//elsewhere.example/runs"}), ExitCode.FAILED, "another host"),
        (Reply(200, b'{"workflow_runs": [{}]}', {"Link": '<https://elsewhere.example/>; rel="next"'}), ExitCode.FAILED, "elsewhere.example"),
    ],
)  # fmt: skip
def test_what_trying_again_does_not_mend_is_one_clear_message(
    database: Connection, rest: Rest, github: GitHub, reply: Reply, code: ExitCode, words: str
) -> None:
    rest.reply(RUNS, reply)
    with pytest.raises(OpsKpiError) as failure:
        collected(database, github)
    assert (failure.value.exit_code, len(rest.asked)) == (code, 1)
    assert words in failure.value.message
    assert failure.value.hint


def test_a_redirect_within_the_host_is_followed(database: Connection, rest: Rest, github: GitHub) -> None:
    rest.runs = [workflow_run(1)]
    rest.reply(RUNS, Reply(301, b"", {"Location": f"{rest.url}{RUNS}?moved=1"}))
    assert collected(database, github).accepted == 1


def test_redirects_in_circles_end(database: Connection, rest: Rest, github: GitHub) -> None:
    rest.reply(RUNS, *[Reply(301, b"", {"Location": f"{rest.url}{RUNS}"})] * 20)
    with pytest.raises(OpsKpiError, match="circles"):
        collected(database, github)


def test_pages_that_follow_each_other_in_circles_end(database: Connection, rest: Rest, github: GitHub) -> None:
    rest.runs = [workflow_run(1)]
    circle = Reply(200, b'{"workflow_runs": [{"id": 1}]}', {"Link": f'<{rest.url}{RUNS}?page=2>; rel="next"'})
    rest.reply(RUNS, circle, circle, circle)
    with pytest.raises(OpsKpiError, match="circles"):
        collected(database, github)
    assert len(rest.asked) == 2


@settings(
    max_examples=40,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(ANSWERS)
def test_whatever_the_api_answers_is_read_or_refused(
    database: Connection, rest: Rest, github: GitHub, answer: object
) -> None:
    rest.reply(RUNS, Reply(200, json.dumps(answer).encode()))
    try:
        collected(database, github)
    except OpsKpiError as refusal:
        assert refusal.exit_code in ExitCode


def test_an_echo_of_the_token_is_kept_in_no_form(database: Connection, rest: Rest, github: GitHub) -> None:
    escaped = "".join(f"\\u{ord(letter):04x}" for letter in TOKEN)
    body = json.dumps({"total_count": 1, "workflow_runs": [workflow_run(1)]}).replace('"ci"', f'"ci {escaped}"')
    rest.reply(RUNS, Reply(200, body.encode(), {"etag": f'"{TOKEN}"'}))
    collected(database, github)
    kept = rows(
        database, "select event::text from telemetry_events as event union all select c::text from ops.collections as c"
    )
    assert any("ci ***" in text for (text,) in kept)
    assert [text for (text,) in kept if TOKEN in text] == []


def test_a_run_of_times_to_come_does_not_hide_those_of_now(database: Connection, rest: Rest, github: GitHub) -> None:
    rest.runs = [workflow_run(1, None, at="2099-01-01T00:00:00Z")]
    collected(database, github)
    assert rows(database, "select resume_at <= %s from ops.collections", NOW) == [(True,)]


def test_the_token_goes_to_the_api_only_and_is_kept_and_said_nowhere(
    database: Connection, rest: Rest, github: GitHub, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    rest.runs = [workflow_run(1, display_title=TOKEN, html_url=f"https://github.com/{TOKEN}", name=f"ci {TOKEN}")]
    collected(database, github)
    rest.reply(RUNS, Reply(401, f'{{"message": "no such token: {TOKEN}"}}'.encode()))
    with pytest.raises(OpsKpiError) as failure:
        collected(database, github)
    assert {headers["authorization"] for headers in rest.headers} == {f"Bearer {TOKEN}"}
    assert not any(TOKEN in target for target in rest.asked)
    kept = rows(database, "select event::text from telemetry_events as event")
    said = [caplog.text, failure.value.message, failure.value.hint, *(text for (text,) in kept)]
    assert len(kept) == 4
    assert [text for text in said if TOKEN in text] == []


@pytest.mark.parametrize(
    ("url", "environ", "code"),
    [
        ("http://api.github.com", {}, ExitCode.BAD_ARGUMENT),
        ("ftp://127.0.0.1", {}, ExitCode.BAD_ARGUMENT),
        ("https://user:word@127.0.0.1", {}, ExitCode.BAD_ARGUMENT),
        ("https://", {}, ExitCode.BAD_ARGUMENT),
        ("nonsense", {}, ExitCode.BAD_ARGUMENT),
        ("https://api.github.com", {"GH_TOKEN": "two\nlines"}, ExitCode.CONFIGURATION),
        ("https://api.github.com", {"GITHUB_TOKEN": "t\u00f6ken"}, ExitCode.CONFIGURATION),
    ],
)
def test_an_address_or_token_that_cannot_be_right_is_refused_unrepeated(
    url: str, environ: dict[str, str], code: ExitCode
) -> None:
    with pytest.raises(OpsKpiError) as failure:
        GitHub(url, environ)
    assert failure.value.exit_code == code
    assert not any(text in failure.value.message for text in ("user", "word", "lines", "t\u00f6ken"))


def test_a_server_that_is_not_there_is_exit_75_and_its_requests_are_recorded(
    database: Connection, waits: list[float]
) -> None:
    with GitHub("http://127.0.0.1:1", {}, sleep=waits.append) as nobody, pytest.raises(OpsKpiError) as failure:
        collected(database, nobody)
    assert failure.value.exit_code == ExitCode.TRY_LATER
    assert len(waits) == ATTEMPTS - 1
    assert stored_requests(database) == [("failure", ATTEMPTS)]


def stored_requests(connection: Connection) -> list[tuple[str, int]]:
    return rows(
        connection,
        "select outcome, count(*)::integer from telemetry_events where event_type = 'api_request' group by 1 order by 1",
    )


def test_a_malformed_run_is_refused_by_itself_with_its_place(database: Connection, rest: Rest, github: GitHub) -> None:
    rest.runs = [workflow_run(1), workflow_run(2, updated_at="yesterday"), workflow_run(3, at="2026-03-10T13:00:00Z")]
    summary = collected(database, github)
    assert counts(summary) == (2, 0, 1, 0)
    [refusal] = summary.refusals
    assert (refusal.place, refusal.field) == (f"{REPOSITORY}: run 2", "updated_at")


def test_a_run_of_the_time_to_come_does_not_stop_the_next_polls(
    database: Connection, rest: Rest, github: GitHub
) -> None:
    rest.runs = [workflow_run(1, created_at="9999-01-01T00:00:00Z")]
    collected(database, github)
    rest.runs += [workflow_run(2, at="2026-03-12T00:30:00Z")]
    assert collected(database, github, now=NOW + timedelta(hours=1)).accepted == 1


def test_reading_from_later_on_leaves_what_lies_between_due(database: Connection, rest: Rest, github: GitHub) -> None:
    rest.runs = [workflow_run(1, at="2026-03-09T00:00:00Z")]
    collected(database, github)
    rest.runs += [workflow_run(2, at="2026-03-10T00:00:00Z"), workflow_run(3, at="2026-03-11T00:00:00Z")]
    assert collected(database, github, since=NOW - timedelta(days=1)).accepted == 1
    assert collected(database, github).accepted == 1
    assert [number for number, _, _ in stored_attempts(database)] == [1, 2, 3]


def test_tenants_are_polled_by_themselves(database: Connection, rest: Rest, github: GitHub) -> None:
    org = UUID("aaaaaaaa-0000-4000-8000-00000000000a")
    rest.runs = [workflow_run(1)]
    assert collected(database, github).accepted == 1
    assert collected(database, github, org_id=org).accepted == 1
    orgs = rows(database, "select org_id from telemetry_events where event_type = 'workflow_run' order by 1")
    assert orgs == rows(database, "select org_id from ops.collections order by 1") == [(NIL,), (org,)]


def test_two_collectors_that_read_the_same_run_at_once_store_it_once(
    database: Connection, connect: Connect, rest: Rest
) -> None:
    """The first has not committed when the second comes, which has another time for the end of the run."""
    first, second = connect(autocommit=False), connect(autocommit=False)
    second.execute("set lock_timeout = '100ms'")
    first.execute("select ops.collect_events(%s)", [ARTIFACT % "2026-03-10T12:00:00Z"])
    with pytest.raises(psycopg.errors.LockNotAvailable):
        second.execute("select ops.collect_events(%s)", [ARTIFACT % "2026-03-10T12:00:02Z"])
    second.rollback()
    first.commit()
    answer = scalar(second, "select ops.collect_events(%s)", ARTIFACT % "2026-03-10T12:00:02Z")
    second.commit()
    assert (answer["accepted"], answer["duplicate"]) == (0, 1)
    assert scalar(database, "select count(*) from telemetry_events") == 1


def test_collect_events_refuses_what_ingest_events_refuses_and_asks_for_an_array(database: Connection) -> None:
    answer = scalar(database, "select ops.collect_events(%s)", '[{"event_type": "nonsense"}, 5]')
    assert [verdict["index"] for verdict in answer["refused"]] == [0, 1]
    assert scalar(database, "select ops.collect_events('[]')")["accepted"] == 0
    with pytest.raises(psycopg.Error) as refusal:
        database.execute("select ops.collect_events('{}')")
    assert (refusal.value.sqlstate, refusal.value.diag.message_hint is not None) == ("OP001", True)


def test_a_refused_time_is_not_remembered(database: Connection) -> None:
    assert scalar(database, "select ops.collect_events(%s)", ARTIFACT % "2199-01-01T00:00:00Z")["refused"]
    assert scalar(database, "select ops.collect_events(%s)", ARTIFACT % "2026-03-10T12:00:00Z")["accepted"] == 1


def test_events_too_old_to_come_again_are_forgotten(database: Connection) -> None:
    database.execute("select ops.collect_events(%s)", [ARTIFACT % "2020-03-10T12:00:00Z"])
    nil = "00000000-0000-0000-0000-000000000000"
    for _ in range(2):
        database.execute("select ops.record_collection(%s, 'github.com/a/b', now(), now(), null)", [nil])
    assert scalar(database, "select count(*) from ops.collected_events") == 0
    assert scalar(database, "select ops.collect_events(%s)", ARTIFACT % "2020-03-10T12:00:00Z")["duplicate"] == 1


def test_kpis_of_what_was_collected_are_those_computed_by_hand(
    database: Connection, rest: Rest, github: GitHub
) -> None:
    day = "2026-03-10"
    provenance = [("success", 100), ("success", 200), ("timed_out", 300), ("success", 400), ("cancelled", 5)]
    plain = [*range(10, 210, 10)]
    rest.runs = [
        *(workflow_run(1 + n, outcome, workflow="slsa-provenance", at=f"{day}T10:0{n}:00Z", seconds=s) for n, (outcome, s) in enumerate(provenance)),
        *(workflow_run(10 + n, at=f"{day}T12:{n:02}:00Z", seconds=s) for n, s in enumerate(plain)),
    ]  # fmt: skip
    rest.artifacts = {1: [artifact(1, 1000), artifact(2, 2000)], 10: [artifact(3, 6001)]}
    collected(database, github)
    refresh(database)

    def value(metric: str, on: str = day) -> object:
        [(_, _, number)] = [row for row in kpis(database, metric) if row[0].startswith(on)]
        return number

    assert value("provenance_success_rate") == 75
    assert value("provenance_failure_rate") == 25
    assert value("provenance_avg_duration_ms") == 201_000
    assert value("workflow_run_avg_duration_ms") == 105_000
    # 20 values: the 19th is the 95th percentile, kept within 1 %.
    assert value("workflow_run_p95_duration_ms") == pytest.approx(190_000, rel=0.01)
    assert float(str(value("artifact_avg_size_bytes"))) == pytest.approx(9001 / 3, abs=1e-6)
    responses = [
        float(ms)
        for (ms,) in rows(database, "select duration_ms from telemetry_events where event_type = 'api_request'")
    ]
    assert len(responses) == len(rest.asked) == 26
    average = float(str(value("api_avg_response_ms", NOW.date().isoformat())))
    assert average == pytest.approx(sum(responses) / len(responses), abs=1e-5)


def test_rules_come_from_the_settings_and_a_user_may_add_to_them(database: Connection) -> None:
    database.execute("update ops.settings set value = 'release, nightly-*' where name = 'workflows_slsa_provenance'")
    database.execute(
        "insert into ops.settings (name, value, description) values ('workflows_deploy', 'deploy', 'Deploys.')"
    )
    rules = read_rules(database)
    assert [rules.event_type([name]) for name in ("release", "nightly-7", "deploy", "ci", "slsa-provenance")] == [
        *("slsa_provenance", "slsa_provenance", "deploy", "workflow_run", "workflow_run")
    ]
    assert isinstance(rules, Rules)
