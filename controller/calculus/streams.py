"""The streams that the analysis is about, and its negative result."""

from __future__ import annotations

from controller.booking.peak_load import ALWAYS, Activity
from controller.domain.frozen import frozen


@frozen
class Stream:
    """A token bucket that crosses servers in order; `jitter_us`: the jitter by which its burst has already grown.

    `metered_bits`: its burst behind a meter between its first and its second server, whatever the delay at the first;
    None: there is no meter. `is_regulated`: regulators reshape it at every server but the first to what it was at the
    first, or behind the meter (IEEE 802.1Qcr). Rates are whole numbers, so that their sums are exact.
    """

    servers: tuple[str, ...]
    rate_bps: float
    burst_bits: float
    jitter_us: float = 0.0
    activity: Activity = ALWAYS
    metered_bits: float | None = None
    is_regulated: bool = False

    def last_metered(self, hop: int) -> int:
        """Return the hop from which on it has been delayed, as the analysis sees it, before it arrived at `hop`."""
        return 1 if hop and self.metered_bits is not None else 0

    def last_shaped(self, hop: int) -> int:
        """Return the hop at which its burst was last that of a token bucket, before it arrived at server `hop`."""
        return hop if self.is_regulated else self.last_metered(hop)

    def shaped_bits(self, hop: int) -> float:
        """Return its burst at that hop."""
        if hop and self.metered_bits is not None:
            return self.metered_bits
        return self.burst_bits + self.rate_bps * self.jitter_us / 1e6


class NoBound(Exception):  # noqa: N818 - a result of the analysis, not an error
    """The analysis found no finite bound; `link` is where the delay diverged."""

    def __init__(self, link: str) -> None:
        super().__init__(link)
        self.link = link
