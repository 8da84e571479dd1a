"""TCP sockets as cloud and edges want them, before anything is said."""

from __future__ import annotations

import socket

from trainer.errors import NetworkError

BUFFER_BYTES = 16 * 1024 * 1024
"""A whole segment fits, so sending does not wait and a busy receiver does not close the window."""


def listen(address: tuple[str, int]) -> socket.socket:
    """A listening socket.

    Raises: NetworkError if the address is taken or not ours.
    """
    sock = new_socket()
    try:
        sock.bind(address)
        sock.listen(64)
    except OSError as error:
        sock.close()
        raise NetworkError(
            f"Cannot listen on {address[0]}:{address[1]}: {error.strerror}. Is another cloud running? "
            "Choose another port with --port."
        ) from error
    return sock


def new_socket() -> socket.socket:
    """A TCP socket with large buffers: set before connecting, they count for the window's scale."""
    sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    for forced, plain in ((33, socket.SO_RCVBUF), (32, socket.SO_SNDBUF)):  # SO_RCVBUFFORCE, SO_SNDBUFFORCE
        try:
            sock.setsockopt(socket.SOL_SOCKET, forced, BUFFER_BYTES)
        except PermissionError:
            sock.setsockopt(socket.SOL_SOCKET, plain, BUFFER_BYTES)
    return sock
