#!/usr/bin/env bash
# Question: a switch has a flow entry, a group and a meter. Its control connection has a round trip of 0.2 s, then of
#   1.6 s. What does Ryu's REST API (ofctl_rest) answer to GET /stats/flow, /stats/groupdesc and /stats/meterconfig?
# Software: Ryu 4.34 with eventlet 0.41.3, Python 3.11 (pip, own venv); Open vSwitch 3.1.0 (Debian 12:
#   openvswitch-switch 3.1.0-2+deb12u1), userspace datapath (dummy).
# Most would expect: the entry, the group and the meter both times, a second later; if that takes too long for Ryu, an
#   error: the API has 404 for a switch that is not connected and 400 for a bad request.
# Seen: with 1.6 s each answer is 200 OK with an empty list, as from a switch that holds nothing. Ryu waits for 1 s and
#   then returns what has come by then; the reply itself, 0.6 s later, is thrown away. So whoever compares what a switch
#   has with what it should have installs it all again, or takes a rule for gone that is in force.
set -euo pipefail

export DEBIAN_FRONTEND=noninteractive
command -v ovs-vswitchd >/dev/null || { apt-get update -qq; apt-get install -y -qq openvswitch-switch >/dev/null; }
command -v python3 >/dev/null || apt-get install -y -qq python3 python3-venv >/dev/null
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

python3 -m venv "$work/venv"
pip() {
    "$work/venv/bin/python" -m pip install --quiet --no-compile --disable-pip-version-check "$@" 2>&1 |
        grep -v '^WARNING: Location' || true
}
pip setuptools==66.1.1 wheel==0.45.1 pbr==7.1.3
pip --no-build-isolation ryu==4.34 eventlet==0.41.3

read -r openflow rest relayed < <(python3 -c '
import socket
sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(3)]
print(*(each.getsockname()[1] for each in sockets))')

ovsdb-tool create "$work/conf.db" /usr/share/openvswitch/vswitch.ovsschema
ovsdb-server "$work/conf.db" --remote="punix:$work/db.sock" --unixctl="$work/x.ctl" -vconsole:off &
daemons+=($!)
until [ -S "$work/db.sock" ]; do sleep 0.1; done
ovs-vsctl --no-wait init
ovs-vswitchd "unix:$work/db.sock" --unixctl="$work/y.ctl" -vconsole:off --enable-dummy --disable-system &
daemons+=($!)
ovs-vsctl -t 20 add-br sw -- set bridge sw datapath_type=dummy protocols=OpenFlow13 fail_mode=secure \
    other-config:datapath-id=0000000000000001

cat >"$work/controller.py" <<'PY'
import logging
import sys

import eventlet.wsgi

eventlet.wsgi.ALREADY_HANDLED = object()  # a name that left eventlet; Ryu imports it for web sockets, unused here
from ryu import cfg
from ryu.base import app_manager

logging.basicConfig(level=logging.WARNING)
openflow, rest = sys.argv[1:]
cfg.CONF(args=["--ofp-tcp-listen-port", openflow, "--ofp-listen-host", "127.0.0.1", "--wsapi-port", rest,
               "--wsapi-host", "127.0.0.1"], project="ryu")
app_manager.AppManager.run_apps(["ryu.app.ofctl_rest"])
PY
cat >"$work/relay.py" <<'PY'
"""Relay connections from port $2 to $3; every byte takes $1 seconds in each direction."""
import asyncio
import sys

delay = float(sys.argv[1])


async def pump(reader, writer):
    while data := await reader.read(65536):
        asyncio.get_running_loop().call_later(delay, writer.write, data)


async def relay(reader, writer):
    far_reader, far_writer = await asyncio.open_connection("127.0.0.1", int(sys.argv[3]))
    await asyncio.gather(pump(reader, far_writer), pump(far_reader, writer))


async def main():
    async with await asyncio.start_server(relay, "127.0.0.1", int(sys.argv[2])) as server:
        await server.serve_forever()


asyncio.run(main())
PY
cat >"$work/ask.py" <<'PY'
"""Print the status of each answer and the number of entries in it."""
import json
import sys
import time
from urllib.error import URLError
from urllib.request import urlopen


def answer(path):
    with urlopen(f"http://127.0.0.1:{sys.argv[1]}/stats/{path}", timeout=20) as response:
        return response.status, json.load(response)


deadline = time.monotonic() + 60
while True:
    try:
        if answer("switches") == (200, [1]):
            break
    except URLError:  # Ryu is not up yet
        pass
    assert time.monotonic() < deadline, "the switch did not connect"
    time.sleep(0.2)
time.sleep(3)
for path in ("flow/1", "groupdesc/1", "meterconfig/1"):
    status, facts = answer(path)
    print(status, len(facts["1"]), end="; ")
PY
"$work/venv/bin/python" -W ignore "$work/controller.py" "$openflow" "$rest" >"$work/said" 2>&1 &
daemons+=($!)
answers() {  # by a connection that takes $1 seconds in each direction
    python3 "$work/relay.py" "$1" "$relayed" "$openflow" 2>/dev/null &
    relay=$!
    ovs-vsctl set-controller sw "tcp:127.0.0.1:$relayed"  # the first controller empties the switch
    ovs-ofctl -O OpenFlow13 add-group sw group_id=1,type=indirect,bucket=actions=in_port
    ovs-ofctl -O OpenFlow13 add-meter sw meter=1,kbps,band=type=drop,rate=1000
    ovs-ofctl -O OpenFlow13 add-flow sw udp,actions=meter:1,group:1
    python3 "$work/ask.py" "$rest"
    ovs-vsctl del-controller sw
    kill $relay
    wait $relay 2>/dev/null || true
}
near=$(answers 0.1)
far=$(answers 0.8)
errors=$(grep -cE '^(WARNING|ERROR|CRITICAL)' "$work/said" || true)
echo "status and number of entries of flow, groupdesc, meterconfig: round trip 0.2 s: $near 1.6 s: $far"
echo "warnings and errors of Ryu: $errors"
[ "$near" = "200 1; 200 1; 200 1; " ] && [ "$far" = "200 0; 200 0; 200 0; " ] && [ "$errors" = 0 ] &&
    echo "as described" || { echo "CHANGED"; exit 1; }
