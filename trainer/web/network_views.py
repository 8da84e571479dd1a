"""Pages about the network: map, links, reservations, alarms, spectrum."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable
from contextlib import closing
from datetime import UTC, datetime
from typing import Any

from fastapi import Request
from starlette.concurrency import run_in_threadpool

from trainer.errors import TrainerError
from trainer.reservation.api_types import path_links
from trainer.reservation.controller_client import ControllerClient
from trainer.web.charts import Chart, line_chart
from trainer.web.counters import CounterReadings, LinkRates
from trainer.web.flowing import flowing
from trainer.web.live import Content, Fragment
from trainer.web.map_layout import WIDTH, Span, lay_out, path_points
from trainer.web.network_state import LIVE, NetworkState, span_of
from trainer.web.pages import Pages, View
from trainer.web.spectrum import spectrum
from trainer.web.templating import HINT, PIECES, Parts, Pieces, render

Json = dict[str, Any]
Paths = tuple[tuple[str, tuple[str, ...]], ...]

RESERVATION = re.compile(r"r-[0-9a-f]{8}")
ROWS_SHOWN, ALARMS_SHOWN = 200, 40
COUNTERS_POLL_S = 2.0
FLOWING_POLL_S = 1.0
CALENDAR_LEAST_S = 3600.0


class NetworkViews:
    """Renders what is known of the network; `connect` makes a client of the controller, to read counters."""

    def __init__(
        self, state: NetworkState, url: str, connect: Callable[[], ControllerClient], ask_for: Callable[[str], None]
    ) -> None:
        """`ask_for`: has a reservation read that is not known yet."""
        self._state = state
        self._ask_for = ask_for
        self._url = url
        self._connect = connect
        self._readings = CounterReadings()
        self._link_rates = LinkRates(self._read_links)
        self._rendered: dict[str, tuple[tuple[int, ...], Content]] = {}
        self._reservation_rows = Pieces("reservation_row.html", "row")
        self._link_rows, self._map_spans = Pieces("link_row.html", "span"), Pieces("map_span.html", "span")

    def add_to(self, pages: Pages) -> None:
        """Register the pages about the network."""
        pages.add(
            "/",
            lambda _: View(
                "network.html",
                "Network",
                "/",
                (self._status(), self._map(), self._flow_form(), self._alarms(), self._reservations(), self._links(),
                 self._flowing()),
            ),
        )
        pages.add(
            "/spectrum", lambda _: View("spectrum.html", "Spectrum", "/spectrum", (self._status(), self._spectrum()))
        )
        pages.add("/reservations/{name}", self._reservation_view)
        pages.add("/links/{name}", self._link_view)

    def _fragment(
        self, id_: str, topics: set[str], render_now: Callable[[], Content], key: str | None = None
    ) -> Fragment:
        """A fragment that is rendered once for all its viewers; with a `key` for each viewer."""
        order = sorted(topics)

        def render_once() -> Content:
            version = tuple(self._state.versions[topic] for topic in order)
            kept = self._rendered.get(id_)
            if kept is None or kept[0] != version:
                kept = self._rendered[id_] = version, render_now()
            return kept[1]

        return Fragment(id_, frozenset(topics), render_once if key is None else render_now)

    def _status(self) -> Fragment:
        """Whether the controller is in order."""
        return self._fragment(
            "status",
            {"health", "trouble"},
            lambda: render("status.html", health=self._state.health, trouble=self._state.trouble, url=self._url),
        )

    def _map(self) -> Fragment:
        return self._fragment("map", {"network"}, lambda: self._draw_map(()))

    def _draw_map(self, paths: Paths, marked: str | None = None, flows: bool = True) -> Content:
        """The map; `flows`: whether the page has what flows, too."""
        network = self._state.network
        if network is None:
            return render("waiting.html", url=self._url)
        layout = lay_out(network)
        lines = [(kind, path_points(list(path), layout)) for kind, path in paths]
        spans = self._map_spans if marked is None else Pieces("map_span.html", "span")
        drawn: dict[str, str] = {}
        for is_marked in (False, True):
            group = {f"span-{span.name}": span for span in layout.spans if (span.name == marked) is is_marked}
            drawn |= spans.render(group, is_marked=is_marked) if group else {}
        values = {"network": network, "layout": layout, "width": WIDTH, "paths": lines, "flows": flows}
        return Parts(render("map.html", **values, spans=PIECES), drawn, is_svg=True)

    def _flow_form(self) -> Fragment:
        return self._fragment("flow-form", {"network"}, lambda: render("flow_form.html", hosts=self._hosts()))

    def _links(self) -> Fragment:
        def table() -> Content:
            spans = self._spans()
            rows = self._link_rows.render({f"row-{span.name}": span for span in spans})
            return Parts(render("links.html", spans=bool(spans), rows=PIECES), rows)

        return self._fragment("links", {"network"}, table)

    def _flowing(self) -> Fragment:
        """What flows on every span, which the page puts into map and table: they are not sent anew for it."""
        return Fragment("flowing", frozenset(), self._read_flowing, FLOWING_POLL_S)

    def _read_flowing(self) -> Awaitable[str]:
        def read() -> str:
            try:
                rates_bps = self._link_rates.now_bps()
            except TrainerError:  # told by the status
                rates_bps = {}
            return render("flowing.html", spans=flowing(self._state.network, rates_bps))

        return run_in_threadpool(read)

    def _read_links(self) -> Json:
        with closing(self._connect()) as client:
            return client.send("GET", "/v1/network/counters")

    def _spans(self) -> tuple[Span, ...]:
        return () if self._state.network is None else lay_out(self._state.network).spans

    def _reservations(self) -> Fragment:
        """The table of reservations, newest first, live ones before those that ended."""

        def table() -> Content:
            rows = sorted(
                self._state.reservations.values(),
                reverse=True,
                key=lambda row: (row["state"] in LIVE, row["created_at"]),
            )
            live = sum(row["state"] in LIVE for row in rows)
            shown = {f"row-{row['id']}": row for row in rows[:ROWS_SHOWN]}
            hint = render("reservations_hint.html", shown=len(shown), live=live, hidden=len(rows) - len(shown))
            shell = render("reservations.html", rows=PIECES, hint=HINT, shown=bool(shown))
            pieces = self._reservation_rows.render(shown, live_states=LIVE)
            return Parts(shell, pieces, ("reservations-hint", hint))

        return self._fragment("reservations", {"reservations"}, table)

    def _alarms(self) -> Fragment:
        return self._fragment(
            "alarms", {"alarms"}, lambda: render("alarms.html", alarms=self._state.alarms[:ALARMS_SHOWN])
        )

    def _spectrum(self) -> Fragment:
        def strips() -> str:
            return render(
                "spectrum_strips.html", strips=spectrum(self._state.lightpaths), lightpaths=self._state.lightpaths
            )

        return self._fragment("spectrum", {"lightpaths"}, strips)

    def _reservation_view(self, request: Request) -> View | None:
        name = request.path_params["name"]
        if RESERVATION.fullmatch(name) is None:
            return None
        if name not in self._state.reservations:
            self._ask_for(name)

        def found() -> Json:
            return self._state.reservations.get(name, {"id": name, "flows": [], "state": "unknown"})

        def paths() -> Paths:
            flows = found()["flows"]
            working = tuple(("working", tuple(flow["path"])) for flow in flows)
            return working + tuple(("backup", tuple(flow["backup_path"])) for flow in flows if flow["backup_path"])

        fragments = (
            self._status(),
            self._fragment(
                "reservation",
                {"reservations"},
                lambda: render("reservation_facts.html", row=found(), live_states=LIVE),
                name,
            ),
            self._fragment("map", {"network", "reservations"}, lambda: self._draw_map(paths(), flows=False), name),
            Fragment("counters", frozenset(), lambda: self._counters(name), COUNTERS_POLL_S),
            self._fragment(
                "history",
                {"history"},
                lambda: render("alarms.html", alarms=self._state.history_of(name)[:ALARMS_SHOWN]),
                name,
            ),
        )
        return View("reservation.html", f"Reservation {name}", "/", fragments)

    def _counters(self, name: str) -> Awaitable[str]:
        def read() -> str:
            if self._state.reservations.get(name, {}).get("state") not in LIVE:
                return render("counters.html", counters=None, rates={}, trouble=None)
            try:
                with closing(self._connect()) as client:
                    counters = client.get_json(name)["counters"]
            except TrainerError as error:
                return render("counters.html", counters=None, rates={}, trouble=str(error))
            return render(
                "counters.html", counters=counters, rates=self._readings.rates_bps(name, counters), trouble=None
            )

        return run_in_threadpool(read)

    def _link_view(self, request: Request) -> View | None:
        name = request.path_params["name"]
        if all(span.name != name for span in self._spans()):
            return None

        def links() -> list[Json]:
            return [link for link in (self._state.network or {"links": []})["links"] if span_of(link) == name]

        def facts() -> str:
            span = next((span for span in self._spans() if span.name == name), None)
            return render("link_facts.html", span=span, links=links())

        def calendar() -> str:
            charts = [chart for link in links() if (chart := self._calendar_chart(link)) is not None]
            names = {link["link"] for link in links()}
            live = (row for row in self._state.reservations.values() if row["state"] in LIVE)
            rows = [(row, flow) for row in live for flow in row["flows"] if names & set(_links_of(flow))]
            return render("calendar.html", charts=charts, rows=rows[:ROWS_SHOWN])

        fragments = (
            self._status(),
            self._fragment("link", {"network"}, facts, name),
            self._fragment("map", {"network"}, lambda: self._draw_map((), name), name),
            self._fragment("calendar", {"network", "reservations"}, calendar, name),
            self._flowing(),
        )
        return View("link.html", f"Link {name}", "/", fragments)

    def _calendar_chart(self, link: Json) -> Chart | None:
        """What the calendar reserves on a directed link from now on, by the working paths of live reservations."""
        now_s = datetime.now(UTC).timestamp()
        steps: list[tuple[float, float]] = []
        for row in self._state.reservations.values():
            rate = sum(
                flow["reserved_bps"]
                for flow in row["flows"]
                if row["state"] in LIVE and not flow["suspended"] and link["link"] in _links_of(flow)
            )
            if rate:
                steps.append((max(now_s, _seconds(row["start_at"])), rate))
                if row["end_at"] is not None:
                    steps.append((_seconds(row["end_at"]), -rate))
        horizon_s = max([CALENDAR_LEAST_S, *(at_s - now_s for at_s, _ in steps)]) * 1.05
        points, total = [(0.0, 0.0)], 0.0
        for at_s, change in sorted(steps):
            total += change
            points.append(((at_s - now_s) / 60, total / 1e6))
        points.append((horizon_s / 60, total / 1e6))
        return line_chart(
            f"{link['link']}: Mb/s reserved",
            {"reserved": points},
            "minutes from now",
            link["reservable_bps"] / 1e6,
            from_zero=True,
            stairs=True,
        )

    def _hosts(self) -> list[str]:
        nodes = [] if self._state.network is None else self._state.network["nodes"]
        return [node["name"] for node in nodes if node["kind"] != "switch"]


def _seconds(text: str) -> float:
    return datetime.fromisoformat(text).timestamp()


def _links_of(flow: Json) -> tuple[str, ...]:
    return path_links(tuple(flow["path"]))
