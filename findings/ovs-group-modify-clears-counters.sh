#!/usr/bin/env bash
# Question: a group has forwarded packets. A controller changes it with OFPGC_MODIFY: to the same buckets, or to other
#   ones. What becomes of the group's own packet and byte counters, and of its duration?
# Software: Open vSwitch 3.1.0 (Debian 12: openvswitch-switch 3.1.0-2+deb12u1), userspace datapath (dummy).
# Most would expect: they go on. By OpenFlow 1.3.5 (group table modification messages) the top-level statistics of a
#   modified group are preserved, and those of its buckets are reset; counters of flow entries, too, survive a
#   modification without OFPFF_RESET_COUNTS.
# Seen: the packet and byte counters of the group are 0 after any modification, also one that changes nothing, while the
#   duration goes on; so a rate computed from two readings around it is wrong, or negative.
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
ovs-vsctl -t 20 add-br sw \
    -- set bridge sw datapath_type=dummy protocols=OpenFlow13 fail_mode=secure \
    -- add-port sw p1 -- set interface p1 type=dummy ofport_request=1 \
    -- add-port sw p2 -- set interface p2 type=dummy ofport_request=2 \
    -- add-port sw p3 -- set interface p3 type=dummy ofport_request=3

of() { ovs-ofctl -O OpenFlow13 "$@"; }
packet="in_port(1),eth(src=02:00:00:00:00:01,dst=02:00:00:00:00:02),eth_type(0x0800),ipv4(src=192.0.2.1,dst=192.0.2.2,\
proto=17,tos=0,ttl=64,frag=no),udp(src=1,dst=2)"

send() { # five packets, counted when the switch has revalidated its caches
    for _ in 1 2 3 4 5; do ovs-appctl -t "$work/y.ctl" netdev-dummy/receive p1 "$packet"; done
    ovs-appctl -t "$work/y.ctl" revalidator/wait
}
count() { # packets of the group, packets of its buckets, packets of the flow entry, whether its duration is 2 s or more
    local stats flow
    stats=$(of dump-group-stats sw | grep group_id)
    flow=$(of dump-flows sw | sed -nE 's/.*n_packets=([0-9]+).*/\1/p')
    echo "$stats" |
        sed -nE "s/.*duration=([0-9]+)\..*ref_count=[0-9]+,packet_count=([0-9]+),.*bucket0:packet_count=([0-9]+).*/\1 \2 \3/p" |
        { read -r seconds group bucket; echo "group $group, bucket $bucket, entry $flow, old $((seconds >= 2))"; }
}

of add-group sw group_id=1,type=all,bucket=output:2
of add-flow sw in_port=1,actions=group:1
sleep 2
send
before=$(count)
of mod-group sw group_id=1,type=all,bucket=output:2
same=$(count)
send
between=$(count)
of mod-group sw group_id=1,type=all,bucket=output:3
other=$(count)
printf '%s\n' "before: $before" "modified to the same: $same" "five packets later: $between" \
    "modified to another bucket: $other"
[ "$before" = "group 5, bucket 5, entry 5, old 1" ] && [ "$same" = "group 0, bucket 0, entry 5, old 1" ] &&
    [ "$between" = "group 5, bucket 5, entry 10, old 1" ] && [ "$other" = "group 0, bucket 0, entry 10, old 1" ] &&
    echo "as described" || { echo "CHANGED"; exit 1; }
