"""`paceline controller` that kills itself at a named step of the writer."""

from __future__ import annotations

import os
import signal
from collections.abc import Sequence
from pathlib import Path


def run(arguments: Sequence[str]) -> None:
    """FILE MAP …: FILE holds the step's name; it is read whenever a step is reached, and emptied before the end."""
    from controller import failpoints
    from controller.runtime.main import command

    wanted = Path(arguments[0])

    def die_if_wanted(step: failpoints.FailPoint) -> None:
        if wanted.read_text() == step:
            wanted.write_text("")
            os.kill(os.getpid(), signal.SIGKILL)

    failpoints.on_failpoint(die_if_wanted)
    command(list(arguments[1:]))
