"""Processes that start at once: copies of one that has imported what takes them seconds.

They are processes of their own, and do what `paceline …` and others do. As a program this is what they
are copies of: for each line of its input, a JSON list, it prints a pid.
"""

from __future__ import annotations

import ctypes
import functools
import json
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from trainer.processes.fork import ForkedProcess, enter_network_namespace, run_and_exit

Programs = dict[str, Callable[[Sequence[str]], object]]
ROOT = Path(__file__).parents[1]
PR_SET_CHILD_SUBREAPER = 36


class Nursery:
    """Starts with the first process that is asked for, and stays."""

    def __init__(self, kind: str) -> None:
        """`kind` of processes: a key of PROGRAMS."""
        self._kind = kind

    @functools.cached_property
    def _process(self) -> subprocess.Popen[str]:
        ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1)  # whoever is born there becomes our own child
        return subprocess.Popen([sys.executable, "-m", __name__, self._kind], text=True, bufsize=1, cwd=ROOT,
                                env={**os.environ, "OMP_NUM_THREADS": "1"}, stdin=subprocess.PIPE,
                                stdout=subprocess.PIPE)

    def start(
        self, log: Path, arguments: tuple[str, ...], program: str = "paceline", host: int | None = None,
        errors: Path | None = None,
    ) -> ForkedProcess:
        """The program with these arguments, in the network of the process `host`; what it says is added to the log.

        `errors`: what it says of errors is added to that one instead.
        """
        ask, answer = self._process.stdin, self._process.stdout
        assert ask is not None and answer is not None
        ask.write(json.dumps([str(log.absolute()), str((errors or log).absolute()), program, host, *arguments]) + "\n")
        return ForkedProcess(int(answer.readline()))


NURSERY, CONTROLLERS = Nursery("training"), Nursery("controllers")


def training() -> Programs:
    sys.path.insert(0, str(ROOT / "bench"))
    from harness import transfer_endpoints
    from trainer.cli.main import run_command_line
    from trainer.cli.train import preload

    preload()
    return {"paceline": run_command_line, "transfers": transfer_endpoints.main}


def controllers() -> Programs:
    """What belongs to eventlet, each imports for itself: it makes a hub, and a hub cannot be copied."""
    from tests.processes import dying_controller

    assert "eventlet" not in sys.modules
    return {"dying controller": dying_controller.run}


PROGRAMS: dict[str, Callable[[], Programs]] = {"training": training, "controllers": controllers}


def main() -> None:
    """Until nobody can ask any more."""
    programs = PROGRAMS[sys.argv[1]]()
    for line in sys.stdin:
        read, write = os.pipe()
        between = os.fork()
        if not between:
            pid = os.fork()
            if pid:
                os.write(write, f"{pid}\n".encode())
                os._exit(0)
            log, errors, program, host, *arguments = json.loads(line)
            be(Path(log), Path(errors), functools.partial(programs[program], arguments), host)
        os.waitpid(between, 0)
        print(os.read(read, 32).decode(), end="", flush=True)
        os.close(read)
        os.close(write)


def be(log: Path, errors: Path, run: functools.partial[object], host: int | None) -> None:
    """A process that does that."""
    if host is not None:
        enter_network_namespace(host)
    with log.open("ab") as output, errors.open("ab") as said_wrong:
        run_and_exit(run, output, said_wrong)


if __name__ == "__main__":
    main()
