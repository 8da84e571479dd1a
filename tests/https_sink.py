"""A real HTTPS server on loopback that keeps the events it gets."""

from __future__ import annotations

import json
import os
import ssl
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID


@dataclass(frozen=True, slots=True)
class Event:
    """A request that has come; names of headers in lower case."""

    headers: Mapping[str, str]
    body: dict[str, Any]


@dataclass(eq=False)
class HttpsSink:
    """What has come, and the statuses of the next answers (then 204)."""

    port: int
    events: list[Event] = field(default_factory=list)
    statuses: list[int] = field(default_factory=list)
    open_: threading.Event = field(default_factory=threading.Event)

    @property
    def url(self) -> str:
        """The address of the sink."""
        return f"https://localhost:{self.port}/events?from=paceline"

    def events_of(self, resource: str) -> list[Event]:
        """The events of a session or booking."""
        return [event for event in self.events if resource in event.body["data"].values()]

    @contextmanager
    def held(self) -> Iterator[None]:
        """Answer nothing meanwhile."""
        self.open_.clear()
        try:
            yield
        finally:
            self.open_.set()


def _certificate(directory: Path) -> tuple[Path, Path]:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    certificate_file, key_file = directory / "sink.crt", directory / "sink.key"
    certificate_file.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    unencrypted = serialization.NoEncryption()
    form = serialization.PrivateFormat.PKCS8
    key_file.write_bytes(key.private_bytes(serialization.Encoding.PEM, form, unencrypted))
    return certificate_file, key_file


@contextmanager
def https_sink(directory: Path) -> Iterator[HttpsSink]:
    """Run the server; this process trusts its certificate meanwhile (SSL_CERT_FILE)."""
    sink = HttpsSink(0)
    sink.open_.set()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["content-length"])))
            sink.open_.wait()
            sink.events.append(Event({name.lower(): value for name, value in self.headers.items()}, body))
            self.send_response(sink.statuses.pop(0) if sink.statuses else 204)
            self.end_headers()

        def log_message(self, *args: object) -> None:
            pass

    certificate, key = _certificate(directory)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    sink.port = server.server_address[1]
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    before = os.environ.get("SSL_CERT_FILE")
    os.environ["SSL_CERT_FILE"] = str(certificate)
    try:
        yield sink
    finally:
        if before is None:
            del os.environ["SSL_CERT_FILE"]
        else:
            os.environ["SSL_CERT_FILE"] = before
        sink.open_.set()
        server.shutdown()
        server.server_close()
        thread.join()
