#!/usr/bin/env bash
# Question: Ryu writes a meter-mod of OpenFlow 1.3 with a band that drops, and one with a band that remarks the DSCP.
#   What does scapy read in them? And what does Open vSwitch's ovs-ofctl read in the same two bands as scapy writes them?
# Software: scapy 2.8.0 (contrib/openflow3.py) and Ryu 4.34, Python 3.11 (pip, own venv); ovs-ofctl 3.1.0 (Debian 12:
#   openvswitch-common 3.1.0-2+deb12u1).
# Most would expect: drop and dscp_remark, either way: band types are 1 and 2 (OpenFlow 1.3.5, A.3.4.6), and ovs-ofctl
#   prints what Ryu writes so.
# Seen: scapy numbers the bands from 0. It reads drop as DSCP remark and DSCP remark as experimenter, with no word, and
#   prints their types with the names of properties of queues. What it writes as drop has type 0, which ovs-ofctl
#   refuses; what it writes as DSCP remark is drop to everybody else, so packets that were to be marked are lost.
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

cat >"$work/bands.py" <<'PY'
import subprocess

from ryu.ofproto import ofproto_protocol, ofproto_v1_3 as v, ofproto_v1_3_parser as ryu
from scapy.contrib import openflow3 as scapy

KBPS_BURST = v.OFPMF_KBPS | v.OFPMF_BURST


def by_ryu(band):
    message = ryu.OFPMeterMod(ofproto_protocol.ProtocolDesc(version=4), v.OFPMC_ADD, KBPS_BURST, 5, [band])
    message.set_xid(1)
    message.serialize()
    return bytes(message.buf)


def by_scapy(band):
    return bytes(scapy.OFPTMeterMod(xid=1, cmd="OFPMC_ADD", flags=KBPS_BURST, meter_id=5, bands=[band]))


def read_by_scapy(message):
    return type(scapy.OpenFlow3(message).bands[0]).__name__


def read_by_ovs(message):
    done = subprocess.run(["ovs-ofctl", "ofp-print", message.hex()], capture_output=True, text=True)
    said = done.stdout + done.stderr
    return next((kind for kind in ("type=drop", "type=dscp_remark") if kind in said), "refused")


drop, remark = by_ryu(ryu.OFPMeterBandDrop(1000, 90)), by_ryu(ryu.OFPMeterBandDscpRemark(1000, 90, 1))
scapy_drop = by_scapy(scapy.OFPMBTDrop(rate=1000, burst_size=90))
scapy_remark = by_scapy(scapy.OFPMBTDSCPRemark(rate=1000, burst_size=90, prec_level=1))
rows = [
    ("drop by Ryu, read by ovs-ofctl", read_by_ovs(drop), "type=drop"),
    ("DSCP remark by Ryu, read by ovs-ofctl", read_by_ovs(remark), "type=dscp_remark"),
    ("drop by Ryu, read by scapy", read_by_scapy(drop), "OFPMBTDSCPRemark"),
    ("DSCP remark by Ryu, read by scapy", read_by_scapy(remark), "OFPMBTExperimenter"),
    ("drop by scapy, read by ovs-ofctl", read_by_ovs(scapy_drop), "refused"),
    ("DSCP remark by scapy, read by ovs-ofctl", read_by_ovs(scapy_remark), "type=drop"),
]
for what, seen, _ in rows:
    print(f"{what}: {seen}")
changed = [what for what, seen, expected in rows if seen != expected]
assert not changed, f"no longer as stated: {changed}"
PY
"$work/venv/bin/python" -W ignore "$work/bands.py"
echo "as stated"
