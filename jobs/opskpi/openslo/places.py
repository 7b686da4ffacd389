"""YAML as places in files: each value with its file, line and path, so that every fault can say where it is.

Nothing is converted before somebody says what it must be: a number is read from its digits as written, and what
YAML 1.1 and 1.2 read differently (yes, on, 1:30, 0777) is refused instead of guessed.
"""

import re
import unicodedata
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import timedelta
from decimal import Decimal

import yaml

from opskpi.openslo.faults import Faults

LONGEST_DESCRIPTION = 1050
# What Postgres takes ten years and one year for, when it compares them.
LONGEST_SPAN = timedelta(days=3600)
YEAR = timedelta(days=360)

_NAME = re.compile(r"[a-z0-9]([a-z0-9_-]{0,61}[a-z0-9])?")
_KEY = re.compile(r"([a-z0-9.-]{1,253}/)?[A-Za-z0-9]([A-Za-z0-9._-]{0,61}[A-Za-z0-9])?")
_NUMBER = re.compile(r"-?(0|[1-9][0-9]{0,14})(\.[0-9]{1,15})?")
_DURATION = re.compile(r"(0|[1-9][0-9]{0,5})([mhdwMQY])")
_UNITS = {"m": timedelta(minutes=1), "h": timedelta(hours=1), "d": timedelta(days=1), "w": timedelta(weeks=1)}
_TAG = "tag:yaml.org,2002:"


@dataclass(frozen=True, slots=True)
class Place:
    """A value in a file. What reads it returns None after adding a fault."""

    faults: Faults
    source: str
    path: str
    node: yaml.Node
    # The object of a file that the value belongs to.
    whole: yaml.Node | None = None

    @property
    def line(self) -> int:
        """The line it starts on, from 1."""
        return self.node.start_mark.line + 1

    @property
    def is_empty(self) -> bool:
        """Nothing is written there, or null is."""
        return isinstance(self.node, yaml.ScalarNode) and self.node.tag == f"{_TAG}null"

    @property
    def is_block(self) -> bool:
        """It has keys."""
        return isinstance(self.node, yaml.MappingNode)

    @property
    def is_list(self) -> bool:
        """Whether it is a list."""
        return isinstance(self.node, yaml.SequenceNode)

    def has(self, key: str) -> bool:
        """It is a block with that key."""
        return isinstance(self.node, yaml.MappingNode) and any(name.value == key for name, _ in self.node.value)

    @property
    def written(self) -> str:
        """A single value as it was written, without quotes; empty for lists and blocks."""
        return str(self.node.value) if isinstance(self.node, yaml.ScalarNode) else ""

    @property
    def shown(self) -> str:
        """A single value as a message may show it: short, on one line, and never an address, which may be a secret."""
        if not isinstance(self.node, yaml.ScalarNode):
            return "a list" if isinstance(self.node, yaml.SequenceNode) else "a block of keys"
        if self.is_empty:
            return "nothing"
        text = self.written if len(self.written) <= 40 else f"{self.written[:37]}..."
        if "://" in self.written:
            return "the value"
        shown = "".join(letter if letter.isprintable() else ascii(letter)[1:-1] for letter in text)
        return shown or "an empty text"

    def refuse(self, sentence: str) -> None:
        """Add a fault about it."""
        self.faults.add(self.source, self.line, self._about(sentence), self.whole)

    def refuse_object(self, sentence: str) -> None:
        """Add the only fault to name of the object that it belongs to, since that has to be written anew."""
        self.faults.add_only(self.source, self.line, self._about(sentence), self.whole)

    def note(self, sentence: str) -> None:
        """Say something about it that is not a fault."""
        self.faults.note(self.source, self.line, self._about(sentence))

    def at(self, key: str, value: yaml.Node, name: yaml.Node) -> "Place":
        """The value under one of its keys, whose node is `name`."""
        return replace(self, path=f"{self.path}.{key}" if self.path else key, node=_located(value, name))

    def block(self, known: Collection[str], refused: Mapping[str, str] | None = None) -> "Block":
        """Its keys, each of which must be known; `refused` says why we do not do others that OpenSLO has."""
        places: dict[str, Place] = {}
        for key, place in self._pairs():
            if key in known:
                places[key] = place
            elif refused and key in refused:
                place.refuse(refused[key])
            else:
                place.refuse(f"there is no such key; known are {', '.join(sorted(known))}")
        return Block(self, places)

    def texts(self) -> dict[str, "Place"]:
        """Its keys, whatever they are called, as labels and annotations are."""
        pairs = dict(self._pairs())
        for key, place in pairs.items():
            if not _KEY.fullmatch(key):
                place.refuse(
                    "this is no key: write letters, digits, . _ and -, at most 63, after an optional prefix and /"
                )
        return pairs

    def items(self) -> list["Place"]:
        """The values of a list; none where nothing is written."""
        if self.is_empty:
            return []
        if not isinstance(self.node, yaml.SequenceNode):
            self.refuse(f"{self.shown} is no list; start each item with -")
            return []
        return [replace(self, path=f"{self.path}[{index}]", node=node) for index, node in enumerate(self.node.value)]

    def filled_items(self) -> list["Place"]:
        """The values of a list that must have some."""
        items = self.items()
        if not items and self.is_list:
            self.refuse("the list is empty; leave the key out or write an item")
        return items

    def text(self, longest: int = 253, *, lines: bool = False, may_be_empty: bool = False) -> str | None:
        """A text; only with `lines` of more than one line."""
        text = self.written
        if self.is_empty:
            fault = "nothing is written here; leave the key out or give it a text"
        elif not isinstance(self.node, yaml.ScalarNode):
            fault = f"{self.shown} is no text"
        elif self.node.tag != f"{_TAG}str":
            fault = f'{self.shown} is no text for every reader of YAML; quote it: "{self.shown}"'
        elif any(unicodedata.category(letter) in {"Cc", "Cs"} and letter not in "\n\t" for letter in text):
            fault = "it has control characters"
        elif "\n" in text and not lines:
            fault = "it has more than one line"
        elif len(text) > longest:
            fault = f"it has {len(text)} characters; at most {longest} are allowed"
        elif not text.strip() and not (may_be_empty and not text):
            fault = "it is empty; leave the key out or give it a text"
        else:
            return text
        return self.refuse(fault)

    def name(self, *, parts: int = 1) -> str | None:
        """A name: lower case letters, digits, - and _, at most 63; or up to `parts` of those with a dot between."""
        text = self.text()
        if text is not None and not (text.count(".") < parts and all(map(is_name, text.split(".")))):
            return self.refuse(
                f"{self.shown} is no name; use at most 63 lower case letters, digits, - and _, the first and the last"
                " a letter or digit"
            )
        return text

    def choice(self, choices: Collection[str], *, hidden: bool = False) -> str | None:
        """One of the given words; `hidden` keeps anything else out of the message."""
        if isinstance(self.node, yaml.ScalarNode) and self.written in choices:
            return self.written
        shown = "this" if hidden else self.shown
        if len(choices) == 1:
            return self.refuse(f"{shown} is not done here; write {', '.join(choices)}")
        return self.refuse(f"{shown} is not one of {', '.join(choices)}")

    def boolean(self) -> bool | None:
        """True or false, in the words that YAML 1.1 and 1.2 share."""
        if self._is_plain() and self.written.lower() in {"true", "false"}:
            return self.written.lower() == "true"
        if self.written in {"true", "false"}:
            return self.refuse(f"{self.shown} is a text here; write it without quotes")
        return self.refuse(f"{self.shown} is neither true nor false; write one of the two")

    def number(self, *, annotated: bool = False) -> Decimal | None:
        """A number exactly as its digits say; in an annotation it is quoted, as annotations are texts."""
        if annotated and self.text() is None:
            return None
        if (annotated or self._is_plain()) and _NUMBER.fullmatch(self.written):
            return Decimal(self.written)
        if not self._is_plain() and _NUMBER.fullmatch(self.written):
            return self.refuse(f"{self.shown} is a text here; write the number without quotes")
        return self.refuse(f"{self.shown} is no number; write digits such as 0.999 or 14.4")

    def duration(self, *, may_be_zero: bool = False) -> tuple[int, str] | None:
        """How many of which unit: m minutes, h hours, d days, w weeks, M months, Q quarters, Y years."""
        match = _DURATION.fullmatch(self.written)
        if not match or (match[1] == "0" and not may_be_zero):
            return self.refuse(f"{self.shown} is no duration; write 30d, 4w, 1M, 1Q or 5m")
        return int(match[1]), match[2]

    def span(
        self,
        *,
        least: timedelta = _UNITS["m"],
        most: timedelta = LONGEST_SPAN,
        multiple_of: timedelta = _UNITS["m"],
        why: str = "",
        zero: bool = False,
    ) -> timedelta | None:
        """A duration of fixed length, from `least` to `most`, a multiple of `multiple_of` because of `why`."""
        duration = self.duration(may_be_zero=zero)
        if duration is None:
            return None
        count, unit = duration
        if unit not in _UNITS:
            return self.refuse(f"{self.shown} has no fixed length; say it in days, such as 30d")
        span = count * _UNITS[unit]
        if span > most:
            return self.refuse(f"{self.shown} is too long; at most {duration_text(most)}")
        if (span or not zero) and span < least:
            return self.refuse(f"{self.shown} is too short; at least {duration_text(least)}")
        if span % multiple_of:
            return self.refuse(f"{self.shown} is no multiple of {duration_text(multiple_of)}{why and f': {why}'}")
        return span

    def _about(self, sentence: str) -> str:
        return f"{self.path}: {sentence}" if self.path else sentence

    def _is_plain(self) -> bool:
        return isinstance(self.node, yaml.ScalarNode) and self.node.style is None

    def _pairs(self) -> Iterator[tuple[str, "Place"]]:
        if self.is_empty:
            return
        if not isinstance(self.node, yaml.MappingNode):
            self.refuse(f"{self.shown} is no block of keys")
            return
        lines: dict[str, int] = {}
        for key, value in self.node.value:
            place = replace(self, node=key)
            if not isinstance(key, yaml.ScalarNode):
                place.refuse("a key must be a text")
                continue
            path = f"{self.path}.{place.shown}" if self.path else place.shown
            if key.value in lines:
                replace(place, path=path).refuse(f"this key was already given in line {lines[key.value]}")
            elif key.tag != f"{_TAG}str":
                replace(place, path=path).refuse(
                    f'this key is no text for every reader of YAML; quote it: "{place.shown}"'
                )
            else:
                yield key.value, self.at(place.shown, value, key)
            lines.setdefault(key.value, place.line)


@dataclass(frozen=True, slots=True)
class Block:
    """The known keys of a place."""

    place: Place
    places: dict[str, Place]

    def get(self, key: str) -> Place | None:
        """The value of a key that may be left out."""
        return self.places.get(key)

    def need(self, key: str) -> Place | None:
        """The value of a key; without it a fault is added."""
        if key not in self.places and (self.place.is_block or self.place.is_empty):
            replace(self.place, path=f"{self.place.path}.{key}" if self.place.path else key).refuse("is missing")
        return self.places.get(key)

    def line_of_text(self, key: str, longest: int = 253) -> str | None:
        """The one-line text of a key that may be left out."""
        return place.text(longest) if (place := self.get(key)) else None

    def description(self) -> str:
        """The text of `description`, of one or several lines; empty without one."""
        place = self.get("description")
        return (place.text(LONGEST_DESCRIPTION, lines=True, may_be_empty=True) if place else None) or ""


def is_name(text: str) -> bool:
    """Whether a text is a name of OpenSLO, which we let have _ too."""
    return bool(_NAME.fullmatch(text))


def duration_text(span: timedelta) -> str:
    """A span as OpenSLO writes it, in its largest unit up to days: 30d, 6h, 90m. Raises ValueError below minutes."""
    for letter in "dhm":
        if span and not span % _UNITS[letter]:
            return f"{span // _UNITS[letter]}{letter}"
    if span:
        raise ValueError(f"{span} is no whole number of minutes")
    return "0m"


def _located(value: yaml.Node, key: yaml.Node) -> yaml.Node:
    """The value, with the line of its key where nothing is written, lest the fault point to a line further down."""
    if isinstance(value, yaml.ScalarNode) and not value.value:
        return yaml.ScalarNode(value.tag, value.value, key.start_mark, value.end_mark, value.style)
    return value
