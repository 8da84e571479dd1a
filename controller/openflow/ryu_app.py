"""The Ryu application, loaded by `paceline controller` or `ryu-manager controller.openflow.ryu_app`.

The process may `attach` the function that builds the service on top; without it the application loads the function
named by the option `paceline_assemble`, so that this package imports nothing from the layers above.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from typing import Any, ClassVar, TypeVar, cast

from controller.dataplane.lldp import read_lldp_frame
from controller.dataplane.southbound import LldpReceived, PortChanged, SwitchConnected, SwitchDisconnected
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
from controller.security.audit import RETENTION_DAYS

DEFAULT_ASSEMBLE = "controller.runtime.ryu_hosted:assemble"

Handler = TypeVar("Handler", bound=Callable[..., None])
on = cast(Callable[..., Callable[[Handler], Handler]], set_ev_cls)


@dataclass(frozen=True, slots=True)
class OpenFlowSettings:
    """Options of the process. `uses_greenlets`: threads are monkey-patched to greenlets, as ryu-manager does."""

    map_name: str
    listen: tuple[str, ...]
    ledger: str
    audit_days: int
    reservation_days: int
    tls_cert: str | None
    tls_key: str | None
    uses_greenlets: bool


Assemble = Callable[[SwitchClient, OpenFlowSettings], Stop]

_OPTIONS = [
    StrOpt("paceline_map", default=os.environ.get("PACELINE_MAP", ""), help="name or path of the map"),
    ListOpt("paceline_listen", default=["127.0.0.1:8080"], help="HOST:PORT of the REST API, comma-separated"),
    StrOpt("paceline_ledger", default="", help="URL of the ledger"),
    IntOpt("paceline_audit_days", default=RETENTION_DAYS, min=1, help="days an audit log entry is kept"),
    IntOpt("paceline_reservation_days", default=90, min=1, help="days a reservation that has ended is kept"),
    StrOpt("paceline_tls_cert", help="certificate file of the REST API; enables https"),
    StrOpt("paceline_tls_key", help="private key file of that certificate"),
    StrOpt("paceline_assemble", default=DEFAULT_ASSEMBLE, help="MODULE:FUNCTION that builds the service"),
]
CONF.register_opts(_OPTIONS)

ryu_runtime.patch_ryu()

_attached: list[Callable[[SwitchClient], Stop]] = []


def attach(assemble: Callable[[SwitchClient], Stop]) -> None:
    """Set the function that the application calls at start; the function it returns is called at the end."""
    _attached[:] = [assemble]


class PacelineApp(RyuApp):  # type: ignore[misc]
    """Translates Ryu's events and starts the service."""

    OFP_VERSIONS: ClassVar = [ofproto_v1_3.OFP_VERSION]

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.client = SwitchClient()
        self.stop_service: Stop = _nothing

    def start(self) -> None:
        """Called by Ryu when all applications are loaded."""
        super().start()
        self.client.open()
        self.stop_service = (_attached or [_assemble_by_name])[0](self.client)

    def close(self) -> None:
        """Called by Ryu at the end."""
        self.stop_service()
        self.stop_service = _nothing
        self.client.close()

    @on(ofp_event.EventOFPStateChange, [MAIN_DISPATCHER, DEAD_DISPATCHER])
    def state_changed(self, event: Any) -> None:
        """Handle the end of a handshake or of a connection."""
        datapath = event.datapath
        if event.state == MAIN_DISPATCHER:
            self.client.on_handshake(datapath, self._adopt)
        elif self.client.on_disconnected(datapath):
            self.client.events.put(SwitchDisconnected(datapath.id))

    def _adopt(self, datapath: Any) -> None:
        """The connection is now that of the switch."""
        described = [(number, port) for number, port in datapath.ports.items() if number <= _MAX_PORT]
        kept = described if self.client.admission.is_on_map(datapath.id) else described[:PORTS_OF_UNKNOWN_SWITCH]
        self.client.events.put(SwitchConnected(datapath.id, {number: _port_state(port) for number, port in kept}))

    @on(ofp_event.EventOFPPortStatus, MAIN_DISPATCHER)
    def port_changed(self, event: Any) -> None:
        """Handle a port that was added, deleted or modified."""
        message = event.msg
        if not self.client.is_current(message.datapath):
            return
        name, up = _port_state(message.desc)
        is_deleted = message.reason == message.datapath.ofproto.OFPPR_DELETE
        self.client.events.put(
            PortChanged(message.datapath.id, message.desc.port_no, name, None if is_deleted else up)
        )

    @on(ofp_event.EventOFPPacketIn, MAIN_DISPATCHER)
    def packet_in(self, event: Any) -> None:
        """Handle our own LLDP frames; other packet-ins are ignored."""
        source, message = read_lldp_frame(event.msg.data), event.msg
        if source is None or not self.client.is_current(message.datapath):
            return
        in_port = message.match.get("in_port")
        if in_port in self.client.admission.ports_of(message.datapath.id):
            self.client.events.put(LldpReceived(message.datapath.id, in_port, *source))

    @on(ofp_event.EventOFPRoleReply, MAIN_DISPATCHER)
    def role_confirmed(self, event: Any) -> None:
        """Handle the confirmation of a role."""
        self.client.roles.on_reply(event.msg.datapath)

    @on(ofp_event.EventOFPErrorMsg, MAIN_DISPATCHER)
    def error_received(self, event: Any) -> None:
        """Handle an error; errors of pending transactions are handled by the connection already."""
        message = event.msg
        self.client.on_error(message.datapath, message.xid, message.type, message.code)

    @on(ofp_event.EventOFPFlowStatsReply, MAIN_DISPATCHER)
    @on(ofp_event.EventOFPGroupDescStatsReply, MAIN_DISPATCHER)
    @on(ofp_event.EventOFPMeterConfigStatsReply, MAIN_DISPATCHER)
    @on(ofp_event.EventOFPMeterStatsReply, MAIN_DISPATCHER)
    @on(ofp_event.EventOFPPortStatsReply, MAIN_DISPATCHER)
    def statistics_replied(self, event: Any) -> None:
        """Handle a statistics reply, or a part of one."""
        message = event.msg
        more = bool(message.flags & message.datapath.ofproto.OFPMPF_REPLY_MORE)
        self.client.on_reply(message.datapath, message.xid, message.body, more)


_MAX_PORT = ofproto_v1_3.OFPP_MAX
PORTS_OF_UNKNOWN_SWITCH = 64
"""Ports of a switch that is not on the map that send frames for the wiring check."""


def _nothing() -> None:
    """Stop nothing: the service has not been started."""


def _port_state(port: Any) -> tuple[str, bool]:
    is_down = port.config & ofproto_v1_3.OFPPC_PORT_DOWN or port.state & ofproto_v1_3.OFPPS_LINK_DOWN
    return port.name.decode(errors="replace"), not is_down


def _assemble_by_name(client: SwitchClient) -> Stop:
    module, _, function = CONF.paceline_assemble.partition(":")
    assemble = cast(Assemble, getattr(import_module(module), function))
    uses_greenlets = bool(eventlet.patcher.is_monkey_patched("thread"))
    settings = OpenFlowSettings(
        CONF.paceline_map, tuple(CONF.paceline_listen), CONF.paceline_ledger, CONF.paceline_audit_days,
        CONF.paceline_reservation_days, CONF.paceline_tls_cert, CONF.paceline_tls_key, uses_greenlets,
    )  # fmt: skip
    return assemble(client, settings)
