"""JSON for the recording path: the scanner and the string encoder that `json` itself uses, without what it imports.

`import json` takes `re`, `enum` and `functools` along: 6 ms where a whole interpreter starts in 8.
"""

try:
    from _json import encode_basestring_ascii, make_scanner
except ImportError:  # another Python than CPython
    encode_basestring_ascii = make_scanner = None

_WHITESPACE = " \t\r\n"


def _constant(name: str) -> object:
    raise ValueError(f"{name} is no JSON")


class _Rules:
    strict = True
    object_hook = None
    object_pairs_hook = None
    parse_float = float
    parse_int = int
    parse_constant = staticmethod(_constant)
    memo: dict[str, str] = {}  # noqa: RUF012 - the scanner asks for this name


def loads(text: str) -> object:
    """The value of a JSON document. Raises ValueError for what is none, RecursionError where it is too deep."""
    if make_scanner is None:
        import json  # noqa: PLC0415

        return json.loads(text, parse_constant=_constant)
    start = len(text) - len(text.lstrip(_WHITESPACE))
    try:
        value, end = make_scanner(_Rules())(text, start)  # pyright: ignore[reportArgumentType]
    except (StopIteration, SystemError):
        # Without json.decoder in memory the scanner of CPython 3.11 finds no class for what it wants to raise.
        raise ValueError("it is no JSON") from None
    if text[end:].strip(_WHITESPACE):
        raise ValueError("there is more after it")
    return value


def read_object(raw: "bytes | None") -> "dict[str, object]":
    """The JSON object in UTF-8 text; empty for anything else."""
    try:
        value = loads((raw or b"").decode("utf-8"))
    except (ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}


def dumps(value: object) -> str:
    """One line of ASCII. Raises ValueError for NaN and infinity, TypeError for what has no JSON form."""
    if isinstance(value, str):
        return _quoted(value)
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, int):
        return int.__repr__(value)
    if isinstance(value, float):
        if not float("-inf") < value < float("inf"):
            raise ValueError("a number must be finite")
        return float.__repr__(value)
    if isinstance(value, dict):
        return "{" + ", ".join(f"{_quoted(key)}: {dumps(entry)}" for key, entry in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(dumps, value)) + "]"
    raise TypeError(f"{type(value).__name__} has no JSON form")


def _quoted(text: str) -> str:
    if encode_basestring_ascii is None:
        import json  # noqa: PLC0415

        return json.dumps(text)
    return encode_basestring_ascii(text)
