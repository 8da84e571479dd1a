"""Ports as an optical line would have them: a fixed rate, and reserved frames before all others.

Every egress is an HTB class of the port's rate with four children in strict priority: frames marked DSCP 46 (expedited
forwarding, RFC 3246); ARP and LLDP, of which the controller's meters let through very little; frames marked DSCP 34,
reserved ones outside their window; everything else.

A queue that refuses a frame makes Open vSwitch's userspace datapath drop the rest of its batch, reserved frames
included. So no queue refuses any: the reserved one holds all bursts that meters let through, and a full queue of the
last two drops its oldest frame instead of the new one, which the sender does not see (pfifo_head_drop).
"""

from __future__ import annotations

import subprocess

EXPEDITED_DSFIELD, LATE_DSFIELD = "0xb8", "0x88"
QUEUE_BYTES = 3_000_000
"""Above all reserved bursts together, and above the largest burst of a best-effort meter, 8000 kbit."""


_SMALL = (("arp", "2"), ("0x88cc", "3"))
"""Protocols of the second class, each with a filter preference of its own, as tc wants."""


LEAST_FRAME_BYTES = 42
"""Ethernet, IPv4 and UDP headers around nothing: the smallest frame that can be reserved for."""
TAG_BYTES = 4


def with_tags(rate_bps: int) -> int:
    """What a line must carry for that rate of untagged frames to pass, however small, each with a VLAN tag.

    Reservations and best effort are metered without tags, so nobody gets more than before. All lines of a map are
    faster in the same proportion, which makes no proven delay longer.
    """
    return -(-rate_bps * (LEAST_FRAME_BYTES + TAG_BYTES) // LEAST_FRAME_BYTES)


def queue_frames(mtu_bytes: int) -> int:
    """How many frames the best-effort queue holds: QUEUE_BYTES of the largest."""
    return QUEUE_BYTES // (mtu_bytes + 14)


def port_commands(interface: str, rate_bps: int, mtu_bytes: int, delay_us: float = 0.0) -> list[list[str]]:
    """What `tc` is to do to shape one egress port; `delay_us` asks for emulated propagation (needs netem)."""
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
        *([*filters, kind, "prio", prio, "u32", "match", "u32", "0", "0", "flowid", "1:15"] for kind, prio in _SMALL),
    ]  # fmt: skip
    # netem refuses what is too much: there only a limit that is never reached keeps batches whole.
    delayed = ["netem", "delay", f"{delay_us:.0f}us", "limit", str(QUEUE_BYTES // 64)]
    whole = ["bfifo", "limit", str(QUEUE_BYTES)]
    dropping = ["pfifo_head_drop", "limit", str(queue_frames(mtu_bytes))]
    for band, queue in (("10", whole), ("15", whole), ("16", dropping), ("20", dropping)):
        leaf = [*tc, "parent", f"1:{band}", "handle", f"{band}:"]
        commands.append([*leaf, *(delayed if delay_us else queue)])
    return commands


def has_netem() -> bool:
    """Whether this kernel can emulate propagation delay; tried on a throw-away interface."""
    name = "plnetem0"
    subprocess.run(["ip", "link", "add", name, "type", "veth", "peer", "name", "plnetem1"], check=True)
    try:
        tried = ["tc", "qdisc", "add", "dev", name, "root", "netem", "delay", "1ms"]
        return subprocess.run(tried, capture_output=True, check=False).returncode == 0
    finally:
        subprocess.run(["ip", "link", "delete", name], capture_output=True, check=True)
