#!/usr/bin/env bash
# Question: a group of type select has two buckets of weight 1. One host sends another 400 UDP datagrams, each from a
#   port of its own, then 400 TCP segments alike. How many packets does each bucket get?
# Software: Open vSwitch 3.1.0 (Debian 12: openvswitch-switch 3.1.0-2+deb12u1), userspace (netdev) datapath.
# Most would expect: about 200 each time, since each of the 400 flows is hashed by addresses, protocol and ports.
# Seen: so for TCP, but all 400 datagrams go to one bucket. The hash that a select group uses when none is named
#   leaves out UDP ports, so all UDP between two hosts is one flow to it. With selection_method=dp_hash, an extension
#   that only a group of OpenFlow 1.5 can carry, UDP is spread as well; with selection_method=hash and no fields it is
#   not.
set -euo pipefail

export DEBIAN_FRONTEND=noninteractive
command -v ovs-vswitchd >/dev/null || { apt-get update -qq; apt-get install -y -qq openvswitch-switch >/dev/null; }
for tool in ip python3; do command -v $tool >/dev/null || apt-get install -y -qq iproute2 python3 >/dev/null; done
ovs-vswitchd --version | head -n 1

work=$(mktemp -d)
inside=sgi$$
host=sgh$$
daemons=()
undo() {
    for daemon in "${daemons[@]}"; do kill "$daemon" 2>/dev/null || true; done
    wait 2>/dev/null || true
    for each in $inside $host; do ip netns delete "$each" 2>/dev/null || true; done
    rm -rf "$work"
}
trap undo EXIT
export OVS_RUNDIR=$work OVS_DBDIR=$work OVS_LOGDIR=$work

for each in $inside $host; do ip netns add "$each"; done
ip link add port netns $inside type veth peer name nic netns $host
ip -n $inside link set port up
ip -n $host link set nic up

ovsdb-tool create "$work/conf.db" /usr/share/openvswitch/vswitch.ovsschema
ovsdb-server "$work/conf.db" --remote="punix:$work/db.sock" --unixctl="$work/x.ctl" -vconsole:off &
daemons+=($!)
until [ -S "$work/db.sock" ]; do sleep 0.1; done
ovs-vsctl --no-wait init
ip netns exec $inside ovs-vswitchd "unix:$work/db.sock" --unixctl="$work/y.ctl" -vconsole:off &
daemons+=($!)
ovs-vsctl -t 20 add-br sw -- set bridge sw datapath_type=netdev protocols=OpenFlow13,OpenFlow15 fail_mode=secure \
    -- add-port sw port -- set interface port ofport_request=1

cat >"$work/send.py" <<'PY'
import socket, struct, sys, time
udp = sys.argv[1] == "udp"
line = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
line.bind(("nic", 0))
for source in range(20000, 20400):
    if udp:
        segment = struct.pack("!HHHH", source, 7800, 8 + 32, 0) + bytes(32)
    else:
        segment = struct.pack("!HHIIBBHHH", source, 7800, 0, 0, 5 << 4, 2, 8192, 0, 0) + bytes(20)
    addresses = socket.inet_aton("192.0.2.1") + socket.inet_aton("192.0.2.2")
    header = struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(segment), 1, 0, 64, 17 if udp else 6, 0) + addresses
    line.send(bytes.fromhex("0200000000020200000000010800") + header + segment)
    time.sleep(0.002)
PY

shares() {  # packets of the two buckets: protocol $1, OpenFlow version $2, selection method $3
    ovs-ofctl -O OpenFlow13 del-groups sw
    ovs-ofctl -O "$2" add-group sw \
        "group_id=1,type=select$3,bucket=weight:1,actions=in_port,bucket=weight:1,actions=drop"
    ovs-ofctl -O OpenFlow13 add-flow sw "$1,actions=group:1"
    ip netns exec $host python3 "$work/send.py" "$1"
    sleep 1.5
    ovs-ofctl -O OpenFlow13 dump-group-stats sw |
        sed -nE 's/.*bucket0:packet_count=([0-9]+).*bucket1:packet_count=([0-9]+).*/\1 \2/p'
}

ok=true
spread() { [ $(($1 + $2)) -eq 400 ] && [ "$1" -ge 120 ] && [ "$2" -ge 120 ]; }
read -r first second <<<"$(shares udp OpenFlow13 "")"
echo "UDP: $first and $second of 400"
[ $((first + second)) -eq 400 ] && [ $((first * second)) -eq 0 ] || ok=false
read -r first second <<<"$(shares tcp OpenFlow13 "")"
echo "TCP: $first and $second"
spread "$first" "$second" || ok=false
read -r first second <<<"$(shares udp OpenFlow15 ,selection_method=hash)"
echo "UDP, selection_method=hash: $first and $second"
[ $((first + second)) -eq 400 ] && [ $((first * second)) -eq 0 ] || ok=false
read -r first second <<<"$(shares udp OpenFlow15 ,selection_method=dp_hash)"
echo "UDP, selection_method=dp_hash: $first and $second"
spread "$first" "$second" || ok=false
$ok && echo "as described" || { echo "CHANGED"; exit 1; }
