"""Forked children: exit codes, signals, and termination with the parent."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from machine.polling import wait_until

PARENT = """
import os, signal, sys, time
from pathlib import Path
from trainer.processes.fork import fork

def exits(code):
    sys.exit(code)

def fails():
    raise ValueError("the error")

def writes():
    print("on the parent's stdout", flush=True)
    print("no input:", repr(sys.stdin.read()), file=sys.stderr)

with Path(sys.argv[1]).open("wb") as log:
    children = [fork(run, None, log) for run in (writes, lambda: exits(7), lambda: exits(None), fails)]
    print([child.wait(60) for child in children], [child.poll() for child in children])
    sleeper = fork(lambda: time.sleep(600), log, log)
    print(sleeper.poll(), sleeper.wait(0.01), os.getsid(sleeper.pid) == sleeper.pid)
    sleeper.send_signal(signal.SIGKILL)
    print(sleeper.wait())
    sleeper.send_signal(signal.SIGTERM)  # the process has exited
    print(fork(lambda: time.sleep(600), log, log).pid)
"""


def test_a_forked_child_exits_with_its_code_on_a_signal_or_with_its_parent(tmp_path: Path) -> None:
    log = tmp_path / "log"
    done = subprocess.run([sys.executable, "-c", PARENT, str(log)], capture_output=True, text=True, timeout=120,
                          check=False)
    assert done.returncode == 0, done.stderr
    *lines, pid = done.stdout.splitlines()
    assert lines == ["on the parent's stdout", "[0, 7, 0, 4] [0, 7, 0, 4]", "None None True", "-9"]
    assert "no input: ''" in log.read_text()
    assert "ValueError: the error" in log.read_text()
    wait_until(lambda: has_exited(int(pid)))  # terminates with its parent


def has_exited(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except (FileNotFoundError, ProcessLookupError):
        return True
