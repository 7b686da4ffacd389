"""A standby for the tests: a copy of a server that streams what its primary writes, and takes no writes itself."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager

import psycopg

from opskpi.postgres.cluster import Cluster
from opskpi.postgres.installation import unprivileged_user
from opskpi.postgres.processes import run_as

from .patience import eventually
from .postgres import Server, free_port, temporary_folder


@contextmanager
def streaming_standby(primary: Server) -> Iterator[Server]:
    """Run a hot standby of a server, up to date as it is yielded."""
    with temporary_folder(None) as folder:
        data_dir = folder / "data"
        os_user = unprivileged_user()
        if os_user is not None:
            shutil.chown(folder, os_user)
        source = primary.dsn("postgres")
        copied = run_as(
            os_user, [str(primary.bin_dir / "pg_basebackup"), "-d", source, "-D", str(data_dir), "-R", "-c", "fast"]
        )
        assert copied.returncode == 0, copied.stderr
        for left in ("postmaster.pid", "server.log"):
            (data_dir / left).unlink(missing_ok=True)
        cluster = Cluster(primary.bin_dir, data_dir, os_user)
        try:
            postmaster = cluster.start(tcp_port=free_port())
            standby = Server(primary.version, primary.bin_dir, data_dir, postmaster.socket_dir, postmaster.port, None)
            follow(primary, standby)
            yield standby
        finally:
            cluster.stop()


def follow(primary: Server, standby: Server) -> None:
    """Wait until a standby has what its primary has committed."""
    with psycopg.connect(primary.dsn("postgres"), autocommit=True) as writer:
        [written] = writer.execute("select pg_current_wal_lsn()").fetchone() or [None]
    with psycopg.connect(standby.dsn("postgres"), autocommit=True) as reader:
        eventually(
            lambda: reader.execute("select pg_last_wal_replay_lsn() >= %s::pg_lsn", [written]).fetchone() == (True,)
        )
