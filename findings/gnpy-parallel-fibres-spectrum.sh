#!/usr/bin/env bash
# Question: two ROADMs are joined by two parallel pairs of fibres, each with room for 96 channels at 50 GHz. GNPy is
#   asked for two disjoint services of 48 channels each, then of 90 each. Which part of the spectrum does each get?
# Software: GNPy 3.0.1 (gnpy-path-request, with its example equipment), Python 3.11 (pip, own venv).
# Most would expect: the same slots for both, since they travel on different fibres; 192 channels fit in all.
# Seen: the paths are on different fibres, but the second service gets other slots than the first, and of 90 channels
#   each the second is blocked with NO_SPECTRUM while its fibre is empty: two parallel pairs hold as much as one. GNPy
#   occupies a service's slots in the opposite direction as well, and takes the first line between the two ROADMs for
#   the opposite of both. By way of a ROADM in between (A-B-Z and A-C-Z) each service gets all it asked for, in the
#   same slots.
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
PARALLEL = [("A", "Z", "1"), ("A", "Z", "2")]
APART = [("A", "B", "1"), ("B", "Z", "1"), ("A", "C", "2"), ("C", "Z", "2")]
KM = {"1": 50, "2": 60}


def topology(spans):
    elements = [{"uid": f"trx {site}", "type": "Transceiver"} for site in "AZ"]
    sites = sorted({site for span in spans for site in span[:2]})
    elements += [{"uid": f"roadm {site}", "type": "Roadm"} for site in sites]
    joints = [pair for site in "AZ" for pair in ((f"trx {site}", f"roadm {site}"), (f"roadm {site}", f"trx {site}"))]
    for one, other, name in spans:
        for start, end in ((one, other), (other, one)):
            fibre = f"fiber {start}-{end} {name}"
            params = {"length": KM[name], "length_units": "km", "loss_coef": 0.2, "con_in": 0.5, "con_out": 0.5}
            elements.append({"uid": fibre, "type": "Fiber", "type_variety": "SSMF", "params": params})
            joints += [(f"roadm {start}", fibre), (fibre, f"roadm {end}")]
    return {"elements": elements, "connections": [{"from_node": start, "to_node": end} for start, end in joints]}


def request(number, channels):
    bandwidth = {"technology": "flexi-grid", "trx_type": "Voyager", "trx_mode": "mode 1", "spacing": 50e9,
                 "path_bandwidth": channels * 100e9}
    return {"request-id": number, "source": "trx A", "destination": "trx Z", "src-tp-id": "trx A", "dst-tp-id": "trx Z",
            "bidirectional": False, "path-constraints": {"te-bandwidth": bandwidth}}


def planned(spans, channels):
    """The fibres that leave A on both services' paths, and the slots (N, M) or the reason why there are none."""
    vector = {"relaxable": False, "disjointness": "link", "request-id-number": ["0", "1"]}
    services = {"path-request": [request("0", channels), request("1", channels)],
                "synchronization": [{"synchronization-id": "1", "svec": vector}]}
    Path("network.json").write_text(json.dumps(topology(spans)))
    Path("services.json").write_text(json.dumps(services))
    subprocess.run([PROGRAM, "network.json", "services.json", "-e", EQUIPMENT, "-o", "answer.json"],
                   capture_output=True, check=True)
    fibres, slots = [], []
    for answer in json.loads(Path("answer.json").read_text())["gnpy-path-computation:responses"]["response"]:
        blocked = answer.get("no-path")
        found = blocked["path-properties"] if blocked else answer["path-properties"]
        hops = [hop["path-route-object"] for hop in found["path-route-objects"]]
        names = [hop["num-unnum-hop"]["node-id"] for hop in hops if "num-unnum-hop" in hop]
        fibres.append(next(name for name in names if name.startswith("fiber A-")))
        labels = [hop["label-hop"] for hop in hops if "label-hop" in hop]
        slots.append(blocked["no-path"] if blocked else str([(label["N"], label["M"]) for label in labels[0]]))
    return fibres, slots


ok = True
for title, spans in (("two parallel pairs", PARALLEL), ("by B and by C", APART)):
    for channels in (48, 90):
        fibres, slots = planned(spans, channels)
        print(f"{title}, {channels} channels each: {fibres[0]}: {slots[0]}, {fibres[1]}: {slots[1]}")
        ok = ok and len(set(fibres)) == 2 and slots[0].startswith("[(")
        if spans is APART:
            ok = ok and slots[0] == slots[1]
        else:
            ok = ok and slots[0] != slots[1] and (slots[1] == "NO_SPECTRUM") == (channels == 90)
print("as described" if ok else "CHANGED")
sys.exit(0 if ok else 1)
PYTHON
