"""Exports of the hub: the rows of the caller's org only, in the format asked for, cut off recognisably and given up in time."""

import asyncio
import csv
import io
import json
import os
import socket
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import httpx
import psycopg
import pyarrow as pa
import pytest
from psycopg import sql
from psycopg.rows import scalar_row
from pyarrow import parquet

from opskpi.hub import content_negotiation, streams
from opskpi.hub.streams import Stream
from support.events import add_audit, ingest, refresh
from support.hubs import JOBS, TELEMETRY, Hub, hook_event, make_key, problem, running_hub
from support.patience import PATIENCE_S, eventually
from support.postgres import Database, Server, janitor

SUBJECTS = ("events", "kpis", "audits", "slo")
JSONL, NDJSON, CSV, PARQUET = "application/jsonl", "application/x-ndjson", "text/csv", "application/vnd.apache.parquet"
OURS, THEIRS = UUID(int=0xA), UUID(int=0xB)


def path_of(subject: str) -> str:
    return f"/api/v1/export/{subject}"


def read_answer(answer: httpx.Response) -> list[dict[str, Any]]:
    """The rows of an answer, as a reader of its media type has them."""
    assert answer.status_code == 200, answer.text
    media_type = answer.headers["content-type"].partition(";")[0]
    if media_type in {JSONL, NDJSON}:
        return [json.loads(line) for line in answer.content.split(b"\n") if line]
    if media_type == CSV:
        return list(csv.DictReader(io.StringIO(answer.content.decode(), newline="")))
    assert media_type == PARQUET
    return parquet.read_table(pa.BufferReader(answer.content)).to_pylist()


def put(connection: psycopg.Connection, org: UUID, secret: str, run: int) -> None:
    """Events, an audit, and with them KPIs and days of SLOs, each row with a word that no other org has."""
    event = {
        "outcome": "success",
        "workflow": secret,
        "duration_ms": 5,
        "org_id": str(org),
        "timestamp": "2026-03-10T12:00:00Z",
    }
    ingest(
        connection,
        *(
            {"event_type": "slsa_provenance", "payload": event | {"event_id": str(uuid4()), "tag": secret}}
            for _ in range(9)
        ),
        {"event_type": "hook_execution", "payload": hook_event(org, hook_type=secret)["payload"]},
    )
    add_audit(connection, run, org_id=str(org))
    connection.execute("update public.slsa_audit_metrics set tag = %s where audit_run_id = %s", [secret, run])


@pytest.fixture(scope="module")
def exporting_hub(server: Server, template: Database, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hub]:
    """Run a hub over two orgs, half of whose events are counted already; tests that use it only read."""
    with janitor(server, "exporting_hub", template=template.name):
        with psycopg.connect(server.dsn("exporting_hub"), autocommit=True) as database:
            for half in range(2):
                put(database, OURS, "ourword", 1 + half)
                put(database, THEIRS, "theirword", 3 + half)
                if not half:
                    refresh(database)
        with running_hub(server.dsn("exporting_hub"), tmp_path_factory.mktemp("exporting-hub")) as hub:
            yield hub


@pytest.fixture
def exporting_database(exporting_hub: Hub) -> Iterator[psycopg.Connection]:
    """Connect to the database of that hub as its owner."""
    with psycopg.connect(exporting_hub.dsn, autocommit=True) as connection:
        yield connection


@pytest.fixture
def two_orgs(exporting_hub: Hub, exporting_database: psycopg.Connection) -> tuple[Hub, str, str]:
    """Return that hub, with a key of each org."""
    return exporting_hub, make_key(exporting_database, OURS, "read"), make_key(exporting_database, THEIRS, "read")


def raw(hub: Hub, path: str, key: str, *headers: str) -> bytes:
    """The whole answer as it comes over the wire."""
    url = httpx.URL(hub.url)
    with socket.create_connection((url.host, url.port or 80), timeout=PATIENCE_S) as connection:
        lines = [
            f"GET {path} HTTP/1.1",
            f"Host: {url.host}",
            f"Authorization: Bearer {key}",
            "Connection: close",
            *headers,
        ]
        connection.sendall("\r\n".join([*lines, "", ""]).encode())
        parts = []
        while part := connection.recv(1 << 16):
            parts.append(part)
    return b"".join(parts)


@pytest.mark.parametrize("media_type", [JSONL, CSV, PARQUET])
def test_nothing_of_another_org_is_in_an_export(two_orgs: tuple[Hub, str, str], media_type: str) -> None:
    hub, ours, theirs = two_orgs
    for subject in SUBJECTS:
        for query in ("", "?since=1970-01-01", "?breakdowns=true" if subject == "kpis" else "?until=2199-01-01"):
            for key, own, word, foreign, foreign_word in (
                (ours, OURS, b"ourword", THEIRS, b"theirword"),
                (theirs, THEIRS, b"theirword", OURS, b"ourword"),
            ):
                answer = raw(hub, path_of(subject) + query, key, f"Accept: {media_type}")
                assert answer.startswith(b"HTTP/1.1 200 ")
                assert answer.endswith(b"\r\n0\r\n\r\n")
                assert str(own).encode() in answer
                assert str(foreign).encode() not in answer
                assert foreign_word not in answer
                assert (word in answer) == (subject in {"events", "audits"} or "breakdowns" in query)


@pytest.mark.parametrize("subject", SUBJECTS)
def test_another_org_cannot_even_be_asked_for(two_orgs: tuple[Hub, str, str], subject: str) -> None:
    hub, ours, _ = two_orgs
    with hub.client(ours) as client:
        refused = client.get(path_of(subject), params={"org_id": str(THEIRS)})
        assert refused.status_code == 403
        assert "another organisation" in problem(refused)["detail"]
        assert read_answer(client.get(path_of(subject), params={"org_id": str(OURS)})) == read_answer(
            client.get(path_of(subject))
        )


def test_filters_are_values_and_no_sql(two_orgs: tuple[Hub, str, str]) -> None:
    hub, ours, _ = two_orgs
    with hub.client(ours) as client:
        for text in ("' or true --", "x') or true) to stdout --", "%s", "%(org)s", "{}", "\\' or 1=1", "$1"):
            assert read_answer(client.get(path_of("events"), params={"tag": text})) == []
            assert read_answer(client.get(path_of("events"), params={"event_type": text})) == []
            assert read_answer(client.get(path_of("kpis"), params={"label": f"{text.replace('=', '')}={text}"})) == []


def test_every_format_has_the_rows_of_the_database(
    two_orgs: tuple[Hub, str, str], exporting_database: psycopg.Connection
) -> None:
    hub, ours, _ = two_orgs
    wanted = {
        "events": "public.telemetry_events where org_id = %s",
        "kpis": "ops.kpis where org_id = %s and labels = '{}'",
        "audits": "public.slsa_audit_metrics where org_id = %s",
        "slo": "public.v_ops_slo_history where org_id = %s",
    }
    with hub.client(ours) as client:
        for subject, relation in wanted.items():
            [(count,)] = exporting_database.execute(f"select count(*) from {relation}", [OURS]).fetchall()  # type: ignore[arg-type]
            for media_type in (JSONL, NDJSON, CSV, PARQUET):
                answer = client.get(path_of(subject), headers={"Accept": media_type})
                assert len(read_answer(answer)) == count > 0
                assert answer.headers["content-type"].split(";")[0] == media_type
                assert answer.headers["vary"] == "Accept, Authorization"
                assert answer.headers["cache-control"] == "no-store"
                ending = {CSV: "csv", PARQUET: "parquet"}.get(media_type, "jsonl")
                assert answer.headers["content-disposition"] == f'attachment; filename="opskpi-{subject}.{ending}"'


def test_what_the_hub_exports_it_takes_back(
    two_orgs: tuple[Hub, str, str], exporting_database: psycopg.Connection
) -> None:
    hub, ours, _ = two_orgs
    with hub.client(ours) as client, hub.client(make_key(exporting_database, OURS, "ingest")) as sender:
        answer = sender.post(TELEMETRY, json=read_answer(client.get(path_of("events"))))
    assert (answer.json()["accepted"], answer.json()["duplicate"], answer.json()["refused"]) == (0, 20, [])


def test_a_csv_for_people_runs_nothing_in_their_spreadsheet(
    exporting_hub: Hub, exporting_database: psycopg.Connection
) -> None:
    org = uuid4()
    put(exporting_database, org, "=1+1", 50)
    with exporting_hub.client(make_key(exporting_database, org, "read")) as client:
        raw_tags, safe_tags = (
            {row["tag"] for row in read_answer(client.get(path_of("events" + query), headers={"Accept": CSV}))} - {""}
            for query in ("", "?spreadsheet_safe=true")
        )
    assert (raw_tags, safe_tags) == ({"=1+1"}, {"'=1+1"})


def test_filters_choose_the_rows(two_orgs: tuple[Hub, str, str]) -> None:
    hub, ours, _ = two_orgs
    with hub.client(ours) as client:

        def count(subject: str, **query: Any) -> int:
            return len(read_answer(client.get(path_of(subject), params=query)))

        assert count("events", event_type=["slsa_provenance", "hook_execution"]) == 20
        assert count("events", event_type="slsa_provenance") == count("events", tag="ourword") == 18
        assert count("events", run_id=1) == 0
        assert count("events", since="2026-03-10T12:00:00Z", until="2026-03-10T12:00:00.000001Z") == 18
        assert count("events", since="2026-03-10T13:00+01:00", until="2026-03-10T13:00:01+01:00") == 18
        assert count("events", until="2026-03-10T12:00") == 0
        assert count("kpis", metric="provenance_success_rate") == 4
        assert count("kpis", metric="provenance_success_rate", period=["day", "week"]) == 2
        assert count("kpis", metric="hook_block_rate", period="day", label="hook_type=ourword") == 1
        assert count("kpis", metric="hook_block_rate", period="day", breakdowns="true") == 2
        assert count("audits", status="success") == count("audits", tag="ourword") == 2
        assert count("audits", status="failure") == 0
        assert count("slo", slo="provenance_generation_error_rate") == 1


@pytest.mark.parametrize(
    ("path", "fault"),
    [
        ("events?metric=x", "metric"),
        ("kpis?tag=x", "tag"),
        ("slo?anything=x", "anything"),
        ("events?since=yesterday", "since"),
        ("events?since=1767225600", "since"),
        ("events?since=2026-02-30", "since"),
        ("events?since=2026-02-01&until=2026-01-01", "range is empty"),
        ("events?since=0001-01-01T00:00:00%2B14:00", "beyond the calendar"),
        ("events?run_id=1e3", "run_id"),
        ("events?run_id=9223372036854775808", "run_id"),
        ("events?tag=a%00b", "tag"),
        ("events?org_id=me", "org_id"),
        ("audits?status=good", "status"),
        ("kpis?label=team", "label"),
        ("kpis?period=decade", "period"),
        ("kpis?spreadsheet_safe=true", "only CSV is marked"),
    ],
)
def test_what_does_not_fit_is_refused_by_name(two_orgs: tuple[Hub, str, str], path: str, fault: str) -> None:
    hub, ours, _ = two_orgs
    with hub.client(ours) as client:
        answer = client.get(path_of(path))
    assert answer.status_code == 422
    assert fault in json.dumps(problem(answer))


def test_a_key_is_needed_with_the_scope_read_and_only_get_is_taken(
    hub: Hub, hub_database: psycopg.Connection, org: UUID
) -> None:
    with hub.client() as client, hub.client(make_key(hub_database, org, "ingest")) as sender:
        assert client.get(path_of("events")).status_code == 401
        assert (
            client.get(path_of("events"), headers={"Authorization": f"Bearer opskpi_{'0' * 12}_{'A' * 43}"}).status_code
            == 401
        )
        refused = sender.get(path_of("events"))
        assert (refused.status_code, "scope read" in problem(refused)["detail"]) == (403, True)
        for method in ("HEAD", "OPTIONS", "POST", "DELETE"):
            answer = sender.request(method, path_of("events"))
            assert (answer.status_code, answer.headers["allow"]) == (405, "GET")
        assert client.get(path_of("nothing")).status_code == 404


# Content negotiation.


@pytest.mark.parametrize(
    ("accepted", "chosen"),
    [
        ([], JSONL),
        ([""], JSONL),
        ([" , "], JSONL),
        (["*/*"], JSONL),
        (["application/*"], JSONL),
        (["text/*"], CSV),
        (["TEXT/CSV"], CSV),
        (["text/csv; charset=utf-8; header=present"], CSV),
        (["text/csv;q=0.5, application/x-ndjson;q=0.9"], NDJSON),
        (["text/csv;q=0.5", "application/x-ndjson;q=0.4"], CSV),
        (["application/vnd.apache.parquet, */*;q=0.1"], PARQUET),
        (["application/jsonl;q=0, */*"], NDJSON),
        (["application/*;q=0.2, application/vnd.apache.parquet;q=0.1, text/csv;q=0.15"], JSONL),
        (["*/*;q=0.1, application/*;q=0"], CSV),
        (["text/html, application/xhtml+xml, */*;q=0.8"], JSONL),
        (["text/csv;q=0.001"], CSV),
        (['text/csv;x="a,b;q=0", text/csv'], CSV),
        (["nonsense, text/csv"], CSV),
        (["text/csv;q=2, application/x-ndjson"], NDJSON),
        (["application/json"], None),
        (["text/csv;q=0"], None),
        (["text/csv;q=0.000"], None),
        (["*/*;q=0"], None),
        (["nonsense"], None),
        (['"unfinished'], None),
    ],
)
def test_the_format_is_the_one_that_is_wanted_most(accepted: list[str], chosen: str | None) -> None:
    assert content_negotiation.choose([JSONL, NDJSON, CSV, PARQUET], accepted) == chosen


def test_what_is_not_offered_is_406_and_says_what_is(two_orgs: tuple[Hub, str, str]) -> None:
    hub, ours, _ = two_orgs
    with hub.client(ours) as client:
        answer = client.get(path_of("events"), headers={"Accept": "application/xml"})
        assert answer.status_code == 406
        assert all(media_type in problem(answer)["hint"] for media_type in (JSONL, NDJSON, CSV, PARQUET))
        assert "Accept" in answer.headers["vary"]
        two_lines = [("Accept", "application/xml"), ("Accept", "text/csv")]
        assert client.get(path_of("events"), headers=two_lines).headers["content-type"].startswith(CSV)


def test_without_pyarrow_parquet_is_not_offered(
    migrated_database: Database, database: psycopg.Connection, org: UUID, folder: Path
) -> None:
    (folder / "sitecustomize.py").write_text(
        "import importlib.util as finder\n"
        "found = finder.find_spec\n"
        "finder.find_spec = lambda name, package=None: None if name == 'pyarrow' else found(name, package)\n"
    )
    path = {"PYTHONPATH": f"{folder}{os.pathsep}{JOBS}"}
    with (
        running_hub(migrated_database.dsn, folder, env=path, forked=False) as hub,
        hub.client(make_key(database, org)) as client,
    ):
        answer = client.get(path_of("events"), headers={"Accept": PARQUET})
        assert (answer.status_code, PARQUET in problem(answer)["hint"]) == (406, False)
        assert read_answer(client.get(path_of("events"), headers={"Accept": f"{PARQUET}, text/csv;q=0.1"})) == []


# What goes wrong, and who must not suffer from it.


def put_many_of_org(connection: psycopg.Connection, org: UUID, count: int) -> None:
    for index in ("idx_telemetry_events_event_type", "idx_telemetry_events_event_timestamp", "telemetry_events_id_idx"):
        connection.execute(sql.SQL("drop index if exists public.{}").format(sql.Identifier(index)))
    connection.execute(
        "insert into public.telemetry_events (event_type, event_timestamp, org_id, metadata)"
        " select 'deploy', timestamptz '2026-03-10 00:00+00' + number * interval '1 second', %s,"
        " jsonb_build_object('number', number, 'text', repeat('x', 200)) from generate_series(1, %s) as number",
        [org, count],
    )


def copies(connection: psycopg.Connection, state: str = "true") -> int:
    """How many exports run on the server."""
    query = f"select count(*) from pg_stat_activity where query like 'copy (select%' and state = 'active' and pid <> pg_backend_pid() and {state}"
    with connection.cursor(row_factory=scalar_row) as cursor:
        return int(cursor.execute(query).fetchone() or 0)  # type: ignore[arg-type]


def terminate_copies(connection: psycopg.Connection) -> None:
    """End the sessions of the exports, as an administrator would."""
    query = "select pg_terminate_backend(pid, 10000) from pg_stat_activity where query like 'copy (select%' and state = 'active'"
    assert connection.execute(query).fetchall() == [(True,)]


@contextmanager
def slow_reader(hub: Hub, key: str, media_type: str = JSONL) -> Iterator[socket.socket]:
    """Ask for the events and read the beginning only."""
    url = httpx.URL(hub.url)
    with socket.socket() as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.settimeout(PATIENCE_S)
        connection.connect((url.host, url.port))
        connection.sendall(
            f"GET {path_of('events')} HTTP/1.1\r\nHost: hub\r\nAuthorization: Bearer {key}\r\nAccept: {media_type}\r\n\r\n".encode()
        )
        assert connection.recv(64).startswith(b"HTTP/1.1 200 ")
        yield connection


BLOCKED = "wait_event = 'ClientWrite'"


@pytest.mark.parametrize("media_type", [JSONL, PARQUET])
def test_a_client_that_goes_away_in_the_middle_ends_the_query_at_once(
    migrated_database: Database, database: psycopg.Connection, org: UUID, folder: Path, media_type: str
) -> None:
    put_many_of_org(database, org, 120_000)
    with running_hub(migrated_database.dsn, folder) as hub:
        with slow_reader(hub, make_key(database, org), media_type):
            eventually(lambda: copies(database, BLOCKED if media_type == JSONL else "true") == 1)
        eventually(lambda: copies(database) == 0)
        assert "Traceback" not in hub.log.read_text("utf-8")


def test_a_client_that_goes_away_before_the_first_row_ends_the_query_at_once(
    migrated_database: Database, database: psycopg.Connection, org: UUID, folder: Path
) -> None:
    key = make_key(database, org)
    with running_hub(migrated_database.dsn, folder) as hub, database.transaction():
        database.execute("lock table public.telemetry_events")
        url = httpx.URL(hub.url)
        with (
            socket.create_connection((url.host, url.port or 80)) as connection,
            psycopg.connect(migrated_database.dsn, autocommit=True) as other,
        ):
            connection.sendall(
                f"GET {path_of('events')} HTTP/1.1\r\nHost: hub\r\nAuthorization: Bearer {key}\r\n\r\n".encode()
            )
            eventually(lambda: copies(other, "wait_event_type = 'Lock'") == 1)
            connection.close()
            eventually(lambda: copies(other) == 0)
        assert "Traceback" not in hub.log.read_text("utf-8")


@pytest.mark.parametrize("media_type", [JSONL, CSV, PARQUET])
def test_an_error_in_the_middle_breaks_the_body(
    migrated_database: Database, database: psycopg.Connection, org: UUID, folder: Path, media_type: str
) -> None:
    put_many_of_org(database, org, 120_000)
    with (
        running_hub(migrated_database.dsn, folder) as hub,
        slow_reader(hub, make_key(database, org), media_type) as connection,
    ):
        eventually(lambda: copies(database, BLOCKED if media_type != PARQUET else "true") == 1)
        terminate_copies(database)
        rest = b""
        while part := connection.recv(1 << 20):
            rest = (rest + part)[-10:]
        assert not rest.endswith(b"0\r\n\r\n")
        assert "an export broke off: " in hub.log.read_text("utf-8")
        assert "Traceback" not in hub.log.read_text("utf-8")


def test_http_clients_see_that_a_broken_body_is_broken(
    migrated_database: Database, database: psycopg.Connection, org: UUID, folder: Path
) -> None:
    put_many_of_org(database, org, 120_000)
    with (
        running_hub(migrated_database.dsn, folder) as hub,
        hub.client(make_key(database, org)) as client,
        client.stream("GET", path_of("events")) as answer,
    ):
        assert answer.status_code == 200
        parts = answer.iter_raw()
        next(parts)
        eventually(lambda: copies(database, BLOCKED) == 1)
        terminate_copies(database)
        with pytest.raises(httpx.RemoteProtocolError, match="incomplete"):
            for _ in parts:
                pass


def test_an_error_before_the_first_byte_is_a_problem(
    migrated_database: Database, database: psycopg.Connection, org: UUID, folder: Path
) -> None:
    key = make_key(database, org)
    answers: list[httpx.Response] = []
    with (
        running_hub(migrated_database.dsn, folder) as hub,
        hub.client(key) as client,
        psycopg.connect(migrated_database.dsn, autocommit=True) as other,
    ):
        asking = threading.Thread(target=lambda: answers.append(client.get(path_of("events"))))
        with database.transaction():
            database.execute("lock table public.telemetry_events")
            asking.start()
            eventually(lambda: copies(other, "wait_event_type = 'Lock'") == 1)
            terminate_copies(other)
        asking.join()
    [answer] = answers
    assert (answer.status_code, int(answer.headers["retry-after"]) > 0) == (503, True)
    assert problem(answer)["detail"] == "the database cannot answer now"


def test_exports_leave_connections_to_those_who_send(
    migrated_database: Database, database: psycopg.Connection, org: UUID, folder: Path
) -> None:
    put_many_of_org(database, org, 120_000)
    key = make_key(database, org)
    with running_hub(migrated_database.dsn, folder, "--connections", "4") as hub, hub.client(key) as client:
        with slow_reader(hub, key):
            eventually(lambda: copies(database, BLOCKED) == 1)
            refused = client.get(path_of("kpis"))
            assert (refused.status_code, int(refused.headers["retry-after"]) > 0) == (503, True)
            assert "as many exports" in problem(refused)["detail"]
            # Who has no right to it is told so, whatever else runs.
            assert client.get(path_of("kpis"), headers={"Authorization": ""}).status_code == 401
            for _ in range(20):
                assert client.post(TELEMETRY, json=[hook_event(org)]).status_code == 200
        eventually(lambda: copies(database) == 0)
        eventually(lambda: client.get(path_of("kpis")).status_code == 200)


def test_a_hub_with_one_connection_keeps_it_for_those_who_send(
    migrated_database: Database, database: psycopg.Connection, org: UUID, folder: Path
) -> None:
    with (
        running_hub(migrated_database.dsn, folder, "--connections", "1") as hub,
        hub.client(make_key(database, org)) as client,
    ):
        assert client.get(path_of("events")).status_code == 503
        assert client.post(TELEMETRY, json=[hook_event(org)]).status_code == 200


def test_an_export_has_ten_minutes_where_calls_have_seconds(
    migrated_database: Database, database: psycopg.Connection, org: UUID, folder: Path
) -> None:
    database.execute(
        "create policy only_with_time on public.telemetry_events as restrictive for select to authenticated"
        " using (current_setting('statement_timeout') = '10min')"
    )
    put_many_of_org(database, org, 3)
    with running_hub(migrated_database.dsn, folder) as hub, hub.client(make_key(database, org)) as client:
        assert len(read_answer(client.get(path_of("events")))) == 3


def test_connections_that_died_unseen_cost_no_export(
    migrated_database: Database, database: psycopg.Connection, org: UUID, folder: Path
) -> None:
    with running_hub(migrated_database.dsn, folder) as hub, hub.client(make_key(database, org)) as client:
        assert read_answer(client.get(path_of("events"))) == []
        database.execute(
            "select pg_terminate_backend(pid, 10000) from pg_stat_activity where application_name = 'opskpi hub'"
        )
        assert read_answer(client.get(path_of("events"))) == []


def test_ten_times_the_events_take_the_same_memory(
    migrated_database: Database, database: psycopg.Connection, org: UUID, folder: Path
) -> None:
    put_many_of_org(database, org, 200_000)

    def peak(hub: Hub) -> int:
        status = Path(f"/proc/{hub.process.pid}/status").read_text("utf-8")
        [line] = [line for line in status.splitlines() if "VmHWM" in line]
        return int(line.split()[1]) * 1024

    with running_hub(migrated_database.dsn, folder, forked=False) as hub, hub.client(make_key(database, org)) as client:

        def export(media_type: str, **query: str) -> int:
            with client.stream("GET", path_of("events"), params=query, headers={"Accept": media_type}) as answer:
                return sum(map(len, answer.iter_raw()))

        for media_type in (JSONL, CSV, PARQUET):
            few = export(media_type, until="2026-03-10T05:33:21")
            before = peak(hub)
            assert export(media_type) > 8 * few
            assert peak(hub) < before + 30_000_000, media_type


def test_a_client_that_takes_nothing_is_left(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setattr(streams, "STALL_S", 0.01)
    closed: list[bool] = []
    sent: list[dict[str, Any]] = []

    @asynccontextmanager
    async def source() -> AsyncIterator[AsyncIterator[bytes]]:
        async def chunks() -> AsyncIterator[bytes]:
            for _ in range(1000):
                yield b"row\n"

        try:
            yield chunks()
        finally:
            closed.append(True)

    async def receive() -> dict[str, Any]:
        await asyncio.Event().wait()
        raise AssertionError

    async def send(message: Any) -> None:
        sent.append(message)
        if len(sent) > 3:
            await asyncio.Event().wait()

    asyncio.run(Stream(source, JSONL, {})({"type": "http"}, receive, send))
    assert closed == [True]
    assert len(sent) == 4
    assert all(message.get("more_body", True) for message in sent)
    assert "broke off" in caplog.text
