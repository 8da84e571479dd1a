"""The tenants that the fuzzer plays: what they request of the controller, and what they then send."""

from __future__ import annotations

import contextlib
import json
import random
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime
from math import exp, log
from pathlib import Path
from typing import Any

import httpx

from emulation.fault_injection import FaultInjector
from fuzzing.endpoints import PORT
from fuzzing.oracle import FlowHistory, Told
from fuzzing.streams import Shape, Streams
from machine.errors import EmulationError
from topologies.maps import Map

MAX_RESERVATIONS = 9
MAX_PER_S = 800
"""Datagrams per second of one stream, for the sake of the machine."""
CONFORMING_SHARE = 0.97
"""Share of its rate at which a conforming sender sends."""
SETTLE_S = (0.5, 1.5)
"""Before and after a cut or a repair, in which nothing is judged."""
POLL_INTERVAL_S = 0.4
OUTAGE_S = (1.0, 5.0)
FLOOD_FACTOR = 4
WINDOW_GUARD_S = 0.03
"""By how much before the end of its window a sender ends, as far as half of it allows: it may itself be late."""


@dataclass
class PlayedFlow:
    """A flow of a reservation, and the number of its stream."""

    number: int
    request: dict[str, Any]
    pattern: str
    frame_bytes: int
    history: FlowHistory
    is_sending: bool = False

    @property
    def ends(self) -> tuple[str, str]:
        """Source and destination."""
        return self.request["source"], self.request["destination"]


@dataclass
class Tenancy:
    """A live reservation of a tenant."""

    reservation_id: str
    flows: list[PlayedFlow]
    answer: dict[str, Any]
    told_flows: Any = None


@dataclass
class Tenants:
    """Plays random moves against the controller; every move is written to the log."""

    topology: Map
    api: httpx.Client
    streams: Streams
    faults: FaultInjector
    log_path: Path
    random: random.Random
    live: list[Tenancy] = field(default_factory=list)
    histories: list[FlowHistory] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    """Answers that contradict the contract, for example an offer that is refused."""
    counts: dict[str, int] = field(default_factory=dict)
    down: tuple[str, str] | None = None
    up_at_s: float = 0.0
    _ended: threading.Event = field(default_factory=threading.Event)
    _played: dict[int, PlayedFlow] = field(default_factory=dict)

    def play(self, until_s: float) -> None:
        """Make moves until that time (Unix time), then repair the network and release everything."""
        moves: list[tuple[Callable[[], None], int]] = [
            (self.reserve, 10), (self.change, 8), (self.change_many_times, 2), (self.release, 4),
            (self.release_and_reserve, 3), (self.cut, 1), (self.wait, 6),
        ]  # fmt: skip
        functions, weights = zip(*moves, strict=True)
        polling = threading.Thread(target=self._poll_until_ended, daemon=True)
        polling.start()
        threading.Thread(target=self._follow_gates, daemon=True).start()
        while time.time() < until_s:
            if self.down is not None and time.time() >= self.up_at_s:
                self.mend()
            move: Callable[[], None] = self.random.choices(functions, weights)[0]
            self.counts[move.__name__] = self.counts.get(move.__name__, 0) + 1
            move()
            time.sleep(self.random.uniform(0.05, 0.4))
        if self.down is not None:
            self.mend()
        while self.live:
            self._end(self.live[0])
        self._ended.set()
        polling.join()

    # Moves ----------------------------------------------------------------------------------------------------------

    def wait(self) -> None:
        """Let the senders send."""
        time.sleep(self.random.uniform(0.2, 1.5))

    def reserve(self) -> None:
        """Reserve one or two new flows; if refused, at times take the offer, which must then be admitted."""
        if len(self.live) >= MAX_RESERVATIONS:
            self.release()
            return
        flows = [self._new_flow() for _ in range(self.random.choice((1, 1, 2)))]
        self._reserve(flows)

    def _reserve(self, flows: list[PlayedFlow]) -> Tenancy | None:
        hold = self.random.random() < 0.15
        body = {"owner": "fuzzer", "lease_s": 600, "hold": hold, "flows": [flow.request for flow in flows]}
        response = self._post("/v1/reservations", body)
        if response.status_code == 409 and (offer := response.json().get("offer")) and self.random.random() < 0.5:
            for flow, offered in zip(flows, offer["flows"], strict=True):
                flow.request = offered
            response = self._post("/v1/reservations", body | {"flows": offer["flows"]})
            if response.status_code != 201:
                self.problems.append(f"an offer was refused: {response.text}")
        if response.status_code != 201:
            return None
        tenancy = Tenancy(response.json()["id"], flows, response.json())
        self.live.append(tenancy)
        if hold:
            committed = self._post(f"/v1/reservations/{tenancy.reservation_id}/commit", None)
            if committed.status_code != 200:
                self._end(tenancy)
                return None
            tenancy.answer = committed.json()
        self._note_told(tenancy, tenancy.answer)
        self._send_as_reserved(tenancy)
        return tenancy

    def change(self) -> None:
        """Change rate and burst of one reservation."""
        if self.live:
            self._change(self.random.choice(self.live), self.random.choice((0.5, 0.9, 1.001, 1.1, 2.0)))

    def change_many_times(self) -> None:
        """Change the rate of one reservation by very little, many times in a row."""
        if self.live:
            tenancy = self.random.choice(self.live)
            for number in range(10):
                self._change(tenancy, 1.001 if number % 2 else 0.999)

    def _change(self, tenancy: Tenancy, factor: float) -> None:
        changed = [json.loads(json.dumps(flow.request)) for flow in tenancy.flows]
        for request in changed:
            requirement = request["requirement"]
            if "min_bandwidth_bps" not in requirement:
                return
            requirement["min_bandwidth_bps"] = max(200_000, int(requirement["min_bandwidth_bps"] * factor))
            if requirement.get("burst_bytes") and self.random.random() < 0.3:
                requirement["burst_bytes"] = int(requirement["burst_bytes"] * self.random.uniform(0.7, 1.5))
        for flow in tenancy.flows:  # a conforming sender keeps to the lower rate meanwhile, and does not burst
            if flow.is_sending and flow.history.conforms:
                self._send(flow, self._told(flow).rate_bps * min(1.0, factor) * 0.9, flow.frame_bytes, "even")
        response = self._call("PATCH", f"/v1/reservations/{tenancy.reservation_id}", {"flows": changed})
        if response.status_code == 200:
            for flow, request in zip(tenancy.flows, changed, strict=True):
                flow.request = request
            tenancy.answer = response.json()
            self._note_told(tenancy, tenancy.answer)
        elif response.status_code in (404, 410):
            self._forget(tenancy)
            return
        self._send_as_reserved(tenancy)

    def release(self) -> None:
        """Release one reservation."""
        if self.live:
            self._end(self.random.choice(self.live))

    def release_and_reserve(self) -> None:
        """Release one reservation and reserve the same again at once, several times."""
        if not self.live:
            return
        tenancy = self.random.choice(self.live)
        for _ in range(self.random.choice((1, 5))):
            self._end(tenancy)
            again = self._reserve([self._same_flow(flow) for flow in tenancy.flows])
            if again is None:
                return
            tenancy = again
            time.sleep(0.05)

    def cut(self) -> None:
        """Cut a span between two switches, for some seconds; one at a time."""
        if self.down is not None or time.time() < self.up_at_s + 4:
            return
        names = {node.name for node in self.topology.switches}
        spans = [link.ends for link in self.topology.links if set(link.ends) <= names]
        a, b = self.random.choice(spans)
        self.down, self.up_at_s = (a, b), time.time() + self.random.uniform(*OUTAGE_S)
        self._log("cut", f"{a}-{b}", 0, None)
        self.faults.set_link(a, b, up=False)
        self._exclude_all()

    def mend(self) -> None:
        """Bring the span up again."""
        assert self.down is not None
        self._log("mend", "-".join(self.down), 0, None)
        self.faults.set_link(*self.down, up=True)
        self.down, self.up_at_s = None, time.time()
        self._exclude_all()

    # Flows ----------------------------------------------------------------------------------------------------------

    def _new_flow(self) -> PlayedFlow:
        rng, number = self.random, len(self.histories) + 1
        clouds = [node.name for node in self.topology.hosts if node.name in ("cloud", "load2")]
        others = [node.name for node in self.topology.hosts if node.name not in clouds]
        ends = [rng.choice(others), rng.choice(clouds)]
        if rng.random() < 0.3:
            ends.reverse()
        rate_bps = int(exp(rng.uniform(log(500_000), log(25_000_000))))
        frame_bytes = max(rng.choice((300, 1514, 5000, 9014)), rate_bps // (8 * MAX_PER_S) + 200)
        requirement: dict[str, Any] = {"rank": rng.choice((0, 128, 255))}
        if rng.random() < 0.15:
            requirement |= self._transfer()
        else:
            requirement["min_bandwidth_bps"] = rate_bps
            burst_bytes = rng.choice((None, 9014, 45_000, int(exp(rng.uniform(log(20_000), log(1_500_000))))))
            requirement["burst_bytes"] = burst_bytes
        limit_us = rng.choice((None, None, 900_000, int(exp(rng.uniform(log(20_000), log(300_000))))))
        requirement["max_latency_us"] = limit_us
        if rng.random() < 0.3:
            requirement["protection"] = "link_disjoint"
        request = {
            "name": f"f{number}", "source": ends[0], "destination": ends[1], "requirement": requirement,
            "match": {"protocol": "udp", "source_port": 10_000 + number, "destination_port": PORT},
        }  # fmt: skip
        pattern = rng.choices(("even", "greedy", "flood"), (4, 4, 2))[0]
        if pattern == "flood":
            frame_bytes *= FLOOD_FACTOR
        return self._played_flow(number, request, pattern, min(frame_bytes, 9014))

    def _same_flow(self, flow: PlayedFlow) -> PlayedFlow:
        """The flow again, as a stream of its own."""
        number = len(self.histories) + 1
        match = flow.request["match"] | {"source_port": 10_000 + number}
        return self._played_flow(
            number, flow.request | {"name": f"f{number}", "match": match}, flow.pattern, flow.frame_bytes
        )

    def _played_flow(self, number: int, request: dict[str, Any], pattern: str, frame_bytes: int) -> PlayedFlow:
        history = FlowHistory(request["name"], pattern != "flood", request["requirement"].get("max_latency_us"))
        self.histories.append(history)
        played = self._played[number] = PlayedFlow(number, request, pattern, frame_bytes, history)
        return played

    def _transfer(self) -> dict[str, Any]:
        period_ms = self.random.choice((500, 1000, 2000))
        deadline_ms = self.random.choice((200, 400, period_ms))
        size = int(exp(self.random.uniform(log(20_000), log(600_000))))
        return {
            "transfer_bytes": size, "deadline_ms": deadline_ms, "period_ms": period_ms,
            "offset_ms": self.random.randrange(0, period_ms, 50),
        }  # fmt: skip

    def _told(self, flow: PlayedFlow) -> Told:
        return flow.history.told[-1]

    def _send_as_reserved(self, tenancy: Tenancy) -> None:
        for flow, answer in zip(tenancy.flows, tenancy.answer["flows"], strict=True):
            rate_bps, burst_bytes = answer["reserved_bps"], answer["burst_bytes"]
            if flow.pattern == "flood":
                self._send(flow, rate_bps * FLOOD_FACTOR, 4 * flow.frame_bytes, "flood")
                continue
            burst_bytes = flow.frame_bytes if flow.pattern == "even" else 0.75 * burst_bytes - 2 * rate_bps / 8000
            window = answer["window"] and _sending_window(answer["window"])
            burst_bytes = max(flow.frame_bytes, min(burst_bytes, answer["burst_bytes"] - flow.frame_bytes))
            if answer["burst_bytes"] < 2 * flow.frame_bytes:
                flow.frame_bytes = max(200, answer["burst_bytes"] // 2)
                burst_bytes = flow.frame_bytes
            self._send(flow, rate_bps * CONFORMING_SHARE, burst_bytes, flow.pattern, window)

    def _send(
        self, flow: PlayedFlow, rate_bps: float, burst_bytes: float, pattern: str,
        window: tuple[float, float, float] | None = None,
    ) -> None:  # fmt: skip
        shape = Shape(rate_bps, burst_bytes, flow.frame_bytes, pattern, window)
        self.streams.start(flow.number, flow.ends, flow.request["match"]["source_port"], shape)
        flow.is_sending = True

    def _end(self, tenancy: Tenancy) -> None:
        for flow in tenancy.flows:
            if flow.is_sending and flow.history.conforms:
                self.streams.stop(flow.number, flow.ends[0])
        if any(flow.history.conforms for flow in tenancy.flows):
            time.sleep(0.02)
            now_s = time.time()
            for flow in tenancy.flows:  # what is under way when a reservation ends is no longer promised
                flow.history.excluded.append((now_s - 0.05, now_s + 30))
        self._call("DELETE", f"/v1/reservations/{tenancy.reservation_id}", None)
        for flow in tenancy.flows:
            if flow.is_sending:
                self.streams.stop(flow.number, flow.ends[0])
        self._forget(tenancy)

    def _forget(self, tenancy: Tenancy) -> None:
        if tenancy in self.live:
            self.live.remove(tenancy)

    # What is told ---------------------------------------------------------------------------------------------------

    def _poll_until_ended(self) -> None:
        while not self._ended.wait(POLL_INTERVAL_S):
            self._poll()

    def _poll(self) -> None:
        """Read what the controller says of all live reservations now."""
        answers = {each["id"]: each for each in self.api.get("/v1/reservations").json()["reservations"]}
        for tenancy in tuple(self.live):
            if (answer := answers.get(tenancy.reservation_id)) is not None:
                self._note_told(tenancy, answer)

    def _follow_gates(self) -> None:
        """Note of every flow with a window when the controller tells that gates changed late, until the run ends."""
        event = ""
        address = self.api.base_url.join("/v1/events")
        with contextlib.suppress(httpx.TransportError), httpx.stream("GET", address, timeout=None) as response:
            for line in response.iter_lines():
                if self._ended.is_set():
                    return
                kind, _, text = line.partition(": ")
                if kind == "event":
                    event = text
                elif kind == "data" and event == "gates":
                    since_s = datetime.fromisoformat(json.loads(text)["since"]).timestamp()
                    self._log("gates", text, 0, None)
                    for flow in tuple(self._played.values()):
                        if "transfer_bytes" in flow.request["requirement"]:
                            flow.history.late_gates.append((since_s, time.time()))

    def _note_told(self, tenancy: Tenancy, answer: dict[str, Any]) -> None:
        now_s = time.time()
        if answer["flows"] != tenancy.told_flows:
            self._log("told", tenancy.reservation_id, 0, answer)
            tenancy.told_flows = answer["flows"]
        for flow, told in zip(tenancy.flows, answer["flows"], strict=True):
            flow.history.told.append(
                Told(
                    now_s, told["reserved_bps"], told["burst_bytes"], told["accumulated_latency_us"],
                    told["latency_variation_us"],
                )
            )  # fmt: skip
            if answer["state"] != "active" or told["suspended"]:
                flow.history.excluded.append((now_s - 1.0, now_s + 1.0))

    def _exclude_all(self) -> None:
        now_s = time.time()
        for tenancy in self.live:
            for flow in tenancy.flows:
                flow.history.excluded.append((now_s - SETTLE_S[0], now_s + SETTLE_S[1]))

    # REST -----------------------------------------------------------------------------------------------------------

    def _post(self, path: str, body: dict[str, Any] | None) -> httpx.Response:
        return self._call("POST", path, body)

    def _call(self, method: str, path: str, body: dict[str, Any] | None) -> httpx.Response:
        try:
            response = self.api.request(method, path, json=body)
        except httpx.TransportError as error:
            self._log(method, path, 0, body)
            raise EmulationError(f"{method} {path} was not answered: {error!r}") from error
        self._log(method, path, response.status_code, body)
        if response.status_code >= 500 and response.status_code != 503:
            self.problems.append(f"{method} {path}: {response.status_code} {response.text}")
        return response

    def _log(self, move: str, subject: str, status: int, body: dict[str, Any] | None) -> None:
        with self.log_path.open("a") as log_file:
            entry = {"at_s": round(time.time(), 3), "move": move, "subject": subject, "status": status, "body": body}
            log_file.write(json.dumps(entry) + "\n")


def _sending_window(window: dict[str, float]) -> tuple[float, float, float]:
    """Period, offset and length in seconds of the part of a window in which its sender sends."""
    period_s, offset_s, length_s = (window[name] / 1e3 for name in ("period_ms", "offset_ms", "length_ms"))
    return period_s, offset_s, max(length_s / 2, length_s - WINDOW_GUARD_S)
