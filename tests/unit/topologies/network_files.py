"""Small network files that tests write themselves."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

NORWAY = {"Oslo": (10.75, 59.91), "Bergen": (5.32, 60.39), "Trondheim": (10.4, 63.43), "Stavanger": (5.73, 58.97)}
"""Longitude and latitude."""

Link = Mapping[str, object]


def node_link(path: Path, nodes: Sequence[Mapping[str, object]], links: Sequence[Link], **facts: object) -> str:
    """Write node-link JSON."""
    path.write_text(json.dumps({**facts, "nodes": nodes, "links": links}))
    return str(path)


def placed(*names: str) -> list[dict[str, object]]:
    """Nodes of Norwegian cities with their coordinates."""
    return [{"id": name, "lon": NORWAY[name][0], "lat": NORWAY[name][1]} for name in names]


def node(key: object, **attributes: object) -> dict[str, object]:
    """A node of node-link JSON."""
    return {"id": key, **attributes}


def link(source: object, target: object, **attributes: object) -> dict[str, object]:
    """A link of node-link JSON."""
    return {"source": source, "target": target, **attributes}


def graphml(path: Path, nodes: Sequence[Mapping[str, object]], links: Sequence[Link], kind: str = "undirected") -> str:
    """Write GraphML as the Topology Zoo has it."""

    def data(owner: str, facts: Mapping[str, object], ignored: tuple[str, ...]) -> str:
        entries = ((name, value) for name, value in facts.items() if name not in ignored)
        return "".join(f'<data key="{owner}_{name}">{value}</data>' for name, value in entries)

    keys = {
        (owner, name, "double" if isinstance(value, float) else "int" if isinstance(value, int) else "string")
        for owner, entries in (("node", nodes), ("edge", links))
        for facts in entries
        for name, value in facts.items()
        if name not in ("id", "source", "target")
    }
    text = "".join(
        f'<key id="{o}_{name}" for="{o}" attr.name="{name}" attr.type="{t}"/>' for o, name, t in sorted(keys)
    )
    text += f'<graph edgedefault="{kind}">'
    text += "".join(f'<node id="{node["id"]}">{data("node", node, ("id",))}</node>' for node in nodes)
    text += "".join(
        f'<edge id="e{number}" source="{each["source"]}" target="{each["target"]}">'
        f'{data("edge", each, ("source", "target"))}</edge>'
        for number, each in enumerate(links)
    )
    head = '<?xml version="1.0" encoding="utf-8"?><graphml xmlns="http://graphml.graphdrawing.org/xmlns">'
    path.write_text(f"{head}{text}</graph></graphml>", encoding="utf-8")
    return str(path)


def gnpy(spans: Sequence[tuple[str, str, float]], kind: str = "Roadm", **fibre: object) -> dict[str, Any]:
    """A GNPy network with a fibre in each direction of every span."""
    sites = dict.fromkeys(name for a, b, _ in spans for name in (a, b))
    prefix = "roadm " if kind == "Roadm" else "trx "
    elements: list[dict[str, Any]] = [{"uid": f"{prefix}{name}", "type": kind} for name in sites]
    connections = []
    for number, (a, b, km) in enumerate(spans):
        for near, far in ((a, b), (b, a)):
            uid = f"fiber ({near} -> {far})-{number}"
            params = {"length": km, "length_units": "km", "loss_coef": 0.2, "con_in": None, "con_out": None, **fibre}
            elements.append({"uid": uid, "type": "Fiber", "type_variety": "SSMF", "params": params})
            connections += [(f"{prefix}{near}", uid), (uid, f"{prefix}{far}")]
    return {"elements": elements, "connections": [{"from_node": a, "to_node": b} for a, b in connections]}
