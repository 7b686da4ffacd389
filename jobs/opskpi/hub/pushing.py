"""Open pages over a WebSocket: what changed is pushed, and meanwhile that the page is live, or why it is not."""

import asyncio
import logging
from collections.abc import Callable, Coroutine, Mapping
from contextlib import suppress
from datetime import UTC, datetime

import psycopg
from fastapi import APIRouter, WebSocket, WebSocketDisconnect

from opskpi.dashboard.layout import PAGES
from opskpi.dashboard.view import View, parse
from opskpi.errors import OpsKpiError
from opskpi.hub import problems
from opskpi.hub.app_state import database_of, live_of, page_cache_of, sessions_of
from opskpi.hub.problems import Problem
from opskpi.hub.sessions import Session, require_same_origin

# A page changes once a second at most, and waits a moment for what comes together.
CALM_S = 0.75
GATHER_S = 0.25
# Who takes nothing for so long is gone.
STALL_S = 30
# Pages of one key that are pushed at the same moment ask for it once.
RECALL_S = 1
# Everything moves on with the clock: the window, what is stale, and whether the key of a session still lives.
QUIET_BEATS = 4
AWAY = "the database does not answer"
SESSION_ENDED = 4401

log = logging.getLogger("opskpi.hub")
router = APIRouter(include_in_schema=False)


@router.websocket("/live/{page}")
async def push(socket: WebSocket, page: str) -> None:
    """Send the sections of a page whenever they change, each once."""
    try:
        require_same_origin(socket)
        session = await sessions_of(socket).find(socket, database_of(socket))
        view = parse(page, socket.query_params) if page in PAGES else None
    except (Problem, OpsKpiError, psycopg.Error, TimeoutError):
        await socket.close(1008)
        return
    if session is None or view is None:
        await socket.accept()
        await socket.close(SESSION_ENDED if view else 1008)
        return
    await socket.accept()
    pushing = asyncio.create_task(_push(socket, view, session))
    try:
        while True:
            await socket.receive_text()
    except (WebSocketDisconnect, RuntimeError, KeyError):
        pushing.cancel()


async def _push(socket: WebSocket, view: View, session: Session) -> None:
    sent: dict[str, int] = {}
    try:
        async with live_of(socket).subscribed(session.caller) as changed:
            while await _push_once(socket, view, session, sent):
                await asyncio.sleep(CALM_S)
                await _quiet(socket, changed)
                await asyncio.sleep(GATHER_S)
    except (WebSocketDisconnect, RuntimeError, TimeoutError):
        # The page went away, or reads nothing.
        with suppress(RuntimeError, TimeoutError):
            async with asyncio.timeout(1):
                await socket.close(1008)
    except Problem:
        await socket.close(1013)
    except Exception:
        # The page connects again; were the socket left open, it would look alive and hear nothing.
        log.exception("a page cannot be kept up to date")
        await socket.close(1011)


async def _quiet(socket: WebSocket, changed: Callable[[], Coroutine[None, None, bool]]) -> None:
    """Wait for a change, or a while; meanwhile the page hears that it is live, or why it is not."""
    for _ in range(QUIET_BEATS):
        has_changed = await changed()
        if live_of(socket).is_away:
            await _tell(socket, fault=AWAY)
        elif has_changed:
            return
        else:
            await _tell(socket)


async def _tell(socket: WebSocket, sections: Mapping[str, str] | None = None, fault: str | None = None) -> None:
    async with asyncio.timeout(STALL_S):
        await socket.send_json({"at": datetime.now(UTC).isoformat(), "sections": sections or {}, "fault": fault})


async def _push_once(socket: WebSocket, view: View, session: Session, sent: dict[str, int]) -> bool:
    """Send what is not sent yet; False when the session has ended."""
    try:
        # Looked up again each time: a revoked key sees nothing new.
        if await sessions_of(socket).find(socket, database_of(socket), kept_s=RECALL_S) is None:
            await socket.close(SESSION_ENDED)
            return False
        _, shown = await page_cache_of(socket).shown(session.caller, view)
    except (Problem, OpsKpiError, psycopg.Error, TimeoutError) as error:
        # The page stays as it is; what it shows says as of when.
        await _tell(socket, fault=problems.as_problem(error).detail)
        return True
    fresh = {section.id: section.html for section in shown if sent.get(section.id) != hash(section.html)}
    if fresh:
        await _tell(socket, fresh)
        sent |= {name: hash(html) for name, html in fresh.items()}
    return True
