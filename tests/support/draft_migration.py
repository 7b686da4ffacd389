"""Drafts a migration from a change of `sql/`, and runs the drift test on it: `python -m tests.support.draft_migration NAME`."""

import re
import subprocess
import sys
from collections.abc import Sequence
from datetime import UTC, datetime

import psycopg
from psycopg import sql

from .drafting import Draft, draft
from .drift import MIGRATIONS, PRELUDE, SQL, build_from_migrations, build_from_sql, migrations, run_script
from .fixtures import CHECKOUT
from .postgres import running_server
from .sql_statements import statements_of

USAGE = (
    "usage: python -m tests.support.draft_migration NAME, in small letters, digits and underscores, such as weekly_kpis"
)
NAME = re.compile(r"[a-z][a-z0-9_]*")
HEADER = "-- TODO: say in a sentence what changes, and why."
POSTGRES = "18"
FAILED, BAD_ARGUMENT = 1, 64


def main(arguments: Sequence[str]) -> int:
    """Draft the migration NAME and return the exit code: 0 when the drift test passes."""
    if len(arguments) != 1 or not NAME.fullmatch(arguments[0]):
        return refuse(USAGE, BAD_ARGUMENT)
    [name] = arguments
    if taken := [file.name for file in migrations() if file.name.endswith(f"_opskpi_{name}.sql")]:
        return refuse(
            f"{taken[0]} has that name: choose another, or delete the file if it is not published", BAD_ARGUMENT
        )
    try:
        found = draft_of_checkout()
    except psycopg.Error as error:
        return refuse(" ".join([*error.__notes__, str(error).partition("\n")[0]]), FAILED)
    if not found.script and not found.notes:
        return refuse("the migrations end at what sql/ describes: there is nothing to draft", FAILED)
    file = MIGRATIONS / f"{next_version()}_opskpi_{name}.sql"
    file.write_text("\n\n".join(filter(None, [HEADER, found.script])) + "\n", "utf-8")
    print(f"drafted {file.relative_to(CHECKOUT)}: complete its first line")
    for note in found.notes:
        print(f"not drafted: {note}")
    if found.notes:
        print("Write that by hand; `npx supabase db diff --from URL --to URL` may help with tables.")
    print("+ pytest tests/schema/test_drift.py", flush=True)
    return subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "--postgres", POSTGRES, "tests/schema/test_drift.py"],
        cwd=CHECKOUT,
        check=False,
    ).returncode


def draft_of_checkout() -> Draft:
    """Build a database from `sql/` and one from the migrations on a server of their own, and draft the difference."""
    with running_server(POSTGRES) as server:
        described, migrated = (server.database(name) for name in ("described", "migrated"))
        with psycopg.connect(server.dsn("postgres"), autocommit=True) as connection:
            for database in (described, migrated):
                connection.execute(sql.SQL("create database {}").format(sql.Identifier(database.name)))
        with psycopg.connect(migrated.dsn) as connection:
            run_script(connection, PRELUDE)
        build_from_sql(described)
        build_from_migrations(migrated)
        return draft(server, described, migrated, statements_of(SQL))


def next_version() -> str:
    """Return now as a version, or what follows the newest migration where that is later: older ones would be refused."""
    newest = max(int(file.name.partition("_")[0]) for file in migrations())
    return str(max(int(datetime.now(UTC).strftime("%Y%m%d%H%M%S")), newest + 1))


def refuse(message: str, code: int) -> int:
    print(message, file=sys.stderr)
    return code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
