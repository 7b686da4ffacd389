"""Where the API is and the token to read it with, neither of which an error text repeats."""

import ipaddress
from collections.abc import Mapping

import httpx

from opskpi.errors import ExitCode, OpsKpiError

PUBLIC_API = "https://api.github.com"
TOKEN_VARIABLES = ("GITHUB_TOKEN", "GH_TOKEN")


def base_url_of(address: str) -> httpx.URL:
    """The base URL of an API: https, or http on this machine. Raises OpsKpiError (BAD_ARGUMENT) for all else."""
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


def token_of(environ: Mapping[str, str]) -> str:
    """The token of the first variable that is set; empty without one. Raises OpsKpiError when it is none."""
    for variable in TOKEN_VARIABLES:
        token = environ.get(variable, "").strip()
        if token and not (token.isascii() and token.isprintable() and " " not in token):
            raise OpsKpiError(f"{variable} holds characters that no token has", "Set it again.", ExitCode.CONFIGURATION)
        if token:
            return token
    return ""
