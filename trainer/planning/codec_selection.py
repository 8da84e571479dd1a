"""Selects the codecs a plan may use: the configured one, or with `auto` those that have not cost accuracy.

With `auto` a run starts with fp32 and bf16. After an averaging whose accuracy is no worse than the best before, the
next more lossy codec is added: int8, then zstd. An averaging whose accuracy is more than MAX_ACCURACY_LOSS below the
best permanently removes the most lossy codec used since the previous averaging; fp32 is never removed.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Self, cast

from trainer.errors import UsageError
from trainer.protocol.codec import CODECS, Codec, default_gradient_codec

AUTO = "auto"
MAX_ACCURACY_LOSS = 0.005
"""Half a percentage point."""


class CodecSelector:
    """The allowed codecs, each with the codec of its gradients; updated after every averaging."""

    def __init__(self, codec: str, gradient: str | None = None) -> None:
        """Raises: UsageError if there is no such codec."""
        for name, known in ((codec, (*CODECS, AUTO)), (gradient, (*CODECS, None))):
            if name not in known:
                raise UsageError(f"Unknown codec {name!r}; known codecs: {', '.join(filter(None, known))}.")
        self._fixed = None if codec == AUTO else cast(Codec, codec)
        self._gradient = cast(Codec | None, gradient)
        self._allowed, self._max_allowed = 2, len(CODECS)
        self._best: float | None = None
        """The best metric so far; negated if lower is better."""
        self._most_lossy_used = 0

    def record_use(self, codec: Codec) -> None:
        """Record that a segment is sent with this codec in the current round."""
        self._most_lossy_used = max(self._most_lossy_used, CODECS.index(codec))

    def allowed_codecs(self) -> dict[Codec, Codec]:
        """Return the codecs allowed for segments, each with the codec of its gradients."""
        allowed = CODECS[: self._allowed] if self._fixed is None else (self._fixed,)
        return {codec: self.gradient_codec_for(codec) for codec in allowed}

    def gradient_codec_for(self, codec: Codec) -> Codec:
        """Return the codec of the gradient of a segment sent with `codec`."""
        return self._gradient or default_gradient_codec(codec)

    def update(self, metric: float, higher_is_better: bool = True, is_share: bool = True) -> None:
        """Take the metric after an averaging into account.

        `is_share`: it lies between 0 and 1; the loss allowed of other metrics is a share of the best value.
        """
        score = metric if higher_is_better else -metric
        best = score if self._best is None else self._best
        if score < best - MAX_ACCURACY_LOSS * (1.0 if is_share else abs(best)) and self._most_lossy_used > 0:
            self._max_allowed = min(self._max_allowed, self._most_lossy_used)
        self._allowed = min(self._allowed + (score >= best), self._max_allowed)
        self._best = max(best, score)
        self._most_lossy_used = 0

    def state_dict(self) -> dict[str, Any]:
        """Return the state as JSON values for `load_state_dict`."""
        return {"allowed": self._allowed, "most": self._max_allowed, "best": self._best}

    def load_state_dict(self, state: Mapping[str, Any]) -> Self:
        """Restore what `state_dict` returned."""
        self._allowed, self._max_allowed = int(state["allowed"]), int(state["most"])
        self._best = None if state["best"] is None else float(state["best"])
        return self
