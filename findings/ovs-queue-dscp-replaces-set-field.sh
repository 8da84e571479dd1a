#!/usr/bin/env bash
# Question: a port has three queues: queue 0 with dscp=10, queue 1 with dscp=18, queue 2 without. UDP of DSCP 8 passes
#   entries with and without set_queue, some of which set DSCP 46. With which DSCP does it leave?
# Software: Open vSwitch 3.1.0 (Debian 12: openvswitch-switch 3.1.0-2+deb12u1), userspace (netdev) datapath.
# Most would expect: what an entry sets stays, and the queue marks the rest: 8 and 46 without set_queue, 18 and 46 in
#   queue 1, 46 in queue 2. The database's manual says no more than that a queue's traffic is marked.
# Seen: a queue's dscp replaces what the entry has set, in whichever order the entry has set_queue and set_field; on
#   this datapath queue 0 does so to all packets without set_queue, too. 46 survives only in a queue without dscp. The
#   entry as dump-flows shows it says 46 still, and no counter tells.
set -euo pipefail

export DEBIAN_FRONTEND=noninteractive
command -v ovs-vswitchd >/dev/null || { apt-get update -qq; apt-get install -y -qq openvswitch-switch >/dev/null; }
for tool in ip python3; do command -v $tool >/dev/null || apt-get install -y -qq iproute2 python3 >/dev/null; done
ovs-vswitchd --version | head -n 1

work=$(mktemp -d)
inside=qdi$$
host=qdh$$
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
for each in in out; do
    ip link add $each netns $inside type veth peer name nic$each netns $host
    ip -n $inside link set $each up
    ip -n $host link set nic$each up
done

ovsdb-tool create "$work/conf.db" /usr/share/openvswitch/vswitch.ovsschema
ovsdb-server "$work/conf.db" --remote="punix:$work/db.sock" --unixctl="$work/x.ctl" -vconsole:off &
daemons+=($!)
until [ -S "$work/db.sock" ]; do sleep 0.1; done
ovs-vsctl --no-wait init
ip netns exec $inside ovs-vswitchd "unix:$work/db.sock" --unixctl="$work/y.ctl" -vconsole:off &
daemons+=($!)
ovs-vsctl -t 20 add-br sw -- set bridge sw datapath_type=netdev protocols=OpenFlow13 fail_mode=secure \
    -- add-port sw in -- set interface in ofport_request=1 -- add-port sw out -- set interface out ofport_request=2 \
    -- set port out qos=@q -- --id=@q create qos type=linux-htb other-config:max-rate=100000000 \
    queues:0=@zero queues:1=@one queues:2=@two -- --id=@zero create queue dscp=10 \
    -- --id=@one create queue dscp=18 -- --id=@two create queue other-config:max-rate=50000000 >/dev/null

entry() { ovs-ofctl -O OpenFlow13 add-flow sw "udp,in_port=1,udp_dst=$1,actions=$2"; }
entry 7801 output:2
entry 7802 "set_field:46->ip_dscp,output:2"
entry 7803 "set_queue:1,output:2"
entry 7804 "set_field:46->ip_dscp,set_queue:1,output:2"
entry 7805 "set_queue:1,set_field:46->ip_dscp,output:2"
entry 7806 "set_queue:2,set_field:46->ip_dscp,output:2"

cat >"$work/send.py" <<'PY'
import socket, struct
sender, receiver = (socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(0x0800)) for _ in range(2))
sender.bind(("nicin", 0))
receiver.bind(("nicout", 0))
receiver.settimeout(5)
for port in range(7801, 7807):
    addresses = socket.inet_aton("192.0.2.1") + socket.inet_aton("192.0.2.2")
    header = struct.pack("!BBHHHBBH", 0x45, 8 << 2, 28, 1, 0, 64, 17, 0) + addresses
    sender.send(bytes.fromhex("0200000000020200000000010800") + header + struct.pack("!HHHH", 9, port, 8, 0))
    while True:
        frame = receiver.recv(200)
        if struct.unpack("!H", frame[36:38])[0] == port:
            break
    print(frame[15] >> 2, end=" ")
PY

# shellcheck disable=SC2046
set -- $(ip netns exec $host python3 "$work/send.py")
echo "without set_queue, nothing set: $1; 46 set: $2"
echo "set_queue:1, nothing set: $3; 46 set before it: $4; after it: $5"
echo "set_queue:2, which has no dscp, 46 set: $6"
[ "$*" = "10 10 18 18 18 46" ] && echo "as described" || { echo "CHANGED"; exit 1; }
