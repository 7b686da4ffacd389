"""Permissions: the policies and grants of `sql/` against those that a database has, and the way back to them.

A restore into a cluster without the roles of Supabase skips every policy and every grant to them, and says so only in
errors that scripts pass over. Nothing of what is granted beyond `sql/` is touched, but for what everybody may do.
"""

import re
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from functools import cache
from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import LiteralString, cast

import psycopg
from psycopg.rows import class_row
from psycopg.types.json import Jsonb

POLICY = re.compile(r"^create policy (?P<name>\w+)\s+on (?P<relation>[\w.]+)[^;]*;", re.MULTILINE)
GRANT = re.compile(
    r"^grant (?P<privileges>[^;]+?)\s+on\s+(?:(?P<kind>schema|sequence|function)\s+)?"
    r"(?P<objects>[^;]+?)\s+to (?P<roles>[^;]+);",
    re.MULTILINE,
)
# All of `ops` is ours, of `public` only the objects that `sql/` makes there.
IN_PUBLIC = re.compile(r"^create (?:function|table|view) (public\.\w+)", re.MULTILINE)
PRIVILEGE = re.compile(r"(?P<verb>\w+)(?:\s*\((?P<columns>[^)]*)\))?")


@dataclass(frozen=True, slots=True)
class Wanted:
    """A policy or a grant of `sql/`: the object that it is about, whom it is for, and the statement that makes it.

    `kind` is policy, schema, sequence, function or table; `detail` the name of the policy or the privilege, which for
    columns names them: `insert (org_id, agent_id)`.
    """

    kind: str
    object: str
    role: str
    detail: str
    statement: str


@dataclass(frozen=True, slots=True)
class Fault:
    """A permission that a database lacks, or gives to everybody, and the statement that mends it.

    `kind` is role, row level security, policy, grant or public.
    """

    kind: str
    about: str
    statement: str


# A privilege counts that is the role's own: one through PUBLIC goes when what is open to everybody is closed.
_FAULTS = """
with wanted as (
  select
    wanted.*,
    to_regrole(wanted.role)::oid as grantee,
    upper(split_part(wanted.detail, ' (', 1)) as privilege,
    string_to_array(rtrim(split_part(wanted.detail, ' (', 2), ')'), ', ') as columns
  from jsonb_to_recordset(%(wanted)s) as wanted (kind text, object text, role text, detail text, statement text)
),
objects as (
  select
    case class.relkind when 'S' then 'sequence' else 'table' end as kind,
    class.oid,
    class.oid::regclass::text as name,
    class.oid::regclass::text as signature,
    class.relkind in ('r', 'p') and not class.relrowsecurity as is_open,
    class.relacl as acl
  from pg_catalog.pg_class as class
  where class.relkind in ('r', 'p', 'v', 'm', 'S')
    and (
      class.relnamespace = to_regnamespace('ops')
      or class.oid in (select to_regclass(ours.name) from unnest(%(in_public)s::text[]) as ours (name))
      or class.oid in (select to_regclass(wanted.object) from wanted)
    )
  union all
  select 'function', routine.oid, routine.oid::regproc::text, routine.oid::regprocedure::text, false,
    coalesce(routine.proacl, acldefault('f', routine.proowner))
  from pg_catalog.pg_proc as routine
  join pg_catalog.pg_namespace as namespace
    on namespace.oid = routine.pronamespace
  where namespace.nspname = 'ops'
    or namespace.nspname || '.' || routine.proname = any (%(in_public)s)
  union all
  select 'schema', namespace.oid, namespace.nspname, namespace.nspname, false, namespace.nspacl
  from pg_catalog.pg_namespace as namespace
  where namespace.nspname = 'ops'
),
held as (
  select objects.kind, objects.name, objects.signature, entry.grantee, entry.privilege_type as privilege
  from objects
  cross join lateral aclexplode(objects.acl) as entry
),
held_columns as (
  select objects.name, attribute.attname as column_name, entry.grantee, entry.privilege_type as privilege
  from objects
  join pg_catalog.pg_attribute as attribute
    on attribute.attrelid = objects.oid
    and attribute.attacl is not null
  cross join lateral aclexplode(attribute.attacl) as entry
  where objects.kind = 'table'
),
faults as (
  select distinct
    1 as place,
    'role' as kind,
    wanted.role as about,
    format('create role %%I nologin noinherit', wanted.role) as statement
  from wanted
  where wanted.grantee is null
  union all
  select 2, 'row level security', objects.name, format('alter table %%s enable row level security', objects.name)
  from objects
  where objects.is_open
  union all
  select 3, 'policy', wanted.detail || ' on ' || wanted.object, wanted.statement
  from wanted
  where wanted.kind = 'policy'
    and not exists (
      select
      from pg_catalog.pg_policy as policy
      where policy.polrelid = to_regclass(wanted.object)
        and policy.polname = wanted.detail
        and policy.polroles = array[wanted.grantee]
    )
  union all
  select 4, 'grant', format('%%s on %%s to %%s', wanted.detail, wanted.object, wanted.role), wanted.statement
  from wanted
  where wanted.kind <> 'policy'
    and not exists (
      select
      from held
      where held.kind = wanted.kind
        and held.name = wanted.object
        and held.grantee = wanted.grantee
        and held.privilege = wanted.privilege
    )
    and (
      wanted.columns = '{}'
      or exists (
        select
        from unnest(wanted.columns) as named (column_name)
        where not exists (
          select
          from held_columns as held
          where held.name = wanted.object
            and held.column_name = named.column_name
            and held.grantee = wanted.grantee
            and held.privilege = wanted.privilege
        )
      )
    )
  union all
  select distinct
    5,
    'public',
    held.signature,
    format('revoke all on %%s %%s from public, anon', held.kind, held.signature)
  from held
  where held.grantee in (0, coalesce(to_regrole('anon')::oid, 0))
)
select faults.kind, faults.about, faults.statement
from faults
order by faults.place, faults.about
"""


def faults(connection: psycopg.Connection) -> list[Fault]:
    """The policies and grants of `sql/` that this database lacks, and those that everybody has; empty when all is well.

    The database must be at this program's migration. Nothing is written, so a standby can be asked.
    """
    with connection.transaction(), connection.cursor(row_factory=class_row(Fault)) as cursor:
        # Names are looked up and written in full.
        cursor.execute("select set_config('search_path', '', true)")
        parameters = {"wanted": Jsonb([asdict(each) for each in wanted()]), "in_public": list(_in_public())}
        return cursor.execute(_FAULTS, parameters).fetchall()


def in_words(found: list[Fault]) -> str:
    """How many faults of each kind there are, and the first of them: `48 policies and 512 grants are missing (…)`."""
    counts = {kind: sum(fault.kind == kind for fault in found) for kind in ("role", "policy", "grant")}
    missing = [f"{count} {_plural(kind, count)}" for kind, count in counts.items() if count]
    parts = [f"{_listed(missing)} {'is' if sum(counts.values()) == 1 else 'are'} missing"] if missing else []
    if off := [fault.about for fault in found if fault.kind == "row level security"]:
        parts.append(f"row level security is off on {_some(off)}")
    if opened := [fault.about for fault in found if fault.kind == "public"]:
        parts.append(f"everybody may use {_some(opened)}")
    return "; ".join(parts)


def _plural(kind: str, count: int) -> str:
    if count == 1:
        return kind
    return {"policy": "policies"}.get(kind, f"{kind}s")


def _listed(parts: list[str]) -> str:
    return " and ".join(filter(None, [", ".join(parts[:-1]), parts[-1]]))


def _some(names: list[str]) -> str:
    return names[0] if len(names) == 1 else f"{names[0]} and {len(names) - 1} more"


def repair(connection: psycopg.Connection) -> list[Fault]:
    """Bring back what `faults` finds, in the caller's transaction; returns what it mended. A second call finds nothing.

    The roles must be there. Locks are those of `create policy`: each table is closed to readers for a moment.
    """
    found = faults(connection)
    for fault in found:
        # A policy of that name for others would be in the way; statements are ours or made of the catalogue's names.
        if fault.kind == "policy":
            name, _, relation = fault.about.partition(" on ")
            connection.execute(cast("LiteralString", f"drop policy if exists {name} on {relation}"))
    for statement in dict.fromkeys(fault.statement for fault in found if fault.kind != "role"):
        connection.execute(cast("LiteralString", statement))
    return found


@cache
def wanted() -> tuple[Wanted, ...]:
    """The policies and grants that `sql/` has, one each object, role and privilege."""
    return tuple(each for script in _scripts() for each in (*_policies(script), *_grants(script)))


@cache
def _in_public() -> tuple[str, ...]:
    return tuple(name for script in _scripts() for name in IN_PUBLIC.findall(script))


def _policies(script: str) -> Iterator[Wanted]:
    for match in POLICY.finditer(script):
        [role] = re.findall(r"\bto (\w+)", match[0])
        yield Wanted("policy", match["relation"], role, match["name"], match[0])


def _grants(script: str) -> Iterator[Wanted]:
    for match in GRANT.finditer(script):
        for role in _names(match["roles"]):
            for name in _names(match["objects"]):
                for privilege in PRIVILEGE.finditer(match["privileges"]):
                    columns = f" ({', '.join(_names(privilege['columns']))})" if privilege["columns"] else ""
                    detail = privilege["verb"] + columns
                    target = f"{match['kind']} {name}" if match["kind"] else name
                    statement = f"grant {detail} on {target} to {role}"
                    yield Wanted(match["kind"] or "table", name, role, detail, statement)


def _names(listed: str) -> list[str]:
    return [name.strip() for name in listed.split(",")]


@cache
def _scripts() -> tuple[str, ...]:
    return tuple(_texts_in(_folder()))


def _texts_in(folder: Traversable) -> Iterator[str]:
    for entry in folder.iterdir():
        if entry.is_dir():
            yield from _texts_in(entry)
        elif entry.name.endswith(".sql"):
            yield entry.read_text("utf-8")


def _folder() -> Traversable:
    packaged = resources.files("opskpi.postgres").joinpath("schema")
    # An editable install reads the checkout itself.
    return packaged if packaged.is_dir() else Path(__file__).resolve().parents[3] / "sql"
