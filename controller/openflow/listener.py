"""Accepts connections of switches; those whose handshake is incomplete are limited in time and number."""

from __future__ import annotations

import contextlib
import errno
import logging
import socket
import time
from collections.abc import Callable
from typing import Any

from controller.openflow.eventlet_quiet import eventlet
from controller.openflow.limits import OpenFlowLimits

log = logging.getLogger(__name__)

ACCEPT_RETRY_S = 0.1
BACKLOG = 512
MAX_ADDRESSES = 10_000
NOT_A_LISTENER = frozenset({errno.EBADF, errno.EINVAL, errno.ENOTSOCK, errno.EFAULT})
"""Errors of accept after which a listening socket is of no more use; all others pass. Source: accept(2)."""

Serve = Callable[[Any, Any, Callable[[], None]], None]
"""Serves a connection (socket, address) until it ends; calls the function when its handshake is complete."""


class Handshake:
    """A connection whose handshake is incomplete; the deadline covers TLS, hello, features and ports together."""

    def __init__(self, listener: SwitchListener, connection: Any, address: str, limit_s: float) -> None:
        self._listener = listener
        self._connection = connection
        self.address = address
        self._limit_s = limit_s
        self._timer: Any = eventlet.hubs.get_hub().schedule_call_global(limit_s, self._expire)

    def complete(self) -> None:
        """End the deadline: the handshake is complete, or the connection has ended."""
        self._timer.cancel()
        self._listener.handshakes.pop(self, None)

    def _expire(self) -> None:
        self.abort(f"its handshake was not complete within {self._limit_s:g} s")

    def abort(self, reason: str) -> None:
        """Close the connection."""
        self.complete()
        log.warning("refused a switch at %s: %s", self.address, reason)
        with contextlib.suppress(OSError):
            self._connection.shutdown(socket.SHUT_RDWR)


class AddressRates:
    """Lets `burst` connections of an address pass, and `per_s` in a second after that."""

    def __init__(self, burst: int, per_s: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._burst = burst
        self._per_s = per_s
        self._clock = clock
        self._left: dict[str, tuple[float, float]] = {}

    def passes(self, address: str) -> bool:
        """Whether a connection of this address may pass now."""
        now_s = self._clock()
        if len(self._left) >= MAX_ADDRESSES:
            self._left.clear()
        left, at_s = self._left.get(address, (float(self._burst), now_s))
        left = min(self._burst, left + (now_s - at_s) * self._per_s)
        self._left[address] = max(0.0, left - 1), now_s
        return left >= 1


class SwitchListener:
    """One listening address. `handshakes`: the incomplete ones, oldest first."""

    def __init__(self, address: tuple[str, int], serve: Serve, limits: OpenFlowLimits) -> None:
        """Bind the address.

        Raises: OSError.
        """
        family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
        self._socket = eventlet.listen(address, family, BACKLOG, reuse_port=False)
        self._serve = serve
        self._limits = limits
        self._rates = AddressRates(limits.handshakes, limits.new_per_s)
        self.handshakes: dict[Handshake, None] = {}

    def serve_forever(self) -> None:
        """Accept connections.

        Raises: OSError if the listening socket can no longer be used.
        """
        while True:
            try:
                connection, address = self._socket.accept()
            except OSError as error:
                if error.errno in NOT_A_LISTENER:
                    raise
                log.warning("OpenFlow: cannot accept a connection, trying again: %s", error.strerror)
                if error.errno in (errno.EMFILE, errno.ENFILE):
                    self._abort_oldest(list(self.handshakes), "this process has no file descriptors left")
                eventlet.sleep(ACCEPT_RETRY_S)
                continue
            if not self._rates.passes(address[0]):
                connection.close()
                continue
            self._make_room(address[0])
            handshake = Handshake(self, connection, address[0], self._limits.handshake_s)
            self.handshakes[handshake] = None
            eventlet.spawn(self._run, connection, address, handshake)

    def close(self) -> None:
        """Stop listening."""
        self._socket.close()

    def _make_room(self, address: str) -> None:
        own = [handshake for handshake in self.handshakes if handshake.address == address]
        if len(own) >= self._limits.handshakes_per_address:
            self._abort_oldest(own, f"{len(own)} handshakes of its address are incomplete")
        elif len(self.handshakes) >= self._limits.handshakes:
            self._abort_oldest(list(self.handshakes), f"{len(self.handshakes)} handshakes are incomplete")

    def _abort_oldest(self, handshakes: list[Handshake], reason: str) -> None:
        if handshakes:
            handshakes[0].abort(reason)

    def _run(self, connection: Any, address: Any, handshake: Handshake) -> None:
        try:
            self._serve(connection, address, handshake.complete)
        except Exception as error:
            log.warning("closed the connection of a switch at %s: %s", address[0], _reason(error))
            log.debug("cause", exc_info=error)
        finally:
            handshake.complete()
            with contextlib.suppress(OSError):
                connection.close()


def _reason(error: Exception) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())[:300]
