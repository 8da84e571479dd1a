#!/usr/bin/env bash
# Question: how does the quality of a channel (GSNR, signal bandwidth) that GNPy predicts between two ROADMs change
#   with the length of the one fibre between them, from 60 to 200 km?
# Software: GNPy 3.0.1 (gnpy-path-request, with its example equipment, Voyager mode 1), Python 3.11 (pip, own venv).
# Most would expect: it falls with every kilometre; so a length that is too long stays so for all greater ones, and a
#   planner can search for the reach by bisection.
# Seen: it falls to 20.1 dB at 130 km, jumps up by 1.6 dB at 135 km, falls again and jumps up by 1.6 dB once more at
#   150 km; 200 km are better than 130. From 135 km on GNPy takes a hybrid Raman amplifier for the far end, without
#   being asked. From 150 km on it splits the fibre that was given as one and puts an amplifier into it. No warning
#   tells of either.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --no-compile --disable-pip-version-check gnpy==3.0.1 2>&1 \
    | grep -v '^WARNING: Location' || true
cd "$folder"
"$folder/venv/bin/python" - <<'PYTHON'
import json
import subprocess
import sys
from pathlib import Path

import gnpy

EQUIPMENT = Path(gnpy.__file__).parent / "example-data" / "eqpt_config.json"
PROGRAM = Path(sys.executable).with_name("gnpy-path-request")
LENGTHS_KM = range(60, 205, 5)


def topology():
    """A star: from H a fibre of every length to an own ROADM."""
    ends = ["H", *map(str, LENGTHS_KM)]
    elements = [{"uid": f"{kind} {end}", "type": name} for kind, name in (("trx", "Transceiver"), ("roadm", "Roadm"))
                for end in ends]
    joints = [pair for end in ends for pair in ((f"trx {end}", f"roadm {end}"), (f"roadm {end}", f"trx {end}"))]
    for km in LENGTHS_KM:
        for start, end in (("H", km), (km, "H")):
            fibre = f"fiber {start}-{end}"
            params = {"length": km, "length_units": "km", "loss_coef": 0.2, "con_in": 0.5, "con_out": 0.5}
            elements.append({"uid": fibre, "type": "Fiber", "type_variety": "SSMF", "params": params})
            joints += [(f"roadm {start}", fibre), (fibre, f"roadm {end}")]
    return {"elements": elements, "connections": [{"from_node": start, "to_node": end} for start, end in joints]}


def request(km):
    bandwidth = {"technology": "flexi-grid", "trx_type": "Voyager", "trx_mode": "mode 1", "spacing": 50e9,
                 "path_bandwidth": 100e9}
    return {"request-id": str(km), "source": "trx H", "destination": f"trx {km}", "src-tp-id": "trx H",
            "dst-tp-id": f"trx {km}", "bidirectional": False, "path-constraints": {"te-bandwidth": bandwidth}}


Path("network.json").write_text(json.dumps(topology()))
Path("services.json").write_text(json.dumps({"path-request": [request(km) for km in LENGTHS_KM]}))
run = subprocess.run([PROGRAM, "network.json", "services.json", "-e", EQUIPMENT, "-o", "answer.json",
                      "--save-network", "built.json"],
                     capture_output=True, text=True, check=True)
built = json.loads(Path("built.json").read_text())["elements"]
types = {element["uid"]: element["type_variety"] for element in built if element["type"] == "Edfa"}
gsnr_db, amplifiers = {}, {}
for answer in json.loads(Path("answer.json").read_text())["gnpy-path-computation:responses"]["response"]:
    km, found = int(answer["response-id"]), answer["path-properties"]
    gsnr_db[km] = next(float(metric["accumulative-value"]) for metric in found["path-metric"]
                       if metric["metric-type"] == "SNR-bandwidth")
    hops = [hop["path-route-object"].get("num-unnum-hop", {}).get("node-id", "") for hop in found["path-route-objects"]]
    amplifiers[km] = [types[hop] for hop in hops if hop in types]
for km in LENGTHS_KM:
    print(f"{km:3} km: {gsnr_db[km]:.2f} dB, {', '.join(amplifiers[km])}")
rises = {km: gsnr_db[km] - gsnr_db[km - 5] for km in LENGTHS_KM[1:] if gsnr_db[km] > gsnr_db[km - 5]}
print("rises:", ", ".join(f"{km} km by {rise:.2f} dB" for km, rise in rises.items()))
is_told = any(word in run.stderr.lower() for word in ("split", "raman", "hybrid", "amplifier"))
ok = set(rises) == {135, 150} and min(rises.values()) > 1 and gsnr_db[200] > gsnr_db[130] and not is_told
hybrid = [km for km in LENGTHS_KM if amplifiers[km][-1].startswith("hybrid")]
amplified = [km for km in LENGTHS_KM if len(amplifiers[km]) > 2]
ok = ok and hybrid == [135, 140, 145] and amplified == list(range(150, 205, 5))
print("as described" if ok else "CHANGED")
sys.exit(0 if ok else 1)
PYTHON
