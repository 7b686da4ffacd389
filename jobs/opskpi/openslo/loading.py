"""Files of YAML, as far as their syntax goes."""

import sys
from collections.abc import Collection
from dataclasses import replace
from pathlib import Path
from typing import Any, NoReturn

import yaml

from opskpi.openslo.faults import Faults
from opskpi.openslo.places import Place

LARGEST_FILE = 1 << 20
DEEPEST = 20
# Values that the aliases of a file may repeat; written out they would fill some megabytes.
MOST_REPEATED = 100_000

_MERGE = "tag:yaml.org,2002:merge"


class _Composer(yaml.SafeLoader):
    """Composes nodes without what makes a small file large or a plain value something else.

    A node that aliases repeat is one object that stands in several places. `_sizes` knows how many values each complete
    node has, repetitions included, and how deep it is, so that both are bounded before anybody walks through them.
    """

    depth = 0

    def __init__(self, stream: str) -> None:
        super().__init__(stream)
        self._sizes: dict[yaml.Node, tuple[int, int]] = {}
        self._repeated = 0

    def compose_document(self) -> yaml.Node | None:
        # YAML forgets anchors at each ---; people keep one block for all objects of a file, which is unambiguous.
        anchors: dict[str, yaml.Node] = self.anchors
        node = super().compose_document()
        self.anchors = anchors
        return node

    def compose_node(self, parent: yaml.Node | None, index: Any) -> Any:
        event = self.peek_event()
        if getattr(event, "tag", None) is not None:
            self._stop("tags are not read; write the value without !", event.start_mark)
        if self.depth >= DEEPEST:
            self._stop(f"this is nested deeper than {DEEPEST} levels", event.start_mark)
        if not isinstance(event, yaml.AliasEvent):
            # An anchor may be set anew; the alias means the one before it.
            self.anchors.pop(getattr(event, "anchor", None), None)
        self.depth += 1
        node: Any = super().compose_node(parent, index)
        if isinstance(event, yaml.AliasEvent):
            self._check_alias(event, node)
        else:
            self._sizes[node] = self._size(node)
        self.depth -= 1
        return node

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        node: yaml.MappingNode = super().compose_mapping_node(anchor)
        if any(key.tag == _MERGE for key, _ in node.value):
            node.value = self._merged(node.value)
        return node

    def _check_alias(self, event: yaml.AliasEvent, node: yaml.Node) -> None:
        size, depth = self._sizes.get(node, (0, 0))
        if not size:
            self._stop(f"the alias *{event.anchor} stands inside its own anchor", event.start_mark)
        self._repeated += size
        if self._repeated > MOST_REPEATED:
            self._stop(f"aliases repeat more than {MOST_REPEATED:,} values; write fewer of them", event.start_mark)
        if self.depth + depth > DEEPEST + 1:
            self._stop(f"with this alias it is nested deeper than {DEEPEST} levels", event.start_mark)

    def _size(self, node: yaml.Node) -> tuple[int, int]:
        """The number of values of a node and its levels, both with what aliases repeat."""
        below = node.value if not isinstance(node, yaml.ScalarNode) else []
        pairs = [part for pair in below for part in pair] if isinstance(node, yaml.MappingNode) else below
        sizes = [self._sizes[part] for part in pairs]
        return 1 + sum(size for size, _ in sizes), 1 + max((depth for _, depth in sizes), default=0)

    def _merged(self, pairs: list[tuple[yaml.Node, yaml.Node]]) -> list[tuple[yaml.Node, yaml.Node]]:
        """The pairs, with those of the blocks under << for the keys that are not written out; the first block wins."""
        written = [(key, value) for key, value in pairs if key.tag != _MERGE]
        known = {_name(key) for key, _ in written}
        for key, value in pairs:
            if key.tag != _MERGE:
                continue
            for block in value.value if isinstance(value, yaml.SequenceNode) else [value]:
                if not isinstance(block, yaml.MappingNode):
                    self._stop("<< takes a block of keys, or a list of such blocks", key.start_mark)
                added = [pair for pair in block.value if _name(pair[0]) not in known]
                written += added
                known |= {_name(name) for name, _ in added}
        return written

    def _stop(self, problem: str, mark: Any) -> NoReturn:
        raise yaml.MarkedYAMLError(problem=problem, problem_mark=mark)


def _name(key: yaml.Node) -> str | yaml.Node:
    return key.value if isinstance(key, yaml.ScalarNode) else key


def documents(paths: Collection[Path | str], faults: Faults) -> list[Place]:
    """Every document of the files, `-` being standard input; a file that cannot be read becomes a fault."""
    found: list[Place] = []
    for path in paths:
        source = "standard input" if str(path) == "-" else str(path)
        faults.expect(source)
        try:
            stored = _stored(path)
        except (OSError, ValueError) as error:
            faults.incomplete = True
            faults.add(source, None, f"cannot be read: {getattr(error, 'strerror', None) or error}")
            continue
        found += text_documents(source, stored, faults)
    return found


def text_documents(source: str, stored: bytes, faults: Faults) -> list[Place]:
    """Every object of a file's content: a document is an object or a list of objects."""
    found: list[Place] = []
    if len(stored) > LARGEST_FILE:
        faults.incomplete = True
        faults.add(source, None, "the file is larger than 1 MiB; split it into several files")
        return found
    try:
        text = stored.decode()
        for node in yaml.compose_all(text, Loader=_Composer):
            found += _objects(Place(faults, source, "", node))
    except UnicodeDecodeError as error:
        faults.incomplete = True
        faults.add(source, stored.count(b"\n", 0, error.start) + 1, "this is not UTF-8; save the file as UTF-8")
    except yaml.reader.ReaderError as error:
        faults.incomplete = True
        faults.add(source, stored.decode().count("\n", 0, error.position) + 1, "this has control characters")
    except yaml.MarkedYAMLError as error:
        faults.incomplete = True
        mark, problem = error.problem_mark or error.context_mark, error.problem or error.context
        if "'\\t'" in str(problem):
            problem = "a tab stands where only spaces may; indent with spaces"
        faults.add(source, mark.line + 1 if mark else None, f"this cannot be read as YAML: {problem}")
    except (OverflowError, ValueError) as error:
        faults.incomplete = True
        faults.add(source, None, f"this cannot be read as YAML: an escape that stands for no character ({error})")
    else:
        if not found:
            faults.add(source, 1, "the file holds no OpenSLO object")
    return found


def _objects(document: Place) -> list[Place]:
    found = document.items() if isinstance(document.node, yaml.SequenceNode) else [document]
    return [replace(place, whole=place.node) for place in found if not place.is_empty]


def _stored(path: Path | str) -> bytes:
    if str(path) == "-":
        return sys.stdin.buffer.read(LARGEST_FILE + 1)
    with Path(path).open("rb") as file:
        return file.read(LARGEST_FILE + 1)
