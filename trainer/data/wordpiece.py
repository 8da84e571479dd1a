"""WordPiece tokenization as in uncased BERT, from a list of tokens.

Text is lower-cased, accents are dropped, words and punctuation are split, and each word is divided greedily into the
longest known pieces. Source: Devlin et al. 2019, "BERT", section 3; Wu et al. 2016, section 4.1.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping, Sequence

UNKNOWN, START, END = "[UNK]", "[CLS]", "[SEP]"
PADDING_ID = 0
LONGEST_WORD = 100
"""Longer words are unknown."""


class WordPiece:
    """A vocabulary: tokens in the order of their ids; those that continue a word begin with ##."""

    def __init__(self, tokens: Sequence[str]) -> None:
        self._ids: Mapping[str, int] = {token: number for number, token in enumerate(tokens)}
        self._known: dict[str, list[int]] = {}

    def encode(self, text: str, length: int) -> list[int]:
        """Return `length` ids: start, pieces, end and padding; what is beyond is cut off."""
        ids = [self._ids[START]]
        for word in _words(text):
            ids += self._pieces(word)
            if len(ids) >= length:
                break
        ids = [*ids[: length - 1], self._ids[END]]
        return ids + [PADDING_ID] * (length - len(ids))

    def _pieces(self, word: str) -> list[int]:
        if word not in self._known:
            self._known[word] = self._divide(word)
        return self._known[word]

    def _divide(self, word: str) -> list[int]:
        unknown = [self._ids[UNKNOWN]]
        if len(word) > LONGEST_WORD:
            return unknown
        pieces, start = [], 0
        while start < len(word):
            prefix = "##" if start else ""
            ends = (end for end in range(len(word), start, -1) if prefix + word[start:end] in self._ids)
            if (end := next(ends, None)) is None:
                return unknown
            pieces.append(self._ids[prefix + word[start:end]])
            start = end
        return pieces


def _words(text: str) -> list[str]:
    """Return words and punctuation marks in lower case, without accents."""
    plain = "".join(character for character in unicodedata.normalize("NFD", text.lower())
                    if unicodedata.category(character) != "Mn")
    spaced = "".join(f" {character} " if _is_mark(character) else character for character in plain)
    return spaced.split()


def _is_mark(character: str) -> bool:
    """Return whether a character is a word of its own: punctuation, other ASCII symbols, and Chinese characters."""
    code = ord(character)
    if 33 <= code <= 47 or 58 <= code <= 64 or 91 <= code <= 96 or 123 <= code <= 126:
        return True
    return unicodedata.category(character).startswith("P") or 0x4E00 <= code <= 0x9FFF or 0x3400 <= code <= 0x4DBF
