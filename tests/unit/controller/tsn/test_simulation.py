"""The simulation reads exported lists alone: it finds a right schedule right, and every mutation of it wrong."""

from __future__ import annotations

import json
from typing import Any

import pytest

from controller.tsn.export import schedule_document, taprio_lines
from controller.tsn.gate_lists import MAX_INTERVAL_NS, gate_lists
from controller.tsn.scheduler import schedule
from controller.tsn.simulation import SimulationResult, simulate
from tests.unit.controller.tsn.networks import line, stream
from tests.unit.controller.tsn.test_scheduler import CROSSING

NETWORK = line(4, propagation_ns=500)


def document() -> dict[str, Any]:
    """An exported schedule, as it is read back from a file."""
    made = schedule(NETWORK, CROSSING)
    exported = json.loads(json.dumps(schedule_document(made, gate_lists(NETWORK, made))))
    assert isinstance(exported, dict)
    return exported


def is_right(result: SimulationResult) -> bool:
    """Whether all frames came, in time, and always at the same instant."""
    return (result.lost, result.late, result.jitter_ns) == (0, 0, 0)


def entries(exported: dict[str, Any], link: str) -> list[dict[str, Any]]:
    """The gate control list of a port."""
    interfaces = exported["nodes"][link.split("->")[0]]["ietf-interfaces:interfaces"]["interface"]
    (found,) = (interface for interface in interfaces if interface["description"] == link)
    table = found["ieee802-dot1q-bridge:bridge-port"]["ieee802-dot1q-sched-bridge:gate-parameter-table"]
    found_entries = table["admin-control-list"]["gate-control-entry"]
    assert isinstance(found_entries, list)
    return found_entries


def test_all_frames_come_in_time_without_jitter_beside_best_effort_that_fills_every_port() -> None:
    made = schedule(NETWORK, CROSSING)
    result = simulate(NETWORK, document(), cycles=3)
    assert is_right(result)
    assert result.best_effort_frames > 100
    for (name, _, listener), found in result.receptions.items():
        assert set(found.latencies_ns) == {made.latency_ns[name][listener]}


def test_a_gate_one_frame_short_is_found() -> None:
    exported = document()
    found = entries(exported, "b1->b2")
    index = next(index for index, entry in enumerate(found) if entry["gate-states-value"] == 0x80)
    found[index]["time-interval-value"] -= 4000
    found[index - 1]["time-interval-value"] += 4000
    found[:] = [entry for entry in found if entry["time-interval-value"] > 0]
    assert not is_right(simulate(NETWORK, exported))


def test_two_windows_swapped_are_found() -> None:
    exported = document()
    found = entries(exported, "b1->b2")
    opened = [index for index, entry in enumerate(found) if entry["gate-states-value"] == 0x80]
    closed = [index for index, entry in enumerate(found) if entry["gate-states-value"] == 0x1F]
    found[opened[0]], found[closed[0]] = found[closed[0]], found[opened[0]]
    assert not is_right(simulate(NETWORK, exported))


def test_a_late_talker_is_found() -> None:
    name = CROSSING[0].name
    assert not is_right(simulate(NETWORK, document(), late_ns={name: 4000}))


def test_a_silent_talker_changes_nothing_for_the_others() -> None:
    exported, whole = document(), simulate(NETWORK, document())
    exported["streams"] = [stream for stream in exported["streams"] if stream["stream"] != "s0"]
    result = simulate(NETWORK, exported)
    assert is_right(result)
    for key, found in result.receptions.items():
        assert set(found.latencies_ns) == set(whole.receptions[key].latencies_ns)


def test_a_guard_band_that_is_missing_is_found() -> None:
    exported = document()
    for entry in entries(exported, "b1->b2"):
        if entry["gate-states-value"] == 0:
            entry["gate-states-value"] = 0x1F
    assert not is_right(simulate(NETWORK, exported))


def test_clocks_within_the_sync_error_do_no_harm_and_beyond_it_do() -> None:
    network = line(4, propagation_ns=500, sync_error_ns=1000)
    made = schedule(network, CROSSING)
    exported = schedule_document(made, gate_lists(network, made))
    clocks_ns = {node: 1000 if number % 2 else -1000 for number, node in enumerate(sorted(network.nodes))}
    within = simulate(network, exported, clocks_ns=clocks_ns)
    assert is_right(within)
    assert all(
        max(found.latencies_ns) <= made.latency_ns[name][listener]
        for (name, _, listener), found in within.receptions.items()
    )
    beyond = {node: 4 * error_ns for node, error_ns in clocks_ns.items()}
    assert not is_right(simulate(network, exported, clocks_ns=beyond))


def test_a_list_that_does_not_fill_its_cycle_is_no_list() -> None:
    exported = document()
    entries(exported, "b1->b2")[0]["time-interval-value"] += 1
    with pytest.raises(ValueError, match=r"b1->b2: the entries last"):
        simulate(NETWORK, exported)


def test_entries_fill_the_cycle_and_none_is_longer_than_32_bits_can_say() -> None:
    network = line(2)
    made = schedule(network, [stream("s", "e0", "e1", 10_000_000)])
    for found in gate_lists(network, made).values():
        assert sum(entry.interval_ns for entry in found.entries) == found.cycle_ns == 10_000_000_000
        assert all(1 <= entry.interval_ns <= MAX_INTERVAL_NS for entry in found.entries)
        assert len(found.entries) >= 5


def test_taprio_lines_have_the_same_lists() -> None:
    network = line(2)
    made = schedule(network, [stream("s", "e0", "e1")])
    lines = taprio_lines(gate_lists(network, made))
    assert lines[-1] == (
        "tc qdisc replace dev 'e0->b0' parent root handle 100 taprio num_tc 8 map 0 1 2 3 4 5 6 7 0 0 0 0 0 0 0 0 "
        "queues 1@0 1@1 1@2 1@3 1@4 1@5 1@6 1@7 base-time 0 "
        "sched-entry S 80 4000 sched-entry S 1f 83664 sched-entry S 00 12336 cycle-time 100000 clockid CLOCK_TAI"
    )
