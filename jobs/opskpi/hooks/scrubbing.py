"""Taking out of text what must not leave the machine: e-mail addresses, secrets and absolute paths.

Imported only where there is free text: patterns cost milliseconds.
"""

import re

from opskpi.hooks import secret_commands, secret_formats, secret_names
from opskpi.hooks.secret_formats import SECRET

LONGEST_TEXT = 8192
_SHORTEST_RUN = 20
EMAIL, PATH = "[email]", "[path]"

_CREDENTIALS = r"(?<=://)[^\s/?#\"'<>]{1,512}@"
# The domain of an address ends in letters, unlike the end of `name@1.2.3` and `checkout@v4`; `icon@2x.png` is a file.
_ADDRESS = (
    r"(?:[^\s@<>()\[\],;:\"/]{1,64}|(?<=\S)/)(?:@|%40)(?!v?\d+\.\d+(?!\.\d+\.\d)|\dx\.)"
    r"(?:(?:[\w-]{1,63}\.){1,126}(?:(?i:xn--)[\w-]{1,59}|[^\W\d_]{2,63})|\d{1,3}(?:\.\d{1,3}){3}|\[[\d.:a-f]{3,40}\])"
)
# A blank belongs to the path where a further slash follows in the next word: /Users/Ann Lee/x.
_TO_THE_END = r"(?:\\.|[^\s\"'`<>|\[\]]| (?=[^\s\"'`<>|/]{1,128}/))*"
# A digest of a file says nothing of what is in it: npm, Go and ssh write them in base64.
_DIGEST = r"(?<![A-Za-z0-9])(?:(?i:sha)(?:1|256|384|512)[-:=]|h1:)[A-Za-z0-9+/]{27,86}={0,2}(?![A-Za-z0-9+/=])"
_PLACE = (
    rf"(?P<kept>{_DIGEST}"
    r"|(?<![A-Za-z0-9+.-])(?!(?i:file):)[A-Za-z][A-Za-z0-9+.-]{1,20}://[^\s\"'<>|`]*"
    r"|\b(?:GET|HEAD|POST|PUT|PATCH|DELETE|OPTIONS) /[^\s\"'<>|`]*)"
    rf"|(?<![\w.~)\]+-])(?:(?i:file):/{{0,2}})?(?:~[\w.-]{{0,64}})?/(?=[\w.~@%$+\\-]){_TO_THE_END}"
    rf"|/(?:home|Users|root|var|tmp|etc|opt|private|mnt)/{_TO_THE_END}"
    r"|(?<=\s-[A-Za-z])/[^\s\"'`<>|]+"
    r"|(?<![A-Za-z0-9])[A-Za-z]:[\\/](?:[^\s\"'`<>|]| (?=[^\s\"'`<>|\\/]{1,128}[\\/]))*"
    r"|\\\\(?:[^\s\"'`<>|]| (?=[^\s\"'`<>|\\/]{1,128}\\))+"
)
_RUN = rf"(?P<digest>{_DIGEST})|[A-Za-z0-9+_=-]{{20,}}(?:/[A-Za-z0-9+/_=-]*)?|[A-Za-z0-9+/_=-]{{32,}}"
_UUID = r"(?i)(?<![0-9a-f])[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}(?![0-9a-f])"
_HEX = r"[0-9a-fA-F-]{32,}"
_OPAQUE = r"[A-Za-z0-9+=]{40,}"
_TURN = r"[a-z](?=[A-Z])|[A-Za-z](?=[0-9])|[0-9](?=[A-Za-z])"
# SHA-1, SHA-256, SHA-384 and SHA-512, which name commits and files.
_DIGESTS = {40, 64, 96, 128}
_OF_DIGESTS = (
    r"(?i)(?:md5|etag|hash|digest|checksum|sum|fingerprint|commit|tree|blob|trace|span|request|build|run)\W{1,3}$"
)


def scrub(text: str, limit: int) -> str:
    """The text on one line, without e-mail addresses, secrets and absolute paths, at most `limit` characters of it.

    A secret has a name that says so (`secret_names`), a published format (`secret_formats`), or looks random: 32
    hexadecimal digits, 40 letters and digits without a break, runs of 20 in which letters, capitals and digits change
    all the time. UUIDs and digests of the usual lengths stay, because they name commits, files and runs.
    """
    if len(text) > LONGEST_TEXT:
        # Not within a word: the rest of a secret might not be known for one.
        text = text[:LONGEST_TEXT].rpartition(" ")[0]
    text = text.encode("utf-8", "replace").decode("utf-8")
    text = secret_formats.without_private_keys(text)
    text = secret_commands.without(secret_names.without(text))
    text = "".join(character if character.isprintable() else " " for character in text)
    if "://" in text and "@" in text:
        text = re.sub(_CREDENTIALS, "", text)
    text = secret_formats.without_tokens(text)
    if "@" in text or "%40" in text:
        text = re.sub(_ADDRESS, EMAIL, text)
    if "/" in text or "\\" in text:
        text = re.sub(_PLACE, lambda found: found.group() if found["kept"] else PATH, text)
    if max(map(len, text.split()), default=0) >= _SHORTEST_RUN:
        text = re.sub(_RUN, _unless_random, text)
    return text.strip()[:limit].rstrip()


def _unless_random(run: "re.Match[str]") -> str:
    text = run.group()
    if run["digest"]:
        return text
    if "/" in text:
        is_path = "-" in text or not _is_restless(text, 0.3) or len(text) < 32
        pieces = [_piece(piece, "") for piece in text.split("/")]
        return "/".join(pieces) if is_path else SECRET
    return _piece(text, run.string[max(run.start() - 16, 0) : run.start()])


def _piece(text: str, before: str) -> str:
    if len(text) < _SHORTEST_RUN:
        return text
    rest = re.sub(_UUID, "", text)
    for part in re.split(r"[-_=+]", rest):
        is_hex = not set(part) - set("0123456789abcdefABCDEF")
        is_digest = is_hex and (len(part) in _DIGESTS or (len(part) == 32 and re.search(_OF_DIGESTS, before)))
        # The beginning of a digest, as git and container registries write it, or a number.
        if is_digest or (7 <= len(part) <= 16 and is_hex) or (part.isdigit() and len(part) < 20):
            rest = rest.replace(part, "", 1)
    if len(rest) < _SHORTEST_RUN:
        return text
    return SECRET if _is_random(rest) else text


def _is_random(text: str) -> bool:
    return bool(_is_restless(text, 0.3) or re.search(_HEX, text) or re.search(_OPAQUE, text)) or (
        len(text) >= 32 and _is_restless(text, 0.2)
    )


def _is_restless(text: str, share: float) -> bool:
    """Whether letters, capitals and digits change that often: at random every second time, in names every fifth."""
    return sum(map(str.isdigit, text)) >= 2 and len(re.findall(_TURN, text)) / len(text) >= share
