"""A PostgreSQL server of a test's own, on a free port of 127.0.0.1."""

import contextlib
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dagster_dev import free_port

_SECONDS_TO_ANSWER = 60
_SUPERUSER = "postgres"


@dataclass(frozen=True)
class PostgresServer:
    """A running server with one database, which belongs to a user with a password."""

    binaries: Path
    port: int
    user: str
    password: str
    database: str

    def query(self, statement: str) -> list[tuple[Any, ...]]:
        """Return the rows of a statement, as the database's owner."""
        with _connected(self.port, self.user, self.password, self.database) as cursor:
            cursor.execute(statement)
            return cursor.fetchall()

    def dump(self) -> str:
        """Return the whole database as SQL."""
        options = f"-h 127.0.0.1 -p {self.port} -U {self.user} --no-password {self.database}"
        return subprocess.run(
            [self.binaries / "pg_dump", *options.split()],
            env={"PGPASSWORD": self.password, "PATH": os.environ["PATH"]},
            capture_output=True,
            text=True,
            check=True,
        ).stdout


def postgres_binaries() -> Path | None:
    """Return the folder with the newest server's programs, None where none is installed."""
    found = shutil.which("initdb")
    folders = [Path(found).resolve().parent] if found else []
    # Debian keeps them off the PATH.
    folders += sorted(
        Path("/usr/lib/postgresql").glob("*/bin"), key=lambda path: int(path.parent.name)
    )
    complete = [path for path in folders if (path / "initdb").exists()]
    return complete[-1] if complete else None


@contextlib.contextmanager
def postgres_server(binaries: Path, *, password: str) -> Iterator[PostgresServer]:
    """Run a server that asks for passwords; its data is gone afterwards."""
    # Not in pytest's folder, which is closed to the user that the server runs as.
    with tempfile.TemporaryDirectory(prefix="postgres-") as folder:
        data, identity = Path(folder, "data"), _unprivileged()
        data.mkdir()
        if identity:
            for path in (Path(folder), data):
                os.chown(path, identity["user"], identity["group"])
        secret = Path(folder, "superuser")
        secret.write_text(password)
        secret.chmod(0o644)
        options = (
            f"--username {_SUPERUSER} --auth scram-sha-256 --encoding UTF8 --locale C --no-sync"
        )
        _run(
            [binaries / "initdb", "--pgdata", data, "--pwfile", secret, *options.split()], identity
        )
        port = free_port()
        with Path(folder, "server.log").open("wb") as log:
            # No socket in the file system.
            options = f"-h 127.0.0.1 -p {port} -c unix_socket_directories= -c fsync=off"
            server = subprocess.Popen(
                [binaries / "postgres", "-D", data, *options.split()],
                stdout=log,
                stderr=subprocess.STDOUT,
                cwd=folder,
                **identity,
            )
        try:
            _wait_for_answer(server, port, password, Path(folder, "server.log"))
            yield _with_database(binaries, port, password)
        finally:
            # A fast shutdown: it does not wait for clients.
            server.send_signal(signal.SIGINT)
            server.wait(timeout=60)


def _unprivileged() -> dict[str, int]:
    """Return whom the server runs as: PostgreSQL refuses to run as root."""
    if os.geteuid() != 0:
        return {}
    nobody = pwd.getpwnam("nobody")
    return {"user": nobody.pw_uid, "group": nobody.pw_gid}


def _run(command: list[str | Path], identity: dict[str, int]) -> None:
    finished = subprocess.run(command, capture_output=True, text=True, cwd="/", **identity)
    assert finished.returncode == 0, finished.stderr


def _wait_for_answer(server: subprocess.Popen[bytes], port: int, password: str, log: Path) -> None:
    import psycopg2

    deadline = time.monotonic() + _SECONDS_TO_ANSWER
    while time.monotonic() < deadline:
        assert server.poll() is None, log.read_text()
        with (
            contextlib.suppress(psycopg2.OperationalError),
            _connected(port, _SUPERUSER, password, "postgres"),
        ):
            return
        time.sleep(0.2)
    raise AssertionError(log.read_text())


def _with_database(binaries: Path, port: int, password: str) -> PostgresServer:
    from psycopg2 import sql

    made = PostgresServer(binaries, port, "dagster", password, "dagster")
    user, database = sql.Identifier(made.user), sql.Identifier(made.database)
    with _connected(port, _SUPERUSER, password, "postgres") as cursor:
        cursor.execute(
            sql.SQL("CREATE ROLE {} LOGIN PASSWORD {}").format(user, sql.Literal(password))
        )
        cursor.execute(sql.SQL("CREATE DATABASE {} OWNER {}").format(database, user))
    return made


@contextlib.contextmanager
def _connected(port: int, user: str, password: str, database: str) -> Iterator[Any]:
    import psycopg2

    connection = psycopg2.connect(
        host="127.0.0.1", port=port, user=user, password=password, dbname=database
    )
    # A database is not created within a transaction.
    connection.autocommit = True
    try:
        with connection.cursor() as cursor:
            yield cursor
    finally:
        connection.close()
