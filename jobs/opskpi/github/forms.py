"""Webhooks as forms: application/x-www-form-urlencoded, where the field `payload` holds the JSON."""

import re
from urllib.parse import unquote_plus

MEDIA_TYPE = "application/x-www-form-urlencoded"
FIELD = "payload"
MOST_FIELDS = 10
BROKEN = re.compile(r"%(?![0-9A-Fa-f]{2})")


def payload_of(form: str) -> str:
    """The JSON that a form holds. Raises ValueError, whose text completes "the form …": what is wrong with it."""
    form = form.strip()
    fields = [field.partition("=") for field in form.split("&", MOST_FIELDS)]
    if len(fields) > MOST_FIELDS:
        raise ValueError(f"has more than {MOST_FIELDS} fields")
    values = [value for name, _, value in fields if name == FIELD]
    if not values:
        raise ValueError(f"has no field {FIELD}")
    if len(values) > 1:
        raise ValueError(f"has the field {FIELD} {len(values)} times")
    if broken := BROKEN.search(values[0]):
        raise ValueError(f"has broken percent-encoding at character {broken.start() + 1} of its field {FIELD}")
    try:
        payload = unquote_plus(values[0], errors="strict")
    except UnicodeDecodeError:
        raise ValueError(f"does not hold UTF-8 in its field {FIELD}") from None
    if not payload.strip():
        raise ValueError(f"has an empty field {FIELD}")
    return payload
