"""Answers of the API: the JSON without the token, or a sentence that says what is wrong, often with the token."""

import json
import re
from http import HTTPStatus
from typing import NoReturn
from urllib.parse import urlsplit

import httpx

from opskpi.errors import ExitCode, OpsKpiError
from opskpi.github.access import Token
from opskpi.outbound.reasons import phrase
from opskpi.outbound.secrets import scrub

SINGLE_SIGN_ON = "x-github-sso"
PERMISSIONS_NEEDED = "x-accepted-github-permissions"
PERMISSIONS = re.compile(r"[a-z_]+=[a-z]+([,;] ?[a-z_]+=[a-z]+){0,9}")
MEDIA_TYPE = re.compile(r"[a-z0-9.+-]+/[a-z0-9.+-]+")
WHERE_JSON_IS = (
    "Check --api-url (of GitHub Enterprise Server it ends with /api/v3) and the proxy of HTTPS_PROXY, and sign in"
    " where the page asks for it."
)


class Gone(OpsKpiError):  # noqa: N818
    """An answer of 404 or 410."""


class NotJson(ValueError):  # noqa: N818
    """An answer that should be JSON and is cut short or malformed."""


def document_of(response: httpx.Response, body: bytes, token: Token, host: str) -> object:
    """The JSON of an answer of 200, without the token.

    Raises NotJson for what may be whole the next time, and OpsKpiError (CONFIGURATION) for a web page, for results that
    single sign-on holds back, and where the token is an ordinary word of the answers.
    """
    _refuse_partial(response, token, host)
    try:
        document = json.loads(body)
        return _without(document, token, host)
    except (ValueError, RecursionError):
        _refuse_page(response, body, host)
        raise NotJson("answered with something that is not JSON, or was cut short") from None


def refuse(response: httpx.Response, body: bytes, token: Token, host: str) -> NoReturn:
    """Raise what an answer means that is neither 200 nor worth another try.

    Raises Gone, and OpsKpiError: CONFIGURATION for what is wrong with the token or the way to the API, else FAILED.
    """
    _refuse_page(response, body, host)
    status, said = response.status_code, _said(body, token)
    message = f"{host} answered {phrase(status)}{f': {said}' if said else ''}"
    doubt = token.doubt
    if status in {HTTPStatus.NOT_FOUND, HTTPStatus.GONE}:
        message += f"; there is no such thing, or {token.name} may not see it"
        raise Gone(message, f"Check the name. {doubt or token.advice}", ExitCode.BAD_ARGUMENT)
    if status == HTTPStatus.UNAUTHORIZED:
        meaning = f"{token.name} is wrong, was revoked or has expired" if token.value else "it asks for a token"
        hint = doubt or f"Put a token that may read Actions into {token.variable}."
        raise OpsKpiError(f"{message}; {meaning}", hint, ExitCode.CONFIGURATION)
    if status == HTTPStatus.FORBIDDEN:
        if address := _sign_on(response, token):
            raise OpsKpiError(
                f"{message}; the organisation asks that {token.name} is authorised for single sign-on",
                f"Authorise it: {address}, or Configure SSO beside the token in the settings of the account.",
                ExitCode.CONFIGURATION,
            )
        needed = response.headers.get(PERMISSIONS_NEEDED, "")
        wanted = f", which needs {needed}" if PERMISSIONS.fullmatch(needed) else ""
        raise OpsKpiError(
            f"{message}; {token.name} may not read this{wanted}", doubt or token.advice, ExitCode.CONFIGURATION
        )
    if status == HTTPStatus.PROXY_AUTHENTICATION_REQUIRED:
        raise OpsKpiError(message, "Put the proxy's user and password into HTTPS_PROXY.", ExitCode.CONFIGURATION)
    raise OpsKpiError(message, "Check --repo and --api-url.")


def refuse_shape(document: object, key: str, token: Token, host: str) -> NoReturn:
    """Raise what JSON means that lacks the list it should have. Raises OpsKpiError, FAILED."""
    message = f"{host} answered without a list of {key}"
    said = document.get("message") if isinstance(document, dict) else None
    if isinstance(said, str):
        message += f", but with the message: {scrub(said, [token.value])}"
    raise OpsKpiError(message, f"Check --api-url, and that {token.name} may read Actions. {token.doubt}".strip())


def _refuse_page(response: httpx.Response, body: bytes, host: str) -> None:
    kind = response.headers.get("content-type", "").partition(";")[0].strip().lower()
    is_page = body.removeprefix(b"\xef\xbb\xbf").lstrip()[:1] == b"<"
    is_other = response.status_code == HTTPStatus.OK and bool(MEDIA_TYPE.fullmatch(kind)) and not kind.endswith("json")
    if is_page or is_other:
        named = "a web page" if is_page else kind
        raise OpsKpiError(
            f"{host} answered {phrase(response.status_code)} with {named} instead of JSON:"
            " a proxy, a login or another server answers in its place",
            WHERE_JSON_IS,
            ExitCode.CONFIGURATION,
        )


def _refuse_partial(response: httpx.Response, token: Token, host: str) -> None:
    if response.headers.get(SINGLE_SIGN_ON, "").strip().lower().startswith("partial-results"):
        raise OpsKpiError(
            f"{host} holds back results: the organisation asks that {token.name} is authorised for single sign-on",
            "Authorise it: Configure SSO beside the token in the settings of the account.",
            ExitCode.CONFIGURATION,
        )


def _sign_on(response: httpx.Response, token: Token) -> str:
    """The address where a token is authorised, without its query, which is of one login; empty when none is asked."""
    needed, _, rest = response.headers.get(SINGLE_SIGN_ON, "").partition(";")
    if needed.strip().lower() != "required":
        return ""
    try:
        address = urlsplit(rest.strip().removeprefix("url="))
        found = f"https://{address.hostname}{address.path}" if address.scheme == "https" and address.hostname else ""
    except ValueError:
        found = ""
    return scrub(found or "the page of the organisation's single sign-on", [token.value])


def _without(document: object, token: Token, host: str) -> object:
    """Whatever a server sends back is stored, so its echo of the token must not be, however JSON writes it.

    A token that stands in an answer and has not the form of one is a word that somebody put there by mistake: to take
    it out would damage the answer.
    """
    if not token.value or token.value not in json.dumps(document, ensure_ascii=False):
        return document
    if not token.has_form or _is_key(document, token.value):
        raise OpsKpiError(
            f"{token.variable} holds what stands in ordinary answers of {host}, so it is not a token",
            f"Put a token that may read Actions into {token.variable}, or leave it empty for a public repository.",
            ExitCode.CONFIGURATION,
        )
    return _replaced(document, token.value)


def _is_key(document: object, value: str) -> bool:
    if isinstance(document, dict):
        return any(value in key or _is_key(inner, value) for key, inner in document.items())
    return isinstance(document, list) and any(_is_key(inner, value) for inner in document)


def _replaced(document: object, value: str) -> object:
    if isinstance(document, dict):
        return {key: _replaced(inner, value) for key, inner in document.items()}
    if isinstance(document, list):
        return [_replaced(inner, value) for inner in document]
    return document.replace(value, "***") if isinstance(document, str) else document


def _said(body: bytes, token: Token) -> str:
    try:
        said = json.loads(body)
    except (ValueError, RecursionError):
        return ""
    message = said.get("message") if isinstance(said, dict) else None
    return scrub(message, [token.value]) if isinstance(message, str) else ""
