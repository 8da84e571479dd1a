#!/usr/bin/env bash
# Question: two flow entries ask for a message when they go (OFPFF_SEND_FLOW_REM). One uses a group, the other a
#   meter. The controller deletes the group, then the meter, and Open vSwitch deletes the entries with them, as
#   OpenFlow demands. Of which does it tell, in OpenFlow 1.3, 1.4 and 1.5?
# Software: Open vSwitch 3.1.0 (Debian 12: openvswitch-switch 3.1.0-2+deb12u1), userspace (netdev) datapath.
# Most would expect: of both. The flag asks for a message whenever an entry goes; from 1.4 on there are the reasons
#   "group delete" and "meter delete", and 1.3, which has only the first, could say "delete".
# Seen: in 1.4 and 1.5 of both. In 1.3 of the one with the group, and of an entry that is deleted by itself; the one
#   with the meter goes without a message, in silence, flag or no flag.
set -euo pipefail

export DEBIAN_FRONTEND=noninteractive
command -v ovs-vswitchd >/dev/null || { apt-get update -qq; apt-get install -y -qq openvswitch-switch >/dev/null; }
for tool in ip python3; do command -v $tool >/dev/null || apt-get install -y -qq iproute2 python3 >/dev/null; done
ovs-vswitchd --version | head -n 1

work=$(mktemp -d)
inside=mdi$$
daemons=()
undo() {
    for daemon in "${daemons[@]}"; do kill "$daemon" 2>/dev/null || true; done
    wait 2>/dev/null || true
    for each in $inside; do ip netns delete "$each" 2>/dev/null || true; done
    rm -rf "$work"
}
trap undo EXIT
export OVS_RUNDIR=$work OVS_DBDIR=$work OVS_LOGDIR=$work

for each in $inside; do ip netns add "$each"; done

ovsdb-tool create "$work/conf.db" /usr/share/openvswitch/vswitch.ovsschema
ovsdb-server "$work/conf.db" --remote="punix:$work/db.sock" --unixctl="$work/x.ctl" -vconsole:off &
daemons+=($!)
until [ -S "$work/db.sock" ]; do sleep 0.1; done
ovs-vsctl --no-wait init
ip netns exec $inside ovs-vswitchd "unix:$work/db.sock" --unixctl="$work/y.ctl" -vconsole:off &
daemons+=($!)
ovs-vsctl -t 20 add-br sw \
    -- set bridge sw datapath_type=netdev protocols=OpenFlow13,OpenFlow14,OpenFlow15 fail_mode=secure

ok=true
for version in OpenFlow13 OpenFlow14 OpenFlow15; do
    ovs-ofctl -O $version add-group sw group_id=1,type=indirect,bucket=actions=in_port
    ovs-ofctl -O $version add-meter sw meter=1,kbps,burst,band=type=drop,rate=1000,burst_size=1000
    ovs-ofctl -O $version add-flow sw cookie=1,send_flow_rem,udp,udp_dst=1,actions=group:1
    ovs-ofctl -O $version add-flow sw cookie=2,send_flow_rem,udp,udp_dst=2,actions=meter:1,in_port
    ovs-ofctl -O $version add-flow sw cookie=3,send_flow_rem,udp,udp_dst=3,actions=in_port
    ovs-ofctl -O $version monitor sw 128 2>"$work/told" &
    monitor=$!
    daemons+=($monitor)
    sleep 1
    ovs-ofctl -O $version del-groups sw
    ovs-ofctl -O $version del-meters sw
    ovs-ofctl -O $version del-flows sw udp,udp_dst=3
    sleep 1
    kill $monitor
    wait $monitor 2>/dev/null || true
    left=$(ovs-ofctl -O $version dump-flows sw | grep -c cookie= || true)
    told=$(sed -nE 's/.*FLOW_REMOVED.*tp_dst=([0-9]) reason=([a-z_]+).*/\1 \2/p' "$work/told" | sort -u | tr '\n' ';')
    echo "$version: entries left $left; told of 1 (group), 2 (meter), 3 (deleted by itself): $told"
    expected="1 group_delete;2 meter_delete;3 delete;"
    [ $version != OpenFlow13 ] || expected="1 group_delete;3 delete;"
    [ "$left" = 0 ] && [ "$told" = "$expected" ] || ok=false
done
$ok && echo "as described" || { echo "CHANGED"; exit 1; }
