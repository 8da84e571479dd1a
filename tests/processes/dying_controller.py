"""`paceline controller` that kills itself at a named fail point."""

from __future__ import annotations

import os
import signal
from collections.abc import Sequence
from pathlib import Path


def run(arguments: Sequence[str]) -> None:
    """Run with arguments FILE MAP …: FILE names the fail point; read at every fail point, emptied at the kill."""
    from controller import failpoints
    from controller.runtime.main import command

    fail_point_file = Path(arguments[0])

    def kill_if_named(point: failpoints.FailPoint) -> None:
        if fail_point_file.read_text() == point:
            fail_point_file.write_text("")
            os.kill(os.getpid(), signal.SIGKILL)

    failpoints.on_failpoint(kill_if_named)
    command(list(arguments[1:]))
