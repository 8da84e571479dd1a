#!/usr/bin/env bash
# Question: GNPy plans two services from A to Z that a synchronization vector asks to be disjoint in "node link". The
#   network: A-B-M-D-Z and A-C-M-E-Z, which share only the ROADM M, and A-F-Z, which is longer and shares nothing.
#   Which paths do they take? And without A-F-Z?
# Software: GNPy 3.0.1 (gnpy-path-request, with its example equipment), Python 3.11 (pip, own venv).
# Most would expect: one of them A-F-Z; without that, "No disjoint path found", which GNPy has for such cases. It
#   reads the demand and prints "node-diverse: True" before it plans.
# Seen: both times both services go by M, and no warning says so. Only links are compared. With "link" or "node" alone
#   as the demand, the paths are the same.
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
BY_M = [("A", "B", 50), ("B", "M", 50), ("A", "C", 60), ("C", "M", 60), ("M", "D", 50), ("D", "Z", 50), ("M", "E", 60),
        ("E", "Z", 60)]
BY_F = [("A", "F", 200), ("F", "Z", 200)]


def topology(spans):
    elements = [{"uid": f"trx {site}", "type": "Transceiver"} for site in "AZ"]
    sites = sorted({site for span in spans for site in span[:2]})
    elements += [{"uid": f"roadm {site}", "type": "Roadm"} for site in sites]
    joints = [pair for site in "AZ" for pair in ((f"trx {site}", f"roadm {site}"), (f"roadm {site}", f"trx {site}"))]
    for one, other, km in spans:
        for start, end in ((one, other), (other, one)):
            fibre = f"fiber {start}-{end}"
            params = {"length": km, "length_units": "km", "loss_coef": 0.2, "con_in": 0.5, "con_out": 0.5}
            elements.append({"uid": fibre, "type": "Fiber", "type_variety": "SSMF", "params": params})
            joints += [(f"roadm {start}", fibre), (fibre, f"roadm {end}")]
    return {"elements": elements, "connections": [{"from_node": start, "to_node": end} for start, end in joints]}


def request(number):
    bandwidth = {"technology": "flexi-grid", "trx_type": "Voyager", "trx_mode": "mode 1", "spacing": 50e9,
                 "path_bandwidth": 100e9}
    return {"request-id": number, "source": "trx A", "destination": "trx Z", "src-tp-id": "trx A", "dst-tp-id": "trx Z",
            "bidirectional": False, "path-constraints": {"te-bandwidth": bandwidth}}


def planned(spans, demand):
    """ROADMs of both services' paths, whether diverse nodes are said to be asked for, whether sharing is told."""
    vector = {"relaxable": False, "disjointness": demand, "request-id-number": ["0", "1"]}
    services = {"path-request": [request("0"), request("1")],
                "synchronization": [{"synchronization-id": "1", "svec": vector}]}
    Path("network.json").write_text(json.dumps(topology(spans)))
    Path("services.json").write_text(json.dumps(services))
    run = subprocess.run([PROGRAM, "network.json", "services.json", "-e", EQUIPMENT, "-o", "answer.json"],
                         capture_output=True, text=True, check=True)
    answers = json.loads(Path("answer.json").read_text())["gnpy-path-computation:responses"]["response"]
    properties = [answer["path-properties"] for answer in answers]
    routes = [[hop["path-route-object"] for hop in found["path-route-objects"]] for found in properties]
    names = [[hop["num-unnum-hop"]["node-id"] for hop in route if "num-unnum-hop" in hop] for route in routes]
    paths = ["-".join(name.removeprefix("roadm ") for name in route if name.startswith("roadm ")) for route in names]
    return paths, "node-diverse: True" in run.stdout, "disjoint" in run.stderr.lower()


ok = True
for title, spans in (("with A-F-Z", BY_M + BY_F), ("without", BY_M)):
    for demand in ("node link", "link", "node"):
        paths, is_read, is_told = planned(spans, demand)
        print(f"{title}, {demand!r}: {' and '.join(paths)}; node-diverse: {is_read}; warned of sharing: {is_told}")
        ok = ok and sorted(paths) == ["A-B-M-D-Z", "A-C-M-E-Z"] and is_read == ("node" in demand) and not is_told
print("as described" if ok else "CHANGED")
sys.exit(0 if ok else 1)
PYTHON
