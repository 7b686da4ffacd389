"""Passwords after the short flags of commands, `mysql -px`, and after the names of schemes, `Bearer x`."""

import re

from opskpi.hooks.secret_formats import SECRET
from opskpi.hooks.secret_words import is_opaque

_COMMAND = (
    r"\b(?:(?P<attached>mysql\w{0,12}|mariadb[\w-]{0,12}|sshpass|7z[ar]?|rar|unrar)"
    r"|(?P<p>sshpass|mongo\w{0,10}|cqlsh|rabbitmqadmin|(?:docker|podman|nerdctl|helm|crane|skopeo|buildah|oras|npm|oc)\s(?:registry\s)?login)"
    r"|(?P<a>redis-cli)|(?P<w>ldap\w{3,10})|(?P<P>sqlcmd|osql|bcp|mosquitto_\w{3}|ipmitool|unzip|zip)"
    r"|(?P<k>openssl)|(?P<b>htpasswd)|(?P<u>curl|wget|https?|xh))(?=\s)"
)
_COMMANDS = (
    *("mysql", "mariadb", "sshpass", "7z", "rar", "mongo", "cqlsh", "rabbitmqadmin", " login", "redis-cli", "ldap"),
    *("sqlcmd", "osql", "bcp", "mosquitto", "ipmitool", "zip", "curl", "wget", "http", "xh"),
    *("openssl", "htpasswd"),
)
_AFTER = {
    "attached": r"(?<=\s-p)(?!\[secret\])[^\s|;&]{1,500}",
    "p": r"(?<=\s-p)(?:\s{1,4}|=)(?!\[secret\]|-)([^\s|;&]{1,500})",
    "a": r"(?<=\s-a)\s{1,4}(?!\[secret\]|-)([^\s|;&]{1,500})",
    "w": r"(?<=\s-w)\s{1,4}(?!\[secret\]|-)([^\s|;&]{1,500})",
    "P": r"(?<=\s-P)\s{1,4}(?!\[secret\]|-)([^\s|;&]{1,500})",
    "k": r"(?<=\s-k)\s{1,4}(?!\[secret\]|-)([^\s|;&]{1,500})",
    "b": r"(?<=\s-)\w{0,5}b\w{0,5}\s{1,4}\S{1,200}\s{1,4}\S{1,100}\s{1,4}(?!\[secret\])([^\s|;&]{1,500})",
    "u": r"(?<=\s-[uUa])\s{0,4}[\"']?[^\s:\"']{1,100}:(?!\[secret\])([^\s|;&\"']{1,500})",
}
_SCHEME = r"(?i)\b(bearer|basic|negotiate|token|apikey)(\s{1,4})(?!\[)([A-Za-z0-9._~+/=-]{8,4096})"
_OPENSSL = r"(?<=\bpass:)(?!\[secret\])[^\s\"']{3,500}"

_ORACLE = r"((?:jdbc:oracle:\w{1,5}:|\bsqlplus(?:\s-\w{1,9}){0,3}\s)[^\s/@:]{1,60}/)(?!\[)([^\s@/]{1,200})(?=@)"


def without(text: str) -> str:
    """The text without what such a command or scheme is given."""
    lower = text.lower()
    if " -" in text:
        text = _after_commands(text)
    if any(scheme in lower for scheme in ("bearer", "basic", "negotiate", "token", "apikey")):
        text = re.sub(_SCHEME, _without_credentials, text)
    if "oracle:" in text or "sqlplus" in text:
        text = re.sub(_ORACLE, rf"\1{SECRET}", text)
    return re.sub(_OPENSSL, SECRET, text) if "pass:" in text else text


def _without_credentials(found: "re.Match[str]") -> str:
    """Only a bearer token may be made of small letters and digits, as names are."""
    is_mixed = not found[3].islower() and not found[3].isupper()
    is_long = len(found[3]) >= 20 and found[3].isalnum() and found[1].lower() == "token"
    is_one = is_opaque(found[3]) and (is_mixed or is_long or found[1].lower() == "bearer")
    return f"{found[1]}{found[2]}{SECRET}" if is_one else found[0]


def _after_commands(text: str) -> str:
    """Take out the passwords of commands that have a short flag for them."""
    if not any(command in text for command in _COMMANDS):
        return text
    done, pieces = 0, []
    for command in re.compile(_COMMAND).finditer(text):
        if command.start() < done:
            continue
        end = min(_end_of_command(text, command.end()), command.end() + 500)
        part = text[command.end() : end]
        for kind in ("attached", "p") if command["attached"] == "sshpass" else (command.lastgroup or "",):
            part = re.sub(_AFTER[kind], _only_value, part)
        pieces += [text[done : command.end()], part]
        done = end
    return "".join([*pieces, text[done:]])


def _only_value(found: "re.Match[str]") -> str:
    if not found.re.groups:
        return SECRET
    return found.group()[: found.start(1) - found.start()] + SECRET


def _end_of_command(text: str, start: int) -> int:
    ends = [place for mark in "|;&\n" if (place := text.find(mark, start)) >= 0]
    return min(ends, default=len(text))
