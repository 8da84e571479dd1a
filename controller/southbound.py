"""The Ryu application: the only file that imports ryu.

Loaded by `paceline controller`, or by `ryu-manager controller.southbound`. Whoever starts the process may `attach` what
is to be built on top; if nobody did, the application loads it by name (`paceline_assemble`), so that no import runs
back up.
"""

from __future__ import annotations

import os
import warnings

os.environ.setdefault("EVENTLET_NO_GREENDNS", "yes")  # nobody here asks for a name; it takes 0.1 s to import

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # eventlet announces its retirement on import
    import eventlet
    import eventlet.patcher
    import eventlet.wsgi

    if not hasattr(eventlet.wsgi, "ALREADY_HANDLED"):
        # The name left eventlet in 0.30.3; only Ryu's own wsgi module asks for it.
        eventlet.wsgi.ALREADY_HANDLED = object()
    from ryu.app.wsgi import start_service
    from ryu.base.app_manager import AppManager, RyuApp
    from ryu.cfg import CONF, IntOpt, ListOpt, StrOpt
    from ryu.controller import controller as ryu_controller
    from ryu.controller import ofp_event, ofp_handler
    from ryu.controller.handler import DEAD_DISPATCHER, MAIN_DISPATCHER, set_ev_cls
    from ryu.ofproto import ofproto_v1_3, ofproto_v1_3_parser

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Any, ClassVar, TypeVar, cast

from controller.errors import StartError
from controller.front import Front
from controller.line import Line
from controller.security.audit import KEPT_DAYS
from controller.security.switch_tls import secured
from controller.security.tls import TlsFiles, server_context
from controller.switches import LldpSeen, PortChanged, SwitchGone, SwitchUp
from controller.wiring import read_lldp_frame

DEFAULT_ASSEMBLE = "controller.hosted:assemble"

Handler = TypeVar("Handler", bound=Callable[..., None])
on = cast(Callable[..., Callable[[Handler], Handler]], set_ev_cls)


@dataclass(frozen=True, slots=True)
class Settings:
    """What the process was started with; `green`: Ryu has replaced the threads by greenlets (ryu-manager does)."""

    map_name: str
    listen: tuple[str, ...]
    ledger: str
    audit_days: int
    tls_cert: str | None
    tls_key: str | None
    green: bool


Stop = Callable[[], None]
Assemble = Callable[[Front, Settings], Stop]

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

_attached: list[Callable[[Front], Stop]] = []


def attach(assemble: Callable[[Front], Stop]) -> None:
    """Say what the application is to start on the switches' front; what it returns stops it again."""
    _attached[:] = [assemble]


class _Listener(ryu_controller.OpenFlowController):  # type: ignore[misc]
    """Ryu's listener with TLS that serves more than one switch; see controller.security.switch_tls."""

    def server_loop(self, ofp_tcp_listen_port: int, ofp_ssl_listen_port: int) -> None:
        """Called by Ryu: over TLS when its own options name a key and a certificate."""
        if not (CONF.ctl_privkey and CONF.ctl_cert):
            super().server_loop(ofp_tcp_listen_port, ofp_ssl_listen_port)
            return
        files = TlsFiles(CONF.ctl_cert, CONF.ctl_privkey, CONF.ca_certs)
        handle = secured(_serve, files)
        ryu_controller.StreamServer((CONF.ofp_listen_host, ofp_ssl_listen_port), handle).serve_forever()


ofp_handler.OpenFlowController = _Listener


_serve_by_ryu = ryu_controller.datapath_connection_factory


def _serve(connection: Any, address: Any) -> None:
    """A switch's connection, for as long as it lasts, on a line of ours; see controller.line."""
    _serve_by_ryu(Line(connection), address)


ryu_controller.datapath_connection_factory = _serve


def run(
    apps: Sequence[str],
    openflow: tuple[str, int],
    ryu_rest: tuple[str, int],
    ready: Callable[[Stop], None],
    tls: TlsFiles | None = None,
) -> None:
    """Run Ryu with this and these other applications in this thread until the function handed to `ready` is called.

    `ryu_rest`: where Ryu's own web server listens if one of the applications wants it.
    `tls`: switches connect by TLS only, and need a certificate of its authority.

    Raises: StartError if a port is taken; whatever an application raises while it is loaded or started.
    """
    CONF(args=[], project="ryu", default_config_files=[])
    overrides = {"ofp_listen_host": openflow[0], "ofp_tcp_listen_port": openflow[1]}
    overrides |= {"wsapi_host": ryu_rest[0], "wsapi_port": ryu_rest[1]}
    if tls is not None:
        overrides |= {"ofp_ssl_listen_port": openflow[1]}
        overrides |= {"ctl_cert": tls.certificate, "ctl_privkey": tls.key, "ca_certs": tls.authority}
    # A switch that says nothing for about 12 s counts as gone.
    for name, value in {**overrides, "echo_request_interval": 3.0, "maximum_unreplied_echo_requests": 3}.items():
        CONF.set_override(name, value)
    stopped = eventlet.event.Event()
    if not apps:
        # The form of a match that Ryu keeps for old applications; making it takes as long as all the rest.
        ofproto_v1_3_parser.OFPMatch.parser_old = staticmethod(_no_old_form)
    bell = Front()
    bell.open()
    manager = AppManager.get_instance()
    services: list[Any] = []
    try:
        _load(manager, apps)
        services += manager.instantiate_apps(**manager.create_contexts())
        webapp = start_service(manager)
        if webapp:
            services.append(eventlet.spawn(webapp))
        eventlet.sleep(0)  # the listeners bind now
        if any(service.dead for service in services):
            raise StartError(f"Cannot listen for switches on {openflow[0]}:{openflow[1]}.", exit_code=3)
        ready(lambda: _ring(bell, stopped))
        stopped.wait()
    finally:
        manager.close()
        for service in services:
            service.kill()
        bell.close()


def serve_wsgi(application: Callable[..., Any], host: str, port: int, tls: TlsFiles | None = None) -> Stop:
    """Serve a WSGI application on the hub, each request in a greenlet; what it returns ends it.

    Raises: OSError if it cannot listen there, StartError if the files are wrong.
    """
    context = server_context(tls, eventlet.green.ssl.SSLContext) if tls else None
    listener = eventlet.listen((host, port), reuse_port=False)
    if context is not None:  # each greenlet shakes hands for itself, so that nobody who does not holds up the others
        listener = context.wrap_socket(listener, server_side=True, do_handshake_on_connect=False)
    server = eventlet.spawn(eventlet.wsgi.server, listener, application, log_output=False)
    return cast(Stop, server.kill)


def _load(manager: Any, apps: Sequence[str]) -> None:
    try:
        manager.load_apps([__name__, *apps])
    except ImportError as error:
        raise StartError(f"A Ryu application cannot be loaded: {error}.", exit_code=2) from error
    empty = [app for app in apps if app not in manager.applications_cls]
    if empty:
        raise StartError(f"There is no Ryu application in {', '.join(empty)}.", exit_code=2)


def _ring(bell: Front, stopped: Any) -> None:
    bell.call(lambda: None if stopped.ready() else stopped.send(None))


class PacelineApp(RyuApp):  # type: ignore[misc]
    """Turns Ryu's events into ours and starts what is built on top."""

    OFP_VERSIONS: ClassVar = [ofproto_v1_3.OFP_VERSION]

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.front = Front()
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
            if not self.front.may_join(datapath):
                datapath.close()
                return
            self.front.joined(datapath)
            ports = {number: _port_facts(port) for number, port in datapath.ports.items() if number <= _LAST_PORT}
            self.front.events.put(SwitchUp(datapath.id, ports))
        elif self.front.lost(datapath):
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


def _no_old_form(*_: object) -> None:
    """Leave it out."""


def _nothing() -> None:
    """Stop what was never started."""


def _port_facts(port: Any) -> tuple[str, bool]:
    down = port.config & ofproto_v1_3.OFPPC_PORT_DOWN or port.state & ofproto_v1_3.OFPPS_LINK_DOWN
    return port.name.decode(errors="replace"), not down


def _assemble_by_name(front: Front) -> Stop:
    module, _, function = CONF.paceline_assemble.partition(":")
    assemble = cast(Assemble, getattr(import_module(module), function))
    green = bool(eventlet.patcher.is_monkey_patched("thread"))
    settings = Settings(
        CONF.paceline_map, tuple(CONF.paceline_listen), CONF.paceline_ledger, CONF.paceline_audit_days,
        CONF.paceline_tls_cert, CONF.paceline_tls_key, green,
    )  # fmt: skip
    return assemble(front, settings)
