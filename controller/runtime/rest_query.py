"""One GET of a controller's REST API, for commands that ask a controller that runs."""

from __future__ import annotations

import json
import os
import ssl
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.parse import urlsplit
from urllib.request import HTTPSHandler, ProxyHandler, Request, build_opener

from controller.errors import StartError
from controller.security.tls import error_text
from topologies import running_emulation

TIMEOUT_S = 30.0
USAGE, NETWORK = 2, 3
"""Exit codes."""


def get(urls: str | None, path: str) -> dict[str, Any]:
    """The JSON object at a path of the controller at one of these URLs, comma-separated; None: of the emulation's.

    PACELINE_TOKEN and PACELINE_CA are as for all commands.

    Raises: StartError with the controller's own sentence, or why there is none.
    """
    if urls is None:
        running = running_emulation.read()
        if running is None:
            raise StartError("No emulation is running on this machine; set --controller URL.", NETWORK)
        urls = running.controller_url
    failure = StartError(f"{urls!r} is no URL of a controller; write it as http://127.0.0.1:8080.", USAGE)
    for url in urls.split(","):
        if urlsplit(url).scheme not in ("http", "https") or not urlsplit(url).hostname:
            raise failure
    for url in urls.split(","):
        try:
            return _get(url.rstrip("/") + path)
        except HTTPError as error:
            with error:
                raise StartError(_sentence(error), USAGE if error.code in (404, 422) else NETWORK) from error
        except (URLError, OSError, ValueError) as error:
            reason = error.reason if isinstance(error, URLError) else error
            text = error_text(reason) if isinstance(reason, OSError) else str(reason)
            failure = StartError(f"The controller at {url} does not answer: {text}.", NETWORK)
    raise failure


def _get(url: str) -> dict[str, Any]:
    authority, token = os.environ.get("PACELINE_CA") or None, os.environ.get("PACELINE_TOKEN") or None
    try:
        context = ssl.create_default_context(cafile=authority)
    except OSError as error:
        sentence = f"PACELINE_CA={authority} is not a readable certificate file: {error_text(error)}"
        raise StartError(f"{sentence}.", NETWORK) from error
    request = Request(url, headers={} if token is None else {"Authorization": f"Bearer {token}"})
    opener = build_opener(ProxyHandler({}), HTTPSHandler(context=context))
    with opener.open(request, timeout=TIMEOUT_S) as response:
        content = json.load(response)
    if not isinstance(content, dict):
        raise ValueError("its answer is not a JSON object")
    return content


def _sentence(error: HTTPError) -> str:
    """The sentence of problem details."""
    try:
        problem = json.load(error)
        return str(problem["detail"])
    except (ValueError, LookupError, TypeError):
        return f"The controller answered {error.code} {error.reason}."
