"""After a stream has ended, a server soon holds no more than without it."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from controller.calculus.curves import Group, Server, ShapingCurve, recovery_us

RATE_BPS = 1_000_000.0
SERVER = Server(RATE_BPS, 100.0)


def groups(share: float) -> st.SearchStrategy[list[Group]]:
    """Up to four groups whose rates sum to at most that share of the server's."""
    shaping = st.one_of(st.none(), st.builds(ShapingCurve, st.floats(0, 2000), st.floats(0.5e6, 3e6)))
    one = st.tuples(shaping, st.floats(0, 100_000), st.floats(0, share * RATE_BPS / 4))
    return st.lists(one, max_size=4)


def arrived_bits(group: Group, time_s: float, rate_until_s: float) -> float:
    """What a group sends in time_s if it is greedy, its buckets refilling until then only."""
    shaping, burst_bits, bucket_bps = group
    bits = burst_bits + bucket_bps * min(time_s, rate_until_s)
    return bits if shaping is None else min(bits, shaping.burst_bits + shaping.rate_bps * time_s)


def corner_s(group: Group) -> float:
    """When the buckets of a group limit it more than its link."""
    shaping, burst_bits, bucket_bps = group
    if shaping is None or shaping.rate_bps <= bucket_bps:
        return 0.0
    return max(0.0, (burst_bits - shaping.burst_bits) / (shaping.rate_bps - bucket_bps))


@given(
    groups(0.6), st.tuples(st.none(), st.floats(0, 100_000), st.floats(0, 0.1 * RATE_BPS)),
    st.floats(0, 5), st.floats(0, 5), st.floats(0, 0.29),
)  # fmt: skip
def test_the_backlog_is_within_that_of_the_others_and_of_a_flow_that_starts_then(
    others: list[Group], ended: Group, ends_s: float, later_s: float, new_share: float
) -> None:
    """The busy period starts at 0; the stream ends at `ends_s`, a new one starts when the server has recovered."""
    after = recovery_us(SERVER, [*others, ended], others) / 1e6
    corners_s = [0.0, *(corner_s(each) for each in others)]
    backlogs = [sum(arrived_bits(each, at_s, at_s) for each in others) - RATE_BPS * at_s for at_s in corners_s]
    starts_s = ends_s + after
    time_s = starts_s + later_s
    arrived = sum(arrived_bits(each, time_s, time_s) for each in others) + arrived_bits(ended, time_s, ends_s)
    arrived += new_share * RATE_BPS * (time_s - starts_s)
    assert arrived - RATE_BPS * time_s <= max(backlogs) + 1e-3
