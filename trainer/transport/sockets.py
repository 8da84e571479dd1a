"""TCP sockets with the options that cloud and edges need."""

from __future__ import annotations

import socket

from trainer.errors import NetworkError, UsageError

BUFFER_BYTES = 16 * 1024 * 1024
"""Holds a whole segment, so that sending does not block and a busy receiver does not close the window."""


def listen(address: tuple[str, int]) -> socket.socket:
    """Create a listening socket.

    Raises: NetworkError if the address is in use or not local.
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


def check_local_address(host: str) -> None:
    """Check that a socket can be bound to an address of this machine.

    Raises: UsageError.
    """
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        try:
            probe.bind((host, 0))
        except OSError as error:
            raise UsageError(f"--bind is {host}; that is no address of this machine ({error.strerror}). 0.0.0.0 stands "
                             "for all of them.") from error


def new_socket() -> socket.socket:
    """Create a TCP socket with large buffers, set before connecting because they determine the window scale."""
    sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    for forced, plain in ((33, socket.SO_RCVBUF), (32, socket.SO_SNDBUF)):  # SO_RCVBUFFORCE, SO_SNDBUFFORCE
        try:
            sock.setsockopt(socket.SOL_SOCKET, forced, BUFFER_BYTES)
        except PermissionError:
            sock.setsockopt(socket.SOL_SOCKET, plain, BUFFER_BYTES)
    return sock
