"""Where the API is and the token to read it with, neither of which an error text repeats."""

import ipaddress
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from opskpi.errors import ExitCode, OpsKpiError

if TYPE_CHECKING:
    import httpx

PUBLIC_API = "https://api.github.com"
TOKEN_VARIABLES = ("GITHUB_TOKEN", "GH_TOKEN")
# Characters that may follow Bearer (RFC 6750).
CHARACTERS = re.compile(r"[A-Za-z0-9._~+/=-]+")
# https://docs.github.com/en/authentication/keeping-your-account-and-data-secure/about-authentication-to-github
FORM = re.compile(r"gh[a-z]_.+|github_pat_.+|v[0-9]\..+|[0-9a-f]{40}|eyJ.+|[^/]{32,}")
# The first that holds is what is wrong with a value that is no token.
FAULTS = (
    (re.compile(r"\ufeff|\xef\xbb\xbf|\udcef\udcbb\udcbf"), "begins with a byte order mark"),
    (re.compile("""(?s).*[`"'\u00ab\u00bb\u2018-\u201f]"""), "holds quotation marks"),
    (re.compile(r"(?i)(bearer|token|basic)[ :]"), "begins with the scheme of the header Authorization"),
    (re.compile(r"(export )?[A-Z_]{3,}=[^=]"), "begins with the name of a variable"),
    (re.compile(r"[*.\u2022]+$"), "is masked"),
    (re.compile(r"(?s).*([$%]|\{\{)"), "holds a reference that nothing replaced"),
    (re.compile(r"(?s).*[\r\n]"), "holds a line break"),
    (re.compile(r"(?s).*\s"), "holds a space"),
)


@dataclass(frozen=True, slots=True)
class Token:
    """The token, empty without one, and the variable it came from (without one: where to put it)."""

    variable: str
    value: str

    @property
    def name(self) -> str:
        """The token's name in error texts."""
        return f"the token in {self.variable}" if self.value else "a request without a token"

    @property
    def has_form(self) -> bool:
        """Whether it looks like a token of GitHub, or at least like nothing else."""
        return bool(FORM.fullmatch(self.value))

    @property
    def doubt(self) -> str:
        """A hint where it does not look like a token; else empty."""
        if not self.value or self.has_form:
            return ""
        return f"{self.variable} has not the form of a token (ghp_…, github_pat_…, ghs_…): set it again."

    @property
    def advice(self) -> str:
        """How to get one that may read what is asked for."""
        if not self.value:
            return f"Put a token that may read Actions into {self.variable}."
        return (
            "Give it the repository permission Actions: read (a classic token: the scope repo; a workflow:"
            " permissions: {actions: read})."
        )


def base_url_of(address: str) -> "httpx.URL":
    """The base URL of an API: https, or http on this machine. Raises OpsKpiError (BAD_ARGUMENT) for all else."""
    import httpx  # noqa: PLC0415 - most of what is collected comes from files

    try:
        url = httpx.URL(address.rstrip("/"))
    except (httpx.InvalidURL, ValueError):
        url = httpx.URL()
    if url.scheme not in {"http", "https"} or not url.host or url.userinfo or url.query or url.fragment:
        raise OpsKpiError(
            "the API's address is no plain http or https URL", "Pass such as --api-url https://api.github.com.",
            ExitCode.BAD_ARGUMENT,
        )  # fmt: skip
    if url.scheme == "http" and not _is_loopback(url.host):
        raise OpsKpiError(
            "the API's address is http: the token would cross the network in clear", "Pass an https address.",
            ExitCode.BAD_ARGUMENT,
        )  # fmt: skip
    return url


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def token_of(environ: Mapping[str, str]) -> Token:
    """The token of the first variable that is set; empty without one.

    Blanks and line ends around it are passed over. Raises OpsKpiError (CONFIGURATION), which says what is wrong and
    repeats nothing of it, when it cannot be a token.
    """
    for variable in TOKEN_VARIABLES:
        value = environ.get(variable, "").strip()
        if value and (fault := _fault(value)):
            raise OpsKpiError(
                f"{variable} {fault}", "Set it again, to the token alone: no quotes, blanks, names or marks.",
                ExitCode.CONFIGURATION,
            )  # fmt: skip
        if value:
            return Token(variable, value)
    return Token(TOKEN_VARIABLES[0], "")


def _fault(value: str) -> str:
    found = next((fault for pattern, fault in FAULTS if pattern.match(value)), "")
    return found or ("" if CHARACTERS.fullmatch(value) else "holds characters that no token has")
