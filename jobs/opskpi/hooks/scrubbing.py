"""Taking out of text what must not leave the machine: e-mail addresses, secrets and absolute paths.

Imported only where there is free text: patterns cost milliseconds.
"""

import re

LONGEST_TEXT = 8192
EMAIL, SECRET, PATH = "[email]", "[secret]", "[path]"

_PREFIXES = (
    r"gh[opsru]_|github_pat_|gl(?:pat|dt|rt|cbt|ptt|soat|ft)-|xox[a-z]-|xapp-|AKIA|ASIA|AIza|ya29\.|eyJ|sk-|[srp]k_(?:live|test)_|"
    r"sb_secret_|sb_publishable_|sbp_|whsec_|npm_|pypi-|hf_|dop_v1_|shp(?:at|ca|pa|ss)_|SG\.|opskpi_"
)
_RULES = (
    (
        re.compile(r"-----BEGIN [A-Z ]{0,40}PRIVATE KEY-----.*?(?:-----END [A-Z ]{0,40}PRIVATE KEY-----|\Z)", re.S),
        SECRET,
    ),
    (re.compile(r"(?<=://)[^\s/@]{1,512}@"), ""),
    (re.compile(r"(?i)\b(bearer|basic|digest)\s+(?!\[)[^\s,;\"']{6,}"), rf"\1 {SECRET}"),
    (
        re.compile(
            r"(?i)([\w-]{0,40}(?:passw(?:or)?d|passphrase|secret|token|api[_-]?key|access[_-]?key|private[_-]?key|account[_-]?key"
            r"|credentials?|pwd|auth|cookie|signature)[\"']?\s{0,4}[=:]\s{0,4})"
            r"(?:([\"'])(?!\[secret\]\2)(?:\\.|(?!\2)[^\\]){1,2000}\2|([\"']?)(?!\[)[^\s,;\"']{3,})"
        ),
        rf"\1\2\3{SECRET}\2",
    ),
    (re.compile(rf"(?<![A-Za-z0-9])(?:{_PREFIXES})[A-Za-z0-9._~+/=-]{{4,}}"), SECRET),
    (re.compile(r"[^\s@]{1,64}(?:@|%40)[^\s@]{1,253}"), EMAIL),
    # A blank belongs to the path where a further slash follows in the next word: /Users/Ann Lee/x.
    (
        re.compile(
            r"(?<![\w.~)\]-])(?:file:)?(?:~[\w.-]{0,64})?/(?!\s|$)(?:\\.|[^\s\"'`<>|\[\]]| (?=[^\s\"'`<>|/]{1,128}/))*"
        ),
        PATH,
    ),
    (
        re.compile(
            r"/(?:home|Users|root|var|tmp|etc|opt|private|mnt)/"
            r"(?:\\.|[^\s\"'`<>|\[\]]| (?=[^\s\"'`<>|/]{1,128}/))*"
        ),
        PATH,
    ),
    (re.compile(r"(?<=\s-[A-Za-z])/[^\s\"'`<>|]+"), PATH),
    (re.compile(r"(?<![A-Za-z0-9])[A-Za-z]:[\\/](?:[^\s\"'`<>|]| (?=[^\s\"'`<>|\\/]{1,128}[\\/]))*"), PATH),
    (re.compile(r"\\\\(?:[^\s\"'`<>|]| (?=[^\s\"'`<>|\\/]{1,128}\\))+"), PATH),
)
_RUN = re.compile(r"[A-Za-z0-9+_=-]{20,}")
_HEX = re.compile(r"[0-9a-fA-F-]{32,}")
_OPAQUE = re.compile(r"[A-Za-z0-9+=]{40,}")
_TURN = re.compile(r"[a-z](?=[A-Z])|[A-Za-z](?=[0-9])|[0-9](?=[A-Za-z])")


def scrub(text: str, limit: int) -> str:
    """The text on one line, without e-mail addresses, secrets and absolute paths, at most `limit` characters of it.

    What looks random is taken for a secret: 32 hexadecimal digits, 40 letters and digits without a break, and runs of
    20 in which letters, capitals and digits change all the time.
    """
    if len(text) > LONGEST_TEXT:
        # Not within a word: the rest of a secret might not be known for one.
        text = text[:LONGEST_TEXT].rpartition(" ")[0]
    text = text.encode("utf-8", "replace").decode("utf-8")
    for pattern, replacement in _RULES[:1]:
        text = pattern.sub(replacement, text)
    text = "".join(character if character.isprintable() else " " for character in text)
    for pattern, replacement in _RULES[1:]:
        text = pattern.sub(replacement, text)
    return _RUN.sub(_unless_random, text).strip()[:limit].rstrip()


def _unless_random(run: "re.Match[str]") -> str:
    text = run.group()
    digits = sum(character.isdigit() for character in text)
    turns = len(_TURN.findall(text)) / len(text)
    # In random letters and digits about every second pair is a turn, in names of several words every fifth.
    restless = (digits >= 2 and turns >= 0.3) or (digits >= 1 and turns >= 0.2 and len(text) >= 32)
    return SECRET if restless or _HEX.search(text) or _OPAQUE.search(text) else text
