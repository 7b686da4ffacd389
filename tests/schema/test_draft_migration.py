"""The draft of a migration: what changed in `sql/` is drafted or named, and the drift test decides."""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import psycopg
import pytest

from support.draft_migration import HEADER, main
from support.drafting import Draft, draft
from support.drift import SQL, build_from_sql, differences, migrations, rows_of, schema_of
from support.fixtures import CHECKOUT, CreateDatabase
from support.postgres import Database, Server, janitor
from support.sql_statements import statements_of

Edit = Callable[[str], str]

GREETING = """
-- Greets by name, because tests need something new.
create function ops.greeting(name text, greeted_at timestamptz default now())
returns text
language sql
stable
set search_path = ''
begin atomic
  select case when name = '' then 'Hello; whoever' else 'Hello, ' || name end;
end;
comment on function ops.greeting(text, timestamptz) is 'A greeting; it''s friendly.';

create view public.v_ops_greetings with (security_invoker = true) as
select setting.name, ops.greeting(setting.name) as greeting
from ops.settings as setting;
comment on view public.v_ops_greetings is 'One row a setting, greeted.';
comment on column public.v_ops_greetings.greeting is 'The greeting.';

create table ops.guests (
  guest text not null,
  constraint guests_pkey primary key (guest)
);
comment on table ops.guests is 'One row a guest.';
comment on column ops.guests.guest is 'The name.';
alter table ops.guests enable row level security;
create policy guests_select_authenticated on ops.guests for select to authenticated using (true);
"""
GRANTS = """
grant execute on function ops.greeting(text, timestamptz) to authenticated, service_role;
grant select on public.v_ops_greetings, ops.guests to authenticated;
"""
CHANGES: dict[str, Edit] = {
    "10_ground/10_settings.sql": lambda script: script.replace(
        "\n  constraint settings_pkey",
        "\n  -- New ones stand last.\n  unit text,\n"
        "  constraint settings_unit_is_short check (char_length(unit) < 20),\n  constraint settings_pkey",
        1,
    ).replace(
        "comment on column ops.settings.description is",
        "comment on column ops.settings.unit is 'Unit of the value; null without one.';\n"
        "create index settings_unit_idx on ops.settings (unit);\ncomment on column ops.settings.description is",
        1,
    ),
    "10_ground/30_periods.sql": lambda script: script.replace("'7 days'", "'168 hours'"),
    "10_ground/60_greetings.sql": lambda _: GREETING,
    "99_grants.sql": lambda script: script + GRANTS,
    "seeds/settings.sql": lambda script: script.replace("'Time zone in which", "'The zone in which").replace(
        "  ('job_runs_kept'", "  ('greeted', 'it''s', 'Whom to greet.'),\n  ('job_runs_kept'"
    ),
}


def edited(folder: Path, changes: dict[str, Edit]) -> Path:
    """Copy `sql/` into a folder with changes, each of which must change something."""
    shutil.copytree(SQL, folder)
    for name, change in changes.items():
        script = folder / name
        before = script.read_text("utf-8") if script.exists() else ""
        after = change(before)
        assert after != before, name
        script.write_text(after, "utf-8")
    return folder


@pytest.fixture(scope="module")
def described_changes(server: Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Database, Path]]:
    """Build a database from `sql/` with all the changes that can be drafted."""
    folder = edited(tmp_path_factory.mktemp("changed") / "sql", CHANGES)
    with janitor(server, "draft_described"):
        build_from_sql(server.database("draft_described"), folder)
        yield server.database("draft_described"), folder


@pytest.fixture(scope="module")
def drafted_changes(server: Server, template: Database, described_changes: tuple[Database, Path]) -> Iterator[Draft]:
    """Draft them once."""
    database, folder = described_changes
    with janitor(server, "draft_migrated", template=template.name):
        yield draft(server, database, server.database("draft_migrated"), statements_of(folder))


@pytest.fixture
def drafted_from(
    server: Server, create_database: CreateDatabase, template: Database, tmp_path: Path
) -> Callable[[dict[str, Edit]], Draft]:
    """Draft other changes: `drafted_from({"10_ground/30_periods.sql": change})`."""

    def draft_them(changes: dict[str, Edit]) -> Draft:
        folder = edited(tmp_path / "sql", changes)
        database = create_database()
        build_from_sql(database, folder)
        return draft(server, database, create_database(template), statements_of(folder))

    return draft_them


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """Copy what the command reads and writes."""
    for part in ("jobs", "sql", "supabase", "tests/support", "tests/schema"):
        shutil.copytree(CHECKOUT / part, tmp_path / part)
    for part in ("pyproject.toml", "tests/conftest.py"):
        shutil.copy(CHECKOUT / part, tmp_path / part)
    return tmp_path


def command(checkout: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the command in a copy of the checkout."""
    return subprocess.run(
        [sys.executable, "-m", "tests.support.draft_migration", *arguments],
        cwd=checkout,
        env=os.environ | {"PYTHONPATH": str(checkout / "jobs")},
        capture_output=True,
        encoding="utf-8",
        check=False,
    )


def test_a_draft_leads_to_the_database_that_sql_describes(
    server: Server,
    create_database: CreateDatabase,
    template: Database,
    described_changes: tuple[Database, Path],
    drafted_changes: Draft,
) -> None:
    assert drafted_changes.notes == []
    migrated = create_database(template)
    with psycopg.connect(migrated.dsn) as connection:
        connection.execute(drafted_changes.script.encode())
    patch = differences(schema_of(server, described_changes[0]), schema_of(server, migrated))
    assert not patch, patch
    assert rows_of(described_changes[0]) == rows_of(migrated)


def test_a_changed_function_is_replaced_in_the_words_of_sql(drafted_changes: Draft) -> None:
    assert (
        "create or replace function ops.period_start(period text, instant timestamptz, zone text)\n"
        in drafted_changes.script
    )
    assert (
        "  -- date_bin is twice as fast as date_trunc with a zone; 1969-12-29 was a Monday.\n" in drafted_changes.script
    )


def test_what_is_new_comes_with_its_comments_and_closed_to_everybody_first(drafted_changes: Draft) -> None:
    assert (
        "-- Greets by name, because tests need something new.\ncreate function ops.greeting(" in drafted_changes.script
    )
    assert (
        "\nend;\ncomment on function ops.greeting(text, timestamptz) is 'A greeting; it''s friendly.';\n"
        in drafted_changes.script
    )
    assert "create view public.v_ops_greetings with (security_invoker = true) as\n" in drafted_changes.script
    closed, _, guarded = drafted_changes.script.partition("do $$\nbegin\n")
    assert "\nrevoke execute on function ops.greeting from public;\n" in closed
    assert "anon" not in closed
    assert "\n  create policy guests_select_authenticated on ops.guests for select" in guarded
    revoked = guarded.index("\n  revoke execute on function ops.greeting from anon, authenticated, service_role;\n")
    assert revoked < guarded.index("\n  grant execute on function ops.greeting to authenticated, service_role;\n")


def test_a_new_column_comes_with_its_constraint_comment_and_index(drafted_changes: Draft) -> None:
    for expected in (
        "alter table ops.settings add column unit text;\n",
        "alter table ops.settings add constraint settings_unit_is_short check (char_length(unit) < 20);\n",
        "comment on column ops.settings.unit is 'Unit of the value; null without one.';\n",
        "create index settings_unit_idx on ops.settings (unit);\n",
    ):
        assert expected in drafted_changes.script


def test_seeds_leave_alone_what_a_user_has_changed(drafted_changes: Draft) -> None:
    assert (
        "insert into ops.settings (name, value, description)\nvalues\n"
        "  ('greeted', 'it''s', 'Whom to greet.')\non conflict do nothing;"
    ) in drafted_changes.script
    assert (
        "where name = 'time_zone'\n  and description is not distinct from 'Time zone in which" in drafted_changes.script
    )


def test_what_depends_on_a_function_with_other_arguments_is_dropped_and_made_again(
    drafted_from: Callable[[dict[str, Edit]], Draft],
) -> None:
    drafted = drafted_from(
        {
            "10_ground/10_settings.sql": lambda script: script.replace(
                "ops.setting(name text)", "ops.setting(name text, fallback text default null)"
            ).replace("function ops.setting(text)", "function ops.setting(text, text)")
        }
    )
    assert drafted.notes == []
    script = drafted.script
    assert script.index("drop view public.v_ops_slo_status;") < script.index("drop function ops.evaluate_slos;")
    assert script.index("drop function ops.evaluate_slos;") < script.index("drop function ops.setting;")
    assert script.index("create function ops.setting(name text, fallback text default null)") < script.index(
        "create function ops.evaluate_slos("
    )
    assert "comment on column public.v_ops_slo_status.slo_name is" in script
    assert "\n  grant select on public.v_ops_slo_status to authenticated, service_role;" in script


def test_what_is_gone_from_sql_is_dropped_and_a_grant_that_is_gone_is_revoked(
    drafted_from: Callable[[dict[str, Edit]], Draft],
) -> None:
    drafted = drafted_from(
        {
            "90_reading/65_v_ops_job_runs.sql": lambda _: "",
            "99_grants.sql": lambda script: script.replace("  public.v_ops_job_runs,\n", "").replace(
                "grant select on ops.request_counts to authenticated;\n", ""
            ),
        }
    )
    assert drafted.notes == []
    dropped, _, guarded = drafted.script.partition("\n\ndo $$\n")
    assert dropped == "drop view public.v_ops_job_runs;"
    assert "end if;\n  revoke select on ops.request_counts from authenticated;\nend;" in guarded


def test_what_a_draft_cannot_do_is_named(drafted_from: Callable[[dict[str, Edit]], Draft]) -> None:
    drafted = drafted_from(
        {
            "10_ground/10_settings.sql": lambda script: script.replace(
                "\n  value text not null,", "\n  unit text,\n  value text not null,", 1
            ),
            "10_ground/20_callers.sql": lambda script: script.replace(
                "function ops.caller_may(scopes text[])\n",
                "function ops.caller_may(scopes text[], unused text default null)\n",
            ).replace("function ops.caller_may(text[])", "function ops.caller_may(text[], text)"),
            "10_ground/40_job_runs.sql": lambda script: script.replace("  message text,", "  message text not null,"),
        }
    )
    assert drafted.notes == [
        "function ops.caller_may: cannot drop function ops.caller_may(text[]) because other objects depend on it",
        "table ops.job_runs: message differs",
        "table ops.settings: new columns stand last",
    ]
    assert "caller_may" not in drafted.script
    assert "alter table ops.settings add column unit text;" in drafted.script


def test_the_command_writes_a_migration_that_the_drift_test_accepts_and_after_which_nothing_is_left(
    checkout: Path,
) -> None:
    script = checkout / "sql/10_ground/30_periods.sql"
    script.write_text(script.read_text("utf-8").replace("'7 days'", "'168 hours'"), "utf-8")
    before = set((checkout / "supabase/migrations").iterdir())
    answer = command(checkout, "longer_weeks")
    assert answer.returncode == 0, answer.stdout + answer.stderr
    [written] = set((checkout / "supabase/migrations").iterdir()) - before
    assert written.name > max(file.name for file in before)
    assert written.name.endswith("_opskpi_longer_weeks.sql")
    assert written.read_text("utf-8").startswith(f"{HEADER}\n\ncreate or replace function ops.period_start(")
    assert f"drafted supabase/migrations/{written.name}" in answer.stdout
    assert " passed in " in answer.stdout

    again = command(checkout, "longer_days")
    assert (again.returncode, again.stderr) == (
        1,
        "the migrations end at what sql/ describes: there is nothing to draft\n",
    )


def test_a_draft_of_sql_that_does_not_apply_names_the_script_and_writes_nothing(checkout: Path) -> None:
    (checkout / "sql/10_ground/30_periods.sql").write_text("create function ops.broken(;", "utf-8")
    before = set((checkout / "supabase/migrations").iterdir())
    answer = command(checkout, "broken")
    assert (answer.returncode, answer.stderr) == (1, '30_periods.sql: syntax error at or near ";"\n')
    assert set((checkout / "supabase/migrations").iterdir()) == before


@pytest.mark.parametrize("arguments", [[], ["Upper"], ["two words"], ["../escaped"], ["one", "two"], ["--help"]])
def test_a_bad_name_is_refused_with_the_usage(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments) == 64
    assert capsys.readouterr().err.startswith("usage: python -m tests.support.draft_migration NAME")


def test_a_name_that_a_migration_has_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["foundation"]) == 64
    assert capsys.readouterr().err.startswith("20261121000010_opskpi_foundation.sql has that name")


def test_no_migration_still_has_the_header_of_its_draft() -> None:
    assert [file.name for file in migrations() if HEADER in file.read_text("utf-8")] == []
