"""Runs Ryu in this process, with our listener and connections in place of Ryu's."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, cast

from controller.errors import StartError
from controller.openflow.connection import SwitchConnection
from controller.openflow.eventlet_quiet import (
    CONF,
    AppManager,
    eventlet,
    ofp_handler,
    ofproto_v1_3_parser,
    ryu_controller,
    start_service,
)
from controller.openflow.switch_client import SwitchClient
from controller.openflow.switch_tls import with_tls
from controller.security.tls import TlsFiles, server_context

Stop = Callable[[], None]


class _Listener(ryu_controller.OpenFlowController):  # type: ignore[misc]
    """Ryu's listener with TLS for more than one switch; see controller.openflow.switch_tls."""

    def server_loop(self, ofp_tcp_listen_port: int, ofp_ssl_listen_port: int) -> None:
        """Called by Ryu; uses TLS if Ryu's options name a key and a certificate."""
        if not (CONF.ctl_privkey and CONF.ctl_cert):
            super().server_loop(ofp_tcp_listen_port, ofp_ssl_listen_port)
            return
        files = TlsFiles(CONF.ctl_cert, CONF.ctl_privkey, CONF.ca_certs)
        handle = with_tls(_serve_switch, files)
        ryu_controller.StreamServer((CONF.ofp_listen_host, ofp_ssl_listen_port), handle).serve_forever()


_serve_switch_by_ryu = ryu_controller.datapath_connection_factory


def _serve_switch(connection: Any, address: Any) -> None:
    """Serve a switch until it disconnects, through a SwitchConnection."""
    _serve_switch_by_ryu(SwitchConnection(connection), address)


def run(
    apps: Sequence[str],
    openflow: tuple[str, int],
    ryu_rest: tuple[str, int],
    ready: Callable[[Stop], None],
    tls: TlsFiles | None = None,
) -> None:
    """Run Ryu with our application and `apps` in this thread until the function passed to `ready` is called.

    `ryu_rest`: address of Ryu's own web server, if an application uses it.
    `tls`: switches connect by TLS only, with a certificate of its authority.

    Raises: StartError if a port is taken; exceptions of an application that is loaded or started.
    """
    CONF(args=[], project="ryu", default_config_files=[])
    overrides = {"ofp_listen_host": openflow[0], "ofp_tcp_listen_port": openflow[1]}
    overrides |= {"wsapi_host": ryu_rest[0], "wsapi_port": ryu_rest[1]}
    if tls is not None:
        overrides |= {"ofp_ssl_listen_port": openflow[1]}
        overrides |= {"ctl_cert": tls.certificate, "ctl_privkey": tls.key, "ca_certs": tls.authority}
    # A switch that does not answer echo requests for about 12 s is disconnected.
    for name, value in {**overrides, "echo_request_interval": 3.0, "maximum_unreplied_echo_requests": 3}.items():
        CONF.set_override(name, value)
    stopped = eventlet.event.Event()
    if not apps:
        # Ryu parses each match a second time into its old form for old applications, which doubles the time.
        ofproto_v1_3_parser.OFPMatch.parser_old = staticmethod(_no_old_match)
    waker = SwitchClient()
    waker.open()
    manager = AppManager.get_instance()
    services: list[Any] = []
    try:
        _load(manager, apps)
        services += manager.instantiate_apps(**manager.create_contexts())
        webapp = start_service(manager)
        if webapp:
            services.append(eventlet.spawn(webapp))
        eventlet.sleep(0)  # lets the listeners bind
        if any(service.dead for service in services):
            raise StartError(f"Cannot listen for switches on {openflow[0]}:{openflow[1]}.", exit_code=3)
        ready(lambda: _signal_stop(waker, stopped))
        stopped.wait()
    finally:
        manager.close()
        for service in services:
            service.kill()
        waker.close()


def serve_wsgi(application: Callable[..., Any], host: str, port: int, tls: TlsFiles | None = None) -> Stop:
    """Serve a WSGI application on the hub, each request in a greenlet; the function returned stops it.

    Raises: OSError if the address cannot be bound, StartError if the TLS files are invalid.
    """
    context = server_context(tls, eventlet.green.ssl.SSLContext) if tls else None
    listener = eventlet.listen((host, port), reuse_port=False)
    if context is not None:  # each greenlet does its own handshake, so that a slow client does not block others
        listener = context.wrap_socket(listener, server_side=True, do_handshake_on_connect=False)
    server = eventlet.spawn(eventlet.wsgi.server, listener, application, log_output=False)
    return cast(Stop, server.kill)


def _load(manager: Any, apps: Sequence[str]) -> None:
    try:
        manager.load_apps(["controller.openflow.ryu_app", *apps])
    except ImportError as error:
        raise StartError(f"A Ryu application cannot be loaded: {error}.", exit_code=2) from error
    without_app = [app for app in apps if app not in manager.applications_cls]
    if without_app:
        raise StartError(f"There is no Ryu application in {', '.join(without_app)}.", exit_code=2)


def _signal_stop(waker: SwitchClient, stopped: Any) -> None:
    waker.call(lambda: None if stopped.ready() else stopped.send(None))


def _no_old_match(*_: object) -> None:
    """Return no match in the old form."""


def patch_ryu() -> None:
    """Replace Ryu's listener and connection handler by ours."""
    ofp_handler.OpenFlowController = _Listener
    ryu_controller.datapath_connection_factory = _serve_switch
