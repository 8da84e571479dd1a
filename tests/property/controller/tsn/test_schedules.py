"""Any network, any streams: what is scheduled arrives in time at one instant, with any clocks within their error."""

from __future__ import annotations

import random

from hypothesis import given, settings
from hypothesis import strategies as st

from controller.tsn.export import schedule_document
from controller.tsn.gate_lists import gate_lists
from controller.tsn.network import TsnLink, TsnNetwork, tsn_network
from controller.tsn.scheduler import add_stream, schedule
from controller.tsn.simulation import simulate
from controller.tsn.streams import Schedule, TsnStream

RATES_BPS = (10_000_000, 100_000_000, 937_000_000, 1_000_000_000)


@st.composite
def networks(draw: st.DrawFn) -> TsnNetwork:
    """A tree or ring of bridges, each with one or two end stations; links of different rates, lengths and delays."""
    bridges = draw(st.integers(1, 4))
    pairs = [(f"b{draw(st.integers(0, number - 1))}", f"b{number}") for number in range(1, bridges)]
    if bridges > 2 and draw(st.booleans()):
        pairs += [] if ("b0", f"b{bridges - 1}") in pairs else [("b0", f"b{bridges - 1}")]
    pairs += [(f"e{number}", f"b{number % bridges}") for number in range(bridges + draw(st.integers(1, 2)))]
    links = []
    for a, b in pairs:
        rate_bps, propagation_ns = draw(st.sampled_from(RATES_BPS)), draw(st.integers(0, 30_000))
        links += [
            TsnLink(f"{x}->{y}", x, y, rate_bps, propagation_ns, draw(st.sampled_from((0, 2000, 3333))))
            for x, y in ((a, b), (b, a))
        ]
    return tsn_network("any", links, draw(st.sampled_from((0, 0, 100, 1500))), draw(st.sampled_from((84, 1542))))


@st.composite
def streams_of(draw: st.DrawFn, network: TsnNetwork) -> list[TsnStream]:
    """Up to eight streams between end stations; some may be impossible."""
    ends = sorted(node for node in network.nodes if node.startswith("e"))
    streams = []
    for number in range(draw(st.integers(1, 8))):
        talker = draw(st.sampled_from(ends))
        others = [end for end in ends if end != talker]
        listeners = draw(st.lists(st.sampled_from(others), min_size=1, max_size=2, unique=True))
        interval_ns = draw(st.sampled_from((1_000_000, 2_000_000, 4_000_000, 3_000_000)))
        frames, jitter_ns = draw(st.sampled_from((1, 1, 2))), draw(st.sampled_from((0, 0, 700)))
        size_bytes, limit_ns = draw(st.integers(84, 1542)), draw(st.sampled_from((interval_ns, 3 * interval_ns)))
        window_ns = draw(st.sampled_from(((0, None), (jitter_ns, interval_ns // 2))))
        stream = TsnStream(
            f"s{number}", talker, tuple(listeners), size_bytes, interval_ns, limit_ns, frames, *window_ns, jitter_ns
        )
        streams.append(stream)
    return streams


def check(network: TsnNetwork, made: Schedule, seed: int) -> None:
    """Simulate a schedule with clocks and talkers anywhere within their errors."""
    rng = random.Random(seed)
    error_ns = network.sync_error_ns
    clocks_ns = {node: rng.choice((-error_ns, 0, error_ns)) for node in sorted(network.nodes)}
    document = schedule_document(made, gate_lists(network, made))
    result = simulate(network, document, cycles=1, clocks_ns=clocks_ns, seed=seed)
    assert (result.lost, result.late, result.jitter_ns) == (0, 0, 0)
    for (name, _, listener), found in result.receptions.items():
        assert found.sent > 0
        assert max(found.latencies_ns) <= made.latency_ns[name][listener] <= made.streams[name].max_latency_ns


@settings(max_examples=60, deadline=None)
@given(st.data(), st.integers(0, 1000))
def test_what_is_scheduled_arrives_in_time_without_jitter(data: st.DataObject, seed: int) -> None:
    network = data.draw(networks())
    streams = data.draw(streams_of(network))
    tries = iter(range(4))
    made = schedule(network, streams, lambda: next(tries, None) is not None)
    if made.refused:
        assert not made.frames
        assert all(refusal.stream in refusal.reason for refusal in made.refused)
        return
    check(network, made, seed)


@settings(max_examples=40, deadline=None)
@given(st.data(), st.integers(0, 1000))
def test_streams_added_one_by_one_leave_the_others_where_they_are(data: st.DataObject, seed: int) -> None:
    network = data.draw(networks())
    made = Schedule()
    for stream in data.draw(streams_of(network)):
        more = add_stream(network, made, stream)
        if not more.refused:
            assert more.frames[: len(made.frames)] == made.frames
            made = more
    if made.frames:
        check(network, made, seed)
