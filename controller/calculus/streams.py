"""The streams that the analysis is about, and its negative result."""

from __future__ import annotations

from controller.booking.peak_load import ALWAYS, Activity
from controller.domain.frozen import frozen


@frozen
class Stream:
    """A token bucket that crosses servers in order; `jitter_us`: the jitter by which its burst has already grown.

    Rates are whole numbers, so that their sums are exact.
    """

    servers: tuple[str, ...]
    rate_bps: float
    burst_bits: float
    jitter_us: float = 0.0
    activity: Activity = ALWAYS


class NoBound(Exception):  # noqa: N818 - a result of the analysis, not an error
    """The analysis found no finite bound; `link` is where the delay diverged."""

    def __init__(self, link: str) -> None:
        super().__init__(link)
        self.link = link
