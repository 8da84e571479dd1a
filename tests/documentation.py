"""Pages of the documentation: their command blocks, a shell that runs these as printed, and the comparison of outputs.

A block of commands begins with ```console; a command begins with `$ ` and goes on until a shell would not ask for more.
Lines that follow are its output; none: the output is not compared. `…` alone on a line stands for any number of lines.
A command that ends with ` &` runs on. One whose output ends with a Mininet prompt keeps a terminal of its own.
"""

from __future__ import annotations

import contextlib
import json
import os
import pty
import re
import secrets
import select
import shlex
import signal
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")])
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
PROMPT = "paceline> "
WIDTH = 110
ANSI = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


@dataclass(frozen=True)
class Command:
    """One command of a page, with what the page shows of its output."""

    page: Path
    line: int
    text: str
    output: str

    @property
    def keeps_terminal(self) -> bool:
        return self.output.rstrip().endswith(PROMPT.rstrip())

    def __str__(self) -> str:
        return f"{self.page.name}:{self.line}: $ {self.text}"


def commands(page: Path) -> list[Command]:
    """Every command of a page, in order."""
    text = page.read_text()
    found: list[Command] = []
    for block in FENCE.finditer(text):
        if block[1] != "console":
            continue
        first = text.count("\n", 0, block.start()) + 2
        for offset, line in enumerate(block[2].splitlines()):
            last = found[-1] if found and offset else None
            if last and not _is_whole(last.text):
                found[-1] = Command(page, last.line, f"{last.text}\n{line}", "")
            elif line.startswith("$ "):
                found.append(Command(page, first + offset, line[2:], ""))
            else:
                assert last is not None, f"{page.name}:{first + offset}: output without a command"
                found[-1] = Command(page, last.line, last.text, f"{last.output}{line}\n")
    return found


def _is_whole(command: str) -> bool:
    """Whether a shell would not ask for more."""
    try:
        shlex.split(command, comments=True)
    except ValueError:
        return False
    return not command.endswith(("\\", "|"))


class Shell:
    """A bash that runs the commands of a page one after the other, in `directory`."""

    def __init__(self, directory: Path, environment: dict[str, str], before: Sequence[str] = ()) -> None:
        """`before`: a command that executes the bash, where it is not to be in the namespaces of this process."""
        self._directory, self._environment = directory, environment
        self._process = subprocess.Popen(
            [*before, "bash", "--norc", "--noprofile"], cwd=directory, env=environment, text=True, bufsize=1,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True,
        )  # fmt: skip
        self._terminal: Terminal | None = None

    @property
    def pid(self) -> int:
        """Of the bash, after the first command has run."""
        return self._process.pid

    def run(self, command: Command, timeout_s: float) -> tuple[int, str]:
        """Exit code and output of a command."""
        if command.keeps_terminal:
            self._leave_terminal()
            self._terminal = Terminal(command.text, self._directory, self._environment)
            return 0, self._terminal.read_until(PROMPT, timeout_s)
        ask, answer = self._process.stdin, self._process.stdout
        assert ask is not None
        assert answer is not None
        mark = f"done-{secrets.token_hex(8)}"
        if command.text.rstrip().endswith("&"):
            ask.write(f"exec 3>&1 4>&2 >>background.log 2>&1\n{command.text}\nexec >&3 2>&4 3>&- 4>&-\n")
        else:
            ask.write(f"{command.text}\n")
        ask.write(f'printf "\\n%s %s\\n" {mark} $?\n')
        deadline, text = time.monotonic() + timeout_s, ""
        while (end := re.search(rf"\n?^{mark} (\d+)\n", text, re.MULTILINE)) is None:
            ready, _, _ = select.select([answer], [], [], max(0, deadline - time.monotonic()))
            assert ready, f"{command}\nno end after {timeout_s:g} s: {text}"
            piece = os.read(answer.fileno(), 65536).decode(errors="replace")
            assert piece, f"{command}\nthe shell has ended: {text}"
            text += piece
        return int(end[1]), text[: end.start()]

    def close(self) -> None:
        """End what still runs."""
        try:
            self._leave_terminal()
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait(60)
            for stream in (self._process.stdin, self._process.stdout):
                if stream is not None:
                    stream.close()

    def _leave_terminal(self) -> None:
        if self._terminal is not None:
            code = self._terminal.leave()
            self._terminal = None
            assert code == 0


class Terminal:
    """A command in a terminal of its own, at whose prompt a user would type."""

    def __init__(self, command: str, directory: Path, environment: dict[str, str]) -> None:
        self._master, slave = pty.openpty()
        self._process = subprocess.Popen(
            ["bash", "--norc", "--noprofile", "-c", command], cwd=directory, env=environment, stdin=slave, stdout=slave,
            stderr=slave, start_new_session=True,
        )  # fmt: skip
        os.close(slave)

    def read_until(self, words: str, timeout_s: float) -> str:
        deadline, text = time.monotonic() + timeout_s, ""
        while not text.endswith(words):
            ready, _, _ = select.select([self._master], [], [], max(0, deadline - time.monotonic()))
            assert ready, f"no {words!r} after {timeout_s:g} s: {text}"
            try:
                piece = os.read(self._master, 65536).decode(errors="replace")
            except OSError:
                raise AssertionError(f"the command has ended: {text}") from None
            text = ANSI.sub("", (text + piece).replace("\r", ""))
        return text

    def leave(self) -> int:
        """Type `exit`, and wait for the end."""
        os.write(self._master, b"exit\n")
        until_s = time.monotonic() + 60
        while self._process.poll() is None and time.monotonic() < until_s:
            with contextlib.suppress(OSError):
                if select.select([self._master], [], [], 0.1)[0]:
                    os.read(self._master, 65536)
        if self._process.poll() is None:
            self._process.terminate()
        code = self._process.wait(60)
        os.close(self._master)
        return code


VARIES = (
    (r"date: \w{3}, \d\d \w{3} \d{4} \d\d:\d\d:\d\d GMT", "DATE"),
    (r"content-length: \d+", "LENGTH"),
    (r"(HTTP/1.1 422 Unprocessable) (Entity|Content)", r"\1"),  # RFC 9110 has another phrase, as Python 3.13
    (r"(?<![\d.])(\d+)\.0(?![\d.])", r"\1"),  # jq 1.6 prints 20 where jq 1.7 prints 20.0
    (r"\d{4}-\d\d-\d\dT\d\d[:-]\d\d[:-]\d\d(\.\d+)?Z(-\d+)?", "TIME"),
    (r"0x9ace[0-9a-f]{12}", "COOKIE"),
    (r"\b[0-9a-f]{11}-(\d+)", r"EVENT-\1"),
    (r"\br-[0-9a-f]{8}\b", "RESERVATION"),
    (r"paceline_[\w-]{43}", "TOKEN"),
    (r'("reserved_bps": )\d+, "burst_bytes": \d+', r"\1GRANTED"),
    (r'("offer": \{"flows": .*?"requirement": )\{.*?\}', r"\1OFFERED"),
    (r'("(?:reserved_bps|accumulated_latency_us|latency_variation_us)": )[\d.]+', r"\1BOUND"),
    (r'("(?:completion_ms|length_ms|bound_us)": )[\d.]+', r"\1BOUND"),
    (r"(would be|limit is) \d+ us", r"\1 BOUND us"),
    (r"latency bound [\d.]+ ms", "latency bound BOUND ms"),
)
"""What differs between two runs or versions, or follows from the calibration of the bounds."""


def alike(text: str, varies: tuple[tuple[str, str], ...] = ()) -> str:
    """The text on one line, with what varies taken out."""
    text = " ".join(text.split())
    for pattern, word in (*VARIES, *varies):
        text = re.sub(pattern, word, text)
    return text


def agree(shown: str, came: str, varies: tuple[tuple[str, str], ...] = ()) -> bool:
    """Whether a page shows what came: the same words, apart from what varies; `…` on a line of its own is any lines.

    `varies`: what differs on this page besides, as regular expressions with what replaces them.
    """
    parts = [alike(part, varies) for part in re.split(r"^\s*…\s*$", shown, flags=re.MULTILINE)]
    wanted = rf"\s*{'.*'.join(re.escape(part) for part in parts)}\s*"
    return any(re.fullmatch(wanted, alike(text, varies)) for text in (came, laid_out_where_json(came)))


def laid_out_where_json(text: str) -> str:
    """The text with JSON that ends it laid out for reading."""
    for start in (0, text.find("\n{") + 1):
        with contextlib.suppress(ValueError):
            return text[:start] + laid_out(json.loads(text[start:]))
    return text


def laid_out(value: object, indent: int = 0) -> str:
    """JSON for reading: lines as full as they may be."""
    flat = json.dumps(value)
    if len(flat) + indent <= WIDTH or not isinstance(value, dict | list):
        return flat
    opening, closing = "{}" if isinstance(value, dict) else "[]"
    if isinstance(value, dict):
        parts = [f"{json.dumps(key)}: {laid_out(item, indent + 1)}" for key, item in value.items()]
    else:
        parts = [laid_out(item, indent + 1) for item in value]
    lines = [parts[0]]
    for part in parts[1:]:
        room = WIDTH - indent - len(lines[-1])
        if isinstance(value, dict) and "\n" not in lines[-1] + part and len(part) + 3 <= room:
            lines[-1] += f", {part}"
        else:
            lines[-1] += ","
            lines.append(part)
    return opening + ("\n" + " " * (indent + 1)).join(lines) + closing
