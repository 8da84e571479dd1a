#!/usr/bin/env bash
# Question: a controller puts a flow entry into a bundle of OpenFlow 1.5 and commits it with OFPBF_TIME: to be executed
#   in an hour, as for a change of several switches at the same moment. The flag is in all messages of the bundle. What
#   does Open vSwitch answer, and when is the entry there?
# Software: Open vSwitch 3.1.0 (Debian 12: openvswitch-switch 3.1.0-2+deb12u1), userspace datapath (dummy).
# Most would expect: in an hour, or an error and no entry. OpenFlow 1.5.1 has OFPBFC_SCHED_NOT_SUPPORTED for a switch
#   that cannot schedule, OFPBFC_SCHED_FUTURE for a time too far ahead and OFPBFC_BAD_FLAGS for a flag that a switch
#   does not know.
# Seen: opening, addition and commit are confirmed, and the entry is there at once. With a time an hour ago, or without
#   a time, it is the same. A flag that no version of OpenFlow has, 0x8000, is accepted as well. Only who asks first is
#   warned: the request for the bundle features (OFPMP_BUNDLE_FEATURES) is refused as an unknown multipart message.
set -euo pipefail

export DEBIAN_FRONTEND=noninteractive
command -v ovs-vswitchd >/dev/null || { apt-get update -qq; apt-get install -y -qq openvswitch-switch >/dev/null; }
command -v python3 >/dev/null || apt-get install -y -qq python3 >/dev/null
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
ovs-vsctl -t 20 add-br sw -- set bridge sw datapath_type=dummy protocols=OpenFlow15 fail_mode=secure

cat >"$work/commit.py" <<'PY'
"""Ask for the bundle features, then commit an entry in a bundle with flags $2 at $3 s from now; print the answers."""
import socket
import struct
import sys
import time

VERSION = 6  # OpenFlow 1.5
HELLO, ERROR, FLOW_MOD, MULTIPART, BARRIER, BARRIER_REPLY, BUNDLE_CONTROL, BUNDLE_ADD = 0, 1, 14, 18, 20, 21, 33, 34
NAMES = {(BUNDLE_CONTROL, 1): "opened", (BUNDLE_CONTROL, 5): "committed"}
ANY = 0xFFFFFFFF
path, flags, ahead = sys.argv[1], int(sys.argv[2], 16), sys.argv[3]
line = socket.socket(socket.AF_UNIX)
line.settimeout(60)
line.connect(path)


def message(kind, body=b"", number=0):
    return struct.pack("!BBHI", VERSION, kind, 8 + len(body), number) + body


def receive(octets):
    data = b""
    while len(data) < octets:
        data += line.recv(octets - len(data)) or sys.exit("closed")
    return data


def ask(*messages):
    """What is answered up to the barrier reply."""
    line.sendall(b"".join(messages) + message(BARRIER))
    answers = []
    while True:
        _, kind, length, _ = struct.unpack("!BBHI", receive(8))
        body = receive(length - 8)
        if kind == BARRIER_REPLY:
            return answers or ["no answer"]
        if kind == ERROR:
            answers.append("error %d, %d" % struct.unpack_from("!HH", body))
        elif kind == BUNDLE_CONTROL:
            answers.append(NAMES[kind, struct.unpack_from("!H", body, 4)[0]])


def control(kind, prop=b""):
    return message(BUNDLE_CONTROL, struct.pack("!IHH", 1, kind, flags) + prop, 1)


at = b"" if ahead == "none" else struct.pack("!HHIQII", 1, 24, 0, int(time.time()) + int(ahead), 0, 0)
entry = struct.pack("!QQBBHHHIIIHHHH4x", 7, 0, 0, 0, 0, 0, 9, ANY, ANY, ANY, 0, 0, 1, 4)
line.sendall(message(HELLO, struct.pack("!HHI", 1, 8, 1 << VERSION)))
features = ask(message(MULTIPART, struct.pack("!HHII", 19, 0, 0, 0)))
bundle = [control(0), message(BUNDLE_ADD, struct.pack("!IHH", 1, 0, flags) + message(FLOW_MOD, entry, 2), 2),
          control(4, at)]
print("features:", *features, "bundle:", *ask(*bundle))
PY

outcome() { # of a bundle with flags $1 for $2 seconds from now: answers, entries then
    ovs-ofctl -O OpenFlow15 del-flows sw
    echo "$(python3 "$work/commit.py" "$work/sw.mgmt" "$1" "$2") entries:" \
        "$(ovs-ofctl -O OpenFlow15 dump-flows sw | grep -c cookie=0x7 || true)"
}
plain=$(outcome 0 none)
ahead=$(outcome 4 3600)
ago=$(outcome 4 -3600)
without=$(outcome 4 none)
unknown=$(outcome 8000 none)
printf '%s\n' "not scheduled:    $plain" "in an hour:       $ahead" "an hour ago:      $ago" \
    "without a time:   $without" "flag 0x8000:      $unknown"
expected="features: error 1, 2 bundle: opened committed entries: 1"
for seen in "$plain" "$ahead" "$ago" "$without" "$unknown"; do
    [ "$seen" = "$expected" ] || { echo "CHANGED"; exit 1; }
done
echo "as described"
