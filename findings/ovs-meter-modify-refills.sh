#!/usr/bin/env bash
# Question: a meter has a rate of 1 Mb/s and a burst of 100 frames. A sender offers 8 Mb/s for 2 s, 2000 frames. How
#   many pass? And how many, if a controller meanwhile sends OFPMC_MODIFY each 100 ms with the values that the meter
#   has?
# Software: Open vSwitch 3.1.0 (Debian 12: openvswitch-switch 3.1.0-2+deb12u1), userspace (netdev) datapath.
# Most would expect: 350 both times, the burst and 2 s of the rate: nothing is changed. And counters that go on, since
#   a modified flow entry's do, and the meter's duration does.
# Seen: 350, but all or nearly all 2000 with the modifications. Each fills the bucket again, so the rate that holds is
#   the burst times the modifications per second, and sets the meter's packet and byte counters to 0.
set -euo pipefail

export DEBIAN_FRONTEND=noninteractive
command -v ovs-vswitchd >/dev/null || { apt-get update -qq; apt-get install -y -qq openvswitch-switch >/dev/null; }
for tool in ip python3; do command -v $tool >/dev/null || apt-get install -y -qq iproute2 python3 >/dev/null; done
ovs-vswitchd --version | head -n 1

work=$(mktemp -d)
inside=mmi$$
host=mmh$$
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
ovs-vsctl -t 20 add-br sw -- set bridge sw datapath_type=netdev protocols=OpenFlow13 fail_mode=secure \
    -- add-port sw port

meter=meter=1,kbps,burst,stats,band=type=drop,rate=1000,burst_size=800
came() {  # frames that the meter has counted
    ovs-ofctl -O OpenFlow13 meter-stats sw meter=1 | sed -nE 's/.*packet_in_count:([0-9]+).*/\1/p'
}
received() { ip netns exec $host cat /sys/class/net/nic/statistics/rx_packets; }
cat >"$work/send.py" <<'PY'
import socket, subprocess, sys, time
command = ["ovs-ofctl", "-O", "OpenFlow13", "mod-meter", "sw", sys.argv[2]]
line = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
line.bind(("nic", 0))
frame = bytes.fromhex("020000000002020000000001" + "88b5") + bytes(986)
start = time.monotonic()
running = []
for number in range(2000):
    if sys.argv[1] == "modify" and number % 100 == 50:
        running.append(subprocess.Popen(command))
    line.send(frame)
    time.sleep(max(0, start + (number + 1) / 1000 - time.monotonic()))
sys.exit(any(process.wait() for process in running))
PY
passed() {  # of 2000 frames, back to the host
    ovs-ofctl -O OpenFlow13 del-meters sw
    ovs-ofctl -O OpenFlow13 add-meter sw $meter
    ovs-ofctl -O OpenFlow13 add-flow sw dl_type=0x88b5,actions=meter:1,in_port
    before=$(received)
    ip netns exec $host python3 "$work/send.py" "$1" $meter
    sleep 0.5
    echo $(($(received) - before))
}
alone=$(passed leave)
before=$(came)
ovs-ofctl -O OpenFlow13 mod-meter sw $meter
after=$(came)
modified=$(passed modify)
echo "of 2000 frames pass: $alone, with 20 modifications to the same values: $modified; the meter's count of frames" \
    "before and after one modification: $before, $after"
[ "$alone" -ge 300 ] && [ "$alone" -le 450 ] && [ "$modified" -ge 1400 ] && [ "$before" -ge 1900 ] && [ "$after" -eq 0 ]
