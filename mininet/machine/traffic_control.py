"""Shapes egress ports with `tc`: a fixed rate, and strict priority for reserved frames.

Every egress port is an HTB class with the port's rate and four children in strict priority: frames marked DSCP 46
(expedited forwarding, RFC 3246); ARP and LLDP, limited to a low rate by the controller's meters; frames marked DSCP 34,
reserved frames outside their window; everything else.

A queue that rejects a frame makes Open vSwitch's userspace datapath drop the rest of its batch, reserved frames
included. Hence no queue rejects frames: the reserved one holds all bursts that the meters pass, and a full queue of the
last two classes drops its oldest frame instead of the new one, which the sender does not notice (pfifo_head_drop).
"""

from __future__ import annotations

import subprocess
from math import ceil

from topologies.maps import DEFAULT_QUEUE_BYTES

EXPEDITED_DSFIELD, LATE_DSFIELD = "0xb8", "0x88"
_CONTROL_PROTOCOLS = (("arp", "2"), ("0x88cc", "3"))
"""Protocols of the second class; tc requires a different filter preference for each."""

MIN_FRAME_BYTES = 42
"""Ethernet, IPv4 and UDP headers without payload: the smallest frame of a reserved flow."""
TAG_BYTES = 4


def rate_with_tags(rate_bps: int) -> int:
    """Port rate at which `rate_bps` of untagged frames of any size fit with one VLAN tag added to each.

    Reservations and best effort are metered without tags, so no flow gains rate. All ports of a map are faster by the
    same factor, so no proven delay grows.
    """
    return -(-rate_bps * (MIN_FRAME_BYTES + TAG_BYTES) // MIN_FRAME_BYTES)


def queue_frames(mtu_bytes: int, queue_bytes: int) -> int:
    """Length of a best-effort queue in frames: those bytes in the largest frames."""
    return queue_bytes // (mtu_bytes + 14)


def tc_commands(
    interface: str, rate_bps: int, mtu_bytes: int, delay_us: float = 0.0, queue_bytes: int = DEFAULT_QUEUE_BYTES
) -> list[list[str]]:
    """The arguments of `tc` that shape one egress port; `delay_us` > 0 emulates propagation delay (needs netem).

    `queue_bytes`: what each of its queues holds; a map's value, for which the controller proves that it suffices.
    """
    frame = mtu_bytes + 14
    burst = max(2 * frame, round(rate_bps / 8 * 0.001))
    rate = f"{rate_bps}bit"
    htb = ["burst", str(burst), "cburst", str(burst), "quantum", str(frame)]

    def share(percent: int) -> str:
        return f"{rate_bps * percent // 100}bit"

    tc = ["qdisc", "add", "dev", interface]
    classes = ["class", "add", "dev", interface, "parent"]
    filters = ["filter", "add", "dev", interface, "parent", "1:", "protocol"]
    commands = [
        [*tc, "root", "handle", "1:", "htb", "default", "20"],
        [*classes, "1:", "classid", "1:1", "htb", "rate", rate, "ceil", rate, *htb],
        [*classes, "1:1", "classid", "1:10", "htb", "rate", share(97), "ceil", rate, "prio", "0", *htb],
        [*classes, "1:1", "classid", "1:15", "htb", "rate", share(1), "ceil", rate, "prio", "1", *htb],
        [*classes, "1:1", "classid", "1:16", "htb", "rate", share(1), "ceil", rate, "prio", "2", *htb],
        [*classes, "1:1", "classid", "1:20", "htb", "rate", share(1), "ceil", rate, "prio", "3", *htb],
        *([*filters, "all", "prio", "1", "u32", "match", "ip", "dsfield", field, "0xfc", "flowid", f"1:{band}"]
          for field, band in ((EXPEDITED_DSFIELD, "10"), (LATE_DSFIELD, "16"))),
        *([*filters, protocol, "prio", preference, "u32", "match", "u32", "0", "0", "flowid", "1:15"]
          for protocol, preference in _CONTROL_PROTOCOLS),
    ]  # fmt: skip
    # A full netem queue rejects frames, so its limit must never be reached: it also holds the frames under way.
    on_the_way_bytes = ceil(delay_us * rate_bps / 8e6)
    most_frames = (queue_bytes + on_the_way_bytes) // MIN_FRAME_BYTES
    delayed = ["netem", "delay", f"{delay_us:.0f}us", "limit", str(most_frames)]
    whole = ["bfifo", "limit", str(queue_bytes)]
    dropping = ["pfifo_head_drop", "limit", str(queue_frames(mtu_bytes, queue_bytes))]
    for band, queue in (("10", whole), ("15", whole), ("16", dropping), ("20", dropping)):
        leaf = [*tc, "parent", f"1:{band}", "handle", f"{band}:"]
        commands.append([*leaf, *(delayed if delay_us else queue)])
    return commands


def has_netem() -> bool:
    """Whether this kernel can emulate propagation delay; tested on a temporary interface."""
    name = "plnetem0"
    subprocess.run(["ip", "link", "add", name, "type", "veth", "peer", "name", "plnetem1"], check=True)
    try:
        tried = ["tc", "qdisc", "add", "dev", name, "root", "netem", "delay", "1ms"]
        return subprocess.run(tried, capture_output=True, check=False).returncode == 0
    finally:
        subprocess.run(["ip", "link", "delete", name], capture_output=True, check=True)
