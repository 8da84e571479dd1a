#!/usr/bin/env bash
# Question: a network has links of 1, 2.5 and 10 Gb/s, whose capacity is a whole number of b/s. networkx writes it to a
#   file and reads the file again. Which capacities does the graph have then?
# Software: networkx 3.6.1, Python 3.11 (pip, own venv).
# Most would expect: the same numbers; GML has whole numbers, and the link of 1 Gb/s comes back as one.
# Seen: so with GraphML and with node-link JSON. With GML 2500000000 and 10000000000 come back as texts, without a
#   warning: GML's whole numbers have 32 bits, and write_gml writes larger ones in quotation marks. A network of faster
#   links alone has texts only, and max() finds its best link to be the one of 2.5 Gb/s, since "25" is behind "10".
#   max-flow ends in a TypeError. As a float, 10000000000.0, the capacity stays a number.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --no-compile --disable-pip-version-check \
    networkx==3.6.1 2>&1 | grep -v '^WARNING: Location' || true
"$folder/venv/bin/python" - <<'PYTHON'
import io
import json
import sys

import networkx as nx

RATES_BPS = (1_000_000_000, 2_500_000_000, 10_000_000_000)


def network(rates_bps):
    graph = nx.path_graph([str(number) for number in range(len(rates_bps) + 1)])
    for (_, _, link), rate_bps in zip(graph.edges(data=True), rates_bps, strict=True):
        link["capacity"] = rate_bps
    return graph


def through(write, read, graph):
    file = io.BytesIO()
    write(graph, file)
    file.seek(0)
    return read(file)


def capacities(graph):
    return [capacity for _, _, capacity in graph.edges(data="capacity")]


graph = network(RATES_BPS)
gml = through(nx.write_gml, nx.read_gml, graph)
graphml = through(nx.write_graphml, nx.read_graphml, graph)
node_link = nx.node_link_graph(json.loads(json.dumps(nx.node_link_data(graph))))
for name, again in (("GML", gml), ("GraphML", graphml), ("node-link JSON", node_link)):
    print(f"{name}: {capacities(again)}")
floats = through(nx.write_gml, nx.read_gml, network([float(rate_bps) for rate_bps in RATES_BPS]))
fast = through(nx.write_gml, nx.read_gml, network(RATES_BPS[1:]))
print(f"GML, as floats: {capacities(floats)}; only the faster two: max {max(capacities(fast))!r}")
try:
    flow = nx.maximum_flow_value(fast, "0", "2")
except TypeError as error:
    flow = TypeError
    print(f"max-flow: TypeError: {error}")
ok = capacities(graphml) == capacities(node_link) == capacities(floats) == list(RATES_BPS)
ok = ok and capacities(gml) == [1_000_000_000, "2500000000", "10000000000"]
ok = ok and max(capacities(fast)) == "2500000000" and flow is TypeError
print("as described" if ok else "CHANGED")
sys.exit(0 if ok else 1)
PYTHON
