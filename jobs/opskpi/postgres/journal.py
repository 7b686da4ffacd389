"""The journal of the jobs: a failure is noted there by the job that failed."""

from collections.abc import Iterator
from contextlib import contextmanager, suppress

import psycopg

from opskpi.errors import explain


@contextmanager
def journalled(connection: psycopg.Connection, job: str) -> Iterator[None]:
    """Write a failure of the job to its journal, since the failed transaction took its own row along."""
    try:
        yield
    except psycopg.Error as error:
        failure = explain(error)
        # Where the journal is out of reach too, the first error is the one to report.
        with suppress(psycopg.Error):
            connection.execute("select ops.record_job_failure(job => %s, message => %s)", [job, failure.message])
        raise failure from error
