"""Signs of a secret: in the name of a value, and in the value itself.

A name is taken apart into words, so that neither its case nor its style counts, and the last word decides: a `token` is
a secret, a `token_count` is not. How much a value must look like a secret follows from how often its name stands in
ordinary text: `password: x` is one more often than `signature: x`.
"""

import re

_WORDS = r"[A-Z]+(?![a-z])|[A-Z]?[^\W\d_A-Z]+|\d+"
# A name that ends in one of these is that of a password or the like.
_CERTAIN = (
    *("password", "passwd", "passphrase", "passcode", "pwd", "secret", "passwort", "kennwort", "contraseña"),
    *("contrasena", "senha", "wachtwoord", "haslo", "hasło", "пароль", "密码", "密碼", "パスワード", "비밀번호"),
)
_LIKELY = (
    "token",
    "apikey",
    "accesskey",
    "secretkey",
    "privatekey",
    "authkey",
    "accountkey",
    "jwt",
    "connectionstring",
)
_POSSIBLE = ("credential", "credentials", "auth", "authorization", "cookie", "signature", "sig", "session", "sessionid")
_OF_KEYS = {
    *("api", "access", "private", "priv", "secret", "account", "encryption", "signing", "master", "storage", "shared"),
    *("service", "auth", "ssh", "deploy", "consumer", "subscription", "session", "admin", "db", "database", "sas"),
    *("hmac", "aes", "rsa", "gpg", "pgp", "client", "app", "webhook", "license", "preshared"),
}
# Words after the deciding one that change nothing.
_QUALIFIERS = {
    *("prod", "production", "dev", "test", "staging", "stage", "old", "new", "current", "value", "plain", "plaintext"),
    *("b64", "base", "hex", "raw", "default", "root", "admin", "string", "primary", "secondary"),
}
_NEGATIONS = {
    "no",
    "skip",
    "without",
    "disable",
    "allow",
    "use",
    "require",
    "show",
    "hide",
    "has",
    "is",
    "check",
    "detect",
}
# Values that are a reference to a secret, a placeholder, or code.
_REFERENCE = (
    r"\$?\{\{?[^}]*\}?\}?|\$[A-Z_][A-Z0-9_]*|\$\([^)]*\)?|%[A-Z_]+%|[*x.#•…-]{3,}|\[(?:\w+|\S*\w-\w\S*)\]\S*|<\w|"
    r"[A-Za-z_]\w*(?:\.\w+)*[(\[]\S*|(?:[a-z_]{2,}\.)+[A-Za-z_]{2,}"
)
_BENIGN = {
    *("true", "false", "none", "null", "nil", "undefined", "yes", "no", "on", "off", "ok", "empty", "set", "unset"),
    *("required", "optional", "missing", "invalid", "valid", "expired", "wrong", "incorrect", "correct", "unknown"),
    *("expected", "unexpected", "found", "unchanged", "changed", "updated", "rotated", "removed", "added", "created"),
    *("deleted", "failed", "passed", "failure", "success", "error", "disabled", "enabled", "default", "hidden", "any"),
    *("masked", "redacted", "encrypted", "string", "str", "text", "bytes", "number", "object", "array", "int", "bool"),
    *("boolean", "secret", "password", "basic", "bearer", "digest", "oauth", "oauth2", "ntlm", "negotiate", "kerberos"),
    *("prompt", "stdin", "env", "ask", "never", "always", "auto", "manual", "local", "remote", "public", "private"),
    *("sha1", "sha256", "sha384", "sha512", "md5", "hmac", "rsa", "dsa", "ecdsa", "ed25519", "aes", "hs256", "rs256"),
    *("es256", "ps256", "gpg", "pgp", "x509", "inherit", "base64", "utf8"),
    *("shared", "strict", "lax", "token", "key", "absent", "fehlt", "falsch", "ungültig", "erforderlich", "abgelaufen"),
    *("geändert", "requerido", "requerida", "inválida", "falta", "obligatoria", "requis", "invalide", "manquant"),
    *("expiré", "obligatoire", "obrigatória", "obrigatório", "неверный", "обязателен", "必須", "错误", "必填"),
}


def certainty(name: str, *, is_flag: bool) -> int:
    """How much a name says that its value is a secret: 3 certainly, 2 likely, 1 possibly, 0 not."""
    words = [word.lower() for word in re.compile(_WORDS).findall(name)]
    while len(words) > 1 and (words[-1] in _QUALIFIERS or words[-1].isdigit()):
        words.pop()
    if not words or (words[0] in _NEGATIONS and (is_flag or len(words) > 1)):
        return 0
    last, before = words[-1], words[-2] if len(words) > 1 else ""
    if is_plural(name):
        # As often a number of them.
        last = last[:-1]
        return max(_certainty_of(last, before) - 1, 0)
    return _certainty_of(last, before)


def is_plural(name: str) -> bool:
    """Whether a name is that of several secrets."""
    return name.endswith(("s", "S")) and not name.lower().endswith(("ss", "credentials"))


def _certainty_of(last: str, before: str) -> int:
    if last.endswith(_CERTAIN):
        return 3
    if last.endswith(_LIKELY) or (last == "key" and before in _OF_KEYS) or (last in {"pass", "pw", "auth"} and before):
        return 2
    if last in {"pass", "pw"} or last in _POSSIBLE or (last == "id" and before == "session") or last == "otp":
        return 1
    return 0


def is_secret_in_quotes(value: str, trust: int) -> bool:
    """Whether a value in quotes is a secret, of a name of this certainty."""
    if is_benign(value.strip()):
        return False
    if trust == 3:
        return " " not in value or has_digit_and_letter(value) or value.count(" ") > 2
    return is_opaque(value) or has_digit_and_letter(value) or (trust == 2 and " " not in value and len(value) >= 6)


def is_secret(value: str, trust: int, *, is_assigned: bool, is_alone: bool) -> bool:
    """Whether a value without quotes is a secret, of a name of this certainty.

    `is_assigned`: by an equals sign, not by a colon as in a sentence; `is_alone`: no further word follows.
    """
    if is_benign(value) or (value.isdigit() and len(value) < 4):
        return False
    if trust == 3 and is_assigned:
        return len(value) >= 3
    if trust == 3 and is_alone and len(value) >= 4:
        return True
    is_long = len(value) >= (6 if is_assigned else 16) and not value.isdigit()
    if trust == 2 and is_long and (is_assigned or is_alone):
        return True
    return is_opaque(value)


def is_benign(value: str) -> bool:
    """Whether a value is a word about a secret, a reference to one, or code."""
    return (
        value.strip("()[]{}.:!?").lower() in _BENIGN or bool(re.compile(_REFERENCE).fullmatch(value)) or "://" in value
    )


def is_opaque(value: str) -> bool:
    """Whether it looks chosen by a machine or by somebody who was told to mix characters: no word, number or path."""
    if len(value) < 6 or "/" in value[:1]:
        return False
    turns = len(re.findall(r"[a-z](?=[A-Z])", value))
    marked = sum(not character.isalnum() and character not in "-_./:" for character in value)
    return has_digit_and_letter(value) or turns >= 2 or (marked >= 1 and value.isascii() and len(value) >= 8)


def has_digit_and_letter(value: str) -> bool:
    """Whether there are both."""
    return any(map(str.isdigit, value)) and any(map(str.isalpha, value))
