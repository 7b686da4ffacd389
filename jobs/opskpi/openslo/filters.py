"""Filters of SLIs: the labels that an event must have, each with the values that it may have."""

from opskpi.openslo.definitions import Filter
from opskpi.openslo.places import Place

# The length to which a label of an event is cut.
LONGEST_LABEL = 100


def read_filter(place: Place | None) -> Filter:
    """The labels of a query as sorted lists of values, each once; faults are added where they stand."""
    return {key: values for key, label in (place.texts() if place else {}).items() if (values := _values(label))}


def narrowed(labels: Filter, within: Filter, place: Place | None) -> Filter | None:
    """The labels without those that `within` settles already; None, and a fault, where the two exclude each other."""
    for key, values in labels.items():
        if key in within and place and not set(values) & set(within[key]):
            return place.refuse(f"{key} is none of what total has there, so no event is counted; write values of total")
    return {key: values for key, values in labels.items() if not (key in within and set(within[key]) <= set(values))}


def written_filter(labels: Filter) -> dict[str, str | list[str]]:
    """The labels as a file says them: a list only where there are several values."""
    return {key: values[0] if len(values) == 1 else list(values) for key, values in sorted(labels.items())}


def _values(label: Place) -> tuple[str, ...]:
    places = label.items() if label.is_list else [label]
    if not places:
        label.refuse("the list is empty; write a value, or leave the key out")
    values = [place.text(LONGEST_LABEL, may_be_empty=True) for place in places]
    return tuple(sorted({value for value in values if value is not None}))
