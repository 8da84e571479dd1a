#!/usr/bin/env bash
# Question: a network in JSON after RFC 8345 (ietf-network, ietf-network-topology) is validated against the RFC's
#   modules. Which of these pass: a link to a node that the network does not have; a link from a termination point
#   that its node does not have; a link without a destination; a link without any end; a network over an underlay that
#   is not there?
# Software: libyang in oopt-gnpy-libyang 0.0.14, the RFC's modules as GNPy 3.0.1 ships them, Python 3.11 (pip, own
#   venv).
# Most would expect: none. The ends of a link are leafrefs (to node-id and tp-id), which is YANG's way to say that
#   what they name must exist, and the RFC says that a link connects a source and a destination.
# Seen: all five pass, under strict parsing; a misspelt name is refused, so validation does take place. Each of these
#   leafrefs says "require-instance false", and neither end of a link is mandatory.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --no-compile --disable-pip-version-check \
    gnpy==3.0.1 oopt-gnpy-libyang==0.0.14 2>&1 | grep -v '^WARNING: Location' || true
"$folder/venv/bin/python" - <<'PYTHON'
import json
import sys
from pathlib import Path

import gnpy
import oopt_gnpy_libyang as libyang

libyang.set_log_options(libyang.LogOptions.Store)
context = libyang.Context(str(Path(gnpy.__file__).parent / "yang" / "ext"), libyang.ContextOptions.DisableSearchCwd)
for module in ("ietf-network", "ietf-network-topology"):
    context.load_module(module, revision="2018-02-26")


def is_valid(link=None, **members):
    points = {"ietf-network-topology:termination-point": [{"tp-id": "1"}]}
    network = {"network-id": "lab", "node": [{"node-id": name, **points} for name in ("a", "b")], **members}
    if link is not None:
        network["ietf-network-topology:link"] = [{"link-id": "a-b", **link}]
    text = json.dumps({"ietf-network:networks": {"network": [network]}})
    try:
        context.parse_data(text, libyang.DataFormat.JSON, libyang.ParseOptions.Strict,
                           libyang.ValidationOptions.Present)
    except libyang.Error:
        return False
    return True


def end(prefix, node, point):
    return {f"{prefix}-node": node, f"{prefix}-tp": point}


source, destination = end("source", "a", "1"), end("dest", "b", "1")
verdicts = {
    "a link between two nodes": is_valid({"source": source, "destination": destination}),
    "to a node that is not there": is_valid({"source": source, "destination": end("dest", "c", "1")}),
    "from a point that is not there": is_valid({"source": end("source", "a", "9"), "destination": destination}),
    "without a destination": is_valid({"source": source}),
    "without any end": is_valid({}),
    "over an underlay that is not there": is_valid(**{"supporting-network": [{"network-ref": "none"}]}),
    "a misspelt name": is_valid({"source": source, "destinaton": destination}),
}
print(f"libyang {libyang.libyang_version()}")
for name, verdict in verdicts.items():
    print(f"{name:34} {'valid' if verdict else 'refused'}")
ok = list(verdicts.values()) == [True] * 6 + [False]
print("as described" if ok else "CHANGED")
sys.exit(0 if ok else 1)
PYTHON
