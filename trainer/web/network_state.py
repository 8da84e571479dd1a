"""What is known of the controller's network, kept up to date from its events. No I/O, no clock.

One thread writes (`ControllerFeed`); others may read: every value is replaced as a whole, never changed in place.
"""

from __future__ import annotations

from collections import Counter, deque
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from trainer.reservation.event_stream import Event

Json = dict[str, Any]

LIVE = ("held", "scheduled", "active", "degraded")
ALARMS_KEPT = 200
HISTORY_KEPT = 2000
ENDED_KEPT = 200

_ALARM_KINDS = frozenset({"alarm", "violation", "impostor", "ledger", "clock", "gates", "reconcile"})


@dataclass(frozen=True, slots=True)
class Happening:
    """An event as a sentence; `at_s` None: it happened before this process listened."""

    at_s: float | None
    kind: str
    text: str
    reservation: str | None = None


@dataclass
class NetworkState:
    """The network, its reservations and what has happened. `versions` counts the changes of each topic.

    `trouble`: why the controller cannot be followed, as a sentence.
    """

    network: Json | None = None
    health: Json | None = None
    reservations: dict[str, Json] = field(default_factory=dict)
    lightpaths: list[Json] = field(default_factory=list)
    trouble: str | None = None
    alarms: tuple[Happening, ...] = ()
    history: deque[Happening] = field(default_factory=lambda: deque(maxlen=HISTORY_KEPT))
    versions: Counter[str] = field(default_factory=Counter)
    in_step: dict[str, bool] = field(default_factory=dict)
    """Of switches that events told of."""

    def touch(self, *topics: str) -> None:
        """Count a change of these topics."""
        self.versions.update(topics)

    def replace(self, **values: Any) -> None:
        """Replace values; a topic has the name of its attribute and counts only if the value differs."""
        for name, value in values.items():
            if getattr(self, name) != value:
                setattr(self, name, value)
                self.touch(name)

    def apply(self, event: Event, at_s: float | None) -> None:
        """Take an event in; figures that it does not carry are those of the last reading."""
        data = event.data
        match event.kind:
            case "link":
                self._change_links({data["link"]}, up=data["up"])
            case "alarm" if data["state"] in ("up", "out_of_service"):
                self._change_span(str(data["span"]), in_service=data["state"] == "up")
            case "switch":
                self.in_step[data["switch"]] = data["state"] == "in_step"
                self._change_node(data["switch"], up=self.in_step[data["switch"]])
            case "reservation":
                self._change_reservation(data, at_s)
            case "bounds" if self.has_version(data):
                self._change_bounds(data)
        happening = Happening(at_s, event.kind, sentence(event), data.get("id"))
        self.history.append(happening)
        self.touch("history")
        if self._is_alarm(event):
            self.alarms = (happening, *self.alarms[: ALARMS_KEPT - 1])
            self.touch("alarms")

    def _change_links(self, names: set[str], **values: Any) -> None:
        if self.network is None:
            return
        links = [{**link, **values} if link["link"] in names else link for link in self.network["links"]]
        self.replace(network={**self.network, "links": links})

    def _change_span(self, span: str, **values: Any) -> None:
        if self.network is not None:
            self._change_links({link["link"] for link in self.network["links"] if span_of(link) == span}, **values)

    def _change_node(self, name: str, **values: Any) -> None:
        if self.network is not None:
            nodes = [{**node, **values} if node["name"] == name else node for node in self.network["nodes"]]
            self.replace(network={**self.network, "nodes": nodes})

    def _change_reservation(self, data: Json, at_s: float | None) -> None:
        """Take over what the event tells; a new reservation is shown with that much until it is read."""
        known = self.reservations.get(data["id"])
        changed = {name: data[name] for name in ("state", "version", "reason")}
        if known is not None and known["version"] <= data["version"]:
            self.put_reservations({data["id"]: {**known, **changed}})
        elif known is None and at_s is not None and data["state"] in LIVE:
            created_at = datetime.fromtimestamp(at_s, UTC).isoformat().replace("+00:00", "Z")
            unread: Json = {"owner": "", "flows": [], "created_at": created_at}
            unread |= dict.fromkeys(("start_at", "end_at", "expires_at"))
            self.put_reservations({data["id"]: {"id": data["id"], **unread, **changed}})

    def has_version(self, data: Json) -> bool:
        """Whether the reservation of an event is known as it was then."""
        known = self.reservations.get(data["id"])
        return known is not None and bool(known["version"] == data["version"])

    def _change_bounds(self, data: Json) -> None:
        after = {change["name"]: change["after"] for change in data["flows"]}
        known = self.reservations[data["id"]]
        flows = [{**flow, **after.get(flow["name"], {})} for flow in known["flows"]]
        self.put_reservations({data["id"]: {**known, "flows": flows}})

    def put_reservations(self, found: dict[str, Json]) -> None:
        """Add or replace reservations; of those that ended the oldest are dropped."""
        merged = {**self.reservations, **found}
        ended = [id_ for id_, reservation in merged.items() if reservation["state"] not in LIVE]
        for id_ in ended[: max(0, len(ended) - ENDED_KEPT)]:
            del merged[id_]
        self.replace(reservations=merged)

    def _is_alarm(self, event: Event) -> bool:
        """Whether somebody should look at it.

        That a switch was read back and held what it should is none, nor that one lacks entries which is only being
        brought in step: a new one, or one that has restarted.
        """
        data = event.data
        if event.kind != "reconcile":
            return event.kind in _ALARM_KINDS
        return bool(data["wrong"] or data["foreign"] or (data["missing"] and self._is_in_step(data["switch"])))

    def _is_in_step(self, switch: str) -> bool:
        if switch in self.in_step or self.network is None:
            return self.in_step.get(switch, False)
        return any(node["name"] == switch and node["up"] for node in self.network["nodes"])

    def history_of(self, reservation: str) -> list[Happening]:
        """Return what happened to a reservation, newest first."""
        return [happening for happening in reversed(tuple(self.history)) if happening.reservation == reservation]


def span_of(link: Json) -> str:
    """The span of a directed link as the controller names it in events: its ends in order, `a-b` or `a-b.2`."""
    ends, dot, number = str(link["link"]).partition(".")
    first, second = sorted(ends.split("->"))
    return f"{first}-{second}{dot}{number}"


def sentence(event: Event) -> str:
    """Describe an event in a sentence."""
    data = event.data
    match event.kind:
        case "alarm":
            return str(data["text"])
        case "link":
            return f"Link {data['link']} is {'up' if data['up'] else 'down'}."
        case "switch":
            return f"Switch {data['switch']} is {str(data['state']).replace('_', ' ')}."
        case "reservation":
            because = f": {data['reason']}" if data.get("reason") else "."
            return f"Reservation {data['id']} is {data['state']} (version {data['version']}){because}"
        case "violation":
            return f"Promise of {data['id']} broken ({str(data['cause']).replace('_', ' ')}): {data.get('reason')}"
        case "bounds":
            return f"Bounds of {data['id']} changed ({str(data['cause']).replace('_', ' ')})."
        case "ledger":
            return "The ledger can be written again." if data["writable"] else "The ledger cannot be written."
        case "clock":
            return f"The controller's clock stepped by {data['step_s']} s."
        case "gates":
            return f"Gates of {', '.join(data['switches'])} changed up to {data['late_ms']} ms late."
        case "impostor":
            return f"A connection from {data['address']} claimed to be switch {data['switch']}; it was refused."
        case "reconcile":
            counts = ", ".join(f"{data[kind]} {kind}" for kind in ("missing", "wrong", "foreign") if data[kind])
            found = f"{counts} entries" if counts else "all entries are there"
            return f"Switch {data['switch']} was read back: {found}."
    return f"{event.kind}: " + ", ".join(f"{name} {value}" for name, value in data.items() if value is not None)
