"""Reads the photographs of the data set traffic-lights in a process of its own, while this one imports PyTorch."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator
from typing import IO

from trainer.processes.fork import ForkedProcess, fork

DATA = "traffic-lights"

_running: tuple[ForkedProcess, IO[bytes]] | None = None


def start() -> None:
    """Begin to read them; this process must be single-threaded."""
    global _running
    file = tempfile.TemporaryFile()  # noqa: SIM115 - closed by `result`
    with tempfile.TemporaryFile() as errors:  # an error comes again, and is told, when this process reads
        _running = fork(_write, file, errors), file


def _write() -> None:
    import numpy as np

    from trainer.data import photographs

    with open(1, "wb", closefd=False) as output:
        for array in photographs.read():
            np.save(output, array)


@contextlib.contextmanager
def result() -> Iterator[IO[bytes] | None]:
    """Wait for what was read and give it as a file, once; None if nothing was, or could be, read."""
    global _running
    running, _running = _running, None
    if running is None:
        yield None
        return
    process, file = running
    with file:
        process.wait()
        file.seek(0)
        yield None if process.returncode else file
