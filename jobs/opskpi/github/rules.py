"""What the settings say about runs: which workflows are more than workflow_run, and what tags are called."""

from collections.abc import Iterable
from dataclasses import dataclass
from fnmatch import fnmatchcase

import psycopg
from psycopg.rows import class_row

WORKFLOWS = "workflows_"
TAG_PATTERNS = "tag_patterns"
PLAIN_RUN = "workflow_run"


@dataclass(frozen=True, slots=True)
class Setting:
    """A row of `ops.settings`."""

    name: str
    value: str


@dataclass(frozen=True, slots=True)
class Rules:
    """Patterns by the event type that they stand for, and patterns of tags; exact names and globs."""

    workflows: tuple[tuple[str, tuple[str, ...]], ...] = ()
    tags: tuple[str, ...] = ()

    def event_type(self, names: Iterable[str]) -> str:
        """The event type of a workflow that goes by these names; an exact name wins over a pattern."""
        known = set(names)
        for event_type, patterns in self.workflows:
            if known & set(patterns):
                return event_type
        for event_type, patterns in self.workflows:
            if any(fnmatchcase(name, pattern) for name in known for pattern in patterns):
                return event_type
        return PLAIN_RUN

    def is_tag(self, name: str) -> bool:
        """Whether a tag may be called that."""
        return any(name == pattern or fnmatchcase(name, pattern) for pattern in self.tags)


def read_rules(connection: psycopg.Connection) -> Rules:
    """The rules of the settings: each `workflows_<event type>`, and `tag_patterns`."""
    with connection.cursor(row_factory=class_row(Setting)) as cursor:
        settings = cursor.execute(
            "select name, value from ops.settings where name like %s or name = %s order by name",
            [WORKFLOWS.replace("_", r"\_") + "%", TAG_PATTERNS],
        ).fetchall()
    return Rules(
        tuple(
            (setting.name.removeprefix(WORKFLOWS), _patterns(setting.value))
            for setting in settings
            if setting.name.startswith(WORKFLOWS)
        ),
        tuple(pattern for setting in settings if setting.name == TAG_PATTERNS for pattern in _patterns(setting.value)),
    )


def _patterns(value: str) -> tuple[str, ...]:
    return tuple(pattern.strip() for pattern in value.split(",") if pattern.strip())
