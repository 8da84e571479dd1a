"""Lightpaths: which are lit for a flow, on which channel, and why there is none."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from concurrent.futures import Future
from dataclasses import replace
from itertools import count
from pathlib import Path

import pytest

from controller.admission.admission import Admitted, Rejected, Request, decide
from controller.admission.counter_offer import DecisionContext, earliest_fit_s, nearest_request
from controller.admission.live_reservations import LiveReservations
from controller.admission.path_search import PathSearch
from controller.admission.residual_capacity import ResidualCapacity
from controller.booking.calendar import Calendar
from controller.booking.flow_bookings import FlowBooker, SizedFlow
from controller.calculus.network_bounds import DEFAULT_CALIBRATION
from controller.dataplane.pipeline import best_effort_meter, intended_states
from controller.dataplane.southbound import ChangesByDatapath, Pause
from controller.domain.lightpath import Lightpath
from controller.domain.network import Network, network_from_map
from controller.domain.reservation import Flow, Match, Placement, Protection, Requirement, Reservation, State
from controller.errors import NoSpectrum, Refused, SwitchRefused
from controller.optical.inventory import central_thz, lightpath_inventory
from controller.optical.lightpath_design import design_lightpath, is_valid_placement
from controller.routing.coflow import Volume, shortest_coflow_completion
from controller.service.requests import ReservationSpec
from controller.service.reservation_service import Service
from controller.storage.ledger import IN_MEMORY, Ledger
from machine.polling import wait_until
from tests.unit.controller.simulated_switches import ConfirmingSwitches
from topologies.map_file.loader import load_map
from topologies.maps import Grid, Map
from topologies.problems import MapError

WAVES = load_map("waves")
STRAIGHT = ("r1", "r2", "r3", "r4", "r5")
MOST_BPS = 19_000_000
"""95 % of a channel of 20 Mb/s."""


def stretched(factor: float = 1.0, grid: Grid = "fixed", channel_gbps: float = 100.0, channels: int = 4) -> Map:
    """The map with longer fibres between switches, or other channels of the same emulated rate."""
    links = tuple(
        replace(link, length_km=link.length_km * factor, channels=channels, channel_rate_gbps=channel_gbps)
        if WAVES.node(link.ends[0]).kind == "switch"
        else link
        for link in WAVES.links
    )
    return replace(WAVES, links=links, grid=grid, scale_mbps_per_gbps=20 / channel_gbps)


class Story:
    """Requests one after the other."""

    def __init__(self, plan: Map = WAVES) -> None:
        self.network: Network = network_from_map(plan)
        self.bookings = Calendar()
        self.reservations: dict[str, Reservation] = {}
        self._numbers = count(1)

    def ask(
        self, *flows: Flow, start_s: float | None = None, end_s: float = float("inf"), instead_of: str | None = None
    ) -> Reservation | Refused:
        number = int(instead_of[2:], 16) if instead_of else next(self._numbers)
        version = self.reservations[instead_of].version + 1 if instead_of else 1
        request = Request(f"r-{number:08x}", version, flows, start_s, end_s)
        decision = decide(self.network, self.bookings, tuple(self.reservations.values()), request, 0.0)
        if isinstance(decision, Rejected):
            assert isinstance(decision.error, Refused)
            self.refused = DecisionContext(
                self.network, self.bookings, LiveReservations.of(self.network, self.reservations.values()), 0.0,
                frozenset(),
                self.calibration,
            ), request, decision.error  # fmt: skip
            return decision.error
        assert isinstance(decision, Admitted)
        made = Reservation(
            request.reservation_id, number, version, "test", State.ACTIVE, 60, 0, 60, decision.placements,
            start_at_s=start_s or 0.0, end_at_s=None if end_s == float("inf") else end_s,
        )  # fmt: skip
        self.bookings = decision.calendar
        self.reservations[made.id] = made
        return made

    calibration = DEFAULT_CALIBRATION

    def placed(self, *flows: Flow, start_s: float | None = None, end_s: float = float("inf")) -> Placement:
        made = self.ask(*flows, start_s=start_s, end_s=end_s)
        assert isinstance(made, Reservation), made.detail
        return made.placements[0]

    def release(self, reservation_id: str) -> None:
        del self.reservations[reservation_id]
        self.bookings = self.bookings.without_reservation(reservation_id)


PORTS = count(8000)


def flow(
    source: str = "edge1", rate_bps: int = 5_000_000, destination: str = "cloud", protection: Protection = "none"
) -> Flow:
    port = next(PORTS)
    needed = Requirement(rate_bps, 9014, protection=protection)
    return Flow(f"f{port}", source, destination, Match("udp", port, 7800), needed)


def test_a_flow_gets_a_lightpath_from_its_first_switch_to_its_last() -> None:
    (lightpath,) = Story().placed(flow()).lightpaths
    assert (lightpath.nodes, lightpath.first_slot, lightpath.width) == (STRAIGHT, 0, 1)
    assert (lightpath.rate_bps, lightpath.modulation) == (20_000_000, "DP-QPSK")


def test_flows_between_the_same_switches_travel_together_while_there_is_room() -> None:
    story = Story()
    first, second = story.placed(flow(rate_bps=9_000_000)), story.placed(flow("edge2", 10_000_000))
    assert first.lightpaths == second.lightpaths
    (third,) = story.placed(flow("edge2", 1_000)).lightpaths
    assert (third.nodes, third.first_slot) == (STRAIGHT, 1)


def test_an_empty_lightpath_is_gone_and_its_channel_free() -> None:
    story = Story()
    story.placed(flow())
    story.release("r-00000001")
    assert (story.bookings.lightpaths(), story.bookings) == ({}, Calendar())
    assert story.placed(flow("edge3")).lightpaths[0].first_slot == 0


def test_a_channel_is_the_same_on_every_link_and_free_on_every_link() -> None:
    story = Story()
    assert story.placed(flow("edge3", MOST_BPS)).lightpaths[0].first_slot == 0  # r2 … r5
    assert story.placed(flow("edge1", MOST_BPS)).lightpaths[0].first_slot == 1  # r1-r2 has 0 free, the rest has not


def test_where_no_channel_is_free_all_along_light_ends_and_begins_anew_on_another() -> None:
    story = Story(stretched(channels=2))
    story.placed(flow("edge1", MOST_BPS, "edge3"))  # r1-r2, channel 0
    story.placed(flow("edge3", MOST_BPS))  # r2 … r5, channel 0
    second = story.ask(flow("edge1", MOST_BPS, "edge3"))  # r1-r2, channel 1
    assert isinstance(second, Reservation)
    story.release("r-00000001")  # now channel 0 is free before r2, and 1 behind it
    lightpaths = story.placed(flow("edge1", MOST_BPS)).lightpaths
    assert [(each.nodes, each.first_slot) for each in lightpaths] == [(STRAIGHT[:2], 0), (STRAIGHT[1:], 1)]


def test_a_row_of_lit_lightpaths_is_taken_before_a_new_one() -> None:
    story = Story()
    story.placed(flow("edge1", 1_000_000, "edge3"))
    story.placed(flow("edge3", 1_000_000))
    lightpaths = story.placed(flow("edge1", 1_000_000)).lightpaths
    assert [each.nodes for each in lightpaths] == [("r1", "r2"), ("r2", "r3", "r4", "r5")]
    assert len(story.bookings.lightpaths()) == 2


def test_light_that_does_not_get_through_is_regenerated_on_the_way() -> None:
    story = Story(stretched(14, channel_gbps=200.0))
    assert design_lightpath(story.network, STRAIGHT).rate_bps < 20_000_000, "too far for 16QAM"
    far = Story(stretched(30))
    assert not design_lightpath(far.network, STRAIGHT).is_feasible
    lightpaths = far.placed(flow()).lightpaths
    assert len(lightpaths) > 1
    assert all(each.margin_db >= 0 for each in lightpaths)


def test_what_passes_through_a_regenerator_is_sent_on_there_and_nowhere_else() -> None:
    story = Story(stretched(30))
    placement = story.placed(flow())
    states = intended_states(story.network, story.reservations.values())
    seen = {name for name, state in states.items() for entry in state.flows.values() if ("eth_dst" in dict(entry.match))
            and str(dict(entry.match)["eth_dst"]).startswith("02:00:10")}
    ends = {end for lightpath in placement.lightpaths for end in (lightpath.nodes[0], lightpath.nodes[-1])}
    assert seen == ends


def test_a_slower_format_takes_more_spectrum_on_the_flexible_grid_and_carries_less_on_the_fixed() -> None:
    near, far = (Story(stretched(factor, "flexible", 200.0)) for factor in (0.25, 14))
    fixed = Story(stretched(14, "fixed", 200.0))
    lines = [design_lightpath(each.network, STRAIGHT) for each in (near, far, fixed)]
    assert [(line.modulation, line.width, line.rate_bps) for line in lines] == [
        ("DP-16QAM", 3, 20_000_000), ("DP-QPSK", 6, 20_000_000), ("DP-QPSK", 1, 10_000_000),
    ]  # fmt: skip


def test_all_channels_lit_and_none_with_room_is_no_spectrum() -> None:
    story = Story()
    for source in ("edge3", "load1"):  # four straight on, four the other way round
        for _ in range(4):
            story.placed(flow(source, 12_000_000, "load2"), end_s=100.0)
    error = story.ask(flow("edge3", 12_000_000))
    assert isinstance(error, Refused)
    assert (error.code, error.facts["link"], error.facts["slots"]) == ("no_spectrum", "r2->r3", 4)
    (offered,) = nearest_request(*story.refused) or ()
    assert 6_500_000 < (offered.requirement.min_bandwidth_bps or 0) <= 7_000_000, "what fits beside what is there"
    assert earliest_fit_s(*story.refused) == 100.0


def test_a_flow_larger_than_a_lightpath_is_told_what_one_carries() -> None:
    error = Story().ask(flow(rate_bps=MOST_BPS + 1000))
    assert isinstance(error, Refused)
    assert error.code == "no_capacity"
    assert "one lightpath over r1->r2 carries 19 Mb/s" in error.detail


def test_a_span_too_long_for_any_format_is_out_of_reach_by_so_many_db() -> None:
    story = Story(stretched(60))
    error = story.ask(flow())
    assert isinstance(error, Refused)
    line = design_lightpath(story.network, ("r1", "r2"))
    assert (error.code, error.facts["link"]) == ("out_of_reach", "r1->r2")
    assert error.facts["missing_db"] == -line.margin_db > 0
    assert earliest_fit_s(*story.refused) is None


def test_nothing_is_tried_for_a_group_of_which_light_does_not_reach_one() -> None:
    network = network_from_map(stretched(60))
    room = ResidualCapacity(network, Calendar(), FlowBooker(network.srlg_by_span, "r-1", 0.0))
    flows = [SizedFlow(each, 5_000_000, 9014) for each in (flow(), flow(), flow(protection="link_disjoint"))]
    search = PathSearch(room, flows, {}, frozenset())
    assert list(search.assignments()) == []
    assert search.steps == 0
    assert search.refusal().code == "out_of_reach"


def test_a_transfer_is_quoted_no_more_than_a_lightpath_carries() -> None:
    network = network_from_map(WAVES)
    quote = shortest_coflow_completion(network, Calendar(), [Volume("a", "edge1", "cloud", 1_900_000)], 0.0)
    assert (quote.quotes[0].rate_bps, quote.transfer_ms, quote.bottleneck) == (MOST_BPS, 800.0, "r1->r2")


def test_two_reservations_may_take_turns_in_one_channel() -> None:
    story = Story(stretched(channels=1))
    early = story.placed(flow("edge3", MOST_BPS), end_s=50.0)
    late = story.placed(flow("edge1", MOST_BPS), start_s=60.0)
    assert (early.lightpaths[0].first_slot, late.lightpaths[0].first_slot) == (0, 0)
    assert late.lightpaths[0].nodes == STRAIGHT


def test_a_changed_reservation_stays_in_its_lightpath_or_takes_another_channel() -> None:
    story = Story()
    story.placed(flow("edge3", MOST_BPS))
    kept = flow("edge1", 5_000_000)
    before = story.placed(kept).lightpaths
    story.release("r-00000001")
    larger = replace(kept, requirement=replace(kept.requirement, min_bandwidth_bps=6_000_000))
    changed = story.ask(larger, instead_of="r-00000002")
    assert isinstance(changed, Reservation)
    assert changed.placements[0].lightpaths == before, "a lower channel is free now, and it stays"


def test_a_backup_travels_in_lightpaths_of_its_own() -> None:
    placement = Story().placed(flow(protection="link_disjoint"))
    assert [each.nodes for each in placement.lightpaths] == [STRAIGHT]
    assert [each.nodes for each in placement.backup_lightpaths] == [("r1", "r6", "r5")]


def test_backups_that_one_failure_needs_together_do_not_share_room_in_a_lightpath() -> None:
    story = Story()
    placed = [story.placed(flow("edge1", 12_000_000, protection="link_disjoint")) for _ in range(2)]
    assert len({each.id for placement in placed for each in placement.backup_lightpaths}) == 2


def test_best_effort_has_what_is_not_lit() -> None:
    story = Story()
    story.placed(flow(rate_bps=1_000_000))
    link = story.network.links["r2->r3"]
    meters = intended_states(story.network, story.reservations.values())["r2"].meters
    assert best_effort_meter(link, 20_000_000) in meters.values()


def test_all_of_a_fibre_may_be_lit_and_best_effort_still_speaks() -> None:
    link = network_from_map(WAVES).links["r2->r3"]
    assert best_effort_meter(link, link.capacity_bps).rate_kbps == 64


def test_what_is_shown_of_a_lightpath() -> None:
    story = Story()
    story.placed(flow(rate_bps=5_000_000))
    (shown,) = lightpath_inventory(story.network, story.bookings, story.reservations.values(), 0.0)
    assert (shown.central_thz, shown.width_ghz, shown.length_km) == (191.35, 50.0, 320)
    assert (shown.is_lit, shown.reserved_bps, shown.free_bps) == (True, 5_000_000, 14_000_000)
    assert [(each.reservation_id, each.is_backup) for each in shown.flows] == [("r-00000001", False)]


def test_lightpaths_survive_a_restart_in_the_ledger_and_a_changed_map_is_noticed(tmp_path: Path) -> None:
    story = Story()
    made = story.ask(flow(protection="link_disjoint"))
    assert isinstance(made, Reservation)
    ledger = Ledger(f"sqlite:///{tmp_path}/ledger.db", "waves")
    ledger.write(made)
    (read,) = ledger.live()
    ledger.close()
    assert read == made
    (placement,) = read.placements
    assert is_valid_placement(story.network, placement)
    others = [stretched(channels=1, channel_gbps=400.0), replace(WAVES, grid=None), stretched(grid="flexible")]
    assert not any(is_valid_placement(network_from_map(plan), placement) for plan in others)


def test_a_fibre_has_no_more_channels_than_the_c_band(tmp_path: Path) -> None:
    text = Path("topologies/waves.yaml").read_text().replace("channels: 4", "channels: 97")
    (tmp_path / "wide.yaml").write_text(text.replace("scale_mbps_per_gbps: 0.2", "scale_mbps_per_gbps: 0.01"))
    with pytest.raises(MapError, match=r"channels = 97: .*at most 96"):
        load_map(str(tmp_path / "wide.yaml"))


def test_the_l_band_follows_the_c_band_and_has_frequencies_of_its_own(tmp_path: Path) -> None:
    text = Path("topologies/waves.yaml").read_text().replace("channels: 4", "channels: 97")
    text = text.replace("scale_mbps_per_gbps: 0.2", "scale_mbps_per_gbps: 0.01")
    (tmp_path / "wide.yaml").write_text(text.replace("{grid: fixed}", "{grid: fixed, band: C+L}"))
    network = network_from_map(load_map(str(tmp_path / "wide.yaml")))
    facts = 1, 1_000_000, "DP-QPSK", 20.0, 6.0
    channels = [Lightpath(f"lp-{slot}", ("r1", "r2"), slot, *facts) for slot in (0, 95, 96)]
    assert [central_thz(network, each) for each in channels] == pytest.approx([191.35, 196.1, 186.6])
    assert design_lightpath(network, ("r1", "r2")).gsnr_db < design_lightpath(
        network_from_map(WAVES), ("r1", "r2")
    ).gsnr_db
    (tmp_path / "wider.yaml").write_text(
        text.replace("{grid: fixed}", "{grid: fixed, band: C+L}").replace("channels: 97", "channels: 166")
    )
    with pytest.raises(MapError, match=r"channels = 166: .*at most 165"):
        load_map(str(tmp_path / "wider.yaml"))


def mixed() -> Map:
    """Fibres of 400 Gb/s channels; only that between r1 and r2 has 200 Gb/s ones. Twelve slots each."""
    plan = stretched(0.25, "flexible", 400.0)
    slower = tuple(
        replace(link, channel_rate_gbps=200.0) if link.ends == ("r1", "r2") else link for link in plan.links
    )
    return replace(plan, links=slower)


def broken_up(service: Service, wide_bps: int = 15_000_000) -> ReservationSpec:
    """Every second block of three slots behind r2 is lit; what is asked then needs six."""
    made = [service.reserve(asked(flow(source, 9_000_000))).result()[0] for source in ("edge1", "edge2", "edge1")]
    service.release(made[0].id)
    return asked(flow("edge3", wide_bps))


def asked(*flows: Flow) -> ReservationSpec:
    return ReservationSpec("test", "public", 60.0, flows)


@pytest.fixture
def service() -> Iterator[Service]:
    network = network_from_map(mixed())
    running = Service(network, ConfirmingSwitches(network), Ledger(IN_MEMORY, "waves"))
    running.start()
    while running.queries.switches_up() < len(network.switches):
        pass
    yield running
    running.stop()


def blocks(service: Service) -> list[tuple[int, int]]:
    return [(each.lightpath.first_slot, each.lightpath.width) for each in service.queries.lightpaths()]


def test_lightpaths_make_room_for_a_request_that_found_no_spectrum(service: Service) -> None:
    wanted = broken_up(service)
    assert blocks(service) == [(3, 3), (6, 3)], "free are 0-2 and 9-11, and six in a row are wanted"
    quoted = service.queries.quote(wanted)
    assert isinstance(quoted, Rejected)
    assert isinstance(quoted.error, NoSpectrum)
    (placement,) = service.reserve(wanted).result()[0].placements
    assert placement.lightpaths[0].width == 6
    assert sorted(blocks(service)) == [(0, 6), (6, 3), (9, 3)], "one lightpath has moved"
    written = {each.lightpaths[0].first_slot for kept in service.ledger.live() for each in kept.placements}
    assert written == {0, 6, 9}
    assert service.lightpath_moves == 1


def transparent(regenerators: tuple[str, ...] | None = ()) -> Map:
    """The straight line of the map, and the switches on it at which light may end on the way."""
    nodes = tuple(node for node in WAVES.nodes if node.name != "r6")
    links = tuple(link for link in WAVES.links if "r6" not in link.ends)
    return replace(WAVES, nodes=nodes, links=links, regenerators=regenerators)


def crossing(pinned: bool = False) -> list[Flow]:
    """Full flows: the first two leave, the others stay in slots 2 and 3 behind r2 and in slots 0 and 1 before it."""
    flows = [flow("edge3", MOST_BPS) for _ in range(4)] + [flow("edge1", MOST_BPS, "edge3") for _ in range(2)]
    return [replace(each, requirement=replace(each.requirement, pinned=pinned)) for each in flows]


@pytest.mark.parametrize(("regenerators", "chain"), [(None, 2), (("r2",), 2), (("r3",), 0), ((), 0)])
def test_a_flow_changes_channels_only_where_a_switch_regenerates(
    regenerators: tuple[str, ...] | None, chain: int
) -> None:
    story = Story(transparent(regenerators))
    made = [story.ask(each) for each in crossing()]
    for leaving in made[:2]:
        assert isinstance(leaving, Reservation)
        story.release(leaving.id)
    asked_for = story.ask(flow(rate_bps=MOST_BPS))
    if chain:
        assert isinstance(asked_for, Reservation)
        assert [each.nodes for each in asked_for.placements[0].lightpaths] == [("r1", "r2"), STRAIGHT[1:]]
    else:
        assert isinstance(asked_for, NoSpectrum)
        assert "which no switch regenerates on" in asked_for.detail


@pytest.mark.parametrize("pinned", [False, True])
def test_where_no_switch_regenerates_one_lightpath_moves_unless_it_is_pinned(pinned: bool) -> None:
    network = network_from_map(transparent())
    service = Service(network, ConfirmingSwitches(network), Ledger(IN_MEMORY, "waves"))
    service.start()
    try:
        wait_until(lambda: service.queries.switches_up() == len(network.switches))
        made = [service.reserve(asked(each)).result()[0] for each in crossing(pinned)]
        for leaving in made[:2]:
            service.release(leaving.id)
        wanted = service.reserve(asked(flow(rate_bps=MOST_BPS)))
        if pinned:
            with pytest.raises(NoSpectrum):
                wanted.result()
            assert service.lightpath_moves == 0
        else:
            (lightpath,) = wanted.result()[0].placements[0].lightpaths
            assert (lightpath.nodes, lightpath.first_slot) == (STRAIGHT, 0)
            assert service.lightpath_moves == 1
    finally:
        service.stop()


@pytest.mark.parametrize("pinned", [False, True])
def test_a_lightpath_moves_to_another_route_unless_it_is_pinned(pinned: bool) -> None:
    network = network_from_map(replace(stretched(6), regenerators=()))
    service = Service(network, ConfirmingSwitches(network), Ledger(IN_MEMORY, "waves"))
    service.start()
    try:
        wait_until(lambda: service.queries.switches_up() == len(network.switches))
        for _ in range(4):
            each = flow(rate_bps=11_000_000)
            service.reserve(asked(replace(each, requirement=replace(each.requirement, pinned=pinned)))).result()
        wanted = service.reserve(asked(flow(rate_bps=11_000_000, destination="edge3")))
        if pinned:
            with pytest.raises(NoSpectrum):
                wanted.result()
            assert service.lightpath_moves == 0
            return
        assert wanted.result()[0].placements[0].lightpaths[0].nodes == ("r1", "r2")
        placements = [placement for each in service.ledger.live() for placement in each.placements]
        (placement,) = (each for each in placements if each.path == ("edge1", "r1", "r6", "r5", "cloud"))
        assert placement.accumulated_latency_us > 4.9 * 6 * 440, "proven for the new route"
        assert service.lightpath_moves == 1
    finally:
        service.stop()


def test_defragmenting_moves_everything_down_and_is_written_down(service: Service) -> None:
    broken_up(service)
    moves = service.defragment()
    assert [(each.before.first_slot, each.after.first_slot) for each in moves] == [(6, 0)]
    assert blocks(service) == [(0, 3), (3, 3)]
    assert {each.placements[0].lightpaths[0].first_slot for each in service.ledger.live()} == {0, 3}
    assert service.defragment() == ()


def test_a_move_that_a_switch_refuses_leaves_the_lightpath_where_it_was(service: Service) -> None:
    broken_up(service)
    before = service.queries.lightpaths()
    switches = service._switches._switches
    assert isinstance(switches, ConfirmingSwitches)
    obey = switches.apply

    def refuse(stages: Iterable[ChangesByDatapath | Pause], timeout_s: float) -> Future[None]:  # noqa: ARG001
        switches.apply = obey  # type: ignore[method-assign]
        list(stages)
        future: Future[None] = Future()
        future.set_exception(SwitchRefused("r3 does not want to.", datapath_ids=[3]))
        return future

    switches.apply = refuse  # type: ignore[method-assign]
    with pytest.raises(SwitchRefused):
        service.defragment()
    assert service.queries.lightpaths() == before
    assert {each.placements[0].lightpaths[0].first_slot for each in service.ledger.live()} == {3, 6}
