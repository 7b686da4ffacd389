"""Request bodies: bounded in size, time and memory while they arrive; JSON is read by nobody here but the database."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress
from http import HTTPStatus
from typing import ClassVar, NoReturn, Self

from fastapi import Request

from opskpi.hub.problems import Problem, unavailable

RECEIVE_S = 20
# Of one process. Strangers may send bodies too: a key is looked up with the body, in one transaction.
LARGE_BODIES_BYTES = 128 * 1024 * 1024
SMALL_BYTES = 128 * 1024
# Who sends too much is heard out so far: a connection closed on unread bytes would take the answer along.
DISCARDED_BYTES = 8 * 1024 * 1024
DISCARD_S = 5
JSON = "application/json"
NAMES = {JSON: "JSON"}


async def read_json(request: Request, limit: int) -> str:
    """The body as text, of at most `limit` bytes.

    Raises Problem: 415 unless it is plain JSON, 400 when it is not UTF-8 or holds a NUL, and what `read` raises. The
    syntax of the JSON is not checked.
    """
    kind = require_kind(request)
    return decoded(await read(request, limit), kind)


def decoded(body: bytes, kind: str) -> str:
    """The text of a body of a media type. Raises Problem, 400, when it is not UTF-8 or holds a NUL."""
    if b"\0" in body:
        raise Problem(HTTPStatus.BAD_REQUEST, f"the body is not valid {NAMES.get(kind, kind)}: it holds a NUL byte")
    try:
        return body.decode()
    except UnicodeDecodeError as error:
        raise Problem(HTTPStatus.BAD_REQUEST, f"the body is not UTF-8 at byte {error.start}") from None


async def read(request: Request, limit: int) -> bytes:
    """The body, of at most `limit` bytes.

    Raises Problem: 413 when it is larger, 408 when it takes too long to arrive, 503 while other large bodies take all
    the memory that there is for them.
    """
    stream = request.stream()
    announced = request.headers.get("content-length", "0")
    if announced.isdecimal() and int(announced) > limit:
        await _refuse(request, stream, limit, int(announced))
    chunks: list[bytes] = []
    size = 0
    with _Share() as share:
        try:
            async with asyncio.timeout(RECEIVE_S):
                async for chunk in stream:
                    size += len(chunk)
                    if size > limit:
                        break
                    share.take(size)
                    chunks.append(chunk)
        except TimeoutError:
            raise Problem(
                HTTPStatus.REQUEST_TIMEOUT,
                f"the body did not arrive within {RECEIVE_S} s",
                headers={"Connection": "close"},
            ) from None
        if size > limit:
            await _refuse(request, stream, limit, size)
        return b"".join(chunks)


class _Share:
    """The share of the memory for large bodies that one body takes while it arrives; small bodies always find room."""

    _taken: ClassVar[int] = 0

    def __init__(self) -> None:
        self._own = 0

    def take(self, size: int) -> None:
        """Grow with the body. Raises Problem, 503, when there is no more."""
        own = size if size > SMALL_BYTES else 0
        _Share._taken += own - self._own
        self._own = own
        if own and _Share._taken > LARGE_BODIES_BYTES:
            raise unavailable("too many large bodies arrive at once")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        _Share._taken -= self._own


def require_kind(request: Request, *others: str) -> str:
    """The media type of the body, JSON for all that is written in JSON.

    Raises Problem, 415, unless it is JSON or one of the `others`, in UTF-8 and without a compression.
    """
    media_type, _, parameters = request.headers.get("content-type", "").partition(";")
    kind = media_type.strip().lower()
    if kind.startswith("application/") and kind.endswith("+json"):
        kind = JSON
    if kind not in {JSON, *others}:
        raise Problem(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, f"the body must be {' or '.join([JSON, *others])}")
    name, _, charset = parameters.strip().lower().partition("=")
    if name == "charset" and charset.strip('"') not in {"utf-8", "utf8"}:
        raise Problem(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, f"the body must be {NAMES.get(kind, kind)} in UTF-8")
    coding = request.headers.get("content-encoding", "identity").strip().lower()
    if coding not in {"identity", ""}:
        raise Problem(
            HTTPStatus.UNSUPPORTED_MEDIA_TYPE,
            "the body must not be compressed",
            hint="Send it without Content-Encoding.",
            headers={"Accept-Encoding": "identity"},
        )
    return kind


async def _refuse(request: Request, rest: AsyncIterator[bytes], limit: int, size: int) -> NoReturn:
    """Discard what still arrives, within bounds, and raise 413."""
    # Who waits for 100 Continue gets the answer instead of the permission.
    if size <= DISCARDED_BYTES and "expect" not in request.headers:
        with suppress(TimeoutError):
            async with asyncio.timeout(DISCARD_S):
                async for chunk in rest:
                    size += len(chunk)
                    if size > DISCARDED_BYTES:
                        break
    raise Problem(
        HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
        f"the body is larger than {limit:,} bytes",
        hint="Send smaller batches.",
        headers={"Connection": "close"},
    )
