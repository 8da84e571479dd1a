#!/usr/bin/env bash
# Question: an entry without timeouts has been idle for 25 s. A controller adds it again with an idle timeout of 20 s:
#   in OpenFlow 1.0, in 1.3, in 1.3 with OFPFF_RESET_COUNTS, and in 1.3 after deleting the old one. How long does the
#   new entry live?
# Software: Open vSwitch 3.1.0 (Debian 12: openvswitch-switch 3.1.0-2+deb12u1), userspace datapath (dummy).
# Most would expect: 20 s each time. By OpenFlow 1.3.5 (6.4) an added entry with the same match and priority as one that
#   is there replaces it, which is cleared from the table; a timeout begins with an entry. A controller that adds
#   entries again at intervals, so that they last as long as it does, relies on it.
# Seen: only after deleting. In the other three cases the new entry is gone at once, though it was added without an
#   error, and the message that it goes says "idle", with a duration of 0 s beside the idle timeout of 20. The time of
#   the last use is taken over from the entry that was replaced, or the time of its addition if it was never used, with
#   OFPFF_RESET_COUNTS as well. So adding anew does not extend an idle timeout, and may end it.
set -euo pipefail

export DEBIAN_FRONTEND=noninteractive
command -v ovs-vswitchd >/dev/null || { apt-get update -qq; apt-get install -y -qq openvswitch-switch >/dev/null; }
ovs-vswitchd --version | head -n 1

work=$(mktemp -d)
daemons=()
monitors=()
undo() {
    for daemon in "${monitors[@]}" "${daemons[@]}"; do kill "$daemon" 2>/dev/null || true; done
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
cases="openflow10 openflow13 reset_counts deleted"
for bridge in $cases; do # a bridge for each case
    ovs-vsctl -t 20 add-br $bridge -- set bridge $bridge datapath_type=dummy protocols=OpenFlow10,OpenFlow13 \
        fail_mode=secure -- add-port $bridge in-$bridge -- set interface in-$bridge type=dummy ofport_request=1
done

packet="in_port(1),eth(src=02:00:00:00:00:01,dst=02:00:00:00:00:02),eth_type(0x0800),ipv4(src=192.0.2.1,dst=192.0.2.2,\
proto=17,tos=0,ttl=64,frag=no),udp(src=1,dst=2)"
for bridge in $cases; do
    ovs-ofctl -O OpenFlow13 monitor $bridge 65535 >"$work/$bridge.said" 2>&1 &
    monitors+=($!)
    ovs-ofctl -O OpenFlow13 add-flow $bridge in_port=1,actions=in_port
    ovs-appctl -t "$work/y.ctl" netdev-dummy/receive in-$bridge "$packet"
done
ovs-appctl -t "$work/y.ctl" revalidator/wait
sleep 25

again=send_flow_rem,idle_timeout=20,in_port=1,actions=in_port
ovs-ofctl -O OpenFlow10 add-flow openflow10 $again
ovs-ofctl -O OpenFlow13 add-flow openflow13 $again
ovs-ofctl -O OpenFlow13 add-flow reset_counts reset_counts,$again
ovs-ofctl -O OpenFlow13 del-flows deleted in_port=1
ovs-ofctl -O OpenFlow13 add-flow deleted $again
sleep 4
kill "${monitors[@]}" # each writes what it was told when it ends
wait "${monitors[@]}" 2>/dev/null || true
monitors=()
ok=1
for bridge in $cases; do
    left=$(ovs-ofctl -O OpenFlow13 dump-flows $bridge | grep -c idle_timeout=20 || true)
    told=$(sed -nE 's/.*reason=idle .*duration([0-9]+)[.0-9]*s idle20 .*/\1/p' "$work/$bridge.said")
    echo "$bridge: entries there $left; removed as idle after whole seconds: ${told:-not}"
    if [ $bridge = deleted ]; then [ "$left$told" = 1 ] || ok=0; else
        [ "$left" = 0 ] && [ -n "$told" ] && [ "$told" -le 5 ] || ok=0
    fi
done
[ $ok = 1 ] && echo "as described" || { echo "CHANGED"; exit 1; }
