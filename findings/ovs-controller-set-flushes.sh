#!/usr/bin/env bash
# Question: a bridge with fail_mode=secure has an entry, a group and a meter. Its controllers change: from none to one
#   (ovs-vsctl set-controller), to two, to another one, to none (ovs-vsctl del-controller). No controller listens at any
#   of these addresses. What of the three is there after each step?
# Software: Open vSwitch 3.1.0 (Debian 12: openvswitch-switch 3.1.0-2+deb12u1), userspace datapath (dummy).
# Most would expect: all three throughout. Addresses of controllers are no part of the forwarding state; secure is the
#   mode in which a switch keeps its entries without a controller, and OpenFlow 1.3 (6.4) leaves them there when the
#   connection is lost.
# Seen: with the first controller all three are gone before it has connected, and so they are when the last one is
#   deleted, though the mode is still secure. From one to two and from one to another nothing is lost. So del-controller
#   and set-controller, one after the other, stop all traffic, where one set-controller would have kept it.
set -euo pipefail

export DEBIAN_FRONTEND=noninteractive
command -v ovs-vswitchd >/dev/null || { apt-get update -qq; apt-get install -y -qq openvswitch-switch >/dev/null; }
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
ovs-vsctl -t 20 add-br sw -- set bridge sw datapath_type=dummy protocols=OpenFlow13 fail_mode=secure

of() { ovs-ofctl -O OpenFlow13 "$@"; }
install() {
    of add-group sw group_id=1,type=indirect,bucket=actions=in_port
    of add-meter sw meter=1,kbps,band=type=drop,rate=1000
    of add-flow sw udp,actions=meter:1,group:1
}
there() {  # numbers of entries, groups and meters
    sleep 1
    entries=$(of dump-flows sw | grep -c actions= || true)
    groups=$(of dump-groups sw | grep -c group_id= || true)
    meters=$(of dump-meters sw | grep -c meter= || true)
    echo "$entries $groups $meters"
}
install
before=$(there)
ovs-vsctl set-controller sw tcp:127.0.0.1:1
one=$(there)
install
ovs-vsctl set-controller sw tcp:127.0.0.1:1 tcp:127.0.0.2:1
two=$(there)
ovs-vsctl set-controller sw tcp:127.0.0.3:1
another=$(there)
ovs-vsctl del-controller sw
none=$(there)
echo "entries, groups and meters without controllers: $before; with the first controller: $one"
echo "installed again; with a second controller: $two; with another one instead: $another; without controllers: $none"
echo "fail_mode: $(ovs-vsctl get-fail-mode sw)"
[ "$before|$one|$two|$another|$none" = "1 1 1|0 0 0|1 1 1|1 1 1|0 0 0" ] && echo "as described" ||
    { echo "CHANGED"; exit 1; }
