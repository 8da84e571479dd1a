"""The check of a model in a child process: what it prints, how it ends, and who is told."""

from __future__ import annotations

import subprocess
import sys

import pytest

PROGRAM = """
import os, signal, sys
from functools import partial
from trainer.cli.preflight import _run_in_child
from trainer.errors import UsageError

def refuse():
    print("printed by user code", end="")
    raise UsageError("no such layer")

def fail():
    {"a": 1}["edge"]

def kill():
    os.kill(os.getpid(), signal.SIGKILL)

try:
    _run_in_child(partial(globals()[sys.argv[1]]))
except Exception as error:
    print(type(error).__name__, error, *getattr(error, "__notes__", []), sep=" | ")
"""


@pytest.mark.parametrize(("check", "told"), [
    ("refuse", "UsageError | no such layer"),
    ("fail", "RuntimeError | KeyError: 'edge' | Traceback"),
    ("kill", "TrainingFailedError | The check of the model was killed by SIGKILL."),
])
def test_what_the_check_of_a_model_came_to_is_raised_here(check: str, told: str) -> None:
    done = subprocess.run([sys.executable, "-c", PROGRAM, check], capture_output=True, text=True, check=True)
    assert done.stdout.startswith(told)
