"""Sending: what the other side may do, and that every event arrives, once, without anyone waiting for it."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from contextlib import closing, suppress
from http import HTTPStatus
from pathlib import Path
from typing import Any

import pytest

from opskpi.hooks import events, queue_file, refusals, requests, schedule, sender, starting, targets
from opskpi.hooks.storage import Folder
from support.hook_world import AGENT, EXECUTION, KEY, ORG, Receiver, World, send
from support.patience import PATIENCE_S, eventually

LATER = 400


def queue_executions(world: World, count: int = 1, hook_type: str = "pre-commit") -> None:
    """Queue events without anyone starting to send them."""
    common: dict[str, object] = {"agent_id": AGENT, "org_id": ORG}
    with Folder(str(world.folder)) as folder, queue_file.Queue(folder) as queue:
        for number in range(count):
            metrics = EXECUTION | {"hook_type": hook_type, "duration_ms": number}
            queue.lines.append(events.line(events.build("hook_execution", metrics, common, events.now_stamp())))
        queue.save()


def send_all(world: World, most: int = 60) -> None:
    """Send as time goes by, until nothing is left."""
    for _ in range(most):
        if not send(world).left:
            return
        world.let_time_pass(LATER)
    raise AssertionError(world.state())


def refused_entries(world: World) -> list[dict[str, Any]]:
    with Folder(str(world.folder)) as folder:
        return refusals.load(folder)[0]


def test_events_go_in_batches_of_fifty_with_key_and_format(inside: World, receiver: Receiver) -> None:
    queue_executions(inside, 120)
    ids = inside.ids()
    inside.target(receiver.url)
    report = send(inside)
    assert (report.sent, report.left, report.stopped) == (120, 0, "")
    assert receiver.batches == [50, 50, 20]
    assert list(receiver.stored) == ids
    method, path, headers, body = receiver.requests[0]
    assert (method, path, headers["authorization"]) == ("POST", "/api/v1/telemetry", f"Bearer {KEY}")
    assert headers["content-type"] == "application/json"
    first = json.loads(body)[0]
    assert set(first) == {"event_type", "payload"}
    assert first["payload"]["event_id"] == ids[0]
    assert first["payload"]["timestamp"].endswith("Z")


def test_show_prints_exactly_what_is_sent_next(inside: World, receiver: Receiver) -> None:
    queue_executions(inside, 60)
    inside.target(receiver.url)
    shown = inside.opskpi("hook", "show").stdout.splitlines()
    requests = json.loads(inside.opskpi("hook", "show", "--json").stdout)
    assert [request["body"] for request in requests] == shown
    assert requests[0]["url"] == f"{receiver.url}/api/v1/telemetry"
    send(inside)
    assert [body.decode() for method, _, _, body in receiver.requests if method == "POST"] == shown


def test_an_answer_that_is_lost_after_storing_makes_no_duplicate(inside: World, receiver: Receiver) -> None:
    queue_executions(inside, 60)
    ids = inside.ids()
    inside.target(receiver.url)
    receiver.plan = ["lose", "lose", None, "lose"]
    send_all(inside)
    assert list(receiver.stored) == ids
    assert receiver.repeated == 50 + 50 + 10


@pytest.mark.parametrize(
    "answer", [500, 503, 408, (429, {"Retry-After": "7"}), (503, {"Retry-After": "Wed, 21 Oct 2099 07:28:00 GMT"})]
)
def test_a_storm_of_failures_ends_with_every_event_stored_once(inside: World, receiver: Receiver, answer: Any) -> None:
    queue_executions(inside, 30)
    ids = inside.ids()
    inside.target(receiver.url)
    receiver.plan = [answer] * 7
    for _ in range(7):
        report = send(inside)
        assert (report.stopped, report.left) == ("retry", 30)
        inside.let_time_pass(100_000)
    send_all(inside)
    assert (list(receiver.stored), receiver.repeated) == (ids, 0)


def test_each_failure_waits_longer_and_not_all_wait_the_same(inside: World, receiver: Receiver) -> None:
    queue_executions(inside)
    inside.target(receiver.url)
    receiver.always = 500
    waits = []
    for _ in range(6):
        send(inside)
        waits.append(inside.state()["next_try_at"] - time.time())
        inside.let_time_pass(LATER)
    for wait, longest in zip(waits, (30, 60, 120, 240, 300, 300), strict=True):
        assert longest / 2 - 2 <= wait <= longest
    assert len({wait - round(wait) for wait in waits}) > 1


def test_retry_after_is_a_minimum_that_every_process_remembers(inside: World, receiver: Receiver) -> None:
    queue_executions(inside)
    inside.target(receiver.url)
    receiver.always = (429, {"Retry-After": "120"})
    assert send(inside).stopped == "retry"
    assert 115 < inside.state()["not_before"] - time.time() <= 120
    asked = len(receiver.requests)
    assert send(inside).reason == "the other side asked to wait"
    flushed = inside.opskpi("hook", "flush")
    assert flushed.returncode == 75
    assert len(receiver.requests) == asked


@pytest.mark.parametrize("status", [401, 402, 403, 404, 405, 407, 410, 415, 418, 451, 301, 302, 307, 308])
def test_what_no_repetition_helps_keeps_the_events_and_pauses(inside: World, receiver: Receiver, status: int) -> None:
    queue_executions(inside, 3)
    ids = inside.ids()
    inside.target(receiver.url)
    receiver.always = (status, {"Location": "http://127.0.0.1:1/elsewhere"})
    report = send(inside)
    assert (report.stopped, report.left, inside.ids()) == ("paused", 3, ids)
    assert f"answered {status}" in report.reason
    asked = len(receiver.requests)
    assert sender.run(str(inside.folder), foreground=False).left == 3
    assert len(receiver.requests) == asked == 1
    receiver.always = None
    inside.let_time_pass(3700)
    assert sender.run(str(inside.folder), foreground=False).left == 0
    assert list(receiver.stored) == ids


def test_a_new_key_ends_a_pause_at_once(inside: World, receiver: Receiver, monkeypatch: pytest.MonkeyPatch) -> None:
    queue_executions(inside)
    inside.target(receiver.url)
    receiver.plan = [401]
    send(inside)
    monkeypatch.setenv("OPSKPI_API_KEY", "a-new-key")
    sender.run(str(inside.folder), foreground=False)
    assert len(receiver.stored) == 1


def test_a_pause_warns_once_in_the_status_and_never_in_a_hook(inside: World, receiver: Receiver) -> None:
    queue_executions(inside)
    inside.target(receiver.url)
    receiver.always = 401
    send(inside)
    assert inside.wrap("true").stderr == ""
    first, second = inside.opskpi("hook", "status"), inside.opskpi("hook", "status")
    assert "nothing is sent for now: answered 401" in first.stderr
    assert second.stderr == ""
    assert "paused until" in first.stdout
    assert "paused until" in second.stdout


def test_a_pause_is_told_once_to_who_sits_at_a_terminal(inside: World, receiver: Receiver) -> None:
    queue_executions(inside)
    inside.target(receiver.url)
    receiver.always = 401
    send(inside)
    said = []
    for _ in range(2):
        ours, theirs = os.openpty()
        inside.run(
            sys.executable,
            "-m",
            "opskpi",
            "hook",
            "policy",
            capture_output=False,
            stdout=subprocess.PIPE,
            stderr=theirs,
        )
        os.close(theirs)
        with open(ours, "rb", buffering=0) as terminal, suppress(OSError):  # noqa: PTH123
            said.append(terminal.read(1000))
    assert [b"answered 401" in text for text in said] == [True]


def test_a_redirect_to_another_host_is_not_followed(inside: World, receiver: Receiver) -> None:
    queue_executions(inside)
    with closing(socket.create_server(("127.0.0.1", 0))) as elsewhere:
        elsewhere.settimeout(0.2)
        inside.target(receiver.url)
        receiver.plan = [(307, {"Location": f"http://localhost:{elsewhere.getsockname()[1]}/"})]
        assert "redirects are not followed" in send(inside).reason
        with pytest.raises(TimeoutError):
            elsewhere.accept()


def test_a_refused_event_is_set_aside_with_the_reason_and_the_rest_arrives(inside: World, receiver: Receiver) -> None:
    queue_executions(inside, 2)
    queue_executions(inside, 1, hook_type="bad")
    queue_executions(inside, 2)
    inside.target(receiver.url)
    report = send(inside)
    assert (report.sent, report.refused, report.left) == (4, 1, 0)
    [event] = refused_entries(inside)
    assert (event["refused"]["field"], event["refused"]["reason"]) == ("hook_type", "is bad")
    assert (inside.folder / refusals.NAME).stat().st_mode & 0o777 == 0o600


def test_a_batch_refused_as_a_whole_is_halved_until_the_event_at_fault_is_found(
    inside: World, receiver: Receiver
) -> None:
    queue_executions(inside, 17)
    queue_executions(inside, 1, hook_type="poison")
    queue_executions(inside, 32)
    good = [metrics["event_id"] for metrics in inside.metrics() if metrics["hook_type"] != "poison"]
    inside.target(receiver.url)
    send_all(inside)
    assert sorted(receiver.stored) == sorted(good)
    assert receiver.repeated == 0
    [event] = refused_entries(inside)
    assert event["metrics"]["hook_type"] == "poison"
    assert event["refused"]["reason"] == f"answered 422 {HTTPStatus(422).phrase}: an event is poison"


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"OK",
        b"[]",
        b"{}",
        b'{"accepted": 1}',
        b'{"accepted": 9, "duplicate": 0, "refused": []}',
        b'{"accepted": 0, "duplicate": 0, "refused": [{"index": 5}]}',
        b'{"accepted": true, "duplicate": 0, "refused": []}',
        b"[" * 100_000,
        b"x" * (2 << 20),
    ],
    ids=range(10),
)
def test_an_answer_that_is_not_the_hubs_counts_as_not_delivered(inside: World, receiver: Receiver, body: bytes) -> None:
    queue_executions(inside)
    inside.target(receiver.url)
    receiver.plan = [body]
    report = send(inside)
    assert (report.stopped, report.left) == ("retry", 1)
    inside.let_time_pass(LATER)
    send_all(inside)
    assert len(receiver.stored) == 1


def test_nothing_is_ever_compressed(inside: World, receiver: Receiver) -> None:
    queue_executions(inside, 50)
    inside.target(receiver.url)
    send(inside)
    for _, _, headers, _ in receiver.requests:
        assert "content-encoding" not in headers
        assert headers["accept-encoding"] == "identity"


def test_ten_requests_a_minute_whoever_makes_them(inside: World, receiver: Receiver) -> None:
    queue_executions(inside, 600)
    inside.target(receiver.url)
    assert send(inside).stopped == "limit"
    flushed = inside.opskpi("hook", "flush")
    assert flushed.returncode == 75
    assert "try again in" in flushed.stderr
    assert len(receiver.requests) == 10
    inside.let_time_pass(61)
    send_all(inside)
    assert len(receiver.stored) == 600


def test_eight_hundred_events_of_eight_processes_are_stored_exactly_once(inside: World, receiver: Receiver) -> None:
    many = "from opskpi.hooks import record; [record('hook_execution', hook_type='x', result='allowed', duration_ms=n) for n in range(100)]"
    together = [subprocess.Popen([sys.executable, "-c", many], cwd=inside.repo, env=inside.env) for _ in range(8)]
    assert [process.wait(PATIENCE_S) for process in together] == [0] * 8
    with Folder(str(inside.folder)) as folder, queue_file.Queue(folder) as queue:
        queue.save()
    assert len(set(inside.ids())) == len(inside.ids()) == 800
    inside.target(receiver.url)
    send_all(inside)
    assert (len(receiver.stored), receiver.repeated) == (800, 0)


def test_events_recorded_while_others_are_sent_stay_queued_or_go_along(inside: World, receiver: Receiver) -> None:
    inside.target(receiver.url)
    recording_process = subprocess.Popen(
        [
            sys.executable,
            "-c",
            "from opskpi.hooks import record\nfor n in range(150): record('hook_execution', hook_type='x', result='allowed', duration_ms=n)",
        ],
        cwd=inside.repo,
        env=inside.env,
    )
    while recording_process.poll() is None:
        send(inside)
        inside.let_time_pass(LATER)

    def all_are_stored() -> bool:
        send(inside)
        inside.let_time_pass(LATER)
        return len(receiver.stored) >= 150

    eventually(all_are_stored)
    assert sorted(event["payload"]["duration_ms"] for event in receiver.stored.values()) == list(range(150))


def test_the_first_event_after_five_minutes_starts_the_sender(world: World, receiver: Receiver) -> None:
    world.target(receiver.url)
    world.wrap("true")
    await_stored(receiver, 1)
    world.await_quiet()
    world.wrap("true")
    assert len(world.queued()) == 1
    world.let_time_pass(301)
    world.wrap("true")
    await_stored(receiver, 3)


def test_the_hundredth_event_starts_the_sender(inside: World, receiver: Receiver) -> None:
    queue_executions(inside, 98)
    inside.target(receiver.url)
    (inside.folder / "telemetry-state.json").write_text(json.dumps({"last_try_at": time.time()}))
    inside.wrap("true")
    assert receiver.stored == {}
    inside.wrap("true")
    await_stored(receiver, 100)


def test_a_process_that_lived_long_sends_when_it_ends(world: World, receiver: Receiver) -> None:
    world.target(receiver.url)
    (world.folder / "telemetry-state.json").write_text(json.dumps({"last_try_at": time.time()}))
    script = (
        "import opskpi.hooks.starting as r; from opskpi.hooks import record; r.LONG_LIVED_S = {};"
        "record('hook_execution', hook_type='x', result='allowed', duration_ms=1)"
    )
    world.python(script.format(60))
    assert receiver.stored == {}
    world.python(script.format(0))
    await_stored(receiver, 2)


def test_no_sender_is_started_while_it_has_to_wait(world: World, receiver: Receiver) -> None:
    world.target(receiver.url)
    now = time.time()
    (world.folder / "telemetry-state.json").write_text(json.dumps({"next_try_at": now + 200, "last_try_at": now - 400}))
    world.wrap("true")
    assert schedule.must_wait(world.state(), {}, now)
    # A wait longer than any of ours is from a clock that was wrong.
    assert not schedule.must_wait({"next_try_at": now + 86400}, {}, now)
    assert not schedule.must_wait({"pause": {"until": now + 86400}}, {}, now)
    assert receiver.requests == []


def test_a_hook_does_not_wait_for_an_endpoint_that_never_answers(world: World, receiver: Receiver) -> None:
    receiver.always = "silence"
    world.target(receiver.url)
    answer = world.wrap("sh", "-c", "exit 3")
    assert answer.returncode == 3
    eventually(lambda: receiver.requests)
    # The command is back although the request is still open, and the pipes of the hook are not held by who sends.
    assert len(world.queued()) == 1
    receiver.over.set()
    world.await_quiet()


@pytest.mark.parametrize("kind", ["hub", "supabase"])
@pytest.mark.parametrize("behaviour", ["silence", "drip"])
def test_an_answer_that_does_not_come_in_time_leaves_the_events_where_they_are(
    inside: World, receiver: Receiver, behaviour: str, kind: str
) -> None:
    queue_executions(inside, 2)
    inside.target(receiver.url, kind)
    receiver.always = behaviour
    assert requests.DEADLINE_S == 5
    told = ended_early(inside, "pass")
    assert (told["stopped"], told["reason"], told["left"]) == ("retry", "no answer in time", 2)


def test_a_name_look_up_that_hangs_keeps_neither_the_sender_nor_the_events(inside: World) -> None:
    queue_executions(inside, 2)
    inside.target("http://hub.example.com")
    told = ended_early(inside, "socket.getaddrinfo = lambda *_, **__: time.sleep(60)")
    assert (told["stopped"], told["reason"], told["left"]) == ("retry", "no answer in time", 2)


def ended_early(world: World, change: str) -> dict[str, Any]:
    """Send with a deadline of half a second, in a process of its own, which has to end for this to return."""
    script = (
        f"import socket, sys, time; from opskpi.hooks import requests, sender; {change};"
        "requests.DEADLINE_S = 0.5; sender.main([sys.argv[1], '--foreground'])"
    )
    return json.loads(world.python(script, world.folder).stdout)


def test_requests_noted_by_a_clock_that_was_ahead_stop_nobody(inside: World, receiver: Receiver) -> None:
    queue_executions(inside)
    inside.target(receiver.url)
    ahead = time.time() + 86400
    state = {"requests": [ahead] * 10, "next_try_at": ahead, "last_try_at": ahead, "policy_tried_at": ahead}
    (inside.folder / "telemetry-state.json").write_text(json.dumps(state))
    assert sender.run(str(inside.folder), foreground=False).left == 0
    assert len(receiver.stored) == 1


@pytest.mark.parametrize("url", ["http://127.0.0.1:1", "http://no-such-host.invalid", "https://127.0.0.1:1"])
def test_a_hub_that_cannot_be_reached_is_exit_75_and_the_events_stay(inside: World, url: str) -> None:
    queue_executions(inside)
    inside.target(url)
    answer = inside.opskpi("hook", "flush")
    assert answer.returncode == 75
    assert "1 events are still queued" in answer.stderr
    assert "Traceback" not in answer.stderr
    assert len(inside.queued()) == 1


def test_flush_beside_another_sender_is_exit_75(inside: World, receiver: Receiver) -> None:
    queue_executions(inside)
    inside.target(receiver.url)
    with Folder(str(inside.folder)) as folder:
        lock = folder.lock(sender.LOCK, 0)
        assert lock is not None
        answer = inside.opskpi("hook", "flush")
        folder.unlock(lock)
    assert (answer.returncode, answer.stderr.splitlines()[0]) == (75, "opskpi: another process is sending")


def test_one_sender_at_a_time(inside: World, receiver: Receiver) -> None:
    queue_executions(inside)
    inside.target(receiver.url)
    with Folder(str(inside.folder)) as folder:
        lock = folder.lock(sender.LOCK, 0)
        assert lock is not None
        assert send(inside).stopped == "busy"
        folder.unlock(lock)
    assert send(inside).left == 0


def test_without_a_key_nothing_is_sent_and_the_message_says_where_it_goes(
    inside: World, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("OPSKPI_API_KEY")
    queue_executions(inside)
    inside.target(receiver.url)
    assert "OPSKPI_API_KEY" in send(inside).reason
    key = inside.home / "key"
    key.write_text("from-a-file\n")
    assert inside.opskpi("hook", "install", "--key-file", key, env={"OPSKPI_API_KEY": ""}).returncode == 0
    send(inside)
    assert receiver.requests[-1][2]["authorization"] == "Bearer from-a-file"
    assert "from-a-file" not in (inside.folder / "settings.json").read_text()


def test_switched_off_nothing_is_sent(inside: World, receiver: Receiver) -> None:
    queue_executions(inside)
    inside.target(receiver.url)
    inside.opskpi("hook", "flush", env={"DO_NOT_TRACK": "1"})
    assert receiver.requests == []
    assert len(inside.queued()) == 1


def test_supabase_gets_the_same_events_through_its_own_library(inside: World, receiver: Receiver) -> None:
    queue_executions(inside, 3)
    queue_executions(inside, 1, hook_type="bad")
    inside.target(receiver.url, "supabase")
    shown = inside.opskpi("hook", "show").stdout.strip()
    flushed = inside.opskpi("hook", "flush")
    assert flushed.returncode == 0, flushed.stderr
    assert "3 events sent, 0 were there already, 1 refused" in flushed.stdout
    method, path, headers, body = receiver.requests[0]
    assert (method, path, headers["apikey"]) == ("POST", "/rest/v1/rpc/ingest_events", KEY)
    assert json.loads(body) == json.loads(shown)
    assert len(receiver.stored) == 3


@pytest.mark.parametrize(
    ("answer", "code"),
    [((429, {"Retry-After": "9"}), 75), (500, 75), (401, 78), ((307, {"Location": "http://127.0.0.1:1/"}), 78)],
)
def test_supabase_answers_are_judged_by_status_and_headers_too(
    inside: World, receiver: Receiver, answer: Any, code: int
) -> None:
    queue_executions(inside)
    inside.target(receiver.url, "supabase")
    receiver.always = answer
    flushed = inside.opskpi("hook", "flush")
    assert (flushed.returncode, len(inside.queued())) == (code, 1)
    if code == 75 and answer != 500:
        assert "answered 429 Too Many Requests: told to answer" in flushed.stderr
        assert 5 < inside.state()["not_before"] - time.time() <= 9


def test_without_the_library_the_message_says_what_to_install(inside: World, receiver: Receiver) -> None:
    queue_executions(inside)
    inside.target(receiver.url, "supabase")
    script = "import sys; sys.modules['supabase'] = None; from opskpi.hooks import sender; print(sender.run(sys.argv[1], foreground=True).reason)"
    assert "pip install 'opskpi[supabase]'" in inside.python(script, inside.folder).stdout
    assert len(inside.queued()) == 1


def test_the_sender_leaves_terminal_folder_and_open_files_behind(world: World, receiver: Receiver) -> None:
    receiver.always = "silence"
    world.target(receiver.url)
    shell = 'exec 7>&1; exec "$@"'
    command = [sys.executable, "-I", "-S", starting.ENTRY, "wrap", "pre-commit", "sh", "-c", "exit 3"]
    assert world.run("sh", "-c", shell, "sh", *command).returncode == 3
    # `run` returns when every copy of the pipe is closed; the sender is found below, since the request goes on.
    eventually(lambda: receiver.requests)
    [found] = world.senders()
    assert Path(f"/proc/{found}/cwd").readlink() == Path("/")
    assert os.getsid(found) == found
    assert {Path(f"/proc/{found}/fd/{number}").readlink() for number in (0, 1, 2)} == {Path(os.devnull)}
    os.kill(found, signal.SIGKILL)


def await_stored(receiver: Receiver, count: int) -> None:
    eventually(lambda: len(receiver.stored) >= count)
    assert len(receiver.stored) == count


def test_the_body_is_what_the_ingest_function_takes() -> None:
    event = {"event": "hook_execution", "timestamp": "2026-01-05T10:00:00.000Z", "metrics": {"org_id": ORG}}
    sent = {"event_type": "hook_execution", "payload": {"org_id": ORG, "timestamp": "2026-01-05T10:00:00.000Z"}}
    assert json.loads(targets.body(targets.Target("hub", "http://h", None), [event])) == [sent]
    assert json.loads(targets.body(targets.Target("supabase", "http://h", None), [event])) == {"events": [sent]}
