#!/usr/bin/env bash
# Question: an entry is there. Another application, which must not disturb what it did not install, adds entries with
#   OFPFF_CHECK_OVERLAP: one with another match that the same packets fit, and one with the very same match, both of the
#   same priority. What becomes of the first entry, in OpenFlow 1.3, 1.4 and 1.5?
# Software: Open vSwitch 3.1.0 (Debian 12: openvswitch-switch 3.1.0-2+deb12u1), userspace datapath (dummy).
# Most would expect: it stays, and both are refused with OFPFMFC_OVERLAP. By OpenFlow 1.3 (6.4) two entries overlap if
#   one packet may match both and their priority is the same, and with the flag the switch must refuse what overlaps;
#   entries with the same match overlap more than all others.
# Seen: only the one with another match is refused. The one with the same match replaces the entry, its cookie and
#   actions, without an error and without a message to the owner (send_flow_rem or not): the check is made only where no
#   entry has that match. So the flag protects from all but the plainest conflict.
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
    -- set bridge sw datapath_type=dummy protocols=OpenFlow13,OpenFlow14,OpenFlow15 fail_mode=secure

ok=true
for version in OpenFlow13 OpenFlow14 OpenFlow15; do
    of() { ovs-ofctl -O $version "$@"; }
    of del-flows sw
    of add-flow sw cookie=1,priority=5,send_flow_rem,ip,ip_dst=192.0.2.1,actions=drop
    of monitor sw 128 2>"$work/told" &
    monitor=$!
    daemons+=($monitor)
    sleep 1
    other=accepted
    of add-flow sw cookie=2,priority=5,check_overlap,ip,ip_src=192.0.2.1,actions=local 2>"$work/error" || other=refused
    grep -q OFPFMFC_OVERLAP "$work/error" || ok=false
    same=accepted
    of add-flow sw cookie=3,priority=5,check_overlap,ip,ip_dst=192.0.2.1,actions=local || same=refused
    sleep 1
    kill $monitor
    wait $monitor 2>/dev/null || true
    told=$(grep -c FLOW_REMOVED "$work/told" || true)
    left=$(of dump-flows sw | sed -nE 's/.*cookie=0x([0-9]).*actions=(.*)/entry \1: \2/p' | tr '\n' ';')
    echo "$version: another match: $other, the same match: $same; there afterwards: $left messages to the owner: $told"
    [ "$other $same $left$told" = "refused accepted entry 3: LOCAL;0" ] || ok=false
done
$ok && echo "as described" || { echo "CHANGED"; exit 1; }
