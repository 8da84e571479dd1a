#!/usr/bin/env bash
# Question: a controller opens an atomic, ordered bundle (OpenFlow 1.4), adds a flow entry, a meter and another flow
#   entry, and commits. Open vSwitch does not take meters into bundles and refuses the second of the three. What does
#   it answer to the commit, and what is there afterwards?
# Software: Open vSwitch 3.1.0 (Debian 12: openvswitch-switch 3.1.0-2+deb12u1), userspace (netdev) datapath.
# Most would expect: an error and no entry. A bundle is all or nothing, and the switch knows that a part of it is
#   missing; when an entry fails at the commit (here one that uses a meter that is not there), the others are not
#   installed either.
# Seen: the commit is confirmed, and both entries are there, without the meter that was to be with them. A refused
#   part is not part of the bundle; who does not read the answer to each addition does not learn it from the commit.
set -euo pipefail

export DEBIAN_FRONTEND=noninteractive
command -v ovs-vswitchd >/dev/null || { apt-get update -qq; apt-get install -y -qq openvswitch-switch >/dev/null; }
for tool in ip python3; do command -v $tool >/dev/null || apt-get install -y -qq iproute2 python3 >/dev/null; done
ovs-vswitchd --version | head -n 1

work=$(mktemp -d)
inside=bri$$
daemons=()
undo() {
    for daemon in "${daemons[@]}"; do kill "$daemon" 2>/dev/null || true; done
    wait 2>/dev/null || true
    ip netns delete "$inside" 2>/dev/null || true
    rm -rf "$work"
}
trap undo EXIT
export OVS_RUNDIR=$work OVS_DBDIR=$work OVS_LOGDIR=$work

ip netns add $inside
ovsdb-tool create "$work/conf.db" /usr/share/openvswitch/vswitch.ovsschema
ovsdb-server "$work/conf.db" --remote="punix:$work/db.sock" --unixctl="$work/x.ctl" -vconsole:off &
daemons+=($!)
until [ -S "$work/db.sock" ]; do sleep 0.1; done
ovs-vsctl --no-wait init
ip netns exec $inside ovs-vswitchd "unix:$work/db.sock" --unixctl="$work/y.ctl" -vconsole:off &
daemons+=($!)
ovs-vsctl -t 20 add-br sw -- set bridge sw datapath_type=netdev protocols=OpenFlow14 fail_mode=secure
until [ -S "$work/sw.mgmt" ]; do sleep 0.1; done

cat >"$work/bundle.py" <<'PY'
"""Commit a bundle of a flow entry, the message that is named, and another flow entry; print the answers."""
import socket
import struct
import sys

HELLO, ERROR, FLOW_MOD, METER_MOD, CONTROL, ADD = 0, 1, 14, 29, 33, 34  # OpenFlow 1.4
OPEN, OPENED, CLOSE, CLOSED, COMMIT, COMMITTED = range(6)
ATOMIC_AND_ORDERED = 3
ANY, NO_BUFFER, BUNDLE = 0xFFFFFFFF, 0xFFFFFFFF, 1


def message(kind, number, body=b""):
    return struct.pack("!BBHI", 5, kind, 8 + len(body), number) + body


def flow(number, ethertype, meter=None):
    match = struct.pack("!HHHBBH6x", 1, 10, 0x8000, 5 << 1, 2, ethertype)
    instruction = b"" if meter is None else struct.pack("!HHI", 6, 8, meter)
    fixed = struct.pack("!QQBBHHHIIIHH", number, 0, 0, 0, 0, 0, 100, NO_BUFFER, ANY, ANY, 0, 0)
    return message(FLOW_MOD, number, fixed + match + instruction)


def meter(number):
    """Meter 1: 1000 kbit/s, burst 1000 kbit, one drop band."""
    return message(METER_MOD, number, struct.pack("!HHI", 0, 1 | 4, 1) + struct.pack("!HHII4x", 1, 16, 1000, 1000))


class Switch:
    def __init__(self, path):
        self.line = socket.socket(socket.AF_UNIX)
        self.line.connect(path)
        self.line.sendall(message(HELLO, 0))

    def receive(self):
        header = self.line.recv(8, socket.MSG_WAITALL)
        _, kind, size, number = struct.unpack("!BBHI", header)
        return kind, number, self.line.recv(size - 8, socket.MSG_WAITALL) if size > 8 else b""

    def control(self, number, kind, expected):
        """Is the request granted? Errors about other messages that come before the answer are counted."""
        self.line.sendall(message(CONTROL, number, struct.pack("!IHH", BUNDLE, kind, ATOMIC_AND_ORDERED)))
        others = 0
        while True:
            answer, about, body = self.receive()
            if answer == CONTROL and about == number:
                return struct.unpack("!IHH", body[:8])[1] == expected, others
            if answer == ERROR and about == number:
                return False, others
            others += answer == ERROR

    def add(self, inner):
        number = struct.unpack("!I", inner[4:8])[0]
        self.line.sendall(message(ADD, number, struct.pack("!I2xH", BUNDLE, ATOMIC_AND_ORDERED) + inner))


switch = Switch(sys.argv[1])
middle = meter(12) if sys.argv[2] == "meter" else flow(12, 0x88B6, meter=7)
is_open, _ = switch.control(10, OPEN, OPENED)
for part in (flow(11, 0x88B5), middle, flow(13, 0x88B7)):
    switch.add(part)
is_committed, refused = switch.control(14, COMMIT, COMMITTED)
print("opened" if is_open else "not opened", f"refused {refused}", "committed" if is_committed else "not committed")
PY

outcome() {  # answers, entries, meters
    ovs-ofctl -O OpenFlow14 del-flows sw
    answers=$(python3 "$work/bundle.py" "$work/sw.mgmt" "$1")
    entries=$(ovs-ofctl -O OpenFlow14 dump-flows sw | grep -c cookie= || true)
    meters=$(ovs-ofctl -O OpenFlow14 dump-meters sw | grep -c meter= || true)
    echo "$answers, entries $entries, meters $meters"
}

with_meter=$(outcome meter)
with_bad_entry=$(outcome entry)
echo "entry, meter, entry: $with_meter"
echo "entry, entry that uses a meter that is not there, entry: $with_bad_entry"
[ "$with_meter" = "opened refused 1 committed, entries 2, meters 0" ] &&
    [[ "$with_bad_entry" = "opened refused "?" not committed, entries 0, meters 0" ]]
