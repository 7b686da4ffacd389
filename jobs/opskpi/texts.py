"""Single lines of text out of values that strangers wrote."""

import unicodedata
from decimal import Decimal

# They turn the reading direction around, so that a name could pose as another.
BIDI_CONTROLS = frozenset("\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")


def line(value: object, limit: int = 300) -> str | None:
    """One line of at most `limit` characters without control characters; None when nothing is left of it."""
    kept = (
        " " if character.isspace() else character
        for character in scalar(value)
        if character.isspace()
        or (unicodedata.category(character) not in {"Cc", "Cs"} and character not in BIDI_CONTROLS)
    )
    words = " ".join("".join(kept).split())
    return (words if len(words) <= limit else words[: limit - 1].rstrip() + "…") or None


def scalar(value: object) -> str:
    """The text of a JSON scalar, else nothing."""
    if isinstance(value, bool) or not isinstance(value, str | int | float | Decimal):
        return ""
    try:
        return str(value)
    except ValueError:  # an integer of thousands of digits
        return ""
