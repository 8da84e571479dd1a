#!/usr/bin/env bash
# Question: Ryu writes flow entries of OpenFlow 1.3 that set one field and then send the packet to port 3. Which port
#   does scapy read, and which ovs-ofctl?
# Software: scapy 2.8.0 (contrib/openflow3.py) and Ryu 4.34, Python 3.11 (pip, own venv); ovs-ofctl 3.1.0 (Debian 12:
#   openvswitch-common 3.1.0-2+deb12u1).
# Most would expect: port 3 whatever the field is; scapy dissects the message and builds it again byte for byte.
# Seen: ovs-ofctl reads port 3 always. scapy does so where the field fills its action to a multiple of eight bytes
#   (metadata, tunnel_id, ipv6_dst). After a shorter field (ip_dscp, vlan_vid, tcp_dst, ipv4_dst, eth_dst) it does not
#   skip the padding that the length of the action includes: padding and output become an output to port 0, 16 or
#   1048576 and a rest of raw bytes, without a warning, and the rebuilt message is the same, which hides it. So a trace
#   of entries that mark DSCP or set a VLAN shows ports that no switch uses.
set -euo pipefail

export DEBIAN_FRONTEND=noninteractive
command -v ovs-ofctl >/dev/null || { apt-get update -qq; apt-get install -y -qq openvswitch-common >/dev/null; }
command -v python3 >/dev/null || apt-get install -y -qq python3 >/dev/null
python3 -c 'import ensurepip' 2>/dev/null || apt-get install -y -qq python3-venv >/dev/null
ovs-ofctl --version | head -n 1

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
pip() {
    "$work/venv/bin/python" -m pip install --quiet --no-compile --disable-pip-version-check "$@" 2>&1 |
        grep -v '^WARNING: Location' || true
}
pip setuptools==66.1.1 wheel==0.45.1 pbr==7.1.3
pip --no-build-isolation ryu==4.34 eventlet==0.41.3 scapy==2.8.0

cat >"$work/fields.py" <<'PY'
import re
import subprocess

from ryu.ofproto import ofproto_protocol, ofproto_v1_3 as v, ofproto_v1_3_parser as ryu
from scapy.contrib import openflow3 as scapy

FIELDS = {"ip_dscp": 46, "vlan_vid": 0x1005, "tcp_dst": 5, "ipv4_dst": "192.0.2.1", "eth_dst": "00:00:00:00:00:01",
          "ipv6_dst": "2001:db8::1", "metadata": 5, "tunnel_id": 6}
NEEDS = {"ip_dscp": {"eth_type": 0x0800}, "ipv4_dst": {"eth_type": 0x0800}, "ipv6_dst": {"eth_type": 0x86DD},
         "tcp_dst": {"eth_type": 0x0800, "ip_proto": 6}, "vlan_vid": {"vlan_vid": (0x1000, 0x1000)}}
EXPECTED = {"ip_dscp": 0, "vlan_vid": 0, "tcp_dst": 0, "ipv4_dst": 16, "eth_dst": 1048576,
            "ipv6_dst": 3, "metadata": 3, "tunnel_id": 3}

changed = []
for field, value in FIELDS.items():
    actions = [ryu.OFPActionSetField(**{field: value}), ryu.OFPActionOutput(3, 0)]
    message = ryu.OFPFlowMod(ofproto_protocol.ProtocolDesc(version=4), match=ryu.OFPMatch(**NEEDS.get(field, {})),
                             instructions=[ryu.OFPInstructionActions(v.OFPIT_APPLY_ACTIONS, actions)])
    message.set_xid(1)
    message.serialize()
    wire = bytes(message.buf)
    said = subprocess.run(["ovs-ofctl", "ofp-print", wire.hex()], capture_output=True, text=True, check=True).stdout
    ovs_port = int(re.search(r"output:(\d+)", said)[1])
    dissected = scapy.OpenFlow3(wire)
    port = next(action.port for action in dissected.instructions[0].actions if isinstance(action, scapy.OFPATOutput))
    same = bytes(dissected) == wire
    print(f"set {field}, output 3: ovs-ofctl reads port {ovs_port}, scapy port {port}; rebuilt the same: {same}")
    if (ovs_port, port, same) != (3, EXPECTED[field], True):
        changed.append(field)
assert not changed, f"no longer as stated: {changed}"
PY
"$work/venv/bin/python" -W ignore "$work/fields.py"
echo "as stated"
