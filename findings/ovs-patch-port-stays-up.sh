#!/usr/bin/env bash
# Question: two bridges are joined by a patch port. The first has a fast-failover group: the patch port while it is
#   live, another port otherwise. Which bucket takes the packets after (a) the controller has set the patch port down
#   (OFPT_PORT_MOD with OFPPC_PORT_DOWN), (b) it has set the other end down, (c) the other end is deleted? And for
#   comparison after a port of the other kind has been set down?
# Software: Open vSwitch 3.1.0 (Debian 12: openvswitch-switch 3.1.0-2+deb12u1), userspace datapath (dummy).
# Most would expect: the second bucket each time. By OpenFlow 1.3.5 (7.2.1) a port that is administratively down is to
#   drop all packets and is not live (6.5); one that cannot be set down is refused with OFPPMFC_BAD_CONFIG. And what is
#   joined to nothing has no link.
# Seen: the first bucket each time. (a) and (b) are confirmed without an error and change nothing: the port's config
#   stays 0, its state LIVE, and packets pass. After (c) the port is still LIVE, and the group sends into it what nobody
#   gets. Of the other kind the port goes down and the group switches over. So an outage between two bridges cannot be
#   tried, and is not noticed, where the link is a patch port.
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
for bridge in one two; do
    ovs-vsctl -t 20 add-br $bridge \
        -- set bridge $bridge datapath_type=dummy protocols=OpenFlow13 fail_mode=secure \
        -- add-port $bridge host-$bridge -- set interface host-$bridge type=dummy ofport_request=1
done
ovs-vsctl -t 20 add-port one other -- set interface other type=dummy ofport_request=3 \
    -- add-port one near -- set interface near type=patch options:peer=far ofport_request=2 \
    -- add-port two far -- set interface far type=patch options:peer=near ofport_request=2

of() { ovs-ofctl -O OpenFlow13 "$@"; }
packet="in_port(1),eth(src=02:00:00:00:00:01,dst=02:00:00:00:00:02),eth_type(0x0800),ipv4(src=192.0.2.1,dst=192.0.2.2,\
proto=17,tos=0,ttl=64,frag=no),udp(src=1,dst=2)"

port() { # config and state of a port
    of dump-ports-desc "$1" | grep -A 2 "($2)" | tail -n 2 | tr -s ' \n' ' '
}
try() { # five packets: how many take the first and the second bucket, and how many arrive behind the second bridge
    of del-groups one
    of add-group one "group_id=1,type=ff,bucket=watch_port:$1,output:$1,bucket=watch_port:$2,output:$2"
    of add-flow one in_port=1,actions=group:1
    of del-flows two
    of add-flow two in_port=2,actions=output:1
    for _ in 1 2 3 4 5; do ovs-appctl -t "$work/y.ctl" netdev-dummy/receive host-one "$packet"; done
    ovs-appctl -t "$work/y.ctl" revalidator/wait
    of dump-group-stats one | grep -oE 'bucket[01]:packet_count=[0-9]+' | sed 's/.*=//' | tr '\n' ' '
    of dump-flows two | sed -nE 's/.*n_packets=([0-9]+).*/\1/p'
}

before="$(port one near)$(try 2 3)"
of mod-port one near down
down="$(port one near)$(try 2 3)"
of mod-port one near up
of mod-port two far down
far_down="$(port one near)$(try 2 3)"
ovs-vsctl -t 20 del-port far
deleted="$(port one near)$(try 2 3)"
of mod-port one other down
other_down="$(port one other)$(try 3 2)"
echo "config and state of the first port; packets in the first and the second bucket and behind the second bridge:"
printf '%s\n' "before:           $before" "patch port down:  $down" "other end down:   $far_down" \
    "other end deleted:$deleted" "dummy port down:  $other_down"
live=" config: 0 state: LIVE 5 0"
[ "$before" = "$live 5" ] && [ "$down" = "$live 5" ] && [ "$far_down" = "$live 5" ] && [ "$deleted" = "$live 0" ] &&
    [ "$other_down" = " config: PORT_DOWN state: LINK_DOWN 0 5 0" ] &&
    echo "as described" || { echo "CHANGED"; exit 1; }
