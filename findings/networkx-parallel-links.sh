#!/usr/bin/env bash
# Question: two sites are joined by two parallel links, a MultiGraph of networkx. How many edge-disjoint paths are
#   there, and how many links must fail to part the sites?
# Software: networkx 3.6.1, Python 3.11 (pip, own venv).
# Most would expect: 2 and 2, or NetworkXNotImplemented, as from stoer_wagner and k_edge_augmentation, if a function
#   cannot take a MultiGraph.
# Seen: bridges() finds no bridge and edge_connectivity(graph) is 2, but edge_connectivity(graph, a, b) of the same
#   graph is 1, edge_disjoint_paths(graph, a, b) gives one path, and minimum_edge_cut(graph) names one edge, without a
#   key, whose removal leaves the sites connected. The flow network that they build has one edge of capacity 1 for all
#   parallel ones. With a third site on one of the two links (a simple graph), all of them say 2.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --no-compile --disable-pip-version-check networkx==3.6.1 2>&1 \
    | grep -v '^WARNING: Location' || true
"$folder/venv/bin/python" -W error - <<'PYTHON'
import sys

import networkx as nx


def figures(graph):
    cut = nx.minimum_edge_cut(graph)
    rest = graph.copy()
    rest.remove_edges_from(cut)
    return {
        "bridges": len(list(nx.bridges(graph))),
        "edge_connectivity(graph)": nx.edge_connectivity(graph),
        "edge_connectivity(graph, a, b)": nx.edge_connectivity(graph, "a", "b"),
        "edge_disjoint_paths(graph, a, b)": len(list(nx.edge_disjoint_paths(graph, "a", "b"))),
        "minimum_edge_cut(graph)": len(cut),
        "connected after that cut": nx.is_connected(rest),
    }


def is_refused(function, *arguments):
    try:
        list(function(*arguments))
    except nx.NetworkXNotImplemented:
        return True
    return False


parallel = nx.MultiGraph([("a", "b"), ("a", "b")])
triangle = nx.Graph([("a", "b"), ("a", "c"), ("c", "b")])
seen = [figures(graph) for graph in (parallel, triangle)]
for name in seen[0]:
    print(f"{name:34} two parallel links: {seen[0][name]!s:6} one of them by way of a third site: {seen[1][name]}")
refused = is_refused(nx.stoer_wagner, parallel) and is_refused(nx.k_edge_augmentation, parallel, 2)
print(f"stoer_wagner and k_edge_augmentation refuse the MultiGraph: {refused}")
ok = list(seen[0].values()) == [0, 2, 1, 1, 1, True] and list(seen[1].values()) == [0, 2, 2, 2, 2, False] and refused
print("as described" if ok else "CHANGED")
sys.exit(0 if ok else 1)
PYTHON
