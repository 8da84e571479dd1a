"""Children that are copies of their parent: they end with their exit code, and with their parent."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from tests.waiting import wait_until

PARENT = """
import os, signal, sys, time
from pathlib import Path
from trainer.processes.fork import fork

def told(code):
    sys.exit(code)

def fails():
    raise ValueError("what it said")

def writes():
    print("to the parent's output", flush=True)
    print("no input:", repr(sys.stdin.read()), file=sys.stderr)

with Path(sys.argv[1]).open("wb") as log:
    ended = [fork(run, None, log) for run in (writes, lambda: told(7), lambda: told(None), fails)]
    print([child.wait(60) for child in ended], [child.poll() for child in ended])
    sleeper = fork(lambda: time.sleep(600), log, log)
    print(sleeper.poll(), sleeper.wait(0.01), os.getsid(sleeper.pid) == sleeper.pid)
    sleeper.send_signal(signal.SIGKILL)
    print(sleeper.wait())
    sleeper.send_signal(signal.SIGTERM)  # nobody is there to get it
    print(fork(lambda: time.sleep(600), log, log).pid)
"""


def test_a_copy_ends_with_its_code_by_a_signal_or_with_its_parent(tmp_path: Path) -> None:
    log = tmp_path / "log"
    done = subprocess.run([sys.executable, "-c", PARENT, str(log)], capture_output=True, text=True, timeout=120,
                          check=False)
    assert done.returncode == 0, done.stderr
    *lines, pid = done.stdout.splitlines()
    assert lines == ["to the parent's output", "[0, 7, 0, 4] [0, 7, 0, 4]", "None None True", "-9"]
    assert "no input: ''" in log.read_text()
    assert "ValueError: what it said" in log.read_text()
    wait_until(lambda: ended(int(pid)))  # it goes with its parent


def ended(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except (FileNotFoundError, ProcessLookupError):
        return True
