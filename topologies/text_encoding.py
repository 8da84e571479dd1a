"""The encoding of the text files that describe networks and maps, and the characters that no name may have."""

from __future__ import annotations

from unicodedata import bidirectional, category

COMPRESSED = {b"\x1f\x8b": "gzip", b"PK\x03\x04": "zip", b"BZh": "bzip2", b"\xfd7zXZ": "xz"}
WIDE = (b"\xff\xfe", b"\xfe\xff")
"""The byte-order marks of UTF-16; that of UTF-32 begins likewise."""

DIRECTIONS = ("LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI")
"""Embeddings, overrides and isolates of the bidirectional algorithm (Unicode Annex 9)."""


def check_content(content: bytes) -> None:
    """Check that there is something in a file, and that it is not compressed.

    Raises: ValueError with a sentence.
    """
    for magic, name in COMPRESSED.items():
        if content.startswith(magic):
            raise ValueError(f"it is compressed ({name}); decompress it")
    if not content.strip(b"\xef\xbb\xbf \t\r\n"):
        raise ValueError("it is empty")


def decoded(content: bytes) -> str:
    """The text of a file in UTF-8, with or without a byte-order mark.

    Raises: ValueError with a sentence.
    """
    if content.startswith(WIDE) or b"\0" in content[:4]:
        raise ValueError("it is not UTF-8, but perhaps UTF-16; save it as UTF-8")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        found = f"byte {error.start} is 0x{content[error.start]:02x}"
        raise ValueError(f"it is not UTF-8 ({found}); save it as UTF-8") from error


def is_control(letter: str) -> bool:
    """Whether terminals obey a character: a control, a break of lines, or one that changes the direction of text."""
    return category(letter) in ("Cc", "Zl", "Zp") or bidirectional(letter) in DIRECTIONS
