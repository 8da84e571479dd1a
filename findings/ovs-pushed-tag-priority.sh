#!/usr/bin/env bash
# Question: an entry pushes a service tag (push_vlan:0x88a8, then VLAN 7 is set) onto frames that have a tag with
#   priority 5; another one pushes an MPLS label (push_mpls:0x8847) onto IP packets of DSCP CS7, CS6, EF, AF41 and LE.
#   Which priority (PCP, traffic class) is in the new tag?
# Software: Open vSwitch 3.1.0 (Debian 12: openvswitch-switch 3.1.0-2+deb12u1), userspace datapath (dummy).
# Most would expect: PCP 5: by OpenFlow 1.3.5 ("Default values for fields on push") VLAN id and priority are those of
#   the outermost tag that is there. In the first label 0, as the same table has it, or, as routers do, the upper three
#   bits of the DSCP, its class: 7, 6, 5, 4 and 0.
# Seen: PCP 0, while the tag within keeps 5, so from there on the frame is best effort. And the lower three bits of the
#   DSCP: network control (CS7, CS6) gets traffic class 0, EF 6, AF41 2, and LE (RFC 8622: less than best effort) 1,
#   above network control. ovs-actions(7) has a line about the label, none about the tag. An entry has to set vlan_pcp
#   or mpls_tc itself, one entry for each priority.
set -euo pipefail

export DEBIAN_FRONTEND=noninteractive
command -v ovs-vswitchd >/dev/null || { apt-get update -qq; apt-get install -y -qq openvswitch-switch >/dev/null; }
command -v python3 >/dev/null || apt-get install -y -qq python3 >/dev/null
ovs-vswitchd --version | head -n 1

work=$(mktemp -d)
daemons=()
undo() {
    for daemon in "${daemons[@]}"; do kill "$daemon" 2>/dev/null || true; done
    wait 2>/dev/null || true
    rm -rf "$work"
}
trap undo EXIT
export OVS_RUNDIR=$work OVS_DBDIR=$work OVS_LOGDIR=$work

ovsdb-tool create "$work/conf.db" /usr/share/openvswitch/vswitch.ovsschema
ovsdb-server "$work/conf.db" --remote="punix:$work/db.sock" --unixctl="$work/x.ctl" -vconsole:off &
daemons+=($!)
until [ -S "$work/db.sock" ]; do sleep 0.1; done
ovs-vsctl --no-wait init
ovs-vswitchd "unix:$work/db.sock" --unixctl="$work/y.ctl" -vconsole:off --enable-dummy --disable-system &
daemons+=($!)
ovs-vsctl -t 20 add-br sw \
    -- set bridge sw datapath_type=dummy protocols=OpenFlow13 fail_mode=secure \
    -- add-port sw p1 -- set interface p1 type=dummy ofport_request=1 \
    -- add-port sw p2 -- set interface p2 type=dummy ofport_request=2 options:tx_pcap="$work/out.pcap"

of() { ovs-ofctl -O OpenFlow13 "$@"; }
tag="push_vlan:0x88a8,set_field:0x1007->vlan_vid"
of add-flow sw "priority=2,in_port=1,vlan_vid=0x1000/0x1000,actions=$tag,output:2"
of add-flow sw "priority=1,in_port=1,ip,actions=push_mpls:0x8847,output:2"

cat >"$work/frames.py" <<'PY'
"""Print frames, in hexadecimal digits: one with VLAN 5 and priority 5, and those with the DSCPs of the arguments."""
import sys

ENDS = "020000000002020000000001"


def packet(dscp):
    header = bytes.fromhex(f"45{dscp << 2:02x}002e0000000040110000c0000201c0000202")
    total = sum(int.from_bytes(header[at:at + 2], "big") for at in range(0, 20, 2))
    while total > 0xFFFF:
        total = (total & 0xFFFF) + (total >> 16)
    return "0800" + header[:10].hex() + f"{0xFFFF - total:04x}" + header[12:].hex() + "00010002001a0000" + "00" * 18


print(ENDS + "8100a005" + packet(0))
for dscp in sys.argv[1:]:
    print(ENDS + packet(int(dscp)))
PY
cat >"$work/read.py" <<'PY'
"""Print the tags of every frame in a capture: PCP and VLAN of both tags, or the traffic class of the label."""
import struct
import sys

data = open(sys.argv[1], "rb").read()
at, seen = 24, []
while at < len(data):
    length = struct.unpack_from("=I", data, at + 8)[0]
    frame, at = data[at + 16:at + 16 + length], at + 16 + length
    kind, tag, inner_kind, inner = struct.unpack_from("!HHHH", frame, 12)
    if kind == 0x88A8 and inner_kind == 0x8100:
        seen.append(f"{tag >> 13}/{tag & 0xFFF} over {inner >> 13}/{inner & 0xFFF}")
    elif kind == 0x8847:
        seen.append(str(struct.unpack_from("!I", frame, 14)[0] >> 9 & 7))
    else:
        seen.append(f"{kind:04x}")
print(", ".join(seen))
PY
for frame in $(python3 "$work/frames.py" 56 48 46 34 1); do
    ovs-appctl -t "$work/y.ctl" netdev-dummy/receive p1 "$frame"
    ovs-appctl -t "$work/y.ctl" revalidator/wait
done
for _ in $(seq 100); do # until all six have left, at most 20 s
    seen=$(python3 "$work/read.py" "$work/out.pcap" 2>/dev/null || true)
    [ "$(grep -o , <<<"$seen" | wc -l)" -lt 5 ] || break
    sleep 0.2
done
echo "priority/VLAN of the new tag over the old one; traffic class of CS7, CS6, EF, AF41, LE: $seen"
[ "$seen" = "0/7 over 5/5, 0, 0, 6, 2, 1" ] && echo "as described" || { echo "CHANGED"; exit 1; }
