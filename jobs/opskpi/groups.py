"""Groups of objectives: the values of their labels by key, and how people write and read them."""

import difflib
import json
import re
from collections.abc import Iterable, Mapping, Sequence

from opskpi.errors import ExitCode, OpsKpiError

# None stands for events without that label, and {"overflow": True} for all beyond the first 1,000 groups.
Group = dict[str, str | bool | None]
OVERFLOW: Group = {"overflow": True}

# How many names a notice proposes.
_NEAREST = 3

# These characters would leave open where a value ends.
_QUOTED = re.compile(r'[\x01-\x20"\\]')
_LABEL = re.compile(r'(?P<key>[^ =]+)=(?P<value>"(?:[^"\\]|\\.)*"|[^ "]*)(?: (?=.)|$)', re.DOTALL)


def name_of(group: Mapping[str, str | bool | None]) -> str:
    """A group in a line, as `ops.group_name` writes it: `team=payments workflow=release`; empty for {}."""
    if group == OVERFLOW:
        return "overflow"
    return " ".join(f"{key}={_value(value)}" for key, value in sorted(group.items()))


def from_name(name: str) -> Group:
    """The group of a name that `name_of` wrote. Raises OpsKpiError (BAD_ARGUMENT) for any other text."""
    if name in {"", "overflow"}:
        return dict(OVERFLOW) if name else {}
    group: Group = dict(_labels(name))
    if name_of(group) != name:
        raise _refused(name)
    return group


def shown(group: Mapping[str, str | bool | None]) -> str:
    """The name of a group as tables show it: a value that a terminal cannot show is escaped, for it to be pasted."""
    if group == OVERFLOW:
        return "overflow"
    return " ".join(f"{key}={_value(value, visibly=True)}" for key, value in sorted(group.items()))


def from_words(words: Sequence[str]) -> Group | None:
    """The group that words name, each KEY=VALUE, a group as tables show it, or the word overflow; None without words.

    A value may stand as it is or, as tables show one with blanks, in double quotes. Raises OpsKpiError (BAD_ARGUMENT).
    """
    if not words:
        return None
    if "overflow" in words:
        if len(words) > 1:
            raise OpsKpiError("overflow is a group by itself", "Pass it alone.", ExitCode.BAD_ARGUMENT)
        return dict(OVERFLOW)
    group: Group = {}
    for word in words:
        for key, value in _labels(word) or [_label(word)]:
            if key in group:
                raise OpsKpiError(f"the label {key} is given twice", "Pass each label once.", ExitCode.BAD_ARGUMENT)
            group[key] = value
    return group


def with_group_as_stored(matcher: str) -> str:
    """The matcher of a silence, with the group after a name written as `name_of` does, whoever wrote it."""
    name, _, written = matcher.partition(" ")
    labels = _labels(written)
    return f"{name} {name_of(dict(labels))}" if len(dict(labels)) == len(labels) > 0 else matcher


def contains(group: Group, part: Group) -> bool:
    """Whether a group has all labels of another one, so that what is said of that holds for it."""
    return part.items() <= group.items()


def nearest(name: str, others: Iterable[Group]) -> list[str]:
    """The names of a few groups that look most like a name, the likest first."""
    return difflib.get_close_matches(name, [shown(group) for group in others], _NEAREST, cutoff=0.5)


# A column of tables, see console.show_rows.
COLUMN = {"slo_group": ("group", shown)}


def _value(value: str | bool | None, *, visibly: bool = False) -> str:
    if value is None:
        return ""
    text = str(value)
    if text and not _QUOTED.search(text) and (text.isprintable() or not visibly):
        return text
    quoted = json.dumps(text, ensure_ascii=False)
    if visibly:
        quoted = "".join(letter if letter.isprintable() else json.dumps(letter)[1:-1] for letter in quoted)
    return quoted


def _labels(text: str) -> list[tuple[str, str | None]]:
    """The labels that a text consists of, with one blank between them; none where it has any other part."""
    labels: list[tuple[str, str | None]] = []
    place = 0
    while place < len(text):
        found = _LABEL.match(text, place)
        if found is None:
            return []
        labels.append((found["key"], _read(found["value"])))
        place = found.end()
    return labels


def _label(word: str) -> tuple[str, str | None]:
    """The label that a word is, all of which after the first sign is its value."""
    key, equals, value = word.partition("=")
    if not (key and equals):
        raise _refused(word)
    return key, _read(value)


def _read(value: str) -> str | None:
    """The value that is written so: nothing is None, and an empty text has quotes."""
    if len(value) > 1 and value.startswith('"') and value.endswith('"'):
        try:
            text = str(json.loads(value))
            text.encode()
        except ValueError:
            return value
        # No label holds what Postgres has no text for.
        return value if "\0" in text else text
    return value or None


def _refused(text: str) -> OpsKpiError:
    return OpsKpiError(
        f"{text!r} is no group",
        "Write KEY=VALUE, such as workflow=release, once per label; or the group as opskpi slo shows it; or overflow.",
        ExitCode.BAD_ARGUMENT,
    )
