"""Values whose name says that they are secrets: `DB_PASS=x`, `"apiKey": "x"`, `--password x`, YAML, XML, headers."""

import re

from opskpi.hooks.secret_formats import SECRET
from opskpi.hooks.secret_words import (
    certainty,
    has_digit_and_letter,
    is_benign,
    is_opaque,
    is_plural,
    is_secret,
    is_secret_in_quotes,
)

# Patterns are made where they are needed (and kept by `re`), because each costs a part of a millisecond.
_STEMS = (
    *("pass", "pwd", "pw", "secret", "token", "key", "credential", "auth", "cookie", "sig", "session", "jwt", "otp"),
    *("connectionstring", "kennwort", "contrase", "senha", "wachtwoord", "haslo", "hasło", "парол", "密码", "密碼"),
    *("パスワード", "비밀번호"),
)

_STEM = (
    r"(?i)pass|pwd|pw\b|secret|token|key|credential|auth|cookie|signature|sig\b|session|jwt|otp\b|connectionstring|"
    r"kennwort|contrase|senha|wachtwoord|has[lł]o|парол|密码|密碼|パスワード|비밀번호"
)
_NAME = r"[\w.-]{1,80}"
_LEFT = 64
# Quotes may be escaped, as in JSON that is a text of JSON; an address writes the separator as %3D.
# The folder of a shell; passwords under that name have digits or signs.
_FOLDER = r"=(?:[A-Za-z_.-]+|[~.]{0,2}/[\w./~-]*)(?![^\s)\"'])"
_SEPARATOR = r"(?:\\{0,3}[\"'`\]]){0,2}[ \t]{0,4}(?:\[\d{0,4}\][ \t]{0,4})?(===?|!==?|:=|=>|[=:]|%3[ADad])[ \t]{0,4}@?"
# A value that YAML writes below its name: a block, or one word.
_BLOCK = (
    r"[|>][-+]?\d?[ \t]*\n((?:[ \t]+\S[^\n]{0,500}(?:\n|\Z)){1,100})"
    r"|[ \t]*\n[ \t]+([^\s:#\"'-][^\s:]{2,500})[ \t]*(?:\n|\Z)"
)
_QUOTED = (
    r"(?P<escape>\\{1,3})?(?P<quote>[\"'`])"
    r"(?P<value>(?(escape)(?:(?!\\{1,3}(?P=quote))[^\n]){0,2000}|(?:\\.|(?!(?P=quote))[^\\\n]){0,2000}))"
    r"(?(escape)\\{1,3})(?P=quote)"
)
# And no class of characters in a pattern.
_LIST = r"\[[ \t]{0,4}([^\]\n]{3,2000}?)[ \t]{0,4}\](?![{+*?])"
_FURTHER = r"(?:,[ \t]?[^\s\"'`<>|,;]{3,500}){1,50}"
# Commands that set a variable: ENV NAME value.
_SETTING = r"(?:^|[\s;&|])(?:(ENV|ARG|setx|setenv)|set)[ \t]{1,4}$"
_CALL = r"[ \t]?\([ \t]?[\"'`]([^\"'`\n]{3,500})[\"'`][ \t]?\)"
_BARE = r"[^\s\"'`<>|,;]{1,2000}"
_REST_OF_LINE = r"[^\n\"']{1,2000}"
_SAID = r"[ \t]{1,4}(?:is|was|ist|war|es|est|é):?[ \t]{1,4}[\"'`]?"
# A variable of a container or a form: its name is a value, too.
_LISTED = (
    r"(?i)((?:name|key)[\"']?\s{0,4}[:=]\s{0,4}[\"']?([\w.-]{1,80})[\"']?\s{0,40},?\s{0,40}"
    r"[\"']?value[\"']?\s{0,4}[:=]\s{0,4}[\"']?)([^\s\"',}]{3,2000})"
)
_NETRC = r"(\blogin\s{1,4}\S{1,200}\s{1,40}password\s{1,4})(?!\[)(\S{3,500})"


def without(text: str) -> str:
    """The text without the values of such names; a line stays a line."""
    lower = text.lower()
    if not any(stem in lower for stem in _STEMS):
        return text
    if "value" in lower and ("name" in lower or "key" in lower):
        text = re.sub(_LISTED, _without_listed, text)
    if "login " in text:
        text = re.sub(_NETRC, rf"\1{SECRET}", text)
    return _without_named(text)


def _without_listed(found: "re.Match[str]") -> str:
    is_one = certainty(found[2], is_flag=False) >= 2 and not is_benign(found[3])
    return f"{found[1]}{SECRET}" if is_one else found[0]


def _without_named(text: str) -> str:
    pieces: list[str] = []
    done = 0
    for match in re.compile(_STEM).finditer(text):
        if match.start() < done:
            continue
        start, end = _name_around(text, match, done)
        found = _value_of(text, start, end)
        if found is not None:
            pieces += [text[done : found[0]], SECRET]
            done = found[1]
        elif end > done:
            pieces.append(text[done:end])
            done = end
    return "".join([*pieces, text[done:]])


def _name_around(text: str, match: "re.Match[str]", done: int) -> "tuple[int, int]":
    start = match.start()
    least = max(done, start - _LEFT)
    while start > least and (text[start - 1].isalnum() or text[start - 1] in "_.-"):
        start -= 1
    named = re.compile(_NAME).match(text, match.start())
    return start, named.end() if named else match.end()


def _value_of(text: str, start: int, end: int) -> "tuple[int, int] | None":  # noqa: PLR0911 - one for each form
    """The place of the secret value whose name stands between two places; None where there is none."""
    name = text[start:end]
    flag = len(name) - len(name.lstrip("-")) if start == 0 or text[start - 1] in " \t\n\"'=([`" else 0
    trust = certainty(name.strip("-."), is_flag=flag > 0)
    if trust == 0 or (name in {"PWD", "OLDPWD"} and ";" not in text and re.compile(_FOLDER).match(text, end)):
        return None
    separator = re.compile(_SEPARATOR).match(text, end)
    if separator is None:
        return _value_of_flag(text, end, trust) if flag else _value_in_other_form(text, start, end, trust)
    place, is_assigned = separator.end(), separator.group(1) != ":"
    if block := re.compile(_BLOCK).match(text, place):
        part = 1 if block.group(1) is not None else 2
        begin = place if part == 1 else block.start(2)
        return (begin, block.start(part) + len(block.group(part).rstrip())) if trust == 3 else None
    if name.lower().strip("-").endswith(("authorization", "cookie")) and not is_assigned:
        return _rest_of_header(text, place)
    if (quoted := re.compile(_QUOTED).match(text, place)) and quoted["value"]:
        return quoted.span("value") if is_secret_in_quotes(quoted["value"], trust) else None
    if listed := re.compile(_LIST).match(text, place):
        return listed.span(1) if _has_secret(listed[1], trust) else None
    bare = re.compile(_BARE).match(text, place)
    if bare is None:
        return None
    if is_plural(name) and not is_assigned:
        return None  # of several, an account or their number is as likely
    value, last = _trimmed(text, start, *bare.span())
    if separator.group(1)[:2] in {"==", "!="}:
        # A name is compared with another name as often.
        return (place, last) if has_digit_and_letter(value) and not is_benign(value) else None
    is_alone = not re.match(r"[ \t]*[^\s,;})\]\"']", text[last : last + 40])
    if not is_secret(value, trust, is_assigned=is_assigned, is_alone=is_alone):
        return None
    further = re.compile(_FURTHER).match(text, last) if is_plural(name) and is_assigned else None
    return place, further.end() if further else last


def _has_secret(entries: str, trust: int) -> bool:
    """Whether a list holds a secret, of a name of this certainty."""
    words = (entry.strip("\\\"'`") for entry in re.split(r"[,\s]+", entries))
    return any(
        not is_benign(word) and (is_opaque(word) or (trust >= 2 and has_digit_and_letter(word))) for word in words
    )


def _value_in_other_form(text: str, start: int, end: int, trust: int) -> "tuple[int, int] | None":
    """The value of `<name>value</name>`, `ENV name value`, `name("value")`, and in a sentence: the password is x."""
    if trust >= 2 and text[start - 1 : start] == "<" and text[end : end + 1] == ">":
        close = text.find("<", end)
        value = text[end + 1 : close] if close > 0 else ""
        return (end + 1, close) if value.strip() and not is_benign(value) and len(value) < 2000 else None
    if trust >= 2 and (call := re.compile(_CALL).match(text, end)):
        return call.span(1) if is_opaque(call[1]) and not is_benign(call[1]) else None
    name = text[start:end]
    is_variable = trust >= 2 and (name.isupper() or "_" in name)
    if is_variable and (setting := re.search(_SETTING, text[max(start - 12, 0) : start])):
        return _value_that_is_set(text, end, is_certain=bool(setting[1]))
    said = re.compile(_SAID).match(text, end) if trust == 3 else None
    bare = re.compile(_BARE).match(text, said.end()) if said else None
    if bare is None:
        return None
    value, last = _trimmed(text, start, *bare.span())
    return (bare.start(), last) if has_digit_and_letter(value) and is_opaque(value) and not is_benign(value) else None


def _value_that_is_set(text: str, end: int, *, is_certain: bool) -> "tuple[int, int] | None":
    found = re.compile(r"[ \t]{1,4}[\"']?([^\s\"'=]{3,2000})").match(text, end)
    if found is None or is_benign(found[1].rstrip(",;")):
        return None
    return found.span(1) if is_certain or is_opaque(found[1]) else None


def _trimmed(text: str, name_start: int, start: int, end: int) -> "tuple[str, int]":
    value = text[start:end]
    value = value.partition("%26")[0]
    if name_start and text[name_start - 1] in "?&":
        value = value.partition("&")[0].partition("#")[0]
    for opening, closing in ("()", "[]", "{}"):
        if value.endswith(closing) and opening not in value:
            value = value[: value.index(closing)]
    value = value.rstrip(".:")
    return value, start + len(value)


def _rest_of_header(text: str, place: int) -> "tuple[int, int] | None":
    rest = re.compile(_REST_OF_LINE).match(text, place)
    if rest is None:
        return None
    value = rest.group().strip()
    scheme, _, credential = value.partition(" ")
    if credential and scheme.isalnum() and "=" not in scheme:
        word = credential.split()[0]
        is_scheme = scheme.lower() in {"bearer", "basic", "digest", "token", "negotiate", "ntlm", "apikey", "key"}
        is_one = (is_scheme and not is_benign(word) and len(word) > 3) or scheme.startswith("AWS4-")
        start = text.index(credential, place)
        return (start, start + len(credential.rstrip())) if (is_one and not credential.startswith("[")) else None
    if value.startswith("[") or not (is_opaque(value) or re.match(r"[\w.-]{1,80}=[^=\s]", value)):
        return None
    return place, place + len(rest.group().rstrip())


def _value_of_flag(text: str, end: int, trust: int) -> "tuple[int, int] | None":
    """The value of `--name value`: a lower-case word may be the next one of a sentence."""
    blank = re.compile(r"[ \t]{1,4}(?!-)").match(text, end)
    if blank is None:
        return None
    if (quoted := re.compile(_QUOTED).match(text, blank.end())) and quoted["value"]:
        is_one = is_secret_in_quotes(quoted["value"], max(trust, 2))
        return quoted.span("value") if is_one or (trust == 3 and not is_benign(quoted["value"].strip())) else None
    bare = re.compile(_BARE).match(text, blank.end())
    if bare is None:
        return None
    value, last = _trimmed(text, 0, *bare.span())
    is_command = text[last : last + 3].lstrip(" \t")[:1] == "-" and text[last : last + 1] in {" ", "\t"}
    is_word = value.isalpha() and (not is_command or len(value) < 4)
    return None if is_word or is_benign(value) else (blank.end(), last)
