"""Child processes forked from this one, which start with all modules already imported."""

from __future__ import annotations

import ctypes
import os
import select
import signal
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import IO, NoReturn

from trainer.errors import EXIT_TRAINING

_CLONE_NEWNET = 0x40000000
_PR_SET_NAME, _PR_SET_PDEATHSIG = 15, 1
_libc = ctypes.CDLL(None, use_errno=True)


class ForkedProcess:
    """A child process; `returncode` has the semantics of `subprocess.Popen`."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self.returncode: int | None = None
        self._pidfd = os.pidfd_open(pid)

    def poll(self) -> int | None:
        """Return the exit code, negative for a signal, or None while the process runs."""
        self.wait(0)
        return self.returncode

    def wait(self, timeout_s: float | None = None) -> int | None:
        """Wait until the process exits or the timeout passes; return the exit code or None."""
        if self.returncode is None:
            poll = select.poll()  # select() takes no descriptor above 1023
            poll.register(self._pidfd, select.POLLIN)
            if poll.poll(None if timeout_s is None else 1000 * timeout_s):
                self.returncode = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
                os.close(self._pidfd)
        return self.returncode

    def send_signal(self, number: signal.Signals) -> None:
        """Send a signal, unless the process has exited."""
        if self.poll() is None:
            signal.pidfd_send_signal(self._pidfd, number)


def fork(run: Callable[[], object], output: IO[bytes] | None, errors: IO[bytes]) -> ForkedProcess:
    """Fork a child that calls `run` in its own session and receives SIGTERM when this process exits.

    Its stdin is /dev/null; with `output` None it inherits stdout. This process must be single-threaded.
    """
    parent = os.getpid()

    def start() -> None:
        os.setsid()  # Ctrl-C reaches the parent only, which stops its children in the right order
        terminate_with(parent)
        run()

    sys.stdout.flush()
    sys.stderr.flush()
    pid = os.fork()
    if not pid:
        run_and_exit(start, output, errors)
    return ForkedProcess(pid)


def run_and_exit(run: Callable[[], object], output: IO[bytes] | None, errors: IO[bytes]) -> NoReturn:
    """Call `run` in a forked process and exit with the code passed to `sys.exit`."""
    code = EXIT_TRAINING
    try:
        with Path(os.devnull).open("rb") as null:
            os.dup2(null.fileno(), 0)
        os.dup2(errors.fileno(), 2)
        if output is not None:
            os.dup2(output.fileno(), 1)
        code = _exit_code_of(run)
    finally:
        os._exit(code)


def _exit_code_of(run: Callable[[], object]) -> int:
    try:
        run()
        code: object = 0
    except SystemExit as stop:
        code = stop.code
    except BaseException:  # noqa: BLE001 - the top of the forked process
        traceback.print_exc()
        code = EXIT_TRAINING
    sys.stdout.flush()
    sys.stderr.flush()
    return code if isinstance(code, int) else 0 if code is None else EXIT_TRAINING


def terminate_with(parent: int) -> None:
    """Have the kernel send SIGTERM to this process when the parent exits."""
    _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != parent:  # the parent exited before prctl
        os._exit(EXIT_TRAINING)


def enter_network_namespace(pid: int) -> None:
    """Move this process into the network namespace of another.

    Raises: OSError.
    """
    with Path(f"/proc/{pid}/ns/net").open("rb") as namespace:
        if _libc.setns(namespace.fileno(), _CLONE_NEWNET):
            number = ctypes.get_errno()
            raise OSError(number, f"cannot enter the network namespace of process {pid}: {os.strerror(number)}")


def set_process_name(name: str) -> None:
    """Set the name that `top` and `ps -e` show; truncated to 15 bytes."""
    _libc.prctl(_PR_SET_NAME, name.encode())
