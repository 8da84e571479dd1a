#!/usr/bin/env bash
# Question: a Ryu controller sends Open vSwitch three messages and leaves to Ryu what can be left out: a flow-mod
#   DELETE without a match; a select group of two buckets without weights; a flow entry that matches vlan_vid=5. What
#   is deleted, which bucket takes the packets, does the entry count frames of VLAN 5?
# Software: Ryu 4.34 (with eventlet 0.41.3, OpenFlow 1.3), Python 3.11 (pip, own venv); Open vSwitch 3.1.0 (Debian 12:
#   openvswitch-switch 3.1.0-2+deb12u1), userspace (netdev) datapath.
# Most would expect: all entries are deleted, each bucket takes its share, VLAN 5 is counted; or, where a default
#   cannot work, an error from Ryu or from the switch.
# Seen: no error, and no effect. Ryu fills in out_port=0 and out_group=0, so only entries that output to port 0 and
#   use group 0 would go; weight 0, so each bucket is out of use and the group drops all; and the VLAN without the bit
#   OFPVID_PRESENT, which the switch takes for frames that have no tag and yet VLAN 5. With OFPP_ANY, OFPG_ANY,
#   weights and the bit stated, all three work.
set -euo pipefail

export DEBIAN_FRONTEND=noninteractive
command -v ovs-vswitchd >/dev/null || { apt-get update -qq; apt-get install -y -qq openvswitch-switch >/dev/null; }
for tool in ip python3; do command -v $tool >/dev/null || apt-get install -y -qq iproute2 python3 >/dev/null; done
python3 -c 'import ensurepip' 2>/dev/null || apt-get install -y -qq python3-venv >/dev/null
ovs-vswitchd --version | head -n 1

work=$(mktemp -d)
inside=rdi$$
host=rdh$$
daemons=()
undo() {
    for daemon in "${daemons[@]}"; do kill "$daemon" 2>/dev/null || true; done
    wait 2>/dev/null || true
    for each in $inside $host; do ip netns delete "$each" 2>/dev/null || true; done
    rm -rf "$work"
}
trap undo EXIT
export OVS_RUNDIR=$work OVS_DBDIR=$work OVS_LOGDIR=$work

python3 -m venv "$work/venv"
pip() {
    "$work/venv/bin/python" -m pip install --quiet --no-compile --disable-pip-version-check "$@" 2>&1 |
        grep -v '^WARNING: Location' || true
}
pip setuptools==66.1.1 wheel==0.45.1 pbr==7.1.3
pip --no-build-isolation ryu==4.34 eventlet==0.41.3

for each in $inside $host; do ip netns add "$each"; done
ip link add port netns $inside type veth peer name nic netns $host
for each in lo port; do ip -n $inside link set $each up; done
ip -n $host link set nic up

ovsdb-tool create "$work/conf.db" /usr/share/openvswitch/vswitch.ovsschema
ovsdb-server "$work/conf.db" --remote="punix:$work/db.sock" --unixctl="$work/x.ctl" -vconsole:off &
daemons+=($!)
until [ -S "$work/db.sock" ]; do sleep 0.1; done
ovs-vsctl --no-wait init
ip netns exec $inside ovs-vswitchd "unix:$work/db.sock" --unixctl="$work/y.ctl" -vconsole:off &
daemons+=($!)
ovs-vsctl -t 20 add-br sw -- set bridge sw datapath_type=netdev protocols=OpenFlow13 fail_mode=secure \
    -- add-port sw port \
    -- set interface port ofport_request=1 -- set-controller sw tcp:127.0.0.1:6653

cat >"$work/controller.py" <<'PY'
"""Send the three messages as $1 says ("defaults" or "stated"), then a barrier; print errors and end."""
import logging
import os
import sys

import eventlet.wsgi

eventlet.wsgi.ALREADY_HANDLED = object()  # a name that left eventlet; Ryu imports it for its web server, unused here
from ryu import cfg
from ryu.base import app_manager
from ryu.controller import ofp_event
from ryu.controller.handler import CONFIG_DISPATCHER, MAIN_DISPATCHER, set_ev_cls
from ryu.ofproto import ofproto_v1_3

STATED = sys.argv[1] == "stated"


class Messages(app_manager.RyuApp):
    OFP_VERSIONS = [ofproto_v1_3.OFP_VERSION]

    @set_ev_cls(ofp_event.EventOFPSwitchFeatures, CONFIG_DISPATCHER)
    def connected(self, event):
        datapath = event.msg.datapath
        of, parser = datapath.ofproto, datapath.ofproto_parser
        everything = {"out_port": of.OFPP_ANY, "out_group": of.OFPG_ANY} if STATED else {}
        weight = {"weight": 1} if STATED else {}
        back = [parser.OFPActionOutput(of.OFPP_IN_PORT)]
        buckets = [parser.OFPBucket(actions=back, **weight) for _ in range(2)]
        vlan = 5 | of.OFPVID_PRESENT if STATED else 5
        run = [parser.OFPInstructionActions(of.OFPIT_APPLY_ACTIONS, [parser.OFPActionGroup(1)])]
        datapath.send_msg(parser.OFPFlowMod(datapath, command=of.OFPFC_DELETE, **everything))
        datapath.send_msg(parser.OFPGroupMod(datapath, of.OFPGC_ADD, of.OFPGT_SELECT, 1, buckets))
        datapath.send_msg(parser.OFPFlowMod(datapath, cookie=2, priority=2, match=parser.OFPMatch(eth_type=0x0800),
                                            instructions=run))
        datapath.send_msg(parser.OFPFlowMod(datapath, cookie=3, priority=3, match=parser.OFPMatch(vlan_vid=vlan)))
        datapath.send_msg(parser.OFPBarrierRequest(datapath))

    @set_ev_cls(ofp_event.EventOFPErrorMsg, [CONFIG_DISPATCHER, MAIN_DISPATCHER])
    def refused(self, event):
        print("error", event.msg.type, event.msg.code, flush=True)

    @set_ev_cls(ofp_event.EventOFPBarrierReply, [CONFIG_DISPATCHER, MAIN_DISPATCHER])
    def done(self, event):
        print("done", flush=True)
        os._exit(0)


logging.disable(logging.CRITICAL)
cfg.CONF(args=["--ofp-tcp-listen-port", "6653", "--ofp-listen-host", "127.0.0.1"], project="ryu")
app_manager.AppManager.run_apps(["__main__"])
PY
cat >"$work/send.py" <<'PY'
import socket, struct, time
line = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
line.bind(("nic", 0))
for number in range(100):
    segment = struct.pack("!HHIIBBHHH", 20000 + number, 80, 0, 0, 5 << 4, 2, 8192, 0, 0)
    addresses = socket.inet_aton("192.0.2.1") + socket.inet_aton("192.0.2.2")
    packet = struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(segment), 1, 0, 64, 6, 0) + addresses + segment
    ends = bytes.fromhex("020000000002020000000001")
    line.send(ends + bytes.fromhex("0800") + packet)
    line.send(ends + bytes.fromhex("8100000588b5") + bytes(46))
    time.sleep(0.005)
PY

outcome() {  # of the messages as $1 says: errors; entries of before that are left; packets out of the group; VLAN 5
    ovs-ofctl -O OpenFlow13 del-groups sw
    ovs-ofctl -O OpenFlow13 del-flows sw
    ovs-ofctl -O OpenFlow13 add-flow sw cookie=1,udp,actions=in_port
    ip netns exec $inside timeout 60 "$work/venv/bin/python" -W ignore "$work/controller.py" "$1" >"$work/said"
    grep -q done "$work/said"
    ip netns exec $host python3 "$work/send.py"
    sleep 1.5
    ovs-ofctl -O OpenFlow13 dump-flows sw >"$work/flows"
    left=$(grep -c cookie=0x1, "$work/flows" || true)
    taken=$(ovs-ofctl -O OpenFlow13 dump-group-stats sw | grep -oE 'bucket[01]:packet_count=[0-9]+' |
        awk -F= '{ sum += $2 } END { print sum }')
    counted=$(sed -nE 's/.*cookie=0x3,.*n_packets=([0-9]+).*/\1/p' "$work/flows")
    echo "$(grep -c error "$work/said" || true) $left $taken $counted"
}

defaults=$(outcome defaults)
stated=$(outcome stated)
echo "errors, old entries left of 1, packets out of the select group of 100, frames counted of VLAN 5 of 100:"
echo "Ryu's defaults: $defaults; stated: $stated"
[ "$defaults" = "0 1 0 0" ] && [ "$stated" = "0 0 100 100" ] && echo "as described" || { echo "CHANGED"; exit 1; }
