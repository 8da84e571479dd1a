"""uvicorn in a thread of its own, beside Ryu's hub, with an accept loop that limits connections."""

from __future__ import annotations

import asyncio
import errno
import logging
import socket
import ssl
import threading
from collections.abc import Callable
from functools import partial

import uvicorn
from starlette.types import ASGIApp

from controller.api.connections import ConnectionTable
from controller.api.http_protocol import LimitedHttpProtocol
from controller.api.limits import RestLimits
from controller.security.tls import TlsFiles

log = logging.getLogger(__name__)

STOP_TIMEOUT_S = 5.0
ACCEPT_RETRY_S = 0.1
BACKLOG = 1024
NOT_A_LISTENER = frozenset({errno.EBADF, errno.EINVAL, errno.ENOTSOCK, errno.EFAULT})
"""Errors of accept after which a listening socket is of no more use; all others pass. Source: accept(2)."""


class RestServer(threading.Thread):
    """Serves the application on listening sockets; `ready` is set when it accepts requests.

    `on_failure` is called with a sentence if it ends without `stop`.
    """

    def __init__(
        self,
        app: ASGIApp,
        sockets: list[socket.socket],
        tls: TlsFiles | None = None,
        limits: RestLimits | None = None,
        on_failure: Callable[[str], None] = log.critical,
    ) -> None:
        super().__init__(name="paceline-rest", daemon=True)
        self.ready = threading.Event()
        self._sockets = sockets
        self._on_failure = on_failure
        config = uvicorn.Config(
            app,
            http="httptools",
            ws="none",
            log_config=None,
            access_log=False,
            proxy_headers=False,  # the client is the TCP peer; headers could be forged
            timeout_graceful_shutdown=2,
            ssl_certfile=tls.certificate if tls else None,
            ssl_keyfile=tls.key if tls else None,
        )
        self._server = _LimitedServer(config, self.ready, limits or RestLimits())

    def run(self) -> None:
        """Serve until `stop` is called."""
        reason = "its thread has ended"
        try:
            self._server.run(sockets=self._sockets)
            reason = self._server.failure or reason
        except Exception as error:
            log.exception("the REST server has failed")
            reason = f"{type(error).__name__}: {error}"
        if not self._server.should_exit or self._server.failure:
            self._on_failure(f"The REST API no longer accepts requests: {reason}.")

    def stop(self) -> None:
        """Finish requests in flight and stop."""
        self._server.should_exit = True
        self.join(STOP_TIMEOUT_S)


class _LimitedServer(uvicorn.Server):
    """`failure`: why it has stopped by itself."""

    def __init__(self, config: uvicorn.Config, ready: threading.Event, limits: RestLimits) -> None:
        super().__init__(config)
        self.failure: str | None = None
        self._ready = ready
        self._limits = limits
        self._table = ConnectionTable(limits)
        self._accepting: list[asyncio.Task[None]] = []
        self._opening: set[asyncio.Task[None]] = set()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup([])
        for listener in sockets or []:
            listener.setblocking(False)
            listener.listen(BACKLOG)
            self._accepting.append(asyncio.create_task(self._accept(listener)))
        self._ready.set()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        for task in (*self._accepting, *self._opening):
            task.cancel()
        await asyncio.gather(*self._accepting, *self._opening, return_exceptions=True)
        await super().shutdown(sockets)

    async def _accept(self, listener: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        while True:
            try:
                accepted, peer = await loop.sock_accept(listener)
            except OSError as error:
                if error.errno in NOT_A_LISTENER:
                    self.failure = f"accept: {error.strerror}"
                    self.should_exit = True
                    return
                if error.errno in (errno.EMFILE, errno.ENFILE):
                    self._table.close_oldest()
                log.warning("REST: cannot accept a connection, trying again: %s", error.strerror)
                await asyncio.sleep(ACCEPT_RETRY_S)
                continue
            accepted.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            opening = asyncio.create_task(self._open(accepted, peer[0]))
            self._opening.add(opening)
            opening.add_done_callback(self._opening.discard)

    async def _open(self, accepted: socket.socket, peer: str) -> None:
        connection = self._table.admit(peer, accepted)
        if connection is None:
            log.warning("REST: refused a connection of %s: too many requests in progress", peer)
            accepted.close()
            return
        make = partial(
            LimitedHttpProtocol, self.config, self.server_state, self.lifespan.state,
            connection=connection, limits=self._limits,
        )  # fmt: skip
        timeout = self._limits.header_s if self.config.ssl is not None else None
        try:
            await asyncio.get_running_loop().connect_accepted_socket(
                make, accepted, ssl=self.config.ssl, ssl_handshake_timeout=timeout
            )
        except (OSError, ssl.SSLError, asyncio.CancelledError) as error:
            log.debug("REST: connection of %s failed: %s", peer, error)
            connection.closed()
            accepted.close()
