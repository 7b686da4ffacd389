"""The state of the app that its requests and WebSockets share."""

from starlette.requests import HTTPConnection

from opskpi.hub.database import Database
from opskpi.hub.live import Live
from opskpi.hub.page_cache import PageCache
from opskpi.hub.sessions import Sessions


def database_of(connection: HTTPConnection) -> Database:
    """The database."""
    return connection.app.state.database


def sessions_of(connection: HTTPConnection) -> Sessions:
    """The logins that may see the pages."""
    return connection.app.state.sessions


def live_of(connection: HTTPConnection) -> Live:
    """The news of this process."""
    return connection.app.state.live


def page_cache_of(connection: HTTPConnection) -> PageCache:
    """The content of the pages."""
    return connection.app.state.page_cache
