"""Filters of SLIs (the labels that an event must have, each with the values that it may have), and keys of groups."""

from opskpi.openslo.definitions import Filter
from opskpi.openslo.places import Place

# The length to which a label of an event is cut.
LONGEST_LABEL = 100
MOST_GROUP_KEYS = 2
HOW_TO_GROUP = "write groupBy in the metricSource spec of total, beside its eventType, as in groupBy: [workflow]"


def read_filter(place: Place | None) -> Filter:
    """The labels of a query as sorted lists of values, each once; faults are added where they stand."""
    return {key: values for key, label in (place.texts() if place else {}).items() if (values := _values(label))}


def narrowed(labels: Filter, within: Filter, place: Place | None) -> Filter | None:
    """The labels without those that `within` settles already; None, and a fault, where the two exclude each other."""
    for key, values in labels.items():
        if key in within and place and not set(values) & set(within[key]):
            return place.refuse(f"{key} is none of what total has there, so no event is counted; write values of total")
    return {key: values for key, values in labels.items() if not (key in within and set(within[key]) <= set(values))}


def read_group_by(place: Place | None) -> tuple[str, ...]:
    """The sorted keys of labels by whose values a query groups, one or two; faults are added where they stand."""
    if place is None:
        return ()
    if place.is_block:
        place.refuse("a block of keys is no list of label keys; write groupBy: [workflow]")
        return ()
    items = place.filled_items() if place.is_list else [place]
    if len(items) > MOST_GROUP_KEYS:
        items[MOST_GROUP_KEYS].refuse(f"{len(items)} keys are too many; write one or two")
        return ()
    keys = [item.text(LONGEST_LABEL) for item in items]
    if None not in keys and len(set(keys)) < len(keys):
        items[-1].refuse(f"{items[-1].shown} is given twice; write each key once")
    return tuple(sorted({key for key in keys if key is not None}))


def grouped(total: Place | None, part: Place | None) -> tuple[str, ...]:
    """The keys by which total is grouped; `part`, that of good or bad, may only repeat them."""
    if part is None:
        return read_group_by(total)
    before = part.faults.count
    keys, repeated = read_group_by(total), read_group_by(part)
    if repeated != keys and part.faults.count == before:
        of_total = f"grouped by {' and '.join(keys)}" if keys else "not grouped"
        part.refuse(
            f"total is {of_total}, and this is a part of total; write groupBy at total, and the same or none here"
        )
    return keys


def written_filter(labels: Filter) -> dict[str, str | list[str]]:
    """The labels as a file says them: a list only where there are several values."""
    return {key: values[0] if len(values) == 1 else list(values) for key, values in sorted(labels.items())}


def _values(label: Place) -> tuple[str, ...]:
    places = label.items() if label.is_list else [label]
    if not places:
        label.refuse("the list is empty; write a value, or leave the key out")
    values = [place.text(LONGEST_LABEL, may_be_empty=True) for place in places]
    return tuple(sorted({value for value in values if value is not None}))
