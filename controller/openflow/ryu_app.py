"""The Ryu application.

Loaded by `paceline controller` or `ryu-manager controller.openflow.ryu_app`. Whoever starts the process may `attach`
what is to be built on top; if nobody did, the application loads it by name (`paceline_assemble`), so that no
import runs back up.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from typing import Any, ClassVar, TypeVar, cast

from controller.dataplane.lldp import read_lldp_frame
from controller.dataplane.southbound import LldpSeen, PortChanged, SwitchGone, SwitchUp
from controller.openflow import ryu_runtime
from controller.openflow.eventlet_quiet import (
    CONF,
    DEAD_DISPATCHER,
    MAIN_DISPATCHER,
    IntOpt,
    ListOpt,
    RyuApp,
    StrOpt,
    eventlet,
    ofp_event,
    ofproto_v1_3,
    set_ev_cls,
)
from controller.openflow.ryu_runtime import Stop
from controller.openflow.switch_client import SwitchClient
from controller.security.audit import KEPT_DAYS

DEFAULT_ASSEMBLE = "controller.runtime.ryu_hosted:assemble"

Handler = TypeVar("Handler", bound=Callable[..., None])
on = cast(Callable[..., Callable[[Handler], Handler]], set_ev_cls)


@dataclass(frozen=True, slots=True)
class OpenFlowSettings:
    """What the process was started with; `green`: Ryu has replaced the threads by greenlets (ryu-manager does)."""

    map_name: str
    listen: tuple[str, ...]
    ledger: str
    audit_days: int
    tls_cert: str | None
    tls_key: str | None
    green: bool


Assemble = Callable[[SwitchClient, OpenFlowSettings], Stop]

_OPTIONS = [
    StrOpt("paceline_map", default=os.environ.get("PACELINE_MAP", ""), help="name or path of the map"),
    ListOpt("paceline_listen", default=["127.0.0.1:8080"], help="HOST:PORT of the REST API, several by commas"),
    StrOpt("paceline_ledger", default="", help="URL of the ledger"),
    IntOpt("paceline_audit_days", default=KEPT_DAYS, min=1, help="how long an entry of the audit log is kept"),
    StrOpt("paceline_tls_cert", help="certificate of the REST API: it speaks https only"),
    StrOpt("paceline_tls_key", help="the key of that certificate"),
    StrOpt("paceline_assemble", default=DEFAULT_ASSEMBLE, help="MODULE:FUNCTION that builds on the switches"),
]
CONF.register_opts(_OPTIONS)

ryu_runtime.patch_ryu()

_attached: list[Callable[[SwitchClient], Stop]] = []


def attach(assemble: Callable[[SwitchClient], Stop]) -> None:
    """Say what the application is to start on the switches' front; what it returns stops it again."""
    _attached[:] = [assemble]




















class PacelineApp(RyuApp):  # type: ignore[misc]
    """Turns Ryu's events into ours and starts what is built on top."""

    OFP_VERSIONS: ClassVar = [ofproto_v1_3.OFP_VERSION]

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.front = SwitchClient()
        self.stop_assembled: Stop = _nothing

    def start(self) -> None:
        """Called by Ryu when every application is there."""
        super().start()
        self.front.open()
        self.stop_assembled = (_attached or [_assemble_by_name])[0](self.front)

    def close(self) -> None:
        """Called by Ryu at the end."""
        self.stop_assembled()
        self.stop_assembled = _nothing
        self.front.close()

    @on(ofp_event.EventOFPStateChange, [MAIN_DISPATCHER, DEAD_DISPATCHER])
    def state_changed(self, event: Any) -> None:
        """A switch has finished its handshake, or its connection is gone."""
        datapath = event.datapath
        if event.state == MAIN_DISPATCHER:
            if not self.front.is_authentic(datapath):
                datapath.close()
                return
            self.front.on_connected(datapath)
            ports = {number: _port_facts(port) for number, port in datapath.ports.items() if number <= _LAST_PORT}
            self.front.events.put(SwitchUp(datapath.id, ports))
        elif self.front.on_disconnected(datapath):
            self.front.events.put(SwitchGone(datapath.id))

    @on(ofp_event.EventOFPPortStatus, MAIN_DISPATCHER)
    def port_changed(self, event: Any) -> None:
        """A port has come, gone or changed."""
        message = event.msg
        if not self.front.is_in(message.datapath):
            return
        name, up = _port_facts(message.desc)
        gone = message.reason == message.datapath.ofproto.OFPPR_DELETE
        self.front.events.put(
            PortChanged(message.datapath.id, message.desc.port_no, name, None if gone else up)
        )

    @on(ofp_event.EventOFPPacketIn, MAIN_DISPATCHER)
    def packet_in(self, event: Any) -> None:
        """A frame has come up; only our own LLDP concerns us."""
        source = read_lldp_frame(event.msg.data)
        if source is not None and self.front.is_in(event.msg.datapath):
            self.front.events.put(LldpSeen(event.msg.datapath.id, event.msg.match["in_port"], *source))

    @on(ofp_event.EventOFPErrorMsg, MAIN_DISPATCHER)
    def refused(self, event: Any) -> None:
        """A switch did not like a message; of those that somebody waits for, the line has told us already."""
        message = event.msg
        self.front.refused(message.datapath, message.xid, message.type, message.code)

    @on(ofp_event.EventOFPFlowStatsReply, MAIN_DISPATCHER)
    @on(ofp_event.EventOFPGroupDescStatsReply, MAIN_DISPATCHER)
    @on(ofp_event.EventOFPMeterConfigStatsReply, MAIN_DISPATCHER)
    @on(ofp_event.EventOFPMeterStatsReply, MAIN_DISPATCHER)
    def statistics_replied(self, event: Any) -> None:
        """Statistics, or a part of them."""
        message = event.msg
        more = bool(message.flags & message.datapath.ofproto.OFPMPF_REPLY_MORE)
        self.front.answered(message.datapath, message.xid, message.body, more)


_LAST_PORT = ofproto_v1_3.OFPP_MAX




def _nothing() -> None:
    """Stop what was never started."""


def _port_facts(port: Any) -> tuple[str, bool]:
    down = port.config & ofproto_v1_3.OFPPC_PORT_DOWN or port.state & ofproto_v1_3.OFPPS_LINK_DOWN
    return port.name.decode(errors="replace"), not down


def _assemble_by_name(front: SwitchClient) -> Stop:
    module, _, function = CONF.paceline_assemble.partition(":")
    assemble = cast(Assemble, getattr(import_module(module), function))
    green = bool(eventlet.patcher.is_monkey_patched("thread"))
    settings = OpenFlowSettings(
        CONF.paceline_map, tuple(CONF.paceline_listen), CONF.paceline_ledger, CONF.paceline_audit_days,
        CONF.paceline_tls_cert, CONF.paceline_tls_key, green,
    )  # fmt: skip
    return assemble(front, settings)
