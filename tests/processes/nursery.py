"""Clouds and edges that start at once: copies of a process that has imported what takes them seconds.

They are processes of their own, and do what `paceline cloud …` and `paceline edge …` do. As a program this is the
process they are copies of: for each line of its input, a JSON list of a log's path and arguments, it prints a pid.
"""

from __future__ import annotations

import ctypes
import functools
import json
import os
import subprocess
import sys
from pathlib import Path

from trainer.commands import preload
from trainer.forked import Forked, do_and_end

PR_SET_CHILD_SUBREAPER = 36


class Nursery:
    """Starts with the first process that is asked for, and stays."""

    @functools.cached_property
    def _process(self) -> subprocess.Popen[str]:
        ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1)  # whoever is born there becomes our own child
        return subprocess.Popen([sys.executable, "-m", __name__], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                text=True, bufsize=1, env={**os.environ, "OMP_NUM_THREADS": "1"})

    def start(self, log: Path, arguments: tuple[str, ...]) -> Forked:
        """`paceline` with these arguments; what it says is appended to the log."""
        ask, answer = self._process.stdin, self._process.stdout
        assert ask is not None and answer is not None
        ask.write(json.dumps([str(log), *arguments]) + "\n")
        return Forked(int(answer.readline()))


NURSERY = Nursery()


def main() -> None:
    """Until nobody can ask any more."""
    preload()
    for line in sys.stdin:
        read, write = os.pipe()
        between = os.fork()
        if not between:
            pid = os.fork()
            if pid:
                os.write(write, f"{pid}\n".encode())
                os._exit(0)
            be(*json.loads(line))
        os.waitpid(between, 0)
        print(os.read(read, 32).decode(), end="", flush=True)
        os.close(read)
        os.close(write)


def be(log: str, *arguments: str) -> None:
    """A process that does that."""
    from trainer.cli import act

    with Path(log).open("ab") as output:
        do_and_end(lambda: act(arguments), output, output)


if __name__ == "__main__":
    main()
