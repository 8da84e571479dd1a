#!/usr/bin/env bash
# Question: two flow entries have a hard timeout of 3 s. One is left alone; the other is modified once a second
#   (OFPFC_MODIFY, to the actions that it has). When are they gone?
# Software: Open vSwitch 3.1.0 (Debian 12: openvswitch-switch 3.1.0-2+deb12u1), userspace (netdev) datapath.
# Most would expect: both after 3 s. A hard timeout runs from an entry's installation, and by OpenFlow 1.3 (6.4) a
#   modification leaves timeouts and duration as they are: a lease that ends unless the entry is added anew.
# Seen: the modified entry is there after 8 s, with a duration of 8 s beside its hard timeout of 3. Each modification
#   starts the timeout anew; 3 s after the last one it goes. That holds for a modification of many entries by a wider
#   match too.
set -euo pipefail

export DEBIAN_FRONTEND=noninteractive
command -v ovs-vswitchd >/dev/null || { apt-get update -qq; apt-get install -y -qq openvswitch-switch >/dev/null; }
for tool in ip python3; do command -v $tool >/dev/null || apt-get install -y -qq iproute2 python3 >/dev/null; done
ovs-vswitchd --version | head -n 1

work=$(mktemp -d)
inside=mhi$$
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
ovs-vsctl -t 20 add-br sw -- set bridge sw datapath_type=netdev protocols=OpenFlow13 fail_mode=secure

flows() { ovs-ofctl -O OpenFlow13 dump-flows sw | sed -nE 's/.*cookie=0x([0-9]).*/\1/p' | sort | tr -d '\n'; }
ovs-ofctl -O OpenFlow13 add-flow sw cookie=1,hard_timeout=3,udp,udp_dst=1,actions=drop
ovs-ofctl -O OpenFlow13 add-flow sw cookie=2,hard_timeout=3,udp,udp_dst=2,actions=drop
ovs-ofctl -O OpenFlow13 add-flow sw cookie=3,hard_timeout=3,tcp,tcp_dst=3,actions=drop
for _ in 1 2 3 4 5 6 7 8; do
    sleep 1
    ovs-ofctl -O OpenFlow13 --strict mod-flows sw udp,udp_dst=2,actions=drop
    ovs-ofctl -O OpenFlow13 mod-flows sw tcp,actions=drop
done
after=$(flows)
ovs-ofctl -O OpenFlow13 dump-flows sw | grep cookie=0x2
sleep 5
end=$(flows)
echo "entry 1 was left alone, 2 modified, 3 modified by a wider match"
echo "there after 8 s: ${after:-none}, 5 s later: ${end:-none}"
[ "$after" = 23 ] && [ -z "$end" ]
