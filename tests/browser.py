"""Headless Chromium of Debian, driven by its own protocol (Chrome DevTools Protocol) over two pipes.

A driver package would bring a runtime of 165 MB; what tests need of it are these few commands.
"""

from __future__ import annotations

import base64
import contextlib
import json
import os
import select
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from importlib.metadata import distribution
from pathlib import Path
from typing import Any

Json = dict[str, Any]

TIMEOUT_S = 60.0
POLL_S = 0.02


class BrowserError(AssertionError):
    """A command failed, a script threw, or an expectation did not come true in time."""


class Browser:
    """One page of a headless browser. `messages`: errors and warnings of its console, and requests that failed."""

    def __init__(self) -> None:
        program = shutil.which("chromium") or shutil.which("chromium-headless-shell")
        if program is None:
            raise BrowserError("There is no chromium; run scripts/set-up tests.")
        self._profile = tempfile.TemporaryDirectory(prefix="paceline-browser-", ignore_cleanup_errors=True)
        to_browser, self._to_browser = os.pipe()
        self._from_browser, from_browser = os.pipe()
        command = [
            *("bash", "-c", f'exec "$@" 3<&{to_browser} 4>&{from_browser}', "bash", program, "--headless=new"),
            *("--no-sandbox", "--remote-debugging-pipe", "--disable-gpu", "--disable-dev-shm-usage"),
            *("--no-first-run", "--disable-background-networking", "--disable-component-update", "--hide-scrollbars"),
            *(f"--user-data-dir={self._profile.name}", "about:blank"),
        ]
        self._process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
            pass_fds=(to_browser, from_browser), start_new_session=True,
        )  # fmt: skip
        os.close(to_browser)
        os.close(from_browser)
        self._number, self._buffer = 0, b""
        self._loaded = False
        self._session: str | None = None
        self.messages: list[str] = []
        try:
            self._attach()
        except BaseException:
            self.close()
            raise

    def _attach(self) -> None:
        target = self._send("Target.createTarget", {"url": "about:blank"})["targetId"]
        self._session = self._send("Target.attachToTarget", {"targetId": target, "flatten": True})["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self._send(f"{domain}.enable")

    def close(self) -> None:
        """End the browser."""
        with contextlib.suppress(BrowserError, OSError):
            self._session = None
            self._send("Browser.close", timeout_s=5)
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(5)
        self._process.kill()
        self._process.wait()
        os.close(self._to_browser)
        os.close(self._from_browser)
        self._profile.cleanup()

    def resize(self, width: int, height: int) -> None:
        """Set the size of the page, in CSS pixels."""
        metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
        self._send("Emulation.setDeviceMetricsOverride", metrics)

    def open(self, url: str) -> None:
        """Open an address and wait until it has loaded."""
        self._loaded = False
        self._send("Page.navigate", {"url": url})
        deadline = time.monotonic() + TIMEOUT_S
        while not self._loaded:
            self._receive(deadline)

    def evaluate(self, expression: str) -> Any:
        """Return the value of an expression on the page; a promise is awaited. An element is returned as {}."""
        arguments = {"expression": expression, "returnByValue": True, "awaitPromise": True}
        result = self._send("Runtime.evaluate", arguments)
        if "exceptionDetails" in result:
            raise BrowserError(f"{expression}: {result['exceptionDetails']}")
        return result["result"].get("value")

    def wait_for(self, expression: str, timeout_s: float = TIMEOUT_S) -> Any:
        """Return the value of an expression as soon as it is true; of an element {}."""
        deadline = time.monotonic() + timeout_s
        while (value := self.evaluate(expression)) in (None, False, 0, ""):
            if time.monotonic() > deadline:
                text = self.evaluate("document.body.innerText")
                raise BrowserError(f"not true within {timeout_s:g} s: {expression}\n{text}\n{self.messages}")
            time.sleep(POLL_S)
        return value

    def press(self, key: str, code: int, text: str = "") -> None:
        """Press and release a key."""
        event = {"key": key, "code": key, "windowsVirtualKeyCode": code}
        self._send("Input.dispatchKeyEvent", {**event, "type": "keyDown", **({"text": text} if text else {})})
        self._send("Input.dispatchKeyEvent", {**event, "type": "keyUp"})

    def screenshot(self, path: Path, whole: bool = True) -> None:
        """Save a picture of the page as PNG."""
        answer = self._send("Page.captureScreenshot", {"format": "png", "captureBeyondViewport": whole})
        path.write_bytes(base64.b64decode(answer["data"]))

    def accessibility_mistakes(self) -> list[str]:
        """What axe-core finds that is serious or critical, each with its first place."""
        axe = distribution("axe-playwright-python").locate_file("axe_playwright_python/axe.min.js")
        self.evaluate(Path(str(axe)).read_text() + ";0")
        found: list[str] = self.evaluate(
            "axe.run(document, {resultTypes: ['violations']}).then(r => r.violations"
            ".filter(v => ['serious', 'critical'].includes(v.impact))"
            ".map(v => [v.id, v.help, v.nodes[0].html.slice(0, 300), v.nodes[0].failureSummary].join('; ')))"
        )
        return found

    def _send(self, method: str, parameters: Json | None = None, timeout_s: float = TIMEOUT_S) -> Json:
        self._number += 1
        message: Json = {"id": self._number, "method": method, "params": parameters or {}}
        if self._session is not None:
            message["sessionId"] = self._session
        data = json.dumps(message).encode() + b"\0"
        while data:
            data = data[os.write(self._to_browser, data) :]
        deadline, number = time.monotonic() + timeout_s, self._number
        while True:
            answer = self._receive(deadline)
            if answer.get("id") == number:
                if "error" in answer:
                    raise BrowserError(f"{method}: {answer['error']}")
                result: Json = answer["result"]
                return result

    def _receive(self, deadline: float) -> Json:
        while b"\0" not in self._buffer:
            if not select.select([self._from_browser], [], [], max(0.0, deadline - time.monotonic()))[0]:
                raise BrowserError("the browser does not answer")
            chunk = os.read(self._from_browser, 1 << 16)
            if not chunk:
                raise BrowserError("the browser has ended")
            self._buffer += chunk
        whole, _, self._buffer = self._buffer.partition(b"\0")
        message: Json = json.loads(whole)
        self._note(message)
        return message

    def _note(self, message: Json) -> None:
        method, details = message.get("method"), message.get("params", {})
        if method == "Page.loadEventFired":
            self._loaded = True
        elif method == "Page.javascriptDialogOpening":
            self._answer_dialog()
        elif method == "Runtime.exceptionThrown":
            self.messages.append(str(details["exceptionDetails"].get("exception", details)))
        elif method == "Runtime.consoleAPICalled" and details["type"] in ("error", "warning", "assert"):
            self.messages.append(str(details["args"]))
        elif method == "Log.entryAdded" and details["entry"]["level"] in ("error", "warning"):
            self.messages.append(f"{details['entry']['text']} {details['entry'].get('url', '')}")

    def _answer_dialog(self) -> None:
        """Accept a question, without waiting for the answer to that."""
        self._number += 1
        message = {"id": self._number, "method": "Page.handleJavaScriptDialog", "params": {"accept": True},
                   "sessionId": self._session}  # fmt: skip
        os.write(self._to_browser, json.dumps(message).encode() + b"\0")


@contextlib.contextmanager
def browser() -> Iterator[Browser]:
    """A browser within the block."""
    opened = Browser()
    try:
        yield opened
    finally:
        opened.close()
