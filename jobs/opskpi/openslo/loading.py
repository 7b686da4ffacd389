"""Files of YAML, as far as their syntax goes."""

import sys
from collections.abc import Collection
from pathlib import Path
from typing import Any, NoReturn

import yaml

from opskpi.openslo.faults import Faults
from opskpi.openslo.places import Place

LARGEST_FILE = 1 << 20
DEEPEST = 20


class _Composer(yaml.SafeLoader):
    """Composes nodes without what makes a small file large or a plain value something else."""

    depth = 0

    def compose_node(self, parent: yaml.Node | None, index: Any) -> Any:
        event = self.peek_event()
        if isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None) is not None:
            self._stop("anchors and aliases are not read; write the value out", event.start_mark)
        if getattr(event, "tag", None) is not None:
            self._stop("tags are not read; write the value without !", event.start_mark)
        if self.depth >= DEEPEST:
            self._stop(f"this is nested deeper than {DEEPEST} levels", event.start_mark)
        self.depth += 1
        node = super().compose_node(parent, index)
        self.depth -= 1
        return node

    def _stop(self, problem: str, mark: Any) -> NoReturn:
        raise yaml.MarkedYAMLError(problem=problem, problem_mark=mark)


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
    """Every document of a file's content that holds anything."""
    found: list[Place] = []
    if len(stored) > LARGEST_FILE:
        faults.incomplete = True
        faults.add(source, None, "the file is larger than 1 MiB; split it into several files")
        return found
    try:
        text = stored.decode()
        for node in yaml.compose_all(text, Loader=_Composer):
            place = Place(faults, source, "", node)
            if not place.is_empty:
                found.append(place)
    except UnicodeDecodeError as error:
        faults.incomplete = True
        faults.add(source, stored.count(b"\n", 0, error.start) + 1, "this is not UTF-8; save the file as UTF-8")
    except yaml.reader.ReaderError as error:
        faults.incomplete = True
        faults.add(source, stored.decode().count("\n", 0, error.position) + 1, "this has control characters")
    except yaml.MarkedYAMLError as error:
        faults.incomplete = True
        mark = error.problem_mark or error.context_mark
        faults.add(
            source, mark.line + 1 if mark else None, f"this cannot be read as YAML: {error.problem or error.context}"
        )
    except (OverflowError, ValueError) as error:
        faults.incomplete = True
        faults.add(source, None, f"this cannot be read as YAML: an escape that stands for no character ({error})")
    else:
        if not found:
            faults.add(source, 1, "the file holds no OpenSLO object")
    return found


def _stored(path: Path | str) -> bytes:
    if str(path) == "-":
        return sys.stdin.buffer.read(LARGEST_FILE + 1)
    with Path(path).open("rb") as file:
        return file.read(LARGEST_FILE + 1)
