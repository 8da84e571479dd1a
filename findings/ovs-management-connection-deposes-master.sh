#!/usr/bin/env bash
# Question: two controllers share a switch by OpenFlow roles (1.3.5, section 6.3.6). (a) A tool on the switch's machine,
#   connected to the bridge's management socket as ovs-ofctl is, asks for the role of master, and leaves. Who is master
#   then? (b) All controllers of the bridge are deleted and a new one is set. Does the switch still know the generation?
# Software: Open vSwitch 3.1.0 (Debian 12: openvswitch-switch 3.1.0-2+deb12u1), userspace (netdev) datapath.
# Most would expect: (a) The management socket is for tools and has no part in the roles of the controllers that
#   `ovs-vsctl list controller` shows; at least, when the tool is gone the master is the one before. (b) With its last
#   controller the switch forgets the generation; a new one may begin at 1.
# Seen: (a) The tool becomes master and the controller a slave, whose changes are refused (is_slave). After the tool has
#   left nobody is master, and the controller cannot become it again with its own generation, as it is stale now.
#   (b) The generation is known as long as ovs-vswitchd runs: 1 is refused as stale.
set -euo pipefail

export DEBIAN_FRONTEND=noninteractive
command -v ovs-vswitchd >/dev/null || { apt-get update -qq; apt-get install -y -qq openvswitch-switch >/dev/null; }
for tool in ip python3; do command -v $tool >/dev/null || apt-get install -y -qq iproute2 python3 >/dev/null; done
ovs-vswitchd --version | head -n 1

work=$(mktemp -d)
inside=bri$$
daemons=()
undo() {
    for daemon in "${daemons[@]}"; do kill "$daemon" 2>/dev/null || true; done
    wait 2>/dev/null || true
    ip netns delete "$inside" 2>/dev/null || true
    rm -rf "$work"
}
trap undo EXIT
export OVS_RUNDIR=$work OVS_DBDIR=$work OVS_LOGDIR=$work

ip netns add $inside
ovsdb-tool create "$work/conf.db" /usr/share/openvswitch/vswitch.ovsschema
ovsdb-server "$work/conf.db" --remote="punix:$work/db.sock" --unixctl="$work/x.ctl" -vconsole:off &
daemons+=($!)
until [ -S "$work/db.sock" ]; do sleep 0.1; done
ovs-vsctl --no-wait init
ip netns exec $inside ovs-vswitchd "unix:$work/db.sock" --unixctl="$work/y.ctl" -vconsole:off &
daemons+=($!)
ovs-vsctl -t 20 add-br sw -- set bridge sw datapath_type=netdev protocols=OpenFlow13 fail_mode=secure
until [ -S "$work/sw.mgmt" ]; do sleep 0.1; done

cat >"$work/roles.py" <<'PY'
"""Ask for roles as two controllers and as a tool on the management socket; print what the switch answers."""
import socket
import struct
import subprocess
import sys

HELLO, ERROR, ECHO, ECHO_REPLY, FLOW_MOD, BARRIER, BARRIER_REPLY, ROLE, ROLE_REPLY = 0, 1, 2, 3, 14, 20, 21, 24, 25
NO_CHANGE, EQUAL, MASTER, SLAVE = range(4)
NAMES = {(11, 0): "stale", (1, 10): "is_slave"}  # OFPET_ROLE_REQUEST_FAILED, OFPET_BAD_REQUEST


class Party:
    def __init__(self, line):
        self.line, self.number = line, 0
        self.line.settimeout(20)
        self.send(HELLO)

    def send(self, kind, body=b""):
        self.number += 1
        self.line.sendall(struct.pack("!BBHI", 4, kind, 8 + len(body), self.number) + body)
        return self.number

    def answer(self, numbers):
        while True:
            _, kind, size, number = struct.unpack("!BBHI", self.line.recv(8, socket.MSG_WAITALL))
            body = self.line.recv(size - 8, socket.MSG_WAITALL) if size > 8 else b""
            if kind == ECHO:
                self.line.sendall(struct.pack("!BBHI", 4, ECHO_REPLY, 8 + len(body), number) + body)
            elif number in numbers and kind == ERROR:
                return NAMES[struct.unpack("!HH", body[:4])]
            elif number in numbers and kind == ROLE_REPLY:
                return "no role,equal,master,slave".split(",")[struct.unpack("!I", body[:4])[0]]
            elif number in numbers and kind == BARRIER_REPLY:
                return "done"

    def ask(self, role, generation):
        return self.answer({self.send(ROLE, struct.pack("!I4xQ", role, generation))})

    def role(self):
        return self.ask(NO_CHANGE, 0)

    def add_entry(self):
        any_port = 0xFFFFFFFF
        fixed = struct.pack("!QQBBHHHIIIHH", 0, 0, 0, 0, 0, 0, 100, any_port, any_port, any_port, 0, 0)
        numbers = {self.send(FLOW_MOD, fixed + struct.pack("!HH4x", 1, 4)), self.send(BARRIER)}
        return self.answer(numbers)


def controllers(count):
    listeners = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    targets = [f"tcp:127.0.0.1:{listener.getsockname()[1]}" for listener in listeners]
    subprocess.run(["ovs-vsctl", "-t", "20", "set-controller", "sw", *targets], check=True)
    for listener in listeners:
        listener.settimeout(20)
    return [Party(listener.accept()[0]) for listener in listeners]


first, second = controllers(2)
print("controller with 100:", first.ask(MASTER, 100), "| the other:", second.ask(SLAVE, 100))
management = socket.socket(socket.AF_UNIX)
management.connect(sys.argv[1])
tool = Party(management)
print("tool with 101:", tool.ask(MASTER, 101))
print("controller:", first.role(), "| adds an entry:", first.add_entry())
management.close()
print("after the tool: controller:", first.role(), "| the other:", second.role(), "| with 100:", first.ask(MASTER, 100))
for party in (first, second):
    party.line.close()
subprocess.run(["ovs-vsctl", "-t", "20", "del-controller", "sw"], check=True)
(new,) = controllers(1)
print("new controller with 1:", new.ask(MASTER, 1), "| with 101:", new.ask(MASTER, 101))
PY

seen=$(ip netns exec $inside bash -c "ip link set lo up && python3 '$work/roles.py' '$work/sw.mgmt'")
echo "$seen"
[ "$seen" = "controller with 100: master | the other: slave
tool with 101: master
controller: slave | adds an entry: is_slave
after the tool: controller: slave | the other: slave | with 100: stale
new controller with 1: stale | with 101: master" ]
