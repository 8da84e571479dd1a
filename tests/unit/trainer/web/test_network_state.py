"""What the page's server knows follows from the controller's events."""

from __future__ import annotations

from typing import Any

import pytest

from tests.unit.trainer.web.records import link, network, reservation
from trainer.reservation.event_stream import Event
from trainer.web.network_state import ENDED_KEPT, NetworkState, sentence, span_of


@pytest.fixture
def state() -> NetworkState:
    return NetworkState(network=network(), reservations={"r-1": reservation("r-1")})


def up_of(state: NetworkState, name: str) -> Any:
    assert state.network is not None
    return next(link["up"] for link in state.network["links"] if link["link"] == name)


def test_a_cut_link_is_down_as_soon_as_its_event_comes(state: NetworkState) -> None:
    state.apply(Event("1-1", "link", {"link": "s1->s2", "up": False}), 5.0)
    assert (up_of(state, "s1->s2"), up_of(state, "s2->s1")) == (False, True)
    assert state.versions["network"] == 1


def test_a_span_out_of_service_is_so_in_both_directions(state: NetworkState) -> None:
    data = {"span": "s1-s2", "length_km": 20, "duct": None, "state": "out_of_service", "text": "Span s1-s2 is out."}
    state.apply(Event("1-1", "alarm", data), 5.0)
    assert state.network is not None
    assert {each["link"] for each in state.network["links"] if not each["in_service"]} == {"s1->s2", "s2->s1"}
    assert [alarm.text for alarm in state.alarms] == ["Span s1-s2 is out."]


def test_a_switch_that_held_what_it_should_is_no_alarm(state: NetworkState) -> None:
    for wrong in (0, 2):
        state.apply(Event("1-1", "reconcile", {"switch": "s1", "missing": 0, "wrong": wrong, "foreign": 0}), 5.0)
    assert [alarm.text for alarm in state.alarms] == ["Switch s1 was read back: 2 wrong entries."]
    assert len(state.history) == 2


def test_what_a_switch_lacks_is_an_alarm_only_while_it_is_in_step(state: NetworkState) -> None:
    lacks = Event("1-1", "reconcile", {"switch": "s1", "missing": 40, "wrong": 0, "foreign": 0})
    alarms = []
    state.replace(network=None)
    for kind in ("in_step", "out_of_step", "in_step"):
        state.apply(lacks, 5.0)  # at first a new switch; later one that has restarted
        alarms.append(len(state.alarms))
        state.apply(Event("1-1", "switch", {"switch": "s1", "state": kind}), 5.0)
    state.apply(lacks, 5.0)
    assert (alarms, len(state.alarms)) == ([0, 1, 1], 2)


def test_an_older_event_does_not_undo_a_newer_reading(state: NetworkState) -> None:
    state.put_reservations({"r-1": reservation("r-1", version=3, state="released")})
    state.apply(Event("1-1", "reservation", {"id": "r-1", "version": 2, "state": "active", "reason": None}), 5.0)
    assert state.reservations["r-1"]["state"] == "released"


def test_a_new_reservation_is_shown_before_it_is_read_but_none_that_was_made_earlier(state: NetworkState) -> None:
    for id_, at_s in (("r-2", 5.0), ("r-3", None)):
        data = {"id": id_, "version": 1, "state": "active", "reason": None}
        state.apply(Event("1-1", "reservation", data), at_s)
    assert state.reservations["r-2"].keys() >= {"id", "owner", "state", "flows", "created_at", "expires_at"}
    assert "r-3" not in state.reservations


def test_bounds_are_those_of_their_event(state: NetworkState) -> None:
    (name,) = [flow["name"] for flow in state.reservations["r-1"]["flows"]]
    after = {"accumulated_latency_us": 7.0, "latency_variation_us": 3.0, "completion_ms": None}
    for version in (1, 9):
        flows = [{"name": name, "before": {}, "after": {**after, "latency_variation_us": version}}]
        data = {"id": "r-1", "version": version, "cause": "rerouted", "flows": flows}
        state.apply(Event("1-1", "bounds", data), 5.0)
        assert state.has_version(data) == (version == 1)
    (flow,) = state.reservations["r-1"]["flows"]
    assert (flow["accumulated_latency_us"], flow["latency_variation_us"]) == (7.0, 1)


def test_what_did_not_change_counts_as_no_change(state: NetworkState) -> None:
    state.replace(network=network(), health=None)
    assert state.versions.total() == 0


def test_only_so_many_reservations_that_ended_are_kept(state: NetworkState) -> None:
    state.put_reservations({f"e{n}": reservation(f"e{n}", state="released") for n in range(ENDED_KEPT + 5)})
    assert len(state.reservations) == ENDED_KEPT + 1
    assert "r-1" in state.reservations
    assert "e0" not in state.reservations


def test_the_history_of_a_reservation_is_its_own(state: NetworkState) -> None:
    for id_, number in (("r-1", 1), ("r-2", 1), ("r-1", 2)):
        data = {"id": id_, "version": number, "state": "active", "reason": None}
        state.apply(Event("1-1", "reservation", data), None)
    versions = [happening.text for happening in state.history_of("r-1")]
    assert versions == ["Reservation r-1 is active (version 2).", "Reservation r-1 is active (version 1)."]


def test_every_event_of_the_contract_has_a_sentence() -> None:
    events: dict[str, dict[str, Any]] = {
        "switch": {"switch": "s1", "state": "out_of_step"},
        "violation": {"id": "r-1", "cause": "sent_too_much", "reason": None},
        "bounds": {"id": "r-1", "cause": "rerouted"},
        "ledger": {"writable": False},
        "clock": {"step_s": 3.0},
        "gates": {"switches": ["s1", "s2"], "late_ms": 80.5, "changes": 3},
        "impostor": {"switch": "s1", "address": "10.0.0.9"},
        "reconcile": {"switch": "s1", "missing": 1, "wrong": 0, "foreign": 0},
    }
    texts = [sentence(Event(None, kind, data)) for kind, data in events.items()]
    assert all(text.endswith((".", "None")) for text in texts)
    assert sentence(Event(None, "new", {"a": 1, "b": None})) == "new: a 1"


@pytest.mark.parametrize(("name", "span"), [("r2->r1", "r1-r2"), ("r1->r2.2", "r1-r2.2")])
def test_a_span_is_named_as_in_events(name: str, span: str) -> None:
    assert span_of(link(name)) == span
