"""Patterns of texts in requests, each with the sentence that a text which does not match is answered with."""

from __future__ import annotations

from collections.abc import Mapping

from controller.domain.names import NAME_PATTERN, NAME_RULE

EVENT_ID = r"^[0-9a-f]+-[0-9]+$"
CURSOR = r"^[0-9]{1,12}(\.[0-9]{1,9})?_r-[0-9a-f]{8}$"
IDEMPOTENCY_KEY = r"^[!-~]([ -~]*[!-~])?$"
MAC_ADDRESS = r"^[0-9A-Fa-f]{2}([-:][0-9A-Fa-f]{2}){5}$"
STREAM_ID = r"^[0-9A-F]{2}(-[0-9A-F]{2}){5}:[0-9A-F]{2}-[0-9A-F]{2}$"
IPV4 = r"^\d{1,3}(\.\d{1,3}){3}$"
UUID = r"^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$"
X_CORRELATOR = r"^[a-zA-Z0-9\-_:;./<>{}]{0,256}$"
QOS_PROFILE = r"^[a-zA-Z0-9_.\-]+$"
PHONE_NUMBER = r"^\+[1-9][0-9]{4,14}$"
HTTPS_URL = r"^https://.+$"
IPV4_BLOCK = r"^\d{1,3}(\.\d{1,3}){3}(/\d{1,2})?$"
UNSIGNED_64 = r"^\d{1,20}$"

RULES: Mapping[str, str] = {
    NAME_PATTERN: NAME_RULE,
    EVENT_ID: "an event's id looks like 1a22e1d1bb5-7, and 0-0 is before all events",
    CURSOR: "follow the path in `next` of the page before",
    IDEMPOTENCY_KEY: "a key has printable ASCII characters, and no space at its ends",
    MAC_ADDRESS: "an address looks like 02-00-00-00-00-01",
    STREAM_ID: "a stream's id looks like 02-00-00-00-00-01:00-01",
    IPV4: "an address looks like 10.0.0.1",
    UUID: "an id looks like 3fa85f64-5717-4562-b3fc-2c963f66afa6",
    QOS_PROFILE: "a name has letters, digits and _ . -",
    PHONE_NUMBER: "a phone number looks like +123456789",
    HTTPS_URL: "a sink begins with https://",
    UNSIGNED_64: "a whole number in digits, as RFC 7951 writes those of 64 bits",
    IPV4_BLOCK: "an address looks like 10.0.0.1 or 10.0.0.1/32",
}


def rule_of(pattern: str) -> str:
    """What a text must look like."""
    return RULES.get(pattern, f"it must match {pattern}")
