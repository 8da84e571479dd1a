"""A PostgreSQL server for tests and benchmarks: Debian's programs, own directory and socket, TCP if asked for."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from machine.polling import wait_until

USER = "postgres"
"""Created by Debian's package; the server refuses to run as root."""
SETTINGS = "fsync=on", "max_connections=40", "log_min_messages=fatal", "shared_buffers=16MB"


class PostgreSQL:
    """A running server."""

    def __init__(self, addresses: Sequence[str] = (), clients: str = "") -> None:
        """Create and start it. `addresses`: to listen on besides the socket; `clients`: the network they may be in."""
        self._addresses = ",".join(addresses)
        found = sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda path: int(path.parent.name))
        assert found, "PostgreSQL is missing: run scripts/set-up tests"
        self._programs = found[-1]
        self._process: subprocess.Popen[bytes] | None = None
        self._as_user = {"user": USER} if os.geteuid() == 0 else {}
        # A socket's path has 107 bytes at most, so the directory of pytest does not do.
        self.directory = Path(tempfile.mkdtemp(prefix="paceline-postgresql-"))
        if self._as_user:
            shutil.chown(self.directory, USER)
        try:
            self._run("initdb", "-D", "data", "-U", "paceline", "-A", "trust", "-E", "UTF8", "--no-sync")
            if clients:
                with (self.directory / "data/pg_hba.conf").open("a") as file:
                    file.write(f"host all all {clients} trust\n")
            self.start()
        except BaseException:
            self.remove()
            raise

    def _command(self, program: str, *arguments: str) -> list[str]:
        return [str(self._programs / program), *arguments]

    def _run(self, program: str, *arguments: str) -> str:
        command = self._command(program, *arguments)
        ended = subprocess.run(
            command, cwd=self.directory, capture_output=True, text=True, check=False, **self._as_user
        )  # type: ignore[call-overload]
        assert ended.returncode == 0, ended.stderr
        return str(ended.stdout)

    def start(self) -> None:
        """Start the server, in a process group of its own; it shuts down when this process ends, however it ends."""
        settings = [word for setting in SETTINGS for word in ("-c", setting)]
        arguments = ["-D", "data", "-k", str(self.directory), "-c", f"listen_addresses={self._addresses}", *settings]
        self._process = subprocess.Popen(
            # setpriv runs as the server's user: the kernel clears the signal when a process changes its user.
            ["setpriv", "--pdeathsig", "QUIT", *self._command("postgres", *arguments)],
            cwd=self.directory, start_new_session=True,
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, **self._as_user,
        )  # type: ignore[call-overload]  # fmt: skip
        wait_until(self._answers)

    def _answers(self) -> bool:
        return not subprocess.run(
            self._command("pg_isready", "-q", "-h", str(self.directory)), check=False, timeout=20
        ).returncode

    def url(self, database: str, driver: str = "psycopg", host: str = "") -> str:
        """The SQLAlchemy URL of a database; `host`: one of the addresses, by default the socket."""
        return f"postgresql+{driver}://paceline@/{database}?host={host or self.directory}"

    def create(self, database: str) -> str:
        """Create a database; return its URL."""
        self.sql("postgres", f'CREATE DATABASE "{database}"')
        return self.url(database)

    def sql(self, database: str, statement: str) -> list[str]:
        """Run a statement; return its rows as text."""
        return self._run(
            "psql", "-h", str(self.directory), "-U", "paceline", "-d", database, "-XAtc", statement
        ).splitlines()

    def dump(self, database: str, file: str) -> None:
        """Write a backup of a database, relative to `directory`."""
        self._run("pg_dump", "-h", str(self.directory), "-U", "paceline", "-Fc", "-f", file, database)

    def restore(self, database: str, file: str) -> None:
        """Restore a backup to an empty database."""
        self._run("pg_restore", "-h", str(self.directory), "-U", "paceline", "-d", database, file)

    def _processes(self) -> Sequence[int]:
        """The server's processes: the backends have process groups of their own."""
        assert self._process is not None
        listed = subprocess.run(
            ["ps", "-o", "pid=", "--pid", str(self._process.pid), "--ppid", str(self._process.pid)],
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        return [int(pid) for pid in listed.stdout.split()]

    def send(self, number: signal.Signals) -> None:
        """Send a signal to all processes of the server."""
        for pid in self._processes():
            with suppress(ProcessLookupError):
                os.kill(pid, number)

    def kill(self) -> None:
        """kill -9 of all processes."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)  # it starts no further process
        self.send(signal.SIGKILL)
        self._process.wait(60)

    def remove(self) -> None:
        """Stop the server and remove all of it."""
        if self._process is not None:
            if self._process.poll() is not None:
                self.start()  # removes the System V shared memory of the killed one
            self._process.send_signal(signal.SIGQUIT)
            self._process.wait(60)
        shutil.rmtree(self.directory)
