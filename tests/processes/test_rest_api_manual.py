"""docs/rest-api.md says what really happens: its transcripts are run, its table of codes is compared with the code.

`PACELINE_WRITE_MANUAL=1 pytest tests/processes/test_rest_api_manual.py` writes what happened into the page instead.
"""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest

from controller.api.schemas.problem_details import EXAMPLES, problem_of
from machine.polling import wait_until
from tests.processes.rig import Controller, OpenVSwitch, needs_open_vswitch
from tests.processes.transcripts import Run, alike

MANUAL = Path(__file__).parents[2] / "docs/rest-api.md"
WRITING = bool(os.environ.get("PACELINE_WRITE_MANUAL"))
BLOCK = re.compile(r"```console\n(.*?)```", re.DOTALL)
TABLE = re.compile(r"(?<=\| status \| code \| for example \|\n\|---\|---\|---\|\n)(?:\|.*\n)*")


def commands(block: str) -> list[tuple[str, str]]:
    """The commands of a block, each with what is shown to come of it."""
    found: list[tuple[str, str]] = []
    for line in block.splitlines():
        if found and not _is_whole(found[-1][0]):
            found[-1] = f"{found[-1][0]}\n{line}", ""
        elif line.startswith("$ "):
            found.append((line[2:], ""))
        else:
            command, output = found[-1]
            found[-1] = command, f"{output}{line}\n"
    return found


def _is_whole(command: str) -> bool:
    """Whether a shell would not ask for more."""
    try:
        shlex.split(command)
    except ValueError:
        return False
    return not command.endswith("\\")


@pytest.fixture
def controller(tmp_path: Path) -> Iterator[Controller]:
    (tmp_path / "ovs").mkdir()
    ovs = OpenVSwitch(tmp_path / "ovs")
    running = Controller(tmp_path)
    try:
        ovs.build(running.openflow_port)
        wait_until(running.in_step)
        wait_until(lambda: running.complaints() == [])
        yield running
    finally:
        running.stop()
        running.client.close()
        ovs.stop()


@needs_open_vswitch
def test_every_transcript_is_what_happens(controller: Controller) -> None:
    run = Run(f"http://127.0.0.1:{controller.rest_port}", controller.ledger)
    text = MANUAL.read_text()
    for block in BLOCK.findall(text):
        real = []
        for command, expected in commands(block):
            came = run.output(command)
            real.append((command, came))
            if not WRITING:
                assert alike(came).strip() == alike(expected).strip(), f"$ {command}\n{came}"
        written = "\n".join(f"$ {command}\n{came}".rstrip() + "\n" for command, came in real)
        text = text.replace(block, written, 1)
    if WRITING:
        MANUAL.write_text(text)


def test_every_code_is_in_the_table() -> None:
    rows = sorted((problem_of(error) for error in EXAMPLES), key=lambda each: (each["status"], each["code"]))
    table = "".join(f"| {each['status']} | `{each['code']}` | {each['detail']} |\n" for each in rows)
    text = MANUAL.read_text()
    if WRITING:
        MANUAL.write_text(TABLE.sub(table.replace("\\", r"\\"), text, count=1))
    else:
        (found,) = TABLE.findall(text)
        assert found == table
