"""Transcripts in a manual: run their commands against a real controller and lay out what comes, as the manual shows it.

A block begins with ```console; each command in it with `$ `, and goes on over lines that end with a backslash. Commands
are `curl` (-s, -i, -N, -X, -H, -d, --max-time), perhaps through `grep`, and `paceline token`.
"""

from __future__ import annotations

import contextlib
import json
import re
import shlex
from dataclasses import dataclass, field

import httpx
from click.testing import CliRunner

from controller.runtime.token_command import command as token_command
from machine.polling import wait_until

SHOWN_HEADERS = ("allow", "idempotency-replayed", "retry-after", "www-authenticate")
WIDTH = 110

VARIES = (
    (r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z", "TIME"),
    (r"0x9ace[0-9a-f]{12}", "COOKIE"),
    (r"\b[0-9a-f]{11}-(\d+)", r"EVENT-\1"),
    (r"paceline_[\w-]{43}", "TOKEN"),
    (r'("reserved_bps": )\d+, "burst_bytes": \d+', r"\1GRANTED"),
    (r'("offer": \{"flows": .*?"requirement": )\{.*?\}', r"\1OFFERED"),
    (r'("(?:reserved_bps|accumulated_latency_us|latency_variation_us)": )[\d.]+', r"\1BOUND"),
    (r'("(?:completion_ms|length_ms|bound_us)": )[\d.]+', r"\1BOUND"),
    (r"(would be|limit is) \d+ us", r"\1 BOUND us"),
)
"""What is not the same in two runs, or follows from the calibration of the bounds."""

RESERVATION = re.compile(r"\br-[0-9a-f]{8}\b")


@dataclass
class Run:
    """One run of the transcripts: against which controller, and which reservations have come up."""

    url: str
    ledger: str
    names: dict[str, str] = field(default_factory=dict)
    """As the manual calls a reservation -> as it is called in this run, in the order in which they come up."""
    tokens: dict[str, str] = field(default_factory=dict)
    """$NAME -> the token of that name."""

    def output(self, command: str) -> str:
        """What a command prints, with reservations called as in the manual."""
        came = self._run(command)
        for real in RESERVATION.findall(came):
            if real not in self.names.values():
                self.names[f"r-4f1c09a{len(self.names) + 1:x}"] = real
        for shown, real in self.names.items():
            came = came.replace(real, shown)
        return came

    def _run(self, command: str) -> str:
        for shown, real in {**self.names, **self.tokens}.items():
            command = command.replace(shown, real)
        words = shlex.split(command.replace("\\\n", " "))
        if words[:2] == ["paceline", "token"]:
            return self._token(words[2:])
        assert words[0] == "curl", command
        if "|" not in words:
            return self._curl(words[1:])
        (_, how, pattern) = words[words.index("|") + 1 :]
        came = self._curl(words[1 : words.index("|")])
        if "o" in how:
            return "\n".join(found[0] for found in re.finditer(pattern, came))
        return "\n".join(line for line in came.splitlines() if bool(re.search(pattern, line)) != ("v" in how))

    def _token(self, words: list[str]) -> str:
        where = words.index("--map")
        arguments = [*words[:where], "--ledger", self.ledger, *words[where + 2 :]]
        result = CliRunner().invoke(token_command, arguments)
        assert result.exit_code == 0, result.output
        if words[0] == "add":
            self.tokens[f"${words[1].upper()}"] = result.stdout.strip()
            shown = {"Authorization": f"Bearer {result.stdout.strip()}"}
            wait_until(lambda: httpx.get(f"{self.url}/v1/network").status_code == 401)
            wait_until(lambda: httpx.get(f"{self.url}/v1/network", headers=shown).status_code == 200)
        return result.stdout.rstrip()

    def _curl(self, words: list[str]) -> str:
        method, headers, body, with_head, seconds, address = "GET", {}, None, False, None, ""
        rest = iter(words)
        for word in rest:
            if word == "-X":
                method = next(rest)
            elif word == "-H":
                name, value = next(rest).split(": ", 1)
                headers[name] = value
            elif word == "-d":
                body, method = next(rest), "POST" if method == "GET" else method
            elif word == "--max-time":
                seconds = float(next(rest))
            elif word.startswith("-"):
                with_head = with_head or "i" in word
            else:
                address = word.replace("http://127.0.0.1:8080", self.url)
        if body is not None:
            headers["Content-Type"] = "application/json"
        if seconds is not None:
            return self._listen(address, headers, seconds)
        answer = httpx.request(method, address, headers=headers, content=body, timeout=30)
        return (_head(answer) if with_head else "") + _body(answer)

    def _listen(self, address: str, headers: dict[str, str], seconds: float) -> str:
        lines = []
        with (
            contextlib.suppress(httpx.ReadTimeout),  # curl's --max-time ends it too
            httpx.stream("GET", address, headers=headers, timeout=seconds) as answer,
        ):
            for line in answer.iter_lines():
                lines.append(line)  # noqa: PERF402 - the time-out may come between any two
        return "\n".join(lines).rstrip()


def _head(answer: httpx.Response) -> str:
    lines = [f"HTTP/1.1 {answer.status_code} {answer.reason_phrase}"]
    lines += [f"{name}: {answer.headers[name]}" for name in SHOWN_HEADERS if name in answer.headers]
    return "\n".join([*lines, "", ""])


def _body(answer: httpx.Response) -> str:
    return laid_out(answer.json()) if "json" in answer.headers["content-type"] else answer.text


def laid_out(value: object, indent: int = 0) -> str:
    """JSON for reading: lines as full as they may be."""
    flat = json.dumps(value)
    if len(flat) + indent <= WIDTH or not isinstance(value, dict | list):
        return flat
    opening, closing = "{}" if isinstance(value, dict) else "[]"
    if isinstance(value, dict):
        parts = [f"{json.dumps(key)}: {laid_out(each, indent + 1)}" for key, each in value.items()]
    else:
        parts = [laid_out(each, indent + 1) for each in value]
    lines = [parts[0]]
    for part in parts[1:]:
        room = WIDTH - indent - len(lines[-1])
        if isinstance(value, dict) and "\n" not in lines[-1] + part and len(part) + 3 <= room:
            lines[-1] += f", {part}"
        else:
            lines[-1] += ","
            lines.append(part)
    return opening + ("\n" + " " * (indent + 1)).join(lines) + closing


def alike(text: str) -> str:
    """The text with what varies taken out, on one line."""
    text = " ".join(text.split())
    for pattern, word in VARIES:
        text = re.sub(pattern, word, text)
    return text
