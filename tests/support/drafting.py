"""Drafts the migration from one database to another: the statements of `sql/` for what differs between their dumps."""

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain

import psycopg
from psycopg import errors

from .drift import schema_of
from .postgres import Database, Server
from .seed_rows import Seed, changed_rows
from .sql_statements import Statement, Subject, items_of, written_items

ROLES = ("anon", "authenticated", "service_role")
HEADING = re.compile(
    r"^--\n-- Name: (?P<name>.*); Type: (?P<kind>[A-Z ]+); Schema: (?P<schema>\S+); .*\n--$", re.MULTILINE
)
OWNED = re.compile(r"^ALTER FUNCTION (.*) OWNER TO", re.MULTILINE)
ACL = re.compile(
    r"(?P<verb>GRANT|REVOKE) (?P<privilege>.+) ON (?P<kind>[A-Z]+) (?P<target>.+) (?:TO|FROM) (?P<role>\w+);"
)
DEPENDENT = re.compile(r"(function|view) ([\w.]+)(?:\(.*\))? depends on")
REPLACED = ("function", "view")
DROPPED_FIRST = ("index", "trigger", "policy")
CONSTRAINTS = ("constraint", "fk constraint")
# Postgres opens new functions to everybody, Supabase all of these to its roles.
PRIVILEGES_ON = {"function": "execute on function", "table": "all on", "view": "all on", "sequence": "all on sequence"}
GUARD = """do $$
begin
  -- A Postgres without Supabase's roles has no API callers to admit.
  if to_regrole('anon') is null or to_regrole('authenticated') is null or to_regrole('service_role') is null then
    return;
  end if;
{}
end;
$$;"""


@dataclass(frozen=True, slots=True)
class Right:
    """A privilege that a dump grants to a role or revokes from it; `on` is `on`, or `on function` and the like."""

    verb: str
    privilege: str
    on: str
    target: str
    role: str

    def turned(self) -> "Right":
        return replace(self, verb="revoke" if self.verb == "grant" else "grant")


@dataclass(frozen=True, slots=True)
class Step:
    """A statement of the migration, and the object that it changes; `guarded`: only where Supabase's roles are."""

    subject: Subject
    sql: str
    guarded: bool = False


@dataclass(frozen=True, slots=True)
class Draft:
    """A migration without its header, and what it leaves to a person, a line each."""

    script: str
    notes: list[str]


@dataclass(frozen=True, slots=True)
class Change:
    """What pg_dump says of the objects of `sql/` and of those of the migrations, and what was learnt from trying.

    `recreated` are dropped and made again, since they cannot be replaced or depend on such; `failed` are the steps that
    Postgres refuses, with its words.
    """

    ours: dict[Subject, str]
    theirs: dict[Subject, str]
    statements: Sequence[Statement]
    recreated: set[Subject] = field(default_factory=set)
    failed: dict[Subject, str] = field(default_factory=dict)

    def is_new(self, subject: Subject) -> bool:
        return subject in self.ours and (subject not in self.theirs or subject in self.recreated)

    def is_changed(self, subject: Subject) -> bool:
        return self.ours.get(subject) != self.theirs.get(subject) or subject in self.recreated


def draft(server: Server, described: Database, migrated: Database, statements: Sequence[Statement]) -> Draft:
    """Draft what leads from `migrated` to `described`, which `statements` built; `migrated` is changed by trying it."""
    ours, theirs = (objects_in("\n".join(schema_of(server, database))) for database in (described, migrated))
    change = Change(ours, theirs, statements, recreated=with_other_arguments(ours, theirs))
    with psycopg.connect(migrated.dsn, autocommit=True) as connection, psycopg.connect(described.dsn) as source:
        # So that messages name objects with their schemas.
        connection.execute("select pg_catalog.set_config('search_path', '', false)")
        while not is_accepted(connection, change):
            pass
        schema = rendered(steps_of(change))
        connection.execute(schema.encode())
        rows, notes = changed_rows(source, connection, [*map(Seed.filled_by, kind_of(statements, "insert"))])
    now = objects_in("\n".join(schema_of(server, migrated)))
    left = {subject for subject in ours | now if ours.get(subject) != now.get(subject)} | change.failed.keys()
    reasons = {subject: reason(subject, ours, now) for subject in left} | change.failed
    names = {name for kind, name in left if kind not in ("comment", "acl")}
    # An object that was not drafted says enough of its comment and grants.
    named = sorted(subject for subject in left if subject[1] in names or name_of(subject) not in names)
    return Draft(
        "\n\n".join(filter(None, [schema, *rows])),
        [": ".join(filter(None, [" ".join(subject), reasons[subject]])) for subject in named] + notes,
    )


def reason(subject: Subject, ours: dict[Subject, str], now: dict[Subject, str]) -> str:
    """Return why a draft could not do what it left, where that can be told."""
    if subject not in ours:
        return "it is gone from sql/"
    if subject in now and subject[0] == "table":
        columns, stored = (written_items(objects[subject]) for objects in (ours, now))
        differing = [name for name in columns | stored if columns.get(name) != stored.get(name)]
        return f"{', '.join(differing)} differs" if differing else "new columns stand last"
    return ""


def kind_of(statements: Iterable[Statement], kind: str) -> list[Statement]:
    return [statement for statement in statements if statement.subject[0] == kind]


def objects_in(dump: str) -> dict[Subject, str]:
    """Return what a dump says of each object."""
    found: dict[Subject, str] = {}
    headings = list(HEADING.finditer(dump))
    ends = [heading.start() for heading in headings[1:]] + [len(dump)]
    for heading, end in zip(headings, ends, strict=True):
        subject = subject_of(heading["name"], heading["kind"].lower(), heading["schema"])
        found[subject] = found.get(subject, "") + dump[heading.end() : end].strip() + "\n"
    return found


def subject_of(name: str, kind: str, schema: str) -> Subject:
    """Return the subject under a heading of a dump; functions go without arguments, of each name there is one."""
    bare = name.partition("(")[0]
    if kind == "schema":
        return kind, bare
    if kind in ("comment", "acl"):
        what, _, target = bare.partition(" ")
        return kind, f"{what.lower()} {target if what == 'SCHEMA' else f'{schema}.{target}'}"
    return kind, f"{schema}.{bare}"


def name_of(subject: Subject) -> str:
    """Return the name of the object itself, or of the one that a comment or an ACL belongs to."""
    kind, name = subject
    if kind not in ("comment", "acl"):
        return name
    what, _, target = name.partition(" ")
    return target.rpartition(".")[0] if what == "column" else target


def with_other_arguments(ours: dict[Subject, str], theirs: dict[Subject, str]) -> set[Subject]:
    """Return the functions that would stand beside their former selves instead of replacing them."""
    both = [subject for subject in ours if subject[0] == "function" and subject in theirs]
    return {subject for subject in both if signature(subject, ours) != signature(subject, theirs)}


def signature(subject: Subject, objects: dict[Subject, str]) -> str:
    """Return a function of a dump with its arguments."""
    found = OWNED.search(objects[subject])
    return found[1] if found else ""


def is_accepted(connection: psycopg.Connection, change: Change) -> bool:
    """Try the steps in a transaction that is rolled back; False when that taught something, so that they differ now."""
    with connection.transaction(force_rollback=True):
        for step in steps_of(change):
            try:
                connection.execute(step.sql.encode())
            except psycopg.Error as error:
                learn(change, step, error)
                return False
    return True


def learn(change: Change, step: Step, error: psycopg.Error) -> None:
    """Note what must be recreated so that the step is accepted; without such, that Postgres refuses it."""
    needed: set[Subject] = set()
    if step.subject[0] in REPLACED:
        if isinstance(error, errors.InvalidFunctionDefinition | errors.InvalidTableDefinition):
            needed = {step.subject}
        elif isinstance(error, errors.DependentObjectsStillExist):
            lines = (error.diag.message_detail or "").splitlines()
            dependents = [(found[1], found[2]) for line in lines if (found := DEPENDENT.match(line))]
            # A policy, a trigger or a table that depends on it is not made again: that is for a person to think over.
            needed = set(dependents) if len(dependents) == len(lines) else set()
    if needed - change.recreated:
        change.recreated.update(needed)
    else:
        change.failed[step.subject] = str(error).partition("\n")[0]


def steps_of(change: Change) -> list[Step]:
    """Return the steps in an order in which each finds what it needs."""
    recreated = {name for _, name in change.recreated}
    failed = {name for kind, name in change.failed if kind not in ("comment", "acl")}
    gone = [subject for subject in reversed(change.theirs) if subject not in change.ours]
    steps = chain(
        (dropped(subject, change) for subject in gone if subject in change.recreated),
        # What others stand on comes first in sql/, so it is dropped last.
        (
            dropped(statement.subject, change)
            for statement in reversed(change.statements)
            if statement.subject in change.recreated
        ),
        *(
            changed(statement, change)
            for statement in change.statements
            if statement.subject[0] == "table"
            or change.is_changed(statement.subject)
            or name_of(statement.subject) in recreated
        ),
        (
            dropped(subject, change)
            for subject in gone
            if subject not in change.recreated and subject[0] in REPLACED + DROPPED_FIRST
        ),
        granted(change, failed),
    )
    return [step for step in steps if step.subject not in change.failed and name_of(step.subject) not in failed]


def changed(statement: Statement, change: Change) -> Iterator[Step]:
    """Yield the steps that bring an object to what its statement says."""
    subject, guarded = statement.subject, statement.subject[0] == "policy"
    if change.is_new(subject) or subject[0] in ("comment", "row security"):
        yield Step(subject, statement.text, guarded)
    elif subject[0] == "table":
        yield from altered(statement, change)
    elif subject[0] in REPLACED:
        yield Step(subject, statement.replacing)
    elif subject[0] in DROPPED_FIRST:
        yield dropped(subject, change)
        yield Step(subject, statement.text, guarded)


def dropped(subject: Subject, change: Change) -> Step:
    """Return the step that drops an object of the migrations."""
    kind, name = subject
    if kind in ("trigger", "policy"):
        table, _, own = name.partition(" ")
        return Step(subject, f"drop {kind} {own} on {table};", guarded=kind == "policy")
    return Step(subject, f"drop {kind} {name};")


def altered(statement: Statement, change: Change) -> Iterator[Step]:
    """Yield the steps that add columns to a table, and that add, change and drop its constraints."""
    table = statement.subject[1]
    written = items_of(statement)
    ours, theirs = (table_items(statement.subject, objects) for objects in (change.ours, change.theirs))
    for name in [*theirs, *ours]:
        subject = ("column or constraint", f"{table} {name}")
        is_constraint = (ours | theirs)[name].startswith("constraint ")
        if name in theirs and is_constraint and ours.get(name) != theirs[name]:
            yield Step(subject, f"alter table {table} drop constraint {name};")
        if name in ours and name in written and (name not in theirs or (is_constraint and ours[name] != theirs[name])):
            yield Step(subject, f"alter table {table} add {'' if is_constraint else 'column '}{written[name]};")


def table_items(subject: Subject, objects: dict[Subject, str]) -> dict[str, str]:
    """Return the columns and constraints that a dump has of a table, by their names."""
    items = {
        name: item.replace("CONSTRAINT", "constraint", 1) for name, item in written_items(objects[subject]).items()
    }
    for (kind, name), dump in objects.items():
        table, _, own = name.partition(" ")
        if kind in CONSTRAINTS and table == subject[1]:
            items[own] = f"constraint {dump}"
    return items


def granted(change: Change, failed: set[str]) -> Iterator[Step]:
    """Yield what roles may do with what is new, and what changes for the rest; one statement for the same of several."""
    new = [subject for subject in change.ours if subject[0] in PRIVILEGES_ON and change.is_new(subject)]
    names = {name for _, name in new}
    kept = {name for kind, name in change.ours if kind not in ("comment", "acl")} - failed
    grouped: dict[tuple[str, str, str], list[str]] = defaultdict(list)
    for kind, name in new:
        if name in kept:
            grouped["revoke", PRIVILEGES_ON[kind], ", ".join(ROLES)].append(name)
    for subject in change.ours | change.theirs:
        if subject[0] == "acl" and name_of(subject) in kept:
            before = [] if name_of(subject) in names else acl_of(subject, change.theirs)
            after = acl_of(subject, change.ours)
            turned = [right.turned() for right in before if right not in after]
            for verb, privileges, roles, target in folded(turned + [right for right in after if right not in before]):
                grouped[verb, privileges, roles].append(target)
    for (verb, privileges, roles), targets in grouped.items():
        listed = f" {targets[0]} " if len(targets) == 1 else "\n  " + ",\n  ".join(targets) + "\n"
        to = "to" if verb == "grant" else "from"
        step = f"{verb} {privileges}{listed}{to} {roles};"
        yield Step(("acl", f"{verb} {privileges}"), step, guarded=roles != "public")


def acl_of(subject: Subject, objects: dict[Subject, str]) -> list[Right]:
    """Return the grants and revokes of a dump in the words of `sql/`."""
    return [
        Right(
            line["verb"].lower(),
            "execute" if line["kind"] == "FUNCTION" else privilege.lower().replace("(", " ("),
            "on" if line["kind"] == "TABLE" else f"on {line['kind'].lower()}",
            line["target"].partition("(")[0],
            line["role"].lower(),
        )
        for line in ACL.finditer(objects.get(subject, ""))
        for privilege in line["privilege"].split(",")
    ]


def folded(rights: Iterable[Right]) -> Iterator[tuple[str, str, str, str]]:
    """Yield verb, privileges, roles and object of statements: roles with the same privilege, then privileges of the same roles."""
    roles: dict[tuple[str, str, str, str], list[str]] = defaultdict(list)
    for right in rights:
        roles[right.verb, right.privilege, right.on, right.target].append(right.role)
    privileges: dict[tuple[str, str, str, str], list[str]] = defaultdict(list)
    for (verb, privilege, on, target), named in roles.items():
        privileges[verb, ", ".join(named), on, target].append(privilege)
    for (verb, named, on, target), found in privileges.items():
        yield verb, f"{', '.join(found)} {on}", named, target


def rendered(steps: Sequence[Step]) -> str:
    """Return the steps as a script: comments right under what they describe, what needs the roles in one guard."""
    script, before = "", ""
    for kind, sql in ((step.subject[0], step.sql) for step in steps if not step.guarded):
        is_close = kind in ("comment", "row security") or before == sql[:5] in ("alter", "drop ")
        script += ("\n" if is_close else "\n\n") + sql
        before = sql[:5]
    guarded = [re.sub(r"^(?=.)", "  ", step.sql, flags=re.MULTILINE) for step in steps if step.guarded]
    return "\n\n".join(filter(None, [script.strip(), GUARD.format("\n".join(guarded)) if guarded else ""]))
