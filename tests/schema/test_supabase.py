"""What Supabase's own command line makes of the migrations; it reaches the tests' server over TCP, without Docker."""

import json
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import psycopg
import pytest
from psycopg import sql

from opskpi.postgres import connecting, history, migrations
from support.fixtures import CreateDatabase
from support.migrated import (
    OLD_AUDITS,
    OLD_ROWS,
    SNAPSHOT,
    all_shipped,
    migration_history,
    schema_without_own_relations,
)
from support.patience import PATIENCE_S
from support.postgres import Database, Server, unavailable

CHECKOUT = Path(__file__).resolve().parents[2]
CLI = "supabase@3.1.0"
ADVISE = ["db", "advisors", "--level", "warn", "--fail-on", "warn", "-o", "json"]

Supabase = Callable[..., subprocess.CompletedProcess[str]]


@dataclass(frozen=True, slots=True)
class Pushed:
    """A database that `supabase db push` filled, and what the command said."""

    database: Database
    push: subprocess.CompletedProcess[str]


@pytest.fixture(scope="module")
def workdir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Copy what the command line reads, because it writes `supabase/.temp` beside it."""
    folder = tmp_path_factory.mktemp("supabase")
    for name in ("supabase", "sql"):
        shutil.copytree(CHECKOUT / name, folder / name)
    return folder


@pytest.fixture(scope="module")
def supabase(workdir: Path, tmp_path_factory: pytest.TempPathFactory) -> Supabase:
    """Run the command line: `supabase("db", "push", "--yes", on=database, cwd=…)`."""
    environment = os.environ | {
        "HOME": str(tmp_path_factory.mktemp("home")),
        # npx keeps the 100 MB of the command line where it always does.
        "npm_config_cache": os.environ.get("NPM_CONFIG_CACHE") or str(Path.home() / ".npm"),
        "npm_config_update_notifier": "false",
        "DO_NOT_TRACK": "1",
        "SUPABASE_TELEMETRY_DISABLED": "1",
        "NO_COLOR": "1",
    }

    def run(*arguments: str, on: Database | None = None, cwd: Path = workdir) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["npx", "--yes", CLI, *arguments, *([f"--remote={on.url}"] if on else [])],
            cwd=cwd,
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            encoding="utf-8",
            timeout=PATIENCE_S,
            check=False,
        )

    if shutil.which("npx") is None:
        unavailable("npx is not installed")
    version = run("--version")
    if version.returncode != 0:
        unavailable(f"npx cannot run {CLI}: {version.stderr.strip()}")
    return run


@pytest.fixture(scope="module")
def pushed(server: Server, template: Database, supabase: Supabase) -> Iterator[Pushed]:
    """Push into an empty database once for this file; the template has made the roles that Supabase would have."""
    name = "opskpi_pushed"
    with psycopg.connect(server.dsn("postgres"), autocommit=True) as postgres:
        postgres.execute(sql.SQL("create database {}").format(sql.Identifier(name)))
        database = server.database(name)
        yield Pushed(database, supabase("db", "push", "--yes", on=database))
        postgres.execute(sql.SQL("drop database {} with (force)").format(sql.Identifier(name)))


def test_push_brings_an_empty_database_to_the_schema_that_migrate_makes(
    server: Server, pushed: Pushed, template: Database
) -> None:
    assert pushed.push.returncode == 0, pushed.push.stderr
    assert schema_without_own_relations(server, pushed.database) == schema_without_own_relations(server, template)


def test_push_applies_every_migration_and_warns_of_nothing(pushed: Pushed) -> None:
    said = pushed.push.stdout + pushed.push.stderr
    for migration in history.shipped():
        assert f"Applying migration {migration.version}_{migration.name}.sql..." in said
    assert "warn" not in "\n".join(line for line in said.lower().splitlines() if not line.startswith("npm "))


def test_pushing_again_does_nothing(pushed: Pushed, supabase: Supabase) -> None:
    again = supabase("db", "push", "--yes", on=pushed.database)
    assert (again.returncode, again.stdout.strip()) == (0, "Remote database is up to date.")


def test_after_push_migrate_has_nothing_to_do(pushed: Pushed) -> None:
    with connecting.connect(pushed.database.dsn) as connection:
        history.require_current(connection)
        assert migrations.migrate(connection) == []


def test_push_goes_on_where_migrate_stopped(
    empty_database: Database, template: Database, supabase: Supabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    shipped = history.shipped()
    half = shipped[: len(shipped) // 2]
    with connecting.connect(empty_database.dsn) as connection:
        with monkeypatch.context() as patched:
            patched.setattr(history, "shipped", lambda: half)
            assert migrations.migrate(connection) == half
        push = supabase("db", "push", "--yes", on=empty_database)
        assert push.returncode == 0, push.stderr
        assert half[-1].name not in push.stdout + push.stderr
        assert [row[:2] for row in migration_history(connection)] == [row[:2] for row in all_shipped()]
        assert migrations.migrate(connection) == []


def test_push_takes_an_old_audit_table_without_losing_a_row(
    server: Server, create_database: CreateDatabase, template: Database, supabase: Supabase
) -> None:
    old = create_database()
    with connecting.connect(old.dsn) as connection:
        connection.execute(OLD_AUDITS)
        before = connection.execute(SNAPSHOT).fetchall()
        push = supabase("db", "push", "--yes", on=old)
        assert push.returncode == 0, push.stderr
        assert len(before) == OLD_ROWS
        assert connection.execute(SNAPSHOT).fetchall() == before
    assert schema_without_own_relations(server, old) == schema_without_own_relations(server, template)


def test_the_advisors_have_nothing_to_say(pushed: Pushed, supabase: Supabase) -> None:
    advice = supabase(*ADVISE, on=pushed.database)
    assert (advice.returncode, advice.stdout.strip()) == (0, ""), advice.stdout
    assert "No issues found" in advice.stderr


def test_the_advisors_would_speak_of_a_careless_table_function_and_view(
    create_database: CreateDatabase, template: Database, supabase: Supabase
) -> None:
    careless = create_database(template)
    with psycopg.connect(careless.dsn) as connection:
        connection.execute(
            "create table public.careless (id bigint primary key);"
            " create view public.careless_view as select id from public.careless;"
            " create function public.careless_call() returns bigint language sql as 'select 1::bigint';"
            " create table public.lax (id bigint primary key, org_id uuid);"
            " alter table public.lax enable row level security;"
            " create policy lax_select on public.lax for select to authenticated"
            "   using (org_id = (current_setting('request.jwt.claims', true)::jsonb ->> 'org_id')::uuid);"
            " grant select on public.careless, public.careless_view, public.lax to anon, authenticated;"
        )
    advice = supabase(*ADVISE, on=careless)
    assert advice.returncode != 0
    assert {
        "rls_disabled_in_public",
        "security_definer_view",
        "function_search_path_mutable",
        "auth_rls_initplan",
    } <= {issue["name"] for issue in json.loads(advice.stdout)}


def test_types_can_be_generated(pushed: Pushed, supabase: Supabase) -> None:
    types = supabase("gen", "types", "--lang", "typescript", on=pushed.database)
    assert types.returncode == 0, types.stderr
    for name in ("telemetry_events", "kpi_aggregations", "slsa_audit_metrics", "v_ops_slo_status", "ingest_events"):
        assert f'"{name}":' in types.stdout


def test_lint_finds_no_fault_in_any_function(server: Server, pushed: Pushed, supabase: Supabase) -> None:
    with psycopg.connect(pushed.database.dsn) as connection:
        available = connection.execute("select name from pg_available_extensions where name = 'plpgsql_check'")
        if available.fetchone() is None:
            reason = "this Postgres has no plpgsql_check; Debian's Postgres 15 has it as a package"
            # Only Debian's build can have it, and CI installs it there.
            unavailable(reason) if server.version == "15" else pytest.skip(reason)
    lint = supabase(
        *("db", "lint", "--level", "warning", "--fail-on", "error", "--schema", "public,ops"), on=pushed.database
    )
    found = json.loads(lint.stdout) if lint.stdout.strip().startswith("[") else []
    assert found == [], lint.stdout
    assert lint.returncode == 0, lint.stderr


def test_config_toml_is_read_and_a_wrong_word_in_it_is_refused(
    pushed: Pushed, supabase: Supabase, tmp_path: Path
) -> None:
    shutil.copytree(CHECKOUT / "supabase", tmp_path / "supabase")
    config = tmp_path / "supabase" / "config.toml"
    written = config.read_text("utf-8")
    config.write_text(written.replace("= false", '= "maybe"').replace('"../sql"', "1"), "utf-8")
    assert config.read_text("utf-8") != written
    push = supabase("db", "push", "--yes", on=pushed.database, cwd=tmp_path)
    assert push.returncode != 0
    assert "supabase/config.toml" in push.stdout + push.stderr


def test_the_command_line_leaves_nothing_that_git_would_keep(pushed: Pushed, workdir: Path) -> None:
    ignored = {"supabase/.temp/", "supabase/.branches/"} & set((CHECKOUT / ".gitignore").read_text("utf-8").split())
    added = {
        file.relative_to(workdir).as_posix()
        for file in workdir.rglob("*")
        if file.is_file() and not (CHECKOUT / file.relative_to(workdir)).exists()
    }
    assert [file for file in added if not file.startswith(tuple(ignored))] == []
