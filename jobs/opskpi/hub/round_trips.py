"""Several statements in one round trip, sent in one piece.

psycopg's pipeline sends each statement by itself and looks at the socket around it, which takes a hub 0.18 ms of
processor time per request, and wakes the server as often.
"""

import re
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import LiteralString

import psycopg
from psycopg.abc import PQGen
from psycopg.adapt import PyFormat, Transformer
from psycopg.pq import ConnStatus, ExecStatus
from psycopg.pq.abc import PGconn, PGresult
from psycopg.waiting import Ready, Wait

from opskpi.hub.pool import Connection

Parameters = Sequence[object] | Mapping[str, object]

PLACEHOLDER = re.compile(r"%(?:\((\w+)\))?s")
LOST = "the connection was lost"


async def ask(connection: Connection, *statements: tuple[LiteralString, Parameters]) -> list[PGresult]:
    """The results of the statements, one each, with the placeholders of psycopg: `%s`, or `%(name)s` for a mapping.

    Raises psycopg.Error for the first that fails; the server skips those after it.
    """
    results = await connection.wait(_exchange(connection, statements))
    for result in results:
        if result.status == ExecStatus.FATAL_ERROR:
            raise psycopg.errors.error_from_result(result)
    return results


def is_lost(connection: Connection) -> bool:
    """Whether the server has ended the connection, as far as can be known without asking it."""
    try:
        # The first call may read the server's parting words, the second the end.
        connection.pgconn.consume_input()
        connection.pgconn.consume_input()
    except psycopg.OperationalError:
        return True
    return connection.closed


def _exchange(connection: Connection, statements: Sequence[tuple[LiteralString, Parameters]]) -> PQGen[list[PGresult]]:
    pgconn = connection.pgconn
    pgconn.enter_pipeline_mode()
    for query, parameters in statements:
        text, names = _numbered(query)
        values = [parameters[name] for name in names] if isinstance(parameters, Mapping) else parameters
        dumper = Transformer(connection)
        dumped = dumper.dump_sequence(values, [PyFormat.AUTO] * len(values))
        pgconn.send_query_params(text, dumped, dumper.types, dumper.formats)
    pgconn.pipeline_sync()
    while pgconn.flush():
        # A server that answers before it has read everything must be read, or both would wait.
        if (yield Wait.RW) & Ready.R:
            pgconn.consume_input()
    results = yield from _results(pgconn)
    pgconn.exit_pipeline_mode()
    return results


def _results(pgconn: PGconn) -> PQGen[list[PGresult]]:
    results: list[PGresult] = []
    while True:
        while pgconn.is_busy():
            yield Wait.R
            pgconn.consume_input()
        result = pgconn.get_result()
        if result is not None:
            if result.status == ExecStatus.PIPELINE_SYNC:
                return results
            results.append(result)
        elif pgconn.status == ConnStatus.BAD:
            raise psycopg.OperationalError(LOST)


@lru_cache(maxsize=256)
def _numbered(query: LiteralString) -> tuple[bytes, list[str]]:
    """The query with $1, $2, … for its placeholders, and the names of those that have one."""
    names: list[str] = []
    parts = PLACEHOLDER.split(query)
    text = parts[0]
    for number, (name, rest) in enumerate(zip(parts[1::2], parts[2::2], strict=True), start=1):
        names += [name] if name else []
        text += f"${number}{rest}"
    return text.encode(), names
