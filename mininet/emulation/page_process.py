"""The page of `paceline web` as a child process."""

from __future__ import annotations

import contextlib
import os
import select
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from emulation.network import Emulation
from machine.errors import EmulationError
from topologies import running_emulation

PORT = 8090
READY_TIMEOUT_S = 20.0
STOP_TIMEOUT_S = 5.0


@contextlib.contextmanager
def page(emulation: Emulation, runs: Path) -> Iterator[str]:
    """Serve the page of an emulation within the block; yields its address. Any free port is taken if PORT is not free.

    Raises: EmulationError if it does not start.
    """
    port = PORT if _is_free(PORT) else 0
    command = [sys.executable, "-m", "trainer.cli.main", "web", "--port", str(port), "--runs", str(runs),
               "--controller", emulation.settings.controller_url]  # fmt: skip
    log, pki = running_emulation.DIRECTORY / "page.log", emulation.settings.pki
    environment = os.environ | ({"PACELINE_CA": str(pki / "ca.crt")} if pki else {})
    with log.open("wb") as errors:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=errors, text=True,
            start_new_session=True, env=environment,
        )  # fmt: skip
    emulation.journal.record_process(process.pid, "page")
    try:
        yield _address(process, log)
    finally:
        process.terminate()
        try:
            process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        if process.stdout is not None:
            process.stdout.close()


def _address(process: subprocess.Popen[str], log: Path) -> str:
    assert process.stdout is not None
    if select.select([process.stdout], [], [], READY_TIMEOUT_S)[0]:
        line = process.stdout.readline()
        if line.startswith("page: "):
            return line.removeprefix("page: ").strip()
    raise EmulationError(f"the page does not start:\n{log.read_text(errors='replace').strip()}")


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True
