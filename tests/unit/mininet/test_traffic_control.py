"""The queues of emulated ports are those of the map, which the controller's proof relies on."""

from __future__ import annotations

from machine.traffic_control import tc_commands


def leaves(queue_bytes: int, delay_us: float = 0.0) -> dict[str, list[str]]:
    """The queue of every class of a port at 80 Mb/s with jumbo frames."""
    commands = tc_commands("s1-eth1", 80_000_000, 9000, delay_us, queue_bytes)
    return {command[5]: command[8:] for command in commands if command[:2] == ["qdisc", "add"] and "parent" in command}


def test_the_queue_of_reserved_frames_holds_the_bytes_of_the_map() -> None:
    queues = leaves(500_000)
    assert queues["1:10"] == ["bfifo", "limit", "500000"]
    assert queues["1:16"] == queues["1:20"] == ["pfifo_head_drop", "limit", "55"]


def test_with_emulated_propagation_the_queue_holds_as_many_small_frames_and_those_under_way() -> None:
    kind, *_, limit = leaves(500_000, delay_us=1000.0)["1:10"]
    assert kind == "netem"
    assert int(limit) == (500_000 + 10_000) // 42
