"""What a request without a token says about where it comes from: web pages of others are refused.

A browser lets any page send requests to any address, and a page can name this address as its own (DNS rebinding).
Source: Fetch Standard (`Origin`, `Sec-Fetch-Site`), RFC 9110 §7.2 (`Host`).
"""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Iterable
from urllib.parse import urlsplit

from controller.caches import MIB, bounded_cache
from controller.errors import CrossOrigin

Headers = Iterable[tuple[bytes, bytes]]

OWN_SITE = frozenset({b"none", b"same-origin"})


def is_cross_origin(headers: Headers) -> bool:
    """Whether a browser sends the request for a page of another origin."""
    named = dict(headers)
    if named.get(b"sec-fetch-site", b"none") not in OWN_SITE:
        return True
    origin = named.get(b"origin")
    return origin is not None and urlsplit(origin).netloc.lower() != named.get(b"host", b"").lower()


def require_own_origin(headers: Headers) -> None:
    """Check a request of a caller that needs no token.

    Raises: CrossOrigin.
    """
    headers = tuple(headers)
    if is_cross_origin(headers):
        raise CrossOrigin("Without tokens, web pages of other origins have no access: paceline token add.")
    for name, value in headers:
        if name == b"host" and not _is_known(host := value.decode("latin-1")[:256]):
            sentence = f"Without tokens, Host must be an address, localhost or {socket.gethostname()}, not {host!r}."
            raise CrossOrigin(sentence)


@bounded_cache(MIB // 4, entry_bytes=512)
def _is_known(host: str) -> bool:
    name = host.rpartition("]")[0].removeprefix("[") if host.startswith("[") else host.partition(":")[0]
    if name.lower() in ("localhost", socket.gethostname().lower()):
        return True
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True
