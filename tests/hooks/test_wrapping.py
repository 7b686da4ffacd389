"""Running a hook: nothing about it changes, and what became of it is in the queue before it returns."""

import json
import os
import pty
import select
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from support.hook_world import AGENT, ENTRY, World, install
from support.patience import PATIENCE_S

LIGHT = "import sys; sys.path.insert(0, sys.argv[1]); {}; print(*sys.modules)"
HEAVY = {"psycopg", "click", "httpx", "supabase", "rich", "yaml", "json", "re", "enum", "subprocess", "typing"}


@pytest.mark.parametrize("code", [0, 1, 3, 126, 127, 255])
def test_the_exit_code_is_the_commands(world: World, code: int) -> None:
    assert world.wrap("sh", "-c", f"exit {code}").returncode == code
    result = "failed" if code in {126, 127} else "blocked" if code else "allowed"
    assert world.metrics()[0]["result"] == result


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL, signal.SIGSEGV, signal.SIGPIPE, signal.SIGINT])
def test_a_command_that_a_signal_ends_ends_the_wrapper_by_the_same(world: World, number: signal.Signals) -> None:
    assert world.wrap("sh", "-c", f"kill -{number.value} $$").returncode == -number
    is_asked = number in {signal.SIGTERM, signal.SIGINT}
    assert world.metrics()[0]["result"] == ("interrupted" if is_asked else "failed")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2])
def test_a_signal_sent_to_the_wrapper_reaches_the_command(world: World, number: signal.Signals) -> None:
    script = f"trap 'echo got; exit 9' {number.value}; echo ready; while :; do sleep 0.01; done"
    command = [sys.executable, "-I", "-S", str(ENTRY), "wrap", "pre-commit", "sh", "-c", script]
    with subprocess.Popen(command, cwd=world.repo, env=world.env, stdout=subprocess.PIPE, text=True) as wrapper:
        assert wrapper.stdout is not None
        assert wrapper.stdout.readline() == "ready\n"
        wrapper.send_signal(number)
        assert wrapper.stdout.read() == "got\n"
        assert wrapper.wait(PATIENCE_S) == 9
    is_asked = number in {signal.SIGTERM, signal.SIGHUP}
    assert world.metrics()[0]["result"] == ("interrupted" if is_asked else "blocked")


def read_until(terminal: int, text: bytes) -> bytes:
    seen = b""
    while text not in seen:
        assert select.select([terminal], [], [], PATIENCE_S)[0], seen
        seen += os.read(terminal, 100)
    return seen


def test_an_interrupt_from_the_terminal_is_the_commands_to_answer(world: World) -> None:
    script = "trap 'echo got; exit 4' INT; echo ready; while :; do sleep 0.01; done"
    child, terminal = pty.fork()
    if child == 0:
        os.chdir(world.repo)
        os.execve(  # noqa: S606
            sys.executable,
            [sys.executable, "-I", "-S", str(ENTRY), "wrap", "pre-commit", "sh", "-c", script],
            world.env,
        )
    seen = read_until(terminal, b"ready")
    os.write(terminal, b"\x03")
    seen += read_until(terminal, b"got")
    _, status = os.waitpid(child, 0)
    os.close(terminal)
    assert os.waitstatus_to_exitcode(status) == 4
    assert b"Traceback" not in seen
    assert world.metrics()[0]["result"] == "interrupted"


def test_ctrl_c_during_a_commit_is_recorded_as_interrupted(world: World) -> None:
    world.add_hook("pre-commit", "#!/bin/sh\necho ready\nsleep 30\n")
    install(world)
    child, terminal = pty.fork()
    if child == 0:
        os.chdir(world.repo)
        os.execvpe("git", ["git", "commit", "--allow-empty", "-m", "x"], world.env)  # noqa: S606
    read_until(terminal, b"ready")
    os.write(terminal, b"\x03")
    os.waitpid(child, 0)
    world.await_events(1, "hook_execution")
    os.close(terminal)
    assert world.metrics()[0]["result"] == "interrupted"


@pytest.mark.parametrize("script", ["kill -INT $$", "exit 130", "exit 143"])
def test_a_hook_that_ends_as_shells_do_after_ctrl_c_was_interrupted(world: World, script: str) -> None:
    world.wrap("sh", "-c", script)
    assert world.metrics()[0]["result"] == "interrupted"


def test_a_hook_that_goes_on_after_ctrl_c_and_passes_has_allowed(world: World) -> None:
    script = "trap : INT; kill -INT $PPID; sleep 0.1; exit 0"
    assert world.wrap("sh", "-c", script).returncode == 0
    assert world.metrics()[0]["result"] == "allowed"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("#!/bin/sh\r\nexit 0\r\n", "fatal: cannot run .git/hooks/pre-commit: No such file or directory\n"),
        ("#!/no/such/interpreter\n", "fatal: cannot run .git/hooks/pre-commit: No such file or directory\n"),
        ("#!/tmp\n", "fatal: cannot exec '.git/hooks/pre-commit': Permission denied\n"),
    ],
)
def test_a_hook_that_git_cannot_start_is_refused_in_gits_words_and_recorded_as_failed(
    world: World, text: str, said: str
) -> None:
    (world.add_hook("pre-commit", "")).write_bytes(text.encode())
    plain = world.commit()
    install(world)
    wrapped = world.commit()
    assert (wrapped.returncode, wrapped.stderr, wrapped.stdout) == (plain.returncode, plain.stderr, plain.stdout)
    assert (plain.returncode, plain.stderr) == (1, said)
    assert [metrics["result"] for metrics in world.metrics()] == ["failed"]


def test_standard_input_output_and_error_go_through_byte_for_byte(world: World) -> None:
    content = bytes(range(256)) * 1000
    answer = world.wrap("sh", "-c", "cat; printf err >&2", input=content, encoding=None)
    assert (answer.stdout, answer.stderr) == (content, b"err")


def test_the_command_keeps_arguments_folder_and_closed_input(world: World) -> None:
    answer = world.wrap("sh", "-c", 'printf "%s|" "$@"; pwd; read -r x || echo closed', "0", "a b", "", "ü*")
    assert answer.stdout == f"a b||ü*|{world.repo}\nclosed\n"


def test_the_command_is_not_left_with_the_signals_that_python_ignores(world: World) -> None:
    answer = world.wrap("sh", "-c", "grep SigIgn /proc/self/status")
    # The two after the 31 that have names are the C library's own.
    assert int(answer.stdout.split()[1], 16) & 0x7FFFFFFF == 0


def test_a_command_that_is_not_there_is_127_and_one_that_cannot_run_is_126(world: World) -> None:
    (world.repo / "plain").write_text("text")
    missing, forbidden = world.wrap("no-such-command"), world.wrap("./plain")
    assert (missing.returncode, forbidden.returncode) == (127, 126)
    assert missing.stderr == "opskpi: no-such-command: not found\n"
    assert [metrics["result"] for metrics in world.metrics()] == ["failed", "failed"]


def test_a_script_without_an_interpreter_line_runs_as_in_a_shell(world: World) -> None:
    script = world.repo / "script"
    script.write_text('echo "$1"\nexit 5\n')
    script.chmod(0o755)
    answer = world.wrap("./script", "x")
    assert (answer.returncode, answer.stdout) == (5, "x\n")


def test_what_is_recorded_is_what_the_format_says(world: World) -> None:
    world.wrap("sh", "-c", "sleep 0.05")
    [event] = world.queued()
    assert set(event) == {"event", "timestamp", "metrics"}
    assert event["event"] == "hook_execution"
    metrics = event["metrics"]
    assert 50 <= metrics.pop("duration_ms") < 5000
    assert len(metrics.pop("event_id")) == 36
    assert metrics == {
        "agent_id": AGENT,
        "org_id": "00000000-0000-0000-0000-000000000000",
        "hook_type": "pre-commit",
        "result": "allowed",
        "findings_summary": {"total": 0},
    }


def test_the_hooks_report_is_recorded_and_its_file_goes_away(world: World) -> None:
    report = {
        "result": "overridden",
        "findings_summary": {
            "total": 3,
            "by_severity": {"high": 1, "low": 2},
            "pattern": "AWS",
            "patterns": ["AWS", "JWT"],
        },
        "user_actions": ["skipped"],
        "override_reason": "hotfix for ann@example.com",
        "path": "/home/ann",
    }
    answer = world.wrap("sh", "-c", 'cat >"$OPSKPI_HOOK_REPORT"; echo "$OPSKPI_HOOK_REPORT"', input=json.dumps(report))
    [metrics] = world.metrics()
    assert {key: metrics[key] for key in ("result", "findings_summary", "user_actions", "override_reason")} == {
        **{key: report[key] for key in ("result", "findings_summary", "user_actions")},
        "override_reason": "hotfix for [email]",
    }
    assert "path" not in metrics
    assert not Path(answer.stdout.strip()).parent.exists()
    assert list((world.home / "tmp").iterdir()) == []


@pytest.mark.parametrize("report", ["nonsense", "[]", '{"result": "perhaps"}', '{"findings_summary": 3}', "{" * 5000])
def test_a_malformed_report_is_ignored_and_counted(world: World, report: str) -> None:
    assert world.wrap("sh", "-c", 'cat >"$OPSKPI_HOOK_REPORT"; exit 2', input=report).returncode == 2
    assert [metrics["result"] for metrics in world.metrics()] == ["blocked"]
    assert world.queue()["dropped"] == {"malformed_report": 1}


@pytest.mark.parametrize("switch", [{"DO_NOT_TRACK": "1"}, {"DO_NOT_TRACK": "yes"}, {"OPSKPI_TELEMETRY": "0"}])
def test_who_does_not_want_to_be_recorded_is_not(world: World, switch: dict[str, str]) -> None:
    world.target("http://127.0.0.1:1")
    answer = world.wrap("sh", "-c", 'echo "x$OPSKPI_HOOK_REPORT"; exit 3', env=switch)
    assert (answer.returncode, answer.stdout) == (3, "x\n")
    world.python("import opskpi.hooks; opskpi.hooks.record('hook_override')", env=switch)
    assert not (world.folder / "telemetry-queue.json").exists()


def test_do_not_track_0_is_no_wish(world: World) -> None:
    world.wrap("true", env={"DO_NOT_TRACK": "0", "OPSKPI_TELEMETRY": "1"})
    assert len(world.queued()) == 1


@pytest.mark.parametrize(
    "statement",
    [
        "import opskpi.hooks",
        "import opskpi.hooks; assert opskpi.hooks.record('hook_execution', hook_type='pre-commit', result='allowed', duration_ms=1)",
        "import opskpi.hooks; assert opskpi.hooks.wrap('pre-commit', ['sh', '-c', 'exit 3']) == 3",
    ],
)
def test_recording_imports_only_a_little_of_the_standard_library(world: World, statement: str) -> None:
    answer = world.run(sys.executable, "-I", "-S", "-c", LIGHT.format(statement), Path(ENTRY).parents[2])
    assert answer.returncode == 0, answer.stderr
    loaded = set(answer.stdout.split())
    assert "opskpi.hooks" in loaded
    # atexit is the only one that `record` adds for itself, for processes that live long.
    assert not loaded & HEAVY


def test_the_command_line_takes_the_short_way(world: World) -> None:
    shown = "import sys, atexit, opskpi.__main__ as m, opskpi.hooks.wrapping as w;" + (
        "w._die_by = print; sys.argv = ['opskpi', *sys.argv[1:]];"
        "w.os._exit = lambda code: (print(code, *sys.modules), sys.exit(0)); m.main()"
    )
    for words in (["--hook-type", "pre-commit"], ["--hook-type=pre-commit"]):
        answer = world.python(shown, "hook", "wrap", *words, "--", "sh", "-c", "exit 6")
        code, *loaded = answer.stdout.split()
        assert code == "6", answer.stderr
        assert not set(loaded) & {"click", "psycopg", "httpx", "rich"}
    assert len(world.queued()) == 2


def test_hook_wrap_runs_a_command_with_options_of_its_own(world: World) -> None:
    words = ("hook", "wrap", "--json", "--hook-type", "pre-push", "--", "sh", "-c", "cat; exit 5")
    answer = world.run(sys.executable, "-m", "opskpi", *words, input="in")
    assert (answer.returncode, answer.stdout) == (5, "in")
    assert world.metrics()[0]["hook_type"] == "pre-push"


def test_the_agent_is_the_same_whoever_makes_its_id_first(world: World) -> None:
    del world.env["OPSKPI_HOOK_AGENT_ID"]
    record = "from opskpi.hooks import record; record('hook_execution', hook_type='x', result='allowed', duration_ms=1)"
    together = [subprocess.Popen([sys.executable, "-c", record], cwd=world.repo, env=world.env) for _ in range(6)]
    assert [process.wait(PATIENCE_S) for process in together] == [0] * 6
    assert len({metrics["agent_id"] for metrics in world.metrics()}) == 1
    kept = world.home / "data" / "opskpi"
    assert [path.name for path in kept.iterdir()] == ["agent-id"]


def test_a_home_that_cannot_be_written_still_gives_one_agent(world: World) -> None:
    del world.env["OPSKPI_HOOK_AGENT_ID"]
    (world.home / "data").write_text("in the way")
    world.wrap("true")
    world.wrap("true")
    assert len({metrics["agent_id"] for metrics in world.metrics()}) == 1


def test_the_duration_is_the_commands_not_ours(world: World) -> None:
    started = time.monotonic()
    world.wrap("true")
    assert world.metrics()[0]["duration_ms"] < (time.monotonic() - started) * 1000


def test_what_a_command_puts_beside_its_report_goes_away_with_it(world: World) -> None:
    script = 'folder=${OPSKPI_HOOK_REPORT%/*}; mkdir -p "$folder/a/b"; echo x >"$folder/a/b/c"; ln -s / "$folder/root"'
    assert world.wrap("sh", "-c", script).returncode == 0
    assert list((world.home / "tmp").iterdir()) == []


def test_a_link_in_place_of_the_folder_of_a_report_leads_to_no_loss(world: World) -> None:
    precious = world.home / "precious" / "report.json"
    precious.parent.mkdir()
    precious.write_text("{}")
    script = f'folder=${{OPSKPI_HOOK_REPORT%/*}}; rmdir "$folder"; ln -s "{precious.parent}" "$folder"'
    assert world.wrap("sh", "-c", script).returncode == 0
    assert precious.exists()
    assert list((world.home / "tmp").iterdir()) == []
