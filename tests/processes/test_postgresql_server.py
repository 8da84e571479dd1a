"""The PostgreSQL server of tests and benchmarks."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

from machine.polling import wait_until

ROOT = Path(__file__).parents[2]
OWNER = """
import signal
from machine.postgresql_server import PostgreSQL
server = PostgreSQL()
print(server.directory, flush=True)
signal.pause()
"""


def has_ended(pid: int) -> bool:
    """Whether a process is no longer there, or a zombie: where this process takes over orphans, nobody waits for it."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except (FileNotFoundError, ProcessLookupError):
        return True


def test_the_server_ends_with_a_process_that_is_killed() -> None:
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "mininet")}
    with subprocess.Popen([sys.executable, "-c", OWNER], env=environment, stdout=subprocess.PIPE, text=True) as owner:
        assert owner.stdout is not None
        directory = Path(owner.stdout.readline().strip())
        server = int((directory / "data/postmaster.pid").read_text().split()[0])
        owner.kill()
    try:
        wait_until(lambda: has_ended(server), timeout_s=60)
    except TimeoutError:
        os.kill(server, signal.SIGQUIT)
        raise
    finally:
        shutil.rmtree(directory)
