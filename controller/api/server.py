"""uvicorn in a thread of its own, beside Ryu's hub."""

from __future__ import annotations

import socket
import threading

import uvicorn
from fastapi import FastAPI

from controller.security.tls import TlsFiles

STOP_TIMEOUT_S = 5.0


class RestServer(threading.Thread):
    """Serves the application on listening sockets; `ready` is set when it accepts requests."""

    def __init__(self, app: FastAPI, sockets: list[socket.socket], tls: TlsFiles | None = None) -> None:
        super().__init__(name="paceline-rest", daemon=True)
        self.ready = threading.Event()
        self._sockets = sockets
        config = uvicorn.Config(
            app,
            log_config=None,
            access_log=False,
            proxy_headers=False,  # the client is the TCP peer; headers could be forged
            timeout_graceful_shutdown=2,
            ssl_certfile=tls.certificate if tls else None,
            ssl_keyfile=tls.key if tls else None,
        )
        self._server = _AnnouncingServer(config, self.ready)

    def run(self) -> None:
        """Serve until `stop` is called."""
        self._server.run(sockets=self._sockets)

    def stop(self) -> None:
        """Finish requests in flight and stop."""
        self._server.should_exit = True
        self.join(STOP_TIMEOUT_S)


class _AnnouncingServer(uvicorn.Server):
    def __init__(self, config: uvicorn.Config, ready: threading.Event) -> None:
        super().__init__(config)
        self._ready = ready

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._ready.set()
