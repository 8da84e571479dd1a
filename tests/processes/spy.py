"""A listener on the way from edges to the cloud: passes everything on, and keeps what the edges said."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Iterator

from trainer.protocol import framing
from trainer.protocol.framing import Frame


class Spy:
    """Listens on a port of its own and talks to the cloud at `port`; `heard` are the bytes of every connection."""

    def __init__(self, port: int) -> None:
        self.heard: list[bytearray] = []
        self._cloud = port
        self._server = socket.create_server(("127.0.0.1", 0))
        self._sockets = [self._server]
        threading.Thread(target=self._accept, daemon=True).start()

    @property
    def address(self) -> str:
        """Address that edges connect to instead of the cloud."""
        return f"127.0.0.1:{self._server.getsockname()[1]}"

    def frames(self) -> Iterator[Frame]:
        """Every frame that an edge has sent, whole."""
        for said in self.heard:
            place = 0
            while len(said) - place >= framing.PREFIX.size:
                start = framing.parse_prefix(said[place : place + framing.PREFIX.size], framing.FrameLimits())
                header = place + framing.PREFIX.size
                payload = header + start.header_bytes
                place = payload + start.payload_bytes
                if place > len(said):
                    break
                yield framing.decode(start, said[header:payload], said[payload:place])

    def close(self) -> None:
        """Hang up everywhere."""
        for one in self._sockets:
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
            one.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                edge, _ = self._server.accept()
                self._sockets.append(edge)
                try:
                    cloud = socket.create_connection(("127.0.0.1", self._cloud))
                except OSError:  # no cloud yet: the edge tries again
                    edge.close()
                    continue
                self._sockets.append(cloud)
                said = bytearray()
                self.heard.append(said)
                for source, sink, kept in ((edge, cloud, said), (cloud, edge, None)):
                    threading.Thread(target=_pass_on, args=(source, sink, kept), daemon=True).start()


def _pass_on(source: socket.socket, sink: socket.socket, kept: bytearray | None) -> None:
    with contextlib.suppress(OSError):
        while data := source.recv(2**16):
            if kept is not None:
                kept += data
            sink.sendall(data)
        sink.shutdown(socket.SHUT_WR)
