"""Text and JSON of network files: their encoding, and JSON in which no value is replaced by another in silence."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import Any

from topologies.readers.source import json_kind, unreadable

COMPRESSED = {b"\x1f\x8b": "gzip", b"PK\x03\x04": "zip", b"BZh": "bzip2", b"\xfd7zXZ": "xz"}
WIDE = (b"\xff\xfe", b"\xfe\xff")
"""The byte-order marks of UTF-16; that of UTF-32 begins likewise."""
HALF_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")


def check_content(file: str, content: bytes) -> None:
    """Check that there is something in a file, and that it is not compressed.

    Raises: MapError
    """
    for magic, name in COMPRESSED.items():
        if content.startswith(magic):
            raise unreadable(file, f"it is compressed ({name}); decompress it")
    if not content.strip(b"\xef\xbb\xbf \t\r\n"):
        raise unreadable(file, "it is empty")


def decoded(file: str, content: bytes) -> str:
    """The text of a file in UTF-8, with or without a byte-order mark.

    Raises: MapError
    """
    if content.startswith(WIDE) or b"\0" in content[:4]:
        raise unreadable(file, "it is not UTF-8, but perhaps UTF-16; save it as UTF-8")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise unreadable(
            file, f"it is not UTF-8 (byte {error.start} is 0x{content[error.start]:02x}); save it as UTF-8"
        ) from error


def parsed_json(file: str, text: str) -> dict[str, Any]:
    """The object of a JSON file. No object may state a name twice with different values.

    Raises: MapError
    """

    def unique(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
        facts: dict[str, Any] = {}
        for word, value in pairs:
            if word in facts and facts[word] != value:
                shown = " and ".join(json.dumps(each, ensure_ascii=False)[:60] for each in (facts[word], value))
                raise unreadable(file, f"an object states `{word}` twice: {shown}")
            facts[word] = value
        return facts

    try:
        facts = json.loads(text, object_pairs_hook=unique)
    except ValueError as error:
        raise unreadable(file, error) from error
    if HALF_SURROGATE.search(text):
        try:
            json.dumps(facts, ensure_ascii=False).encode()
        except UnicodeEncodeError as error:
            half = error.object[error.start].encode("unicode_escape").decode()
            raise unreadable(file, f"{half} is half of a character; write its other half beside it") from error
    if not isinstance(facts, dict):
        raise unreadable(file, f"the JSON is {json_kind(facts)}; it must be an object")
    return facts
