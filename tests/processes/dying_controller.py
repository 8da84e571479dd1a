"""`paceline controller` that kills itself at a named step of the writer: `dying_controller.py FILE MAP …`.

FILE holds the step's name; it is looked at whenever a step is reached, and emptied before the end.
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

from controller import steps
from controller.main import command

wanted = Path(sys.argv[1])


def die_if_wanted(step: steps.Step) -> None:
    if wanted.read_text() == step:
        wanted.write_text("")
        os.kill(os.getpid(), signal.SIGKILL)


steps.watch(die_if_wanted)
command(sys.argv[2:])
