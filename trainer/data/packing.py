"""Packs documents of any length into rows of one length, for causal models: no padding, no token left unused."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import numpy.typing as npt


def pack(documents: Iterable[Sequence[int]], tokens: int, separator: int) -> npt.NDArray[np.int64]:
    """Return token ids (N, tokens + 1): the documents one after the other, each with a separator behind it.

    A row begins with the last token of the row before, so a model that predicts every next token of a row predicts each
    token of the whole once. What is left at the end fills no row and is dropped.
    """
    stream = np.fromiter((token for document in documents for token in (*document, separator)), dtype=np.int64)
    rows = max(0, (len(stream) - 1) // tokens)
    first = np.arange(rows)[:, None] * tokens
    packed: npt.NDArray[np.int64] = stream[first + np.arange(tokens + 1)]
    return packed
