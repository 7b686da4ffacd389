"""What the settings say about runs: which workflows are more than workflow_run, and what tags are called."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase

import psycopg
from psycopg.rows import class_row

WORKFLOWS = "workflows_"
TAG_PATTERNS = "tag_patterns"
PLAIN_RUN = "workflow_run"
# What the names of the settings look like.
SETTINGS = (WORKFLOWS + "%", TAG_PATTERNS)


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
            "select name, value from ops.settings where name like any (%s)",
            [[pattern.replace("_", r"\_") for pattern in SETTINGS]],
        ).fetchall()
    return rules_of({setting.name: setting.value for setting in settings})


def rules_of(settings: Mapping[str, str]) -> Rules:
    """The rules that settings of those names are; patterns are separated by commas."""
    return Rules(
        tuple(
            (name.removeprefix(WORKFLOWS), _patterns(value))
            for name, value in sorted(settings.items())
            if name.startswith(WORKFLOWS)
        ),
        _patterns(settings.get(TAG_PATTERNS, "")),
    )


def _patterns(value: str) -> tuple[str, ...]:
    return tuple(pattern.strip() for pattern in value.split(",") if pattern.strip())
