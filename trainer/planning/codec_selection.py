"""Which codecs a plan may use: as asked, or with `auto` those that have not cost accuracy.

With `auto` a run begins with fp32 and bf16; after an averaging that is no worse than the best so far, int8 is allowed
too. An averaging whose accuracy lies more than MOST_LOSS below the best takes the most lossy codec that was used since
the last one away for good, until only fp32 is left.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Self, cast

from trainer.errors import UsageError
from trainer.protocol.codec import VALUE_BYTES, Codec, gradient_codec

AUTO = "auto"
MOST_LOSS = 0.005
"""Half a percentage point."""

LOSSY: tuple[Codec, ...] = ("fp32", "bf16", "int8")
"""From exact to most lossy."""


class CodecSelector:
    """The codecs allowed, each with its gradient's; learns from every averaging."""

    def __init__(self, asked: str, gradient: str | None = None) -> None:
        """Raises: UsageError if there is no such codec."""
        for text, known in ((asked, (*VALUE_BYTES, AUTO)), (gradient, (*VALUE_BYTES, None))):
            if text not in known:
                raise UsageError(f"There is no codec {text!r}; there are: {', '.join(filter(None, known))}.")
        self._fixed = None if asked == AUTO else cast(Codec, asked)
        self._gradient = cast(Codec | None, gradient)
        self._allowed, self._most = 2, len(LOSSY)
        self._best = 0.0
        self._used = 0

    def use(self, codec: Codec) -> None:
        """A segment travels so in this round."""
        self._used = max(self._used, LOSSY.index(codec))

    def codecs(self) -> dict[Codec, Codec]:
        """Those a segment may have now, each with its gradient's."""
        allowed = LOSSY[: self._allowed] if self._fixed is None else (self._fixed,)
        return {codec: self.gradient_of(codec) for codec in allowed}

    def gradient_of(self, codec: Codec) -> Codec:
        """How the gradient of such a segment travels."""
        return self._gradient or gradient_codec(codec)

    def learn(self, accuracy: float) -> None:
        """An averaging has this accuracy."""
        if accuracy < self._best - MOST_LOSS and self._used > 0:
            self._most = min(self._most, self._used)
        self._allowed = self._most if accuracy >= self._best else min(self._allowed, self._most)
        self._best = max(self._best, accuracy)
        self._used = 0

    def history(self) -> dict[str, Any]:
        """All that was learnt, as JSON; `recall` takes it back."""
        return {"allowed": self._allowed, "most": self._most, "best": self._best}

    def recall(self, history: Mapping[str, Any]) -> Self:
        """Know what `history` told."""
        self._allowed, self._most = int(history["allowed"]), int(history["most"])
        self._best = float(history["best"])
        return self
