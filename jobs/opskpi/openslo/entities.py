"""The objects of OpenSLO files: what all kinds have in common, and finding them by name."""

from collections.abc import Collection, Iterable
from dataclasses import dataclass

from opskpi.alerting.channels import registry
from opskpi.openslo import foreign_formats, foreign_metrics
from opskpi.openslo.definitions import Labels
from opskpi.openslo.faults import Faults
from opskpi.openslo.places import Block, Place

API_VERSION = "openslo/v1"
PREFIX = "opskpi.dev/"
LONGEST_ANNOTATION = 4096

_ANNOTATIONS = {
    "Service": (),
    "SLO": ("expected-every", "previous-name", "enabled", "min-failures"),
    "SLI": (),
    "AlertPolicy": ("applies-to",),
    "AlertCondition": ("kind", "short-window", "budget-share", "metric", "event-type"),
    # And the settings of all kinds of channels.
    "AlertNotificationTarget": ("secret-env", "severities", "repeat-interval"),
}
_NOT_KEPT = {
    "SLI": "an SLI keeps none; write it to its SLO",
    "AlertCondition": "a condition keeps none; write it to its policy",
}
_WHOLE = {"apiVersion", "kind", "metadata", "spec"}


@dataclass(frozen=True, slots=True)
class Entity:
    """An object: its name ("" where there is none to read), what others annotate, and our annotations, prefix off."""

    kind: str
    place: Place
    name: str
    display_name: str | None
    labels: Labels
    annotations: dict[str, str]
    own: dict[str, Place]
    spec: Place | None

    def allow_only(self, own: Iterable[str], what: str) -> None:
        """Refuse each of our annotations that is not named, since `what` has no use for it."""
        for key in sorted(self.own.keys() - set(own)):
            self.own[key].refuse(f"{what} has no use for it; remove it")

    def carried(self, part: str, description: str) -> dict[str, str]:
        """Its title and description as annotations of what it is kept with."""
        texts = {f"{PREFIX}{part}-display-name": self.display_name, f"{PREFIX}{part}-description": description}
        return {key: text for key, text in texts.items() if text}


class Entities:
    """The objects of all files by kind and name."""

    def __init__(self, faults: Faults) -> None:
        self._faults = faults
        self._all: list[Entity] = []
        self._by_name: dict[tuple[str, str], Entity] = {}
        self._used: set[tuple[str, str]] = set()
        self._targets: list[Place] = []

    def add(self, entity: Entity) -> None:
        """Add an object that others may refer to; a second one of the same kind and name is a fault."""
        self._all.append(entity)
        first = self._by_name.setdefault((entity.kind, entity.name), entity)
        if entity.name and first is not entity:
            entity.place.refuse(
                f"the {entity.kind} {entity.name} already stands at {first.place.source}:{first.place.line}"
            )

    def of(self, kind: str) -> list[Entity]:
        """All objects of a kind, in the order of the files."""
        return [entity for entity in self._all if entity.kind == kind]

    def find(self, kind: str, reference: Place) -> Entity | None:
        """The object that a name refers to; None, and a fault, without one."""
        name = reference.text()
        if name is None:
            return None
        self._used.add((kind, name))
        entity = self._by_name.get((kind, name))
        if entity is None and not self._faults.incomplete:
            reference.refuse(f"there is no {kind} called {reference.shown} in these files; pass the file too")
        return entity

    def expect_target(self, reference: Place) -> None:
        """Remember a notification target that is named, perhaps before it is defined."""
        self._targets.append(reference)

    def check_targets(self, known: Collection[str] | None) -> None:
        """Refuse the names of notification targets that are neither defined nor `known`; None: all may be."""
        for reference in self._targets:
            if known is not None and reference.written not in known:
                self.find("AlertNotificationTarget", reference)

    def is_used(self, entity: Entity) -> bool:
        """Something refers to it."""
        return (entity.kind, entity.name) in self._used


def document(place: Place) -> Entity | None:
    """The object of a document; None, and a fault, if it is of no version or kind that we read, or a data source."""
    if foreign := foreign_formats.recognised(place):
        return place.refuse_object(foreign)
    block = place.block(_WHOLE)
    version, kind = block.need("apiVersion"), block.need("kind")
    entity = None
    if version and version.written != API_VERSION:
        version.refuse_object(_other_version(version))
    elif version and kind and kind.written == "DataSource":
        return kind.note("the DataSource is ignored, because SLIs count events that are stored in the database")
    elif version and kind and kind.choice(tuple(_ANNOTATIONS)):
        entity = _entity(kind.written, block)
    if entity is None or (entity.spec is None and entity.kind != "Service"):
        # What it would refer to, and be called, is unknown.
        place.faults.incomplete = True
    return entity


def _other_version(version: Place) -> str:
    if version.written.startswith("openslo"):
        return f"{version.shown} is not read; write the object as {API_VERSION}, whose keys may differ"
    return f"{version.shown} is not read; only {API_VERSION} is"


def inline(kind: str, place: Place) -> Entity | None:
    """The object of a kind that is written where it is used."""
    block = place.block(_WHOLE)
    if (version := block.get("apiVersion")) and version.written != API_VERSION:
        version.refuse(f"{version.shown} is not read; only {API_VERSION} is")
    if named := block.get("kind"):
        named.choice((kind,))
    return _entity(kind, block)


def _entity(kind: str, block: Block) -> Entity | None:
    place = block.need("metadata")
    spec = block.get("spec") if kind == "Service" else block.need("spec")
    if place is None:
        return None
    known = {"name", "displayName", "annotations"} | (set() if kind in _NOT_KEPT else {"labels"})
    metadata = place.block(known, {"labels": _NOT_KEPT.get(kind, "")})
    name = metadata.need("name")
    foreign, own = _annotations(kind, metadata.get("annotations"))
    labels = metadata.get("labels")
    if name:
        # An objective of an SLO with several is called after both, and exported so.
        name.name(parts=2 if kind == "SLO" else 1)
    not_done = {"SLI": foreign_metrics.is_foreign, "SLO": foreign_metrics.is_composite}.get(kind)
    if not_done and spec and not_done(spec):
        spec = None
    return Entity(
        kind=kind,
        place=name or place,
        name=name.written if name else "",
        display_name=metadata.line_of_text("displayName"),
        labels=_labels(labels.texts() if labels else {}),
        annotations=foreign,
        own=own,
        spec=spec,
    )


def _annotations(kind: str, place: Place | None) -> tuple[dict[str, str], dict[str, Place]]:
    known = _ANNOTATIONS[kind]
    if kind == "AlertNotificationTarget":
        known += tuple(setting.name for channel in registry.KINDS for setting in registry.kind_of(channel).SETTINGS)
    foreign: dict[str, Place] = {}
    own: dict[str, Place] = {}
    for key, value in (place.texts() if place else {}).items():
        ours = key.removeprefix(PREFIX)
        if ours == key and kind in _NOT_KEPT:
            value.refuse(_NOT_KEPT[kind])
        elif ours == key:
            foreign[key] = value
        elif ours in known:
            own[ours] = value
        else:
            value.refuse(f"{kind} has no such annotation; known are {', '.join(known) or 'none'}")
    return _texts(foreign), own


def _labels(places: dict[str, Place]) -> Labels:
    """The labels by key; a label has a text, or a list of texts."""
    single = {key: place for key, place in places.items() if not place.is_list}
    lists: Labels = {
        key: [item.text(LONGEST_ANNOTATION, lines=True, may_be_empty=True) or "" for item in place.filled_items()]
        for key, place in places.items()
        if place.is_list
    }
    return dict(sorted((lists | _texts(single)).items()))


def _texts(places: dict[str, Place]) -> dict[str, str]:
    return {
        key: place.text(LONGEST_ANNOTATION, lines=True, may_be_empty=True) or ""
        for key, place in sorted(places.items())
    }
