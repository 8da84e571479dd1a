"""Serves the page until a signal."""

from __future__ import annotations

import ipaddress
import secrets
import socket
from collections.abc import Callable
from pathlib import Path

import uvicorn

from trainer.errors import UsageError
from trainer.reservation.controller_client import ApiCredentials
from trainer.web.app import make_app


def serve(
    controller_url: str, credentials: ApiCredentials, runs: Path, bind: str, port: int, log: Callable[[str], None]
) -> None:
    """Serve at `bind`:`port` (0: any free one) until SIGINT or SIGTERM; `log` gets the address to open.

    With a token for the controller, or at an address that other machines reach, the page can be opened only with a key.

    Raises: UsageError, NetworkError.
    """
    needs_key = credentials.token is not None or not _is_loopback(bind)
    key = secrets.token_urlsafe(18) if needs_key else None
    listener = _listen(bind, port)
    app = make_app(controller_url, credentials, runs, key)
    host = "[::1]" if bind == "::" else "127.0.0.1" if bind == "0.0.0.0" else f"[{bind}]" if ":" in bind else bind
    address = f"http://{host}:{listener.getsockname()[1]}/"
    log(f"page: {address}{f'?key={key}' if key else ''}")
    config = uvicorn.Config(
        app,
        log_config=None,
        access_log=False,
        proxy_headers=False,
        server_header=False,
        ws="none",
        timeout_graceful_shutdown=1,
    )
    uvicorn.Server(config).run(sockets=[listener])


def _is_loopback(bind: str) -> bool:
    try:
        return ipaddress.ip_address(bind).is_loopback
    except ValueError:
        return bind == "localhost"


def _listen(bind: str, port: int) -> socket.socket:
    try:
        (family, kind, protocol, _, address), *_ = socket.getaddrinfo(
            bind, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )
        listener = socket.socket(family, kind, protocol)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(128)
    except OSError as error:
        raise UsageError(f"--bind {bind} --port {port}: {error.strerror or error}.") from error
    return listener
