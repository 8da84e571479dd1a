#!/usr/bin/env bash
# Question: ptp4l is the master of a link and sends Sync eight times a second, with the time in a Follow_Up (two-step).
#   Which flags and which interval does scapy read in its Sync? And what is on the wire when scapy writes twoStepFlag?
# Software: linuxptp 3.1.1 (Debian 12: linuxptp 3.1.1-4+b2), software time stamps over UDP; scapy 2.8.0
#   (contrib/ptp_v2.py), Python 3.11 (pip, own venv).
# Most would expect: twoStepFlag and -3 (2^-3 s), and octets 02 00: IEEE 1588-2008 has twoStepFlag as bit 1 of the first
#   octet of flagField (table 20), and logMessageInterval is an Integer8 (13.3.2.11).
# Seen: leap59 and 253. scapy has the two octets of flagField in the other order, so each flag of the first is read as
#   one of the second: every two-step Sync announces a leap second, and no message has twoStepFlag. A Sync that scapy
#   writes with twoStepFlag has octets 00 02; for a clock it is one-step, with a time of 0. Intervals below a second
#   come out as 128 to 255.
set -euo pipefail

export DEBIAN_FRONTEND=noninteractive
command -v ptp4l >/dev/null || { apt-get update -qq; apt-get install -y -qq linuxptp >/dev/null; }
for tool in ip python3; do command -v $tool >/dev/null || apt-get install -y -qq iproute2 python3 >/dev/null; done
python3 -c 'import ensurepip' 2>/dev/null || apt-get install -y -qq python3-venv >/dev/null
echo "linuxptp $(ptp4l -v)"

work=$(mktemp -d)
master=ptm$$
listener=ptl$$
daemons=()
undo() {
    for daemon in "${daemons[@]}"; do kill "$daemon" 2>/dev/null || true; done
    wait 2>/dev/null || true
    for each in $master $listener; do ip netns delete "$each" 2>/dev/null || true; done
    rm -rf "$work"
}
trap undo EXIT

python3 -m venv "$work/venv"
"$work/venv/bin/python" -m pip install --quiet --no-compile --disable-pip-version-check scapy==2.8.0 2>&1 |
    grep -v '^WARNING: Location' || true

for each in $master $listener; do ip netns add "$each"; done
ip link add clock netns $master type veth peer name nic netns $listener
ip -n $master address add 192.0.2.1/24 dev clock
ip -n $listener address add 192.0.2.2/24 dev nic
ip -n $master link set clock up
ip -n $listener link set nic up

cat >"$work/ptp.conf" <<'CONF'
[global]
time_stamping software
twoStepFlag 1
logSyncInterval -3
logAnnounceInterval -1
announceReceiptTimeout 2
uds_address /dev/null/none
CONF
sed -i "s#/dev/null/none#$work/ptp4l#" "$work/ptp.conf"
ip netns exec $master ptp4l -f "$work/ptp.conf" -i clock -4 -S -q &
daemons+=($!)

cat >"$work/read.py" <<'PY'
import socket

from scapy.contrib.ptp_v2 import PTP

line = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(0x0800))
line.bind(("nic", 0))
line.settimeout(30)
while True:
    frame = line.recv(2000)
    message = frame[42:]
    if frame[23] == 17 and frame[36:38] == (319).to_bytes(2, "big") and message[0] & 0x0F == 0:
        break
read = PTP(message)
interval = int.from_bytes(message[33:34], "big", signed=True)
written = bytes(PTP(messageType="Sync", flags="twoStepFlag"))[6:8]
print(f"Sync of ptp4l: flagField {message[6:8].hex(' ')}, logMessageInterval {interval}")
print(f"scapy reads: {read.flags}, {read.logMessageInterval}")
print(f"scapy writes twoStepFlag as {written.hex(' ')}")
seen = (message[6:8].hex(), interval, str(read.flags), read.logMessageInterval, written.hex())
assert seen == ("0200", -3, "leap59", 253, "0002"), f"CHANGED: {seen}"
PY
ip netns exec $listener "$work/venv/bin/python" -W ignore "$work/read.py"
echo "as described"
