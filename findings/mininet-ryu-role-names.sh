#!/usr/bin/env bash
# Question: three hosts at three switches, the first switch in the middle, under Ryu's learning switch
#   (simple_switch_13). The switches are named s1, s2, s3, then core1, edge1, edge2. Which share of the pings is lost?
# Software: Mininet 2.3.0 and Open vSwitch 3.1.0 (Debian 12: mininet 2.3.0-1, openvswitch-switch 3.1.0-2+deb12u1),
#   userspace (netdev) datapath; Ryu 4.34 with eventlet 0.41.3, Python 3.11 (pip, own venv).
# Most would expect: none both times. If the names did not suit, an error: Mininet has one for a name without a
#   number.
# Seen: none, then all. Mininet makes the datapath id of the first number in a name, so core1 and edge1 both get 1; it
#   checks nothing and starts both. Ryu keeps the two connections without a word, and the learning switch takes them
#   for one switch with the hosts at the ports of either. Pings to and from h3, whose switch has an id of its own, are
#   lost as well.
set -euo pipefail

export DEBIAN_FRONTEND=noninteractive
command -v mn >/dev/null || { apt-get update -qq; apt-get install -y -qq mininet openvswitch-switch >/dev/null; }
for tool in ip ping; do command -v $tool >/dev/null || apt-get install -y -qq iproute2 iputils-ping >/dev/null; done
python3 -c 'import ensurepip' 2>/dev/null || apt-get install -y -qq python3-venv >/dev/null
ovs-vswitchd --version | head -n 1

work=$(mktemp -d)
inside=mri$$
daemons=()
undo() {
    for daemon in "${daemons[@]}"; do kill "$daemon" 2>/dev/null || true; done
    wait 2>/dev/null || true
    ip netns delete "$inside" 2>/dev/null || true
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

ip netns add $inside
ip -n $inside link set lo up
ovsdb-tool create "$work/conf.db" /usr/share/openvswitch/vswitch.ovsschema
ovsdb-server "$work/conf.db" --remote="punix:$work/db.sock" --unixctl="$work/x.ctl" -vconsole:off &
daemons+=($!)
until [ -S "$work/db.sock" ]; do sleep 0.1; done
ovs-vsctl --no-wait init
ip netns exec $inside ovs-vswitchd "unix:$work/db.sock" --unixctl="$work/y.ctl" -vconsole:off &
daemons+=($!)

cat >"$work/controller.py" <<'PY'
import eventlet.wsgi

eventlet.wsgi.ALREADY_HANDLED = object()  # a name that left eventlet; Ryu imports it for its web server, unused here
from ryu import cfg
from ryu.base import app_manager

cfg.CONF(args=["--ofp-tcp-listen-port", "6653", "--ofp-listen-host", "127.0.0.1"], project="ryu")
app_manager.AppManager.run_apps(["ryu.app.simple_switch_13"])
PY
cat >"$work/network.py" <<'PY'
"""Print the switches' datapath ids and the percentage of pings lost, of three rounds the last."""
import sys
import time
from functools import partial

from mininet.log import setLogLevel
from mininet.net import Mininet
from mininet.node import OVSSwitch, RemoteController


class Ryu(RemoteController):
    def checkListening(self):
        """Left out: it decodes what the controller sends first as UTF-8."""


setLogLevel("critical")
switch = partial(OVSSwitch, datapath="user", protocols="OpenFlow13", failMode="secure")
net = Mininet(switch=switch, controller=None, autoSetMacs=True)
net.addController("c0", controller=Ryu, ip="127.0.0.1", port=6653)
switches = [net.addSwitch(name) for name in sys.argv[1:]]
for number, switch in enumerate(switches, 1):
    net.addLink(switch, net.addHost(f"h{number}"))
for other in switches[1:]:
    net.addLink(switches[0], other)
net.start()
try:
    net.waitConnected(timeout=20)
    time.sleep(1)
    lost = [net.pingAll(timeout="1") for _ in range(3)][-1]
finally:
    net.stop()
print(*(int(switch.dpid, 16) for switch in switches), round(lost))
PY
ip netns exec $inside "$work/venv/bin/python" -W ignore "$work/controller.py" >"$work/said" 2>&1 &
daemons+=($!)
sleep 4
lost() { ip netns exec $inside timeout 90 /usr/bin/python3 "$work/network.py" "$@" | tail -n 1; }
numbered=$(lost s1 s2 s3)
by_role=$(lost core1 edge1 edge2)
warnings=$(grep -ciE 'duplicate|conflict|same|error' "$work/said" || true)
echo "datapath ids and percentage of pings lost: s1, s2, s3: $numbered; core1, edge1, edge2: $by_role"
echo "lines of Ryu that could be about it: $warnings"
[ "$numbered" = "1 2 3 0" ] && [[ "$by_role" = "1 1 2 "* ]] && [ "${by_role##* }" -ge 50 ] && [ "$warnings" = 0 ]
