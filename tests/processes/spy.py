"""A proxy between the edges and the cloud that records what the edges send."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Iterator

from trainer.protocol import framing
from trainer.protocol.framing import Frame


class RecordingProxy:
    """Listens on a port of its own and forwards to the cloud at `port`; `received`: the edge's bytes by connection."""

    def __init__(self, port: int) -> None:
        self.received: list[bytearray] = []
        self._cloud = port
        self._server = socket.create_server(("127.0.0.1", 0))
        self._sockets = [self._server]
        threading.Thread(target=self._accept, daemon=True).start()

    @property
    def address(self) -> str:
        """Address that edges connect to instead of the cloud."""
        return f"127.0.0.1:{self._server.getsockname()[1]}"

    def frames(self) -> Iterator[Frame]:
        """Decode every complete frame that an edge has sent."""
        for sent in self.received:
            position = 0
            while len(sent) - position >= framing.PREFIX.size:
                prefix = framing.parse_prefix(sent[position : position + framing.PREFIX.size], framing.FrameLimits())
                header = position + framing.PREFIX.size
                payload = header + prefix.header_bytes
                position = payload + prefix.payload_bytes
                if position > len(sent):
                    break
                yield framing.decode(prefix, sent[header:payload], sent[payload:position])

    def close(self) -> None:
        """Close all connections."""
        for sock in self._sockets:
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
            sock.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                edge, _ = self._server.accept()
                self._sockets.append(edge)
                try:
                    cloud = socket.create_connection(("127.0.0.1", self._cloud))
                except OSError:  # no cloud yet: the edge retries
                    edge.close()
                    continue
                self._sockets.append(cloud)
                sent = bytearray()
                self.received.append(sent)
                for source, sink, record in ((edge, cloud, sent), (cloud, edge, None)):
                    threading.Thread(target=_forward, args=(source, sink, record), daemon=True).start()


def _forward(source: socket.socket, sink: socket.socket, record: bytearray | None) -> None:
    with contextlib.suppress(OSError):
        while data := source.recv(2**16):
            if record is not None:
                record += data
            sink.sendall(data)
        sink.shutdown(socket.SHUT_WR)
        return
    for sock in (source, sink):  # one side was reset: the other must learn of it
        with contextlib.suppress(OSError):
            sock.shutdown(socket.SHUT_RDWR)
