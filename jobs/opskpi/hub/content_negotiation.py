"""Which of the media types that are offered a caller wants: the header Accept, after RFC 9110, section 12.5.1."""

import re
from collections.abc import Sequence

WORD = r"[!#$%&'*+.^_`|~0-9A-Za-z-]+"
QUOTED = r'"(?:[^"\\]|\\.)*"'
ELEMENT = re.compile(rf"(?:{QUOTED}|[^,\"])+")
RANGE = re.compile(rf"\s*({WORD}/{WORD})\s*((?:;\s*(?:{WORD}\s*=\s*(?:{WORD}|{QUOTED}))?\s*)*)")
PARAMETER = re.compile(rf";\s*({WORD})\s*=\s*({WORD}|{QUOTED})")
WEIGHT = re.compile(r"0(?:\.\d{0,3})?|1(?:\.0{0,3})?")


def choose(offered: Sequence[str], accepted: Sequence[str]) -> str | None:
    """The offered media type of the greatest weight, the first of equals; None when none is acceptable.

    `accepted` are the lines of Accept; without any, or with empty ones only, everything is acceptable. What is no media
    range is passed over, and parameters other than q do not narrow a range.
    """
    header = ",".join(accepted)
    if not header.strip(" ,\t"):
        return offered[0]
    weights = dict(found for element in ELEMENT.findall(header) if (found := _weighed(element)))
    best, weight = max(((each, _weight(each, weights)) for each in offered), key=lambda pair: pair[1])
    return best if weight > 0 else None


def _weighed(element: str) -> tuple[str, float] | None:
    found = RANGE.fullmatch(element)
    if found is None:
        return None
    weight = next((value for name, value in PARAMETER.findall(found[2]) if name.lower() == "q"), "1")
    return (found[1].lower(), float(weight)) if WEIGHT.fullmatch(weight) else None


def _weight(media_type: str, weights: dict[str, float]) -> float:
    """Of the ranges that match, the most specific decides."""
    for narrower in (media_type, f"{media_type.partition('/')[0]}/*", "*/*"):
        if narrower in weights:
            return weights[narrower]
    return 0
