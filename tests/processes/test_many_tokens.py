"""Changes that move more tokens than a switch may leave unread: they are sent in parts."""

from __future__ import annotations

import re
from typing import Any

from control_plane.switch_row import controller_of, flow_body, row_of_switches, switches_in_sync
from controller.openflow.limits import OpenFlowLimits
from machine.polling import wait_until
from tests.processes.rig import needs_open_vswitch

pytestmark = needs_open_vswitch

COUNT, RATE_BPS, BURST_BYTES = 20, 400_000, 4_000_000


def body_of(number: int, rate_bps: int = RATE_BPS) -> dict[str, Any]:
    flow = flow_body(number, rate_bps)
    flow["requirement"]["burst_bytes"] = BURST_BYTES
    return {"flows": [flow], "lease_s": 600}


def test_a_switch_that_lost_its_state_gets_more_empty_meters_than_it_may_leave_unread() -> None:
    """Each of them is emptied with frames of as many bytes as its burst."""
    with row_of_switches(500_000_000) as (switches, map_file), controller_of(switches, map_file) as (controller, api):
        for number in range(COUNT):
            assert api.post("/v1/reservations", json=body_of(number)).status_code == 201
        switches.vsctl("del-controller", "s1")
        wait_until(lambda: not switches_in_sync(api), 20)
        switches.ofctl("del-flows", "s1")
        switches.ofctl("del-meters", "s1")
        switches.connect(controller.openflow_port)
        wait_until(lambda: switches_in_sync(api), 60)
        meters = re.findall(r"meter=11\d{4} .*?burst_size=(\d+)", switches.ofctl("dump-meters", "s1"), re.DOTALL)
        assert len(meters) == COUNT
        assert sum(int(burst_kbit) * 125 for burst_kbit in meters) > OpenFlowLimits().unsent_bytes
        assert "unread" not in controller.log.read_text()
        assert api.get("/v1/consistency").json()["consistent"]
