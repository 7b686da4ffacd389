"""Groups of objectives: the values of their labels by key, and how people write and read them."""

import json
import re
from collections.abc import Mapping, Sequence

from opskpi.errors import ExitCode, OpsKpiError

# None stands for events without that label, and {"overflow": True} for all beyond the first 1,000 groups.
Group = dict[str, str | bool | None]
OVERFLOW: Group = {"overflow": True}

# These characters would leave open where a value ends.
_QUOTED = re.compile(r'[\x01-\x20"\\]')
_LABEL = re.compile(r'(?P<key>[^ =]+)=(?P<value>"(?:[^"\\]|\\.)*"|[^ "]*)(?: |$)')


def name_of(group: Mapping[str, str | bool | None]) -> str:
    """A group in a line, as `ops.group_name` writes it: `team=payments workflow=release`; empty for {}."""
    if group == OVERFLOW:
        return "overflow"
    return " ".join(f"{key}={_value(value)}" for key, value in sorted(group.items()))


def from_name(name: str) -> Group:
    """The group of a name that `name_of` wrote. Raises OpsKpiError (BAD_ARGUMENT) for any other text."""
    if name in {"", "overflow"}:
        return dict(OVERFLOW) if name else {}
    group: Group = {}
    place = 0
    while place < len(name):
        found = _LABEL.match(name, place)
        if found is None:
            raise _refused(name)
        group[found["key"]] = _read(found["value"])
        place = found.end()
    if name_of(group) != name:
        raise _refused(name)
    return group


def from_words(words: Sequence[str]) -> Group | None:
    """The group that words name, each KEY=VALUE or the word overflow; None without words.

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
        key, equals, value = word.partition("=")
        if not (key and equals):
            raise _refused(word)
        if key in group:
            raise OpsKpiError(f"the label {key} is given twice", "Pass each label once.", ExitCode.BAD_ARGUMENT)
        group[key] = _read(value)
    return group


# A column of tables, see console.show_rows.
COLUMN = {"slo_group": ("group", name_of)}


def _value(value: str | bool | None) -> str:
    if value is None:
        return ""
    text = str(value)
    return json.dumps(text, ensure_ascii=False) if not text or _QUOTED.search(text) else text


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
        f"{text!r} is no group", "Write KEY=VALUE, such as workflow=release, or overflow.", ExitCode.BAD_ARGUMENT
    )
