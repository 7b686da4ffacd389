"""Runs the hub: what it needs is looked at first, then one process or several serve one socket until told to stop."""

import gc
import importlib.util
import logging
import multiprocessing
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from multiprocessing import connection as processes
from multiprocessing.context import SpawnProcess
from pathlib import Path
from secrets import token_hex
from typing import Any
from uuid import UUID

import psycopg
from psycopg import sql

from opskpi import console
from opskpi.access import keys, pseudonyms
from opskpi.errors import ExitCode, OpsKpiError
from opskpi.outbound import secrets
from opskpi.postgres import connecting, history

PACKAGES = (
    "fastapi", "itsdangerous", "jinja2", "jwt", "prometheus_client", "psycopg_pool", "uvicorn", "websockets"
)  # fmt: skip
BACKLOG = 2048
DRAIN_S = 30
# After the drain a process closes its pool and goes.
STOP_S = DRAIN_S + 10
RESPAWN_S = 1
# Pages send nothing.
WEBSOCKET_BYTES = 1024
LOCAL_HOSTS = ("127.0.0.1", "localhost")
COOKIE_SECRET = "OPSKPI_COOKIE_SECRET"  # noqa: S105 - the name of a variable
LOGGING: dict[str, Any] = {
    "version": 1,
    "disable_existing_loggers": False,
    "filters": {"without_secrets": {"()": "opskpi.hub.serving.WithoutSecrets"}},
    "formatters": {"line": {"format": "%(asctime)s %(levelname)s %(name)s: %(message)s"}},
    "handlers": {
        "stderr": {"class": "logging.StreamHandler", "formatter": "line", "filters": ["without_secrets"]},
    },
    "root": {"handlers": ["stderr"], "level": "WARNING"},
    "loggers": {
        "uvicorn.access": {"level": "INFO"},
        # It warns of every pipeline that ends in an error, which the caller is told.
        "psycopg": {"level": "ERROR"},
        "psycopg.pool": {"level": "WARNING"},
    },
}


@dataclass(frozen=True, slots=True)
class Settings:
    """How one process of the hub runs: its database, the size of its pool, whether it logs requests.

    `webhook_secret_env` names the environment variable with the secret of GitHub's webhooks, whose events belong to
    `webhook_org`; None: it takes none. The dashboard takes API keys, and Supabase tokens signed with the secret in
    `token_secret_env` or by a key of `token_keys`; `open_to` is the org that it shows without a login.
    """

    dsn: str
    connections: int
    access_log: bool
    webhook_org: UUID
    webhook_secret_env: str | None
    open_to: UUID | None = None
    token_secret_env: str | None = None
    token_keys: Path | None = None
    # Drawn once for all processes of the hub; its sessions end with it, unless the environment names a lasting one.
    cookie_secret: str = field(default_factory=lambda: os.environ.get(COOKIE_SECRET) or token_hex(32), repr=False)


class WithoutSecrets(logging.Filter):
    """Keeps what a caller put into the wrong place out of the log: queries of URLs, and the secrets of API keys."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Let the record pass, rewritten."""
        if record.name == "uvicorn.access" and isinstance(record.args, tuple) and len(record.args) == 5:
            client, method, path, version, status = record.args
            record.args = (client, method, str(path).partition("?")[0], version, status)
        record.msg, record.args = keys.without_secrets(record.getMessage()), ()
        return True


def serve(settings: Settings, host: str, port: int, workers: int, announce: Callable[[str], None]) -> None:
    """Serve until SIGTERM or SIGINT, then answer what was asked, for `DRAIN_S` at most, and return.

    `announce` gets the URL once connections are taken; port 0 takes a free one. Raises OpsKpiError when the extra `hub`
    is missing, the database is not as it must be, or the port is taken.
    """
    _require_packages()
    for name in (settings.webhook_secret_env, settings.token_secret_env, COOKIE_SECRET):
        # Without a secret for cookies the hub draws one.
        if name is not None and (name != COOKIE_SECRET or os.environ.get(name)):
            secrets.require_strong(os.environ, name)
    _require_local(settings, host)
    _sessions(settings)
    pseudonyms.key()
    with connecting.connect(settings.dsn) as connection:
        history.require_current(connection)
        _require_rights(connection)
    with _listen(host, port) as listener:
        address, bound = listener.getsockname()[:2]
        announce(f"http://[{address}]:{bound}" if ":" in address else f"http://{address}:{bound}")
        if workers == 1:
            _serve_alone(settings, listener)
        else:
            _supervise(settings, listener, workers)


def _require_packages() -> None:
    missing = [package for package in PACKAGES if importlib.util.find_spec(package) is None]
    if missing:
        raise OpsKpiError(
            f"the hub needs {', '.join(missing)}, which {'is' if len(missing) == 1 else 'are'} not installed",
            "Run: pip install 'opskpi[hub]'",
            ExitCode.CONFIGURATION,
        )


def _require_local(settings: Settings, host: str) -> None:
    if settings.open_to is not None and host not in LOCAL_HOSTS:
        raise OpsKpiError(
            f"without a login the dashboard listens on this machine only, not on {host}",
            "Leave --host out, or leave --no-auth out and log in with a key of `opskpi key create`.",
            ExitCode.BAD_ARGUMENT,
        )


def _sessions(settings: Settings) -> Any:
    from opskpi.hub.sessions import Sessions, Tokens  # noqa: PLC0415 - the extra hub, which only this command needs

    secret = os.environ.get(settings.token_secret_env) if settings.token_secret_env else None
    tokens = Tokens(secret, settings.token_keys) if secret or settings.token_keys else None
    return Sessions(settings.cookie_secret, tokens, settings.open_to)


def _require_rights(connection: psycopg.Connection) -> None:
    """Try what each request does. Raises OpsKpiError with the grants that are missing."""
    try:
        with connection.transaction(force_rollback=True):
            connection.execute("select from ops.find_api_key(key_id => %s)", ["0" * 12])
            # Explained, because there is no key to require yet; the right to call is checked all the same.
            connection.execute("explain select ops.require_api_key(null, null, null, null)")
            connection.execute("select ops.session_has_ended(session_sha256 => %s)", [bytes(32)])
            if connection.execute("show transaction_read_only").fetchone() != ("on",):
                connection.execute(
                    "select ops.end_session(session_sha256 => %s, cookie_lasts => interval '1 s')", [bytes(32)]
                )
            connection.execute("select set_config('role', 'authenticated', true)")
            connection.execute("select public.current_policy()")
    except (psycopg.errors.InsufficientPrivilege, psycopg.errors.InvalidParameterValue) as error:
        login = sql.Identifier(connection.info.user).as_string(connection)
        raise OpsKpiError(
            f"the login {connection.info.user} cannot look up API keys and act as authenticated:"
            f" {error.diag.message_primary}",
            f"Use the role that ran the migrations, or as that role: grant authenticated to {login};"
            f" grant usage on schema ops to {login}; grant execute on function ops.find_api_key(text),"
            f" ops.require_api_key(text, uuid, bytea, text[]), ops.end_session(bytea, interval),"
            f" ops.session_has_ended(bytea) to {login};"
            f" grant select, update (last_used_at) on ops.api_keys to {login};"
            f" grant select, insert, delete on ops.ended_sessions to {login};"
            f" create policy api_keys_hub on ops.api_keys to {login} using (true);"
            f" create policy ended_sessions_hub on ops.ended_sessions to {login} using (true);",
            ExitCode.CONFIGURATION,
        ) from error


def _listen(host: str, port: int) -> socket.socket:
    try:
        [(family, kind, protocol, _, address), *_] = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )
        listener = socket.socket(family, kind, protocol)
        try:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(address)
            listener.listen(BACKLOG)
        except OSError:
            listener.close()
            raise
    except OSError as error:
        raise OpsKpiError(
            f"the hub cannot listen on port {port} of {host}: {error.strerror or error}",
            "Stop the program that has the port, or choose another --host or --port.",
            ExitCode.CONFIGURATION,
        ) from error
    return listener


def _serve_alone(settings: Settings, listener: socket.socket) -> None:
    import uvicorn  # noqa: PLC0415 - the extra hub, which only this command needs

    from opskpi.hub import connections  # noqa: PLC0415
    from opskpi.hub.app import create_app  # noqa: PLC0415
    from opskpi.hub.boundary import Boundary  # noqa: PLC0415
    from opskpi.hub.github import Webhook  # noqa: PLC0415

    secret_env = settings.webhook_secret_env
    app = create_app(
        settings.dsn,
        settings.connections,
        _sessions(settings),
        Webhook(settings.webhook_org, secret_env) if secret_env else None,
    )
    config = uvicorn.Config(
        Boundary(app),
        log_config=LOGGING,
        access_log=settings.access_log,
        server_header=False,
        proxy_headers=False,
        timeout_graceful_shutdown=DRAIN_S,
        ws="websockets-sansio",
        ws_max_size=WEBSOCKET_BYTES,
        **connections.bounds(settings.connections),
    )
    # With hundreds of requests under way collections find little: rarer ones save a seventh of the processor time.
    gc.collect()
    gc.freeze()
    gc.set_threshold(10_000, 20, 20)
    # uvicorn raises the signal again once it has drained, and then it means the end, not a failure.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: sys.exit(ExitCode.DONE))
    uvicorn.Server(config).run(sockets=[listener])


def _serve_as_worker(settings: Settings, listener: socket.socket) -> None:
    """Serve as long as the process that started this one lives."""
    parent = multiprocessing.parent_process()

    def stop_as_orphan() -> None:
        if parent is not None:
            parent.join()
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=stop_as_orphan, daemon=True).start()
    _serve_alone(settings, listener)


def _supervise(settings: Settings, listener: socket.socket, workers: int) -> None:
    """Keep so many processes serving, and let them drain when told to stop."""
    stopping = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stopping.set())
    context = multiprocessing.get_context("spawn")

    def start() -> SpawnProcess:
        process = context.Process(target=_serve_as_worker, args=(settings, listener))
        process.start()
        return process

    running = [start() for _ in range(workers)]
    while not stopping.is_set():
        processes.wait([process.sentinel for process in running], timeout=0.2)
        for place, process in enumerate(running):
            if not process.is_alive() and not stopping.wait(RESPAWN_S):
                console.notice(f"process {process.pid} of the hub ended with {process.exitcode}; another starts")
                running[place] = start()
    for process in running:
        process.terminate()
    deadline = time.monotonic() + STOP_S
    for process in running:
        process.join(max(0, deadline - time.monotonic()))
        if process.is_alive():
            process.kill()
