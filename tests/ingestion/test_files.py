"""Bringing files of events into the database."""

import gzip
import json
import os
import random
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping
from pathlib import Path

import psycopg
import pytest
from psycopg.pq import TransactionStatus
from psycopg.rows import scalar_row, tuple_row

from opskpi.errors import ExitCode, OpsKpiError
from opskpi.ingestion import batches, lanes, storing
from opskpi.ingestion.batches import BATCH_RECORDS
from opskpi.ingestion.files import Refusal, Summary, ingest
from opskpi.ingestion.storing import REFUSALS_KEPT
from support import forks
from support.fixtures import Connect
from support.forks import JOBS

# Each batch is a transaction.
pytestmark = pytest.mark.own_database

EVENTS = 3 * BATCH_RECORDS
NO_TIME = "an event in a file must say when it happened"

INGEST = """
import os, resource, signal, sys
import psycopg
from opskpi.errors import OpsKpiError
from opskpi.ingestion.files import ingest
dsn, source, preparation = sys.argv[1:]
def die(*_): os.kill(os.getpid(), signal.SIGKILL)
def on_progress(*_): pass
open_another = None
exec(preparation)
with psycopg.connect(dsn, autocommit=True) as connection:
    try:
        summary = ingest(connection, source, on_progress=on_progress, open_another=open_another)
    except OpsKpiError as error:
        sys.exit(error.message)
print(summary.accepted, summary.duplicate, summary.refused)
"""

LANES = {"one lane": "", "two lanes": "open_another = lambda: psycopg.connect(dsn, autocommit=True)"}

# Event 1 is stored once the other lane can do no more: it waits for its turn or for a lock, or it failed.
WAIT_FOR_THE_OTHER_LANE = """
create sequence public.waits;
create function public.wait_for_the_other_lane() returns trigger language plpgsql as $$
begin
  if nextval('public.waits') = 1 then
    for attempt in 1 .. 1000 loop
      perform pg_stat_clear_snapshot();
      exit when exists (
        select from pg_stat_activity as other
        where other.pid <> pg_backend_pid() and other.datname = current_database()
          and (other.state like 'idle in transaction%' or other.wait_event_type = 'Lock')
      );
      perform pg_sleep(0.005);
    end loop;
  end if;
  return new;
end $$;
create trigger wait_for_the_other_lane before insert on public.telemetry_events
  for each row when (new.metadata ->> 'number' = '1') execute function public.wait_for_the_other_lane();
"""

# Not getrusage, whose maximum includes the process that started this one.
PRINT_PEAK = """
import atexit, pathlib, re
def print_peak():
    print(int(re.search(r"VmHWM:\\s+([0-9]+) kB", pathlib.Path("/proc/self/status").read_text())[1]) // 1024)
atexit.register(print_peak)
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "events.jsonl"


def numbered_event(number: int = 0, **fields: object) -> dict[str, object]:
    """Make an event of January 2026, without an event_id."""
    instant = f"2026-01-{number % 28 + 1:02}T00:{number // 28 % 60:02}:00Z"
    return {"event_type": "audit_complete", "payload": {"timestamp": instant, "number": number} | fields}


def lines(count: int) -> bytes:
    """Make `count` JSON lines; each of a number that ends in 7 says no time."""
    written = [json.dumps(numbered_event(n) if n % 10 != 7 else {"event_type": "audit_complete"}) for n in range(count)]
    return "\n".join(written).encode()


def as_format(form: str, content: bytes) -> bytes:
    if form == "array":
        content = b"[" + content.replace(b"\n", b",\n") + b"]"
    return gzip.compress(content) if form == "gzip" else content


def ingest_file(connection: psycopg.Connection, source: Path | str) -> Summary:
    return ingest(connection, str(source), on_progress=lambda *_: None)


def stored_numbers(connection: psycopg.Connection) -> list[int]:
    with connection.cursor(row_factory=scalar_row) as cursor:
        query = "select (metadata -> 'number')::bigint from public.telemetry_events order by 1"
        return cursor.execute(query).fetchall()


def count_imports(connection: psycopg.Connection) -> int:
    with connection.cursor(row_factory=scalar_row) as cursor:
        return cursor.execute("select count(*) from ops.imports").fetchall()[0]


def refused_rows(path: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in Path(f"{path}.refused.jsonl").read_bytes().splitlines()]


def run_apart(
    database: psycopg.Connection, source: Path | str, preparation: str = "", stdin: str = ""
) -> subprocess.CompletedProcess[str]:
    return forks.run(database.info.dsn, source, preparation, code=INGEST, env=os.environ, stdin=stdin)


def test_every_line_is_accepted_duplicate_or_refused(database, file):
    known = numbered_event(1, event_id="5f0c1c1e-0000-4000-8000-000000000001")
    file.write_text(
        "\n".join(map(json.dumps, [known, numbered_event(2), known, {"event_type": "unheard of"}, numbered_event(3)]))
    )
    assert ingest_file(database, file) == Summary(
        source=str(file),
        read=5,
        accepted=3,
        duplicate=1,
        refused=1,
        refusals=[Refusal(4, "timestamp", NO_TIME)],
        refused_file=Path(f"{file}.refused.jsonl"),
    )
    assert stored_numbers(database) == [1, 2, 3]


def test_what_the_server_refuses_is_named_by_its_line(database, file):
    file.write_text("broken\n\n" + json.dumps(numbered_event(1)) + "\n" + json.dumps(numbered_event(2, event_id="x")))
    summary = ingest_file(database, file)
    assert [(refusal.line, refusal.field) for refusal in summary.refusals] == [(1, ""), (4, "event_id")]
    assert stored_numbers(database) == [1]


@pytest.mark.parametrize("form", ["lines", "array", "gzip"])
def test_a_second_run_adds_nothing_although_events_have_no_id(database, file, form):
    file.write_bytes(as_format(form, lines(30)))
    first, second = ingest_file(database, file), ingest_file(database, file)
    assert (first.accepted, first.duplicate, first.refused) == (27, 0, 3)
    assert (second.accepted, second.duplicate, second.refused, second.resumed_at) == (0, 27, 3, 0)
    assert count_imports(database) == 0


def test_equal_lines_without_an_id_are_different_events(database, file):
    file.write_text(f"{json.dumps(numbered_event(1))}\n" * 2)
    assert ingest_file(database, file).accepted == 2


@pytest.mark.parametrize(
    "written",
    [
        '{"event_type":"audit_complete","event_id":null,"event_timestamp":"2026-01-01T00:00:00Z"} ',
        '{"event_type":"audit_complete","payload":{"timestamp":"2026-01-01T00:00:00Z","event_id":null}}',
        '{"event_type":"audit_complete","timestamp":"2026-01-01T00:00:00Z","metadata":{"event_id":null}}',
    ],
)
def test_an_event_id_of_null_is_replaced_by_a_lasting_one(database, file, written):
    file.write_text(written)
    assert (ingest_file(database, file).accepted, ingest_file(database, file).duplicate) == (1, 1)


@pytest.mark.parametrize(
    ("line", "field", "reason"),
    [
        (b"{}", "timestamp", NO_TIME),
        (b'{"timestamp":null}', "timestamp", NO_TIME),
        (b'{"payload":"2026-01-01T00:00:00Z"}', "timestamp", NO_TIME),
        (b'{"a":nope}', "", "is not JSON at column 6: Expecting value"),
        (b'{"a":1} {', "", "is not JSON at column 8: there is more after the value"),
        (b'\xef\xbb\xbf{"a":1}', "", "is not JSON at column 1: Expecting value"),
        (b"[1]", "", "is not a JSON object"),
        (b"null", "", "is not a JSON object"),
        (b'{"a":NaN}', "", "NaN is not JSON"),
        (b'{"a":-Infinity}', "", "-Infinity is not JSON"),
        (b'{"a":"\x00"}', "", "has a NUL byte at column 7"),
        (b'{"a":"\\u0000"}', "", "has a NUL character, \\u0000, at column 7"),
        (b'{"\\\\\\u0000":1}', "", "has a NUL character, \\u0000, at column 5"),
        (b'{"a":"\\ud800"}', "", "has half a surrogate pair, \\ud800, at column 7"),
        (b'{"a":"\\uDC00\\uD800","a":1}', "", "has half a surrogate pair, \\uDC00, at column 7"),
        (b'{"a":"\xff"}', "", "is not UTF-8 at byte 7"),
        (b'{"a":"\xed\xa0\x80"}', "", "is not UTF-8 at byte 7"),
        (b'{"a":' + b"[" * 32 + b"]" * 32 + b"}", "", "is nested deeper than 32"),
        (b'{"a":' + b"[" * 500_000, "", "is nested deeper than 32"),
        (b'{"a":' + b"9" * 1_001 + b"}", "", "has a whole number of more than 1,000 digits"),
        (b'{"a":"' + b"x" * (1 << 20) + b'"}', "", "is longer than 1 MiB"),
    ],
    ids=range(21),
)
def test_a_bad_line_is_refused_and_its_neighbours_are_stored(database, file, line, field, reason):
    file.write_bytes(
        b"%b\n%b\n%b\n" % (json.dumps(numbered_event(1)).encode(), line, json.dumps(numbered_event(2)).encode())
    )
    summary = ingest_file(database, file)
    assert summary.refusals == [Refusal(2, field, reason)]
    assert stored_numbers(database) == [1, 2]
    kept = line if len(line) <= 1 << 20 else line[:1024]
    text = kept.decode(errors="surrogateescape")
    assert refused_rows(file) == [{"line": 2, "field": field, "reason": reason, "text": text}]


@pytest.mark.parametrize(
    "value",
    [
        '"\\\\u0000"',
        '"\\\\\\\\ud800"',
        '"\\ud83d\\ude00"',
        '"\\uD83D\\uDE00"',
        '"{[{[{[{[{[{[{[{[{[{[{[{[{[{[{[{[{[{["',
        "1e999",
        "0.1000000000000000000000000000001",
        "123456789012345678901234567890",
        "1" * 1_000,
        "[" * 30 + "]" * 30,
    ],
)
@pytest.mark.parametrize("form", ["lines", "array"])
def test_an_unusual_value_arrives_exactly_as_written(database, file, value, form):
    written = json.dumps(numbered_event(1, odd="here")).replace('"here"', value).encode()
    file.write_bytes(as_format(form, written))
    assert ingest_file(database, file).refusals == []
    with database.cursor(row_factory=scalar_row) as cursor:
        query = "select metadata -> 'odd' = %s::jsonb from public.telemetry_events"
        assert cursor.execute(query, [value]).fetchall() == [True]


def test_a_byte_order_mark_blank_lines_and_windows_line_ends_are_fine(database, file):
    first, second = json.dumps(numbered_event(1)).encode(), json.dumps(numbered_event(2)).encode()
    file.write_bytes(b"\xef\xbb\xbf\r\n%b\r\n \r\n%b" % (first, second))
    assert ingest_file(database, file) == Summary(source=str(file), read=2, accepted=2)


@pytest.mark.parametrize("content", [b"", b"\n", b"[]", gzip.compress(b"", mtime=0)])
def test_an_empty_file_holds_no_events_and_is_no_error(database, file, content):
    file.write_bytes(content)
    assert ingest_file(database, file) == Summary(source=str(file))


def test_events_go_to_the_partitions_of_their_months(database, file):
    instants = ["2000-01-01T00:00:00Z", "2025-12-31T23:59:59Z", "2026-01-01T00:00:00+00:00"]
    refused = ["1999-12-31T23:59:59Z", "2199-01-01T00:00:00Z", "2026-13-01T00:00:00Z", "2026-01"]
    file.write_text("\n".join(json.dumps(numbered_event(1, timestamp=instant)) for instant in instants + refused))
    summary = ingest_file(database, file)
    assert (summary.accepted, [refusal.line for refusal in summary.refusals]) == (3, [4, 5, 6, 7])
    with database.cursor(row_factory=tuple_row) as cursor:
        query = "select count(distinct tableoid), count(*) from public.telemetry_events"
        assert cursor.execute(query).fetchall() == [(3, 3)]
        query = "select count(*) from ops.telemetry_events_default"
        assert cursor.execute(query).fetchall() == [(0,)]


KILLS = {
    "between two batches": "on_progress = lambda *told, calls=[]: calls.append(0) or calls[1:] and die()",
    "after the refused lines were written and before the commit": (
        "os.fsync = lambda file, calls=[]: calls.append(file) or (len(calls) == 2 and die())"
    ),
}


@pytest.mark.parametrize("lane", LANES.values(), ids=LANES)
@pytest.mark.parametrize("kill", KILLS.values(), ids=KILLS)
@pytest.mark.parametrize("form", ["lines", "array", "gzip"])
def test_a_killed_run_resumes_and_nothing_is_lost_or_stored_twice(database, file, form, kill, lane):
    file.write_bytes(as_format(form, lines(EVENTS)))
    assert run_apart(database, file, f"{kill}\n{lane}").returncode < 0
    summary = ingest_file(database, file)
    refused = [number for number in range(EVENTS) if number % 10 == 7]
    assert summary.resumed_at in {BATCH_RECORDS, 2 * BATCH_RECORDS}
    assert (summary.read, summary.accepted) == (EVENTS, EVENTS - len(refused))
    assert (summary.duplicate, summary.refused) == (0, len(refused))
    assert stored_numbers(database) == [number for number in range(EVENTS) if number % 10 != 7]
    assert [row["line"] for row in refused_rows(file)] == [number + 1 for number in refused]
    assert count_imports(database) == 0


def test_a_copy_of_the_file_elsewhere_resumes_too(database, file, tmp_path):
    file.write_bytes(lines(EVENTS))
    run_apart(database, file, KILLS["between two batches"])
    copy = file.rename(tmp_path / "renamed.jsonl")
    assert ingest_file(database, copy).resumed_at == 2 * BATCH_RECORDS


def test_a_run_from_the_beginning_replaces_the_refused_lines_of_an_older_one(database, file):
    Path(f"{file}.refused.jsonl").write_text("of an older run\n" * 100)
    file.write_text("broken")
    ingest_file(database, file)
    assert [row["line"] for row in refused_rows(file)] == [1]


def test_without_refused_lines_there_is_no_file_of_them(database, file, tmp_path):
    file.write_text(json.dumps(numbered_event()))
    assert ingest_file(database, file).refused_file is None
    assert list(tmp_path.iterdir()) == [file]


def test_only_the_first_20_refusals_are_kept_in_the_summary(database, file):
    file.write_text("broken\n" * 30)
    summary = ingest_file(database, file)
    assert [refusal.line for refusal in summary.refusals] == list(range(1, 21))
    assert (summary.refused, len(refused_rows(file))) == (30, 30)


def test_a_batch_whose_refused_lines_cannot_be_written_is_rolled_back(database, file):
    Path(f"{file}.refused.jsonl").mkdir()
    file.write_text(json.dumps(numbered_event(1)) + "\nbroken\n")
    with pytest.raises(OpsKpiError, match="cannot write the refused lines"):
        ingest_file(database, file)
    assert stored_numbers(database) == []


def test_after_a_full_disk_the_run_goes_on_where_it_stopped(database, file):
    file.write_bytes(lines(EVENTS))
    limit = "resource.setrlimit(resource.RLIMIT_FSIZE, (40_000, 40_000))"
    full = run_apart(database, file, limit)
    assert "cannot write the refused lines" in full.stderr
    summary = ingest_file(database, file)
    assert summary.resumed_at == BATCH_RECORDS
    assert (summary.accepted, summary.duplicate, summary.refused) == (EVENTS * 9 // 10, 0, EVENTS // 10)
    assert [row["line"] for row in refused_rows(file)] == list(range(8, EVENTS + 1, 10))


def test_of_a_malformed_array_all_before_the_fault_is_stored(database, file):
    file.write_text(f"[{json.dumps(numbered_event(1))},{json.dumps(numbered_event(2))}")
    with pytest.raises(OpsKpiError, match=f"element 2, at byte {file.stat().st_size}$") as refused:
        ingest_file(database, file)
    assert refused.value.exit_code is ExitCode.BAD_ARGUMENT
    assert stored_numbers(database) == [1, 2]


def test_of_a_truncated_gzip_file_the_whole_lines_are_stored(database, file):
    file.write_bytes(gzip.compress(lines(EVENTS))[:-2_000])
    with pytest.raises(OpsKpiError, match="ends in the middle of its gzip data") as refused:
        ingest_file(database, file)
    assert refused.value.exit_code is ExitCode.BAD_ARGUMENT
    assert stored_numbers(database)[:20] == [number for number in range(23) if number % 10 != 7][:20]


@pytest.mark.parametrize("source", ["missing.jsonl", "."])
def test_a_source_that_cannot_be_read_is_a_bad_argument(database, tmp_path, source):
    with pytest.raises(OpsKpiError) as refused:
        ingest_file(database, tmp_path / source)
    assert refused.value.exit_code is ExitCode.BAD_ARGUMENT


def test_standard_input_is_read_and_its_refused_lines_are_beside_the_caller(database, tmp_path):
    chdir = f"os.chdir({str(tmp_path)!r})"
    finished = run_apart(database, "-", chdir, stdin=json.dumps(numbered_event(1)) + "\nbroken")
    assert finished.stdout.split()[:3] == ["1", "0", "1"]
    assert [row["line"] for row in refused_rows(tmp_path / "stdin")] == [2]
    assert count_imports(database) == 0


@pytest.mark.parametrize("form", ["lines", "gzip"])
def test_progress_is_told_after_each_batch_in_bytes_of_the_stored_file(database, file, form):
    file.write_bytes(as_format(form, lines(EVENTS + 1)))
    size = file.stat().st_size
    told: list[tuple[int, int | None, int]] = []
    ingest(database, str(file), on_progress=lambda *progress: told.append(progress))
    assert [line for _, _, line in told] == [2_000, 4_000, 6_000, 6_001]
    assert {total for _, total, _ in told} == {size}
    assert [done for done, _, _ in told] == sorted(done for done, _, _ in told)
    assert told[-1][0] == size


def test_an_interrupted_run_leaves_no_thread_and_can_be_resumed(database, file):
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    file.write_bytes(lines(6 * BATCH_RECORDS))
    with pytest.raises(KeyboardInterrupt):
        ingest(database, str(file), on_progress=interrupt)
    assert "opskpi-ingest-reader" not in [thread.name for thread in threading.enumerate()]
    assert ingest_file(database, file).resumed_at == BATCH_RECORDS


def test_a_dropped_connection_is_an_operational_error_and_can_be_resumed(database, connect, file):
    worker = connect()
    file.write_bytes(lines(EVENTS))
    with pytest.raises(psycopg.OperationalError):
        ingest(
            worker,
            str(file),
            on_progress=lambda *_: database.execute("select pg_terminate_backend(%s)", [worker.info.backend_pid]),
        )
    summary = ingest_file(database, file)
    assert (summary.resumed_at, summary.accepted) == (BATCH_RECORDS, EVENTS * 9 // 10)


def test_a_connection_that_is_not_in_autocommit_mode_commits_each_batch(database, connect, file):
    file.write_bytes(lines(10))
    ingest_file(connect(autocommit=False), file)
    assert len(stored_numbers(database)) == 9


@pytest.fixture
def batches_of(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Make batches small, and the time they wait for their turn short: `batches_of(2)`."""

    def make_small(records: int) -> None:
        monkeypatch.setattr(batches, "BATCH_RECORDS", records)
        monkeypatch.setattr(storing, "PATIENCE_S", 0.1)

    return make_small


@pytest.fixture
def second_connections() -> list[psycopg.Connection]:
    """The second connections that `open_another` opened."""
    return []


@pytest.fixture
def open_another(connect: Connect, second_connections: list[psycopg.Connection]) -> Callable[[], psycopg.Connection]:
    def open_and_keep() -> psycopg.Connection:
        second_connections.append(connect())
        return second_connections[-1]

    return open_and_keep


def run_on_two_lanes(
    connection: psycopg.Connection, open_another: Callable[[], psycopg.Connection], source: Path
) -> Summary:
    return ingest(connection, str(source), on_progress=lambda *_: None, open_another=open_another)


def known_event(number: int, identity: int, **fields: object) -> dict[str, object]:
    """Make an event that is the same as each other of that `identity`."""
    instant = "2026-01-31T00:00:00Z"
    return numbered_event(number, event_id=f"5f0c1c1e-0000-4000-8000-{identity:012}", timestamp=instant, **fields)


def write_lines(path: Path, *events: Mapping[str, object]) -> None:
    path.write_text("\n".join(map(json.dumps, events)))


def ingesting_threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("opskpi-ingest")]


def test_a_batch_waiting_for_an_event_of_the_next_one_is_stored_first(database, connect, file, batches_of):
    batches_of(2)
    database.execute(WAIT_FOR_THE_OTHER_LANE)
    write_lines(file, numbered_event(1), known_event(2, 7), known_event(3, 7), numbered_event(4), numbered_event(5))
    summary = run_on_two_lanes(database, connect, file)
    assert (summary.accepted, summary.duplicate, summary.refused) == (4, 1, 0)
    assert stored_numbers(database) == [1, 2, 4, 5]


@pytest.mark.parametrize(("first_ms", "second_ms"), [(10, 60_000), (60_000, 200)], ids=["the first", "the second"])
def test_a_deadlock_of_two_batches_ends_well_whichever_is_the_victim(
    database, connect, file, batches_of, first_ms, second_ms
):
    def open_another() -> psycopg.Connection:
        connection = connect()
        connection.execute("select set_config('deadlock_timeout', %s, false)", [str(second_ms)])
        return connection

    batches_of(3)
    database.execute(WAIT_FOR_THE_OTHER_LANE)
    database.execute("select set_config('deadlock_timeout', %s, false)", [str(first_ms)])
    write_lines(
        file,
        *[known_event(2, 7), numbered_event(1), known_event(3, 8)],
        *[known_event(4, 8), known_event(5, 7), numbered_event(6)],
        numbered_event(7),
    )
    summary = run_on_two_lanes(database, open_another, file)
    assert (summary.accepted, summary.duplicate) == (5, 2)
    assert stored_numbers(database) == [1, 2, 3, 6, 7]


def test_an_event_in_many_batches_at_once_is_stored_once(database, connect, file, batches_of, monkeypatch):
    batches_of(3)
    monkeypatch.setattr(storing, "PATIENCE_S", 0.01)
    monkeypatch.setattr(storing, "FIRST_BATCHES_ALONE", 1)
    drawn = random.Random(1)  # noqa: S311
    write_lines(file, *[known_event(number, drawn.randrange(5)) for number in range(300)])
    summary = run_on_two_lanes(database, connect, file)
    assert (summary.accepted, summary.duplicate) == (5, 295)


def test_two_lanes_store_and_say_what_one_lane_does(database, connect, file, batches_of):
    batches_of(20)
    drawn = random.Random(2)  # noqa: S311
    kinds = {
        "new": numbered_event,
        "old": lambda number: known_event(number, max(0, number - drawn.randrange(100))),
        "without time": lambda _: {"event_type": "audit_complete"},
        "of another kind": lambda number: numbered_event(number) | {"event_type": "unheard of"},
    }
    write_lines(file, *[kinds[drawn.choices([*kinds], [30, 40, 1, 1])[0]](number) for number in range(1_000)])
    query = (
        "select event_type, event_timestamp, metadata, event_id, org_id from public.telemetry_events order by event_id"
    )
    alone = ingest_file(database, file), database.execute(query).fetchall(), refused_rows(file)
    database.execute("truncate public.telemetry_events")
    assert (run_on_two_lanes(database, connect, file), database.execute(query).fetchall(), refused_rows(file)) == alone
    assert alone[0].accepted > 0 < alone[0].duplicate
    assert alone[0].refused > REFUSALS_KEPT


def test_refused_lines_stay_in_the_order_of_the_file_when_a_later_batch_is_done_first(
    database, connect, file, batches_of
):
    batches_of(2)
    database.execute(WAIT_FOR_THE_OTHER_LANE)
    bad = {"event_type": "audit_complete"}
    write_lines(file, numbered_event(1), bad, bad, numbered_event(2), numbered_event(3), bad)
    summary = run_on_two_lanes(database, connect, file)
    assert [refusal.line for refusal in summary.refusals] == [2, 3, 6]
    assert [row["line"] for row in refused_rows(file)] == [2, 3, 6]


def test_months_get_their_partitions_although_a_batch_is_under_way(database, connect, file, batches_of):
    batches_of(1)
    months = [f"{year}-{month:02}-05T00:00:00Z" for year in (2001, 2002) for month in range(1, 13)]
    write_lines(file, *[numbered_event(1, timestamp=instant) for instant in months for _ in range(3)])
    assert run_on_two_lanes(database, connect, file).accepted == 72
    with database.cursor(row_factory=tuple_row) as cursor:
        query = "select count(distinct tableoid), count(*) from public.telemetry_events"
        assert cursor.execute(query).fetchall() == [(24, 72)]
        assert cursor.execute("select count(*) from ops.telemetry_events_default").fetchall() == [(0,)]


def test_what_is_before_a_batch_that_fails_is_stored_and_what_is_after_is_not(database, connect, file, batches_of):
    batches_of(2)
    database.execute(WAIT_FOR_THE_OTHER_LANE)
    database.execute("alter table public.telemetry_events add constraint no_4 check (metadata ->> 'number' <> '4')")
    write_lines(file, *[numbered_event(number) for number in range(1, 9)])
    with pytest.raises(psycopg.errors.CheckViolation, match="no_4"):
        run_on_two_lanes(database, connect, file)
    assert stored_numbers(database) == [1, 2]
    assert ingesting_threads() == []
    database.execute("alter table public.telemetry_events drop constraint no_4")
    summary = ingest_file(database, file)
    assert (summary.resumed_at, summary.accepted, summary.duplicate) == (2, 8, 0)


def test_a_refused_line_that_cannot_be_written_down_rolls_the_next_batch_back_too(database, connect, file, batches_of):
    batches_of(2)
    database.execute(WAIT_FOR_THE_OTHER_LANE)
    Path(f"{file}.refused.jsonl").mkdir()
    write_lines(file, numbered_event(1), {"event_type": "audit_complete"}, numbered_event(2), numbered_event(3))
    with pytest.raises(OpsKpiError, match="cannot write the refused lines"):
        run_on_two_lanes(database, connect, file)
    assert stored_numbers(database) == []
    assert database.info.transaction_status == TransactionStatus.IDLE


def test_when_the_second_connection_is_lost_all_before_is_stored_and_the_run_resumes(
    database, connect, open_another, second_connections, file, batches_of
):
    batches_of(2)
    database.execute(WAIT_FOR_THE_OTHER_LANE)
    observer = connect()

    def end_the_second(*_: object) -> None:
        observer.execute("select pg_terminate_backend(%s)", [second_connections[0].info.backend_pid])

    write_lines(file, *[numbered_event(number) for number in range(1, 9)])
    with pytest.raises(psycopg.OperationalError):
        ingest(database, str(file), on_progress=end_the_second, open_another=open_another)
    assert stored_numbers(database) == [1, 2]
    summary = ingest_file(database, file)
    assert (summary.resumed_at, summary.accepted, summary.duplicate) == (2, 8, 0)


def test_without_a_second_connection_all_is_stored_on_the_first(database, file, batches_of):
    attempts: list[int] = []

    def refuse() -> psycopg.Connection:
        attempts.append(1)
        return psycopg.connect("host=/nowhere")

    batches_of(2)
    write_lines(file, *[numbered_event(number) for number in range(20)])
    assert run_on_two_lanes(database, refuse, file).accepted == 20
    assert attempts == [1]


def test_a_single_batch_opens_no_second_connection(database, open_another, second_connections, file):
    write_lines(file, numbered_event(1), numbered_event(2))
    run_on_two_lanes(database, open_another, file)
    assert second_connections == []


def test_the_second_connection_is_closed_and_the_first_is_not(
    database, open_another, second_connections, file, batches_of
):
    batches_of(2)
    database.execute(WAIT_FOR_THE_OTHER_LANE)
    write_lines(file, *[numbered_event(number) for number in range(1, 9)])
    run_on_two_lanes(database, open_another, file)
    assert ([connection.closed for connection in second_connections], database.closed) == ([True], False)
    assert ingesting_threads() == []


SLEEP_IN_EACH_BATCH = """
create function public.sleep() returns trigger language plpgsql as $$
begin
  raise notice 'asleep';
  perform pg_sleep(60);
  return new;
end $$;
create trigger sleep before insert on public.telemetry_events for each row execute function public.sleep();
"""


def test_an_interrupt_cancels_what_runs_on_both_lanes_and_the_connection_stays_usable(
    database, connect, file, batches_of
):
    def open_another() -> psycopg.Connection:
        connection = connect()
        connection.add_notice_handler(lambda _: os.kill(os.getpid(), signal.SIGINT))
        return connection

    batches_of(2)
    database.execute(SLEEP_IN_EACH_BATCH)
    write_lines(file, *[numbered_event(number) for number in range(9)])
    with pytest.raises(KeyboardInterrupt):
        run_on_two_lanes(database, open_another, file)
    assert ingesting_threads() == []
    assert database.info.transaction_status == TransactionStatus.IDLE
    assert stored_numbers(database) == []


def test_an_interrupt_ends_a_run_whose_server_does_not_answer(database, connect, file, monkeypatch):
    def interrupt(_: object) -> None:
        os.kill(worker.info.backend_pid, signal.SIGSTOP)
        os.kill(os.getpid(), signal.SIGINT)

    worker = connect()
    backend = worker.info.backend_pid
    worker.add_notice_handler(interrupt)
    monkeypatch.setattr(lanes, "CANCEL_FOR_S", 0.2)
    database.execute(SLEEP_IN_EACH_BATCH)
    write_lines(file, numbered_event(1))
    try:
        with pytest.raises(KeyboardInterrupt):
            ingest_file(worker, file)
    finally:
        os.kill(backend, signal.SIGCONT)
    assert ingesting_threads() == []
    assert worker.closed


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="the peak is read from /proc")
@pytest.mark.parametrize("lane", LANES.values(), ids=LANES)
def test_memory_stays_small_whatever_the_file_holds(database, file, lane):
    with file.open("wb") as written:
        written.write(json.dumps(numbered_event(1)).encode() + b"\n" + b"x" * 50_000_000 + b"\n")
        for number in range(9):
            large = numbered_event(number, text="😀" + "x" * 900_000)
            written.write(json.dumps(large, ensure_ascii=False).encode() + b"\n")
        written.write(b"1\n" * 300_000)
    # Not forked: what the tests have imported would count.
    finished = subprocess.run(
        [sys.executable, "-c", INGEST, database.info.dsn, str(file), PRINT_PEAK + lane],
        env=os.environ | {"PYTHONPATH": str(JOBS)},
        capture_output=True,
        text=True,
        check=False,
    )
    accepted, _, refused, megabytes = map(int, finished.stdout.split())
    assert (accepted, refused) == (1, 300_010)
    assert megabytes < 150
