"""Waits for one switch to connect and asks what it can do, without a controller: no entry of it is touched.

Blocking, and without Ryu. Source: OpenFlow Switch Specification 1.3.5, §6.3 and §7.5.1.
"""

from __future__ import annotations

import socket
import ssl
import time
from collections.abc import Callable
from struct import Struct

from controller.dataplane.switch_capabilities import SwitchCapabilities
from controller.openflow.capability_messages import (
    MALFORMED,
    QUESTIONS,
    decode_capabilities,
    encode_question,
    is_last,
)
from controller.openflow.encoder import ERROR, ERROR_CODES, HEADER, MULTIPART_REPLY, VERSION

HELLO, ECHO_REQUEST, ECHO_REPLY, FEATURES_REQUEST, FEATURES_REPLY = 0, 2, 3, 5, 6
CONVERSATION_S = 20.0
"""How long a switch may take for all its answers."""
MAX_REPLY_BYTES = 32 << 20
FIRST_XID = 100

_DATAPATH_ID = Struct("!Q")
Notify = Callable[[str], None]


class InquiryError(Exception):
    """A peer is no switch that can be asked; its text says why."""


def ask_switch(
    listener: socket.socket, datapath_id: int, wait_s: float, notify: Notify, context: ssl.SSLContext | None = None
) -> SwitchCapabilities | None:
    """Ask the switch of that datapath id as soon as it connects; None if it does not within that time.

    `notify` is told of others, which are disconnected. `context`: for TLS.
    """
    until_s = time.monotonic() + wait_s
    while (left_s := until_s - time.monotonic()) > 0:
        listener.settimeout(left_s)
        try:
            accepted, address = listener.accept()
        except TimeoutError:
            break
        with accepted:
            accepted.settimeout(CONVERSATION_S)
            try:
                connection = context.wrap_socket(accepted, server_side=True) if context else accepted
                with connection:
                    conversation = _Conversation(connection)
                    found = conversation.datapath_id()
                    if found == datapath_id:
                        return conversation.capabilities(found)
                    notify(f"Switch {found:016x} at {address[0]} is another one.")
            except (OSError, InquiryError, *MALFORMED) as error:
                notify(f"A connection from {address[0]} was ended: {error}.")
    return None


class _Conversation:
    """An OpenFlow connection of which this is the controller's end."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._received = bytearray()
        self._total_bytes = 0
        self._until_s = time.monotonic() + CONVERSATION_S

    def datapath_id(self) -> int:
        """Exchange hellos and ask for the datapath id.

        Raises: InquiryError, OSError.
        """
        self._send(HELLO, 1)
        version, kind, _, _ = self._receive()
        if kind != HELLO:
            raise InquiryError("it does not begin with a hello of OpenFlow")
        if version < VERSION:
            raise InquiryError(f"it offers version {version:#04x} of OpenFlow at most; 1.3 ({VERSION:#04x}) is needed")
        self._send(FEATURES_REQUEST, 2)
        while True:
            version, kind, _, body = self._receive()
            if kind == FEATURES_REPLY:
                number: int = _DATAPATH_ID.unpack_from(body)[0]
                return number
            if kind == ERROR:
                raise InquiryError(f"it answers OpenFlow 1.3 with error {_error_of(body)}")

    def capabilities(self, datapath_id: int) -> SwitchCapabilities:
        """Ask everything.

        Raises: InquiryError, OSError; what decoding a malformed reply raises.
        """
        open_questions = dict(enumerate(QUESTIONS, FIRST_XID))
        replies: dict[str, list[bytes]] = {question: [] for question in QUESTIONS}
        refused: dict[str, str] = {}
        for xid, question in open_questions.items():
            self._connection.sendall(encode_question(question, xid))
        while open_questions:
            _, kind, xid, body = self._receive()
            question = open_questions.get(xid, "")
            if not question:
                continue
            if kind == MULTIPART_REPLY:
                replies[question].append(body)
                if is_last(body):
                    del open_questions[xid]
            elif kind == ERROR:
                refused[question] = f"the switch answered error {_error_of(body)}"
                del open_questions[xid]
        return decode_capabilities(datapath_id, replies, refused)

    def _send(self, kind: int, xid: int, body: bytes = b"") -> None:
        self._connection.sendall(HEADER.pack(VERSION, kind, HEADER.size + len(body), xid) + body)

    def _receive(self) -> tuple[int, int, int, bytes]:
        """The next message: version, type, transaction id and body; echo requests are answered on the way."""
        while True:
            version, kind, length, xid = HEADER.unpack(self._take(HEADER.size))
            if length < HEADER.size:
                raise InquiryError(f"a message announces {length} bytes; a header has {HEADER.size}")
            body = self._take(length - HEADER.size)
            if kind != ECHO_REQUEST:
                return version, kind, xid, body
            self._send(ECHO_REPLY, xid, body)

    def _take(self, count: int) -> bytes:
        while len(self._received) < count:
            left_s = self._until_s - time.monotonic()
            if left_s <= 0:
                raise InquiryError(f"it has not answered within {CONVERSATION_S:g} s")
            self._connection.settimeout(left_s)
            received = self._connection.recv(1 << 16)
            if not received:
                raise InquiryError("it has disconnected")
            self._received += received
            self._total_bytes += len(received)
            if self._total_bytes > MAX_REPLY_BYTES:
                raise InquiryError(f"it has sent more than {MAX_REPLY_BYTES} bytes")
        taken = bytes(self._received[:count])
        del self._received[:count]
        return taken


def _error_of(body: bytes) -> str:
    kind, code = ERROR_CODES.unpack(body[: ERROR_CODES.size].ljust(ERROR_CODES.size, b"\0"))
    return f"{kind}, {code}"
