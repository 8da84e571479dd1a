"""Processes that begin as copies of this one: what takes seconds to import, they have already."""

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


class Forked:
    """A child process by its pid; `returncode` is as `subprocess.Popen` has it."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self.returncode: int | None = None
        self._file = os.pidfd_open(pid)

    def poll(self) -> int | None:
        """Its exit code if it has ended; negative: the signal that ended it."""
        self.wait(0)
        return self.returncode

    def wait(self, timeout_s: float | None = None) -> int | None:
        """Wait for its end, so long at most; its exit code, or None if it still runs."""
        if self.returncode is None:
            ended, _, _ = select.select([self._file], [], [], timeout_s)
            if ended:
                self.returncode = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
                os.close(self._file)
        return self.returncode

    def send_signal(self, number: signal.Signals) -> None:
        """Nothing happens if it has ended."""
        if self.poll() is None:
            signal.pidfd_send_signal(self._file, number)


def fork(run: Callable[[], object], output: IO[bytes] | None, errors: IO[bytes]) -> Forked:
    """A copy of this process that does `run` in a session of its own, and that SIGTERM ends when this process ends.

    Nothing comes to its input; `output` None: it has ours. This process must have one thread.
    """
    parent = os.getpid()

    def begin() -> None:
        os.setsid()  # Ctrl-C comes to the parent, which passes it on in the right order
        _end_with(parent)
        run()

    sys.stdout.flush()
    sys.stderr.flush()
    pid = os.fork()
    if not pid:
        do_and_end(begin, output, errors)
    return Forked(pid)


def do_and_end(run: Callable[[], object], output: IO[bytes] | None, errors: IO[bytes]) -> NoReturn:
    """What is left of a process that was forked: do this, and end with what `sys.exit` was told."""
    code = EXIT_TRAINING
    try:
        with Path(os.devnull).open("rb") as nothing:
            os.dup2(nothing.fileno(), 0)
        os.dup2(errors.fileno(), 2)
        if output is not None:
            os.dup2(output.fileno(), 1)
        code = _result_of(run)
    finally:
        os._exit(code)


def _result_of(run: Callable[[], object]) -> int:
    try:
        run()
        code: object = 0
    except SystemExit as end:
        code = end.code
    except BaseException:  # noqa: BLE001 - nobody is left to raise it to
        traceback.print_exc()
        code = EXIT_TRAINING
    sys.stdout.flush()
    sys.stderr.flush()
    return code if isinstance(code, int) else 0 if code is None else EXIT_TRAINING


def _end_with(parent: int) -> None:
    """Have the kernel send SIGTERM when the parent ends."""
    _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != parent:  # it was gone before we asked
        os._exit(EXIT_TRAINING)


def enter_network_of(pid: int) -> None:
    """From now on this process lives in the network namespace of another.

    Raises: OSError.
    """
    with Path(f"/proc/{pid}/ns/net").open("rb") as namespace:
        if _libc.setns(namespace.fileno(), _CLONE_NEWNET):
            number = ctypes.get_errno()
            raise OSError(number, f"cannot enter the network of process {pid}: {os.strerror(number)}")


def be_called(name: str) -> None:
    """The name that `top` and `ps -e` show, its first 15 bytes."""
    _libc.prctl(_PR_SET_NAME, name.encode())
