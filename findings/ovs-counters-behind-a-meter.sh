#!/usr/bin/env bash
# Question: a meter lets 20 frames per second pass. The entry that uses it hands on to the next table, whose entry
#   sends them through a patch port to a second switch, which sends them out. A host sends 300 frames within 3 s. How
#   many do the entries behind the meter count, and the patch port?
# Software: Open vSwitch 3.1.0 (Debian 12: openvswitch-switch 3.1.0-2+deb12u1), userspace (netdev) datapath.
# Most would expect: those that passed, about 80 with the first burst: a frame that a meter drops goes no further, and
#   counters of tables and ports behind a policer are how its losses are found.
# Seen: all 300, in the next table, at both ends of the patch port and in the second switch. Only the meter itself, a
#   second meter behind it and the real port at the end tell what passed.
set -euo pipefail

export DEBIAN_FRONTEND=noninteractive
command -v ovs-vswitchd >/dev/null || { apt-get update -qq; apt-get install -y -qq openvswitch-switch >/dev/null; }
for tool in ip python3; do command -v $tool >/dev/null || apt-get install -y -qq iproute2 python3 >/dev/null; done
ovs-vswitchd --version | head -n 1

work=$(mktemp -d)
inside=cmi$$
host=cmh$$
other=cmo$$
daemons=()
undo() {
    for daemon in "${daemons[@]}"; do kill "$daemon" 2>/dev/null || true; done
    wait 2>/dev/null || true
    for each in $inside $host $other; do ip netns delete "$each" 2>/dev/null || true; done
    rm -rf "$work"
}
trap undo EXIT
export OVS_RUNDIR=$work OVS_DBDIR=$work OVS_LOGDIR=$work

for each in $inside $host $other; do ip netns add "$each"; done
ip link add port netns $inside type veth peer name nic netns $host
ip link add away netns $inside type veth peer name nic netns $other
for each in port away; do ip -n $inside link set $each up; done
for each in $host $other; do ip -n $each link set nic up; done

ovsdb-tool create "$work/conf.db" /usr/share/openvswitch/vswitch.ovsschema
ovsdb-server "$work/conf.db" --remote="punix:$work/db.sock" --unixctl="$work/x.ctl" -vconsole:off &
daemons+=($!)
until [ -S "$work/db.sock" ]; do sleep 0.1; done
ovs-vsctl --no-wait init
ip netns exec $inside ovs-vswitchd "unix:$work/db.sock" --unixctl="$work/y.ctl" -vconsole:off &
daemons+=($!)
for bridge in one two; do
    ovs-vsctl -t 20 add-br $bridge -- set bridge $bridge datapath_type=netdev protocols=OpenFlow13 fail_mode=secure
done
ovs-vsctl -t 20 add-port one port
ovs-vsctl -t 20 add-port one to-two -- set interface to-two type=patch options:peer=to-one ofport_request=7 \
    -- add-port two to-one -- set interface to-one type=patch options:peer=to-two ofport_request=7
ovs-vsctl -t 20 add-port two away -- set interface away ofport_request=2

for bridge in one two; do
    ovs-ofctl -O OpenFlow13 add-meter $bridge meter=1,pktps,burst,stats,band=type=drop,rate=20,burst_size=20
done
ovs-ofctl -O OpenFlow13 mod-meter two meter=1,pktps,burst,stats,band=type=drop,rate=10000,burst_size=10000
ovs-ofctl -O OpenFlow13 add-flow one in_port=port,dl_type=0x88b5,actions=meter:1,goto_table:1
ovs-ofctl -O OpenFlow13 add-flow one table=1,dl_type=0x88b5,actions=output:7
ovs-ofctl -O OpenFlow13 add-flow two dl_type=0x88b5,actions=meter:1,goto_table:1
ovs-ofctl -O OpenFlow13 add-flow two table=1,dl_type=0x88b5,actions=output:2

ip netns exec $host python3 -c '
import socket, time
line = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
line.bind(("nic", 0))
for _ in range(300):
    line.send(bytes.fromhex("020000000002020000000001" + "88b5") + bytes(100))
    time.sleep(0.01)'
sleep 1.5
entry() { ovs-ofctl -O OpenFlow13 dump-flows "$1" "table=$2" | sed -nE 's/.*n_packets=([0-9]+).*/\1/p'; }
at_meter() {  # came, dropped
    ovs-ofctl -O OpenFlow13 meter-stats "$1" meter=1 | tr '\n' ' ' |
        sed -E 's/.*packet_in_count:([0-9]+).* packet_count:([0-9]+).*/\1 \2/'
}
at_port() {  # received, sent
    ovs-ofctl -O OpenFlow13 dump-ports "$1" "$2" | tr '\n' ' ' |
        sed -E 's/.*rx pkts=([0-9]+).*tx pkts=([0-9]+).*/\1 \2/'
}
read -r came dropped <<<"$(at_meter one)"
read -r second _ <<<"$(at_meter two)"
read -r _ sent <<<"$(at_port one 7)"
read -r received _ <<<"$(at_port two 7)"
arrived=$(ip netns exec $other cat /sys/class/net/nic/statistics/rx_packets)
passed=$((came - dropped))
behind="$(entry one 1) $sent $received $(entry two 0) $(entry two 1)"
echo "the meter counted $came and dropped $dropped, so $passed passed; a meter behind it: $second; arrived: $arrived"
echo "counted behind it, by the next table, both ends of the patch port, both tables of the second switch: $behind"
[ "$came" -eq 300 ] && [ "$passed" -lt 150 ] && [ "$second" -eq "$passed" ] && [ $((arrived - passed)) -le 10 ] \
    && [ "$behind" = "300 300 300 300 300" ]
