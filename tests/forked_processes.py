"""Processes that start at once, forked from a fork server that has imported their slow modules before.

They are independent processes and run `paceline …` and other programs. Run as a program, this module is the fork
server: for each line of its input, a JSON list, it prints the pid of a new process.
"""

from __future__ import annotations

import atexit
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


class ForkServer:
    """A fork server; it starts with the first process requested."""

    def __init__(self, kind: str, **environment: str) -> None:
        """`kind`: a key of PROGRAMS; `environment`: more variables of its processes."""
        self._kind, self._environment = kind, environment

    @functools.cached_property
    def _process(self) -> subprocess.Popen[str]:
        ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1)  # orphans of the fork server become our children
        process = subprocess.Popen([sys.executable, "-m", __name__, self._kind], text=True, bufsize=1, cwd=ROOT,
                                   env={**os.environ, "OMP_NUM_THREADS": "1", **self._environment},
                                   stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        atexit.register(_end, process)
        return process

    def start(
        self, log: Path, arguments: tuple[str, ...], program: str = "paceline", host: int | None = None,
        errors: Path | None = None,
    ) -> ForkedProcess:
        """Start a program with these arguments, in the network namespace of the process `host`; it appends to `log`.

        `errors`: file for its standard error; default: `log`.
        """
        requests, replies = self._process.stdin, self._process.stdout
        assert requests is not None and replies is not None
        requests.write(
            json.dumps([str(log.absolute()), str((errors or log).absolute()), program, host, *arguments]) + "\n"
        )
        return ForkedProcess(int(replies.readline()))


def _end(process: subprocess.Popen[str]) -> None:
    """End a fork server: it ends with its input, unless another process holds that open."""
    for stream in filter(None, (process.stdin, process.stdout)):
        stream.close()
    try:
        process.wait(5)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


FORK_SERVER, CONTROLLER_FORK_SERVER = ForkServer("training"), ForkServer("controllers")


def training() -> Programs:
    sys.path.insert(0, str(ROOT / "bench"))
    from harness import transfer_endpoints
    from tests.processes import dying_node, lying_edge
    from trainer.cli.main import run_command_line
    from trainer.cli.train import preload

    preload()
    return {"paceline": run_command_line, "transfers": transfer_endpoints.main, "lying edge": lying_edge.run,
            "dying node": dying_node.run}


def controllers() -> Programs:
    """Programs that use eventlet: each process imports it itself, because its hub does not survive a fork.

    What else a controller imports takes four fifths of the time.
    """
    import controller.api.app
    import controller.api.server
    import controller.runtime.stores  # noqa: F401
    from tests.processes import dying_controller

    assert "eventlet" not in sys.modules
    return {"controller": run_controller, "dying controller": dying_controller.run}


def run_controller(arguments: Sequence[str]) -> None:
    """Run `paceline controller`."""
    from controller.runtime.main import command

    command(list(arguments))


PROGRAMS: dict[str, Callable[[], Programs]] = {"training": training, "controllers": controllers}


def main() -> None:
    """Serve until the input ends."""
    programs = PROGRAMS[sys.argv[1]]()
    for line in sys.stdin:
        read, write = os.pipe()
        intermediate = os.fork()
        if not intermediate:
            pid = os.fork()
            if pid:
                os.write(write, f"{pid}\n".encode())
                os._exit(0)
            log, errors, program, host, *arguments = json.loads(line)
            run_as_process(Path(log), Path(errors), functools.partial(programs[program], arguments), host)
        os.waitpid(intermediate, 0)
        print(os.read(read, 32).decode(), end="", flush=True)
        os.close(read)
        os.close(write)


def run_as_process(log: Path, errors: Path, run: functools.partial[object], host: int | None) -> None:
    """Run the program in this process, with its output and network namespace."""
    if host is not None:
        enter_network_namespace(host)
    with log.open("ab") as output, errors.open("ab") as error_output:
        run_and_exit(run, output, error_output)


if __name__ == "__main__":
    main()
