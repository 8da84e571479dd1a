"""Runs Ryu in this process, with our listener and connections in place of Ryu's."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, cast

from controller.errors import StartError
from controller.openflow.connection import SwitchConnection
from controller.openflow.eventlet_quiet import (
    CONF,
    AppManager,
    eventlet,
    ofp_handler,
    ofproto_parser,
    ofproto_v1_3_parser,
    ryu_controller,
    start_service,
)
from controller.openflow.flow_stats import use_fast_parser
from controller.openflow.incoming import BadMessageError
from controller.openflow.limits import OpenFlowLimits
from controller.openflow.listener import Serve, SwitchListener
from controller.openflow.switch_client import SwitchClient
from controller.openflow.switch_tls import with_tls
from controller.security.tls import TlsFiles, server_context

log = logging.getLogger(__name__)

Stop = Callable[[], None]

MAX_REST_CONNECTIONS = 512
REST_SOCKET_TIMEOUT_S = 30.0
"""Of the REST interface inside ryu-manager; eventlet limits the headers itself."""


_limits = OpenFlowLimits()
_is_ours_alone = False
"""Whether no other application of Ryu runs in this process."""
_on_failure: list[Callable[[str], None]] = []


class _Listener(ryu_controller.OpenFlowController):  # type: ignore[misc]
    """Ryu's listener with limits, and TLS for more than one switch; see controller.openflow.switch_tls."""

    def server_loop(self, ofp_tcp_listen_port: int, ofp_ssl_listen_port: int) -> None:
        """Called by Ryu; uses TLS if Ryu's options name a key and a certificate."""
        limits, port = _limits, ofp_tcp_listen_port
        serve: Serve = partial(_serve_switch, limits=limits, is_ours_alone=_is_ours_alone)
        if CONF.ctl_privkey and CONF.ctl_cert:
            files = TlsFiles(CONF.ctl_cert, CONF.ctl_privkey, CONF.ca_certs)
            serve, port = with_tls(serve, files, limits.handshake_s), ofp_ssl_listen_port
        listener = SwitchListener((CONF.ofp_listen_host, port), serve, limits)
        try:
            listener.serve_forever()
        except OSError as error:
            where = f"{CONF.ofp_listen_host}:{port}"
            fail(f"No more switches can connect to {where}: accept: {error.strerror or error}.")
        finally:
            listener.close()


def _serve_switch(
    connection: Any, address: Any, on_established: Callable[[], None], limits: OpenFlowLimits, is_ours_alone: bool
) -> None:
    """Serve a switch until it disconnects, through a SwitchConnection.

    Raises: whatever its messages cause.
    """
    switch = SwitchConnection(connection, limits, on_established, is_ours_alone)
    with contextlib.closing(ryu_controller.Datapath(switch, address)) as datapath:
        datapath.serve()


def _parse_message(datapath: Any, version: int, kind: int, length: int, xid: int, message: bytearray) -> Any:
    """Parse a message, as Ryu does, but end the connection at the first malformed one: its state is unknown then.

    Raises: BadMessageError.
    """
    parse = ofproto_parser._MSG_PARSERS.get(version)
    if parse is None:
        raise BadMessageError(f"a message of type {kind} has OpenFlow version {version:#04x}")
    try:
        return parse(datapath, version, kind, length, xid, message)
    except Exception as error:
        reason = f"a message of type {kind} and {length} bytes is malformed: {error!r}"
        raise BadMessageError(reason) from error


def fail(sentence: str) -> None:
    """End the process with an error, from any thread: it can no longer do what it is for."""
    if _on_failure:
        _on_failure[0](sentence)
    else:  # inside ryu-manager
        log.critical("%s", sentence)
        os.kill(os.getpid(), signal.SIGTERM)


def run(
    apps: Sequence[str],
    openflow: tuple[str, int],
    ryu_rest: tuple[str, int],
    ready: Callable[[Stop], None],
    tls: TlsFiles | None = None,
    limits: OpenFlowLimits | None = None,
) -> None:
    """Run Ryu with our application and `apps` in this thread until the function passed to `ready` is called.

    `ryu_rest`: address of Ryu's own web server, if an application uses it.
    `tls`: switches connect by TLS only, with a certificate of its authority.

    Raises: StartError if a port is taken, or a listener has failed; exceptions of an application that is loaded or
    started.
    """
    global _limits, _is_ours_alone
    _limits, _is_ours_alone = limits or _limits, not apps
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
        use_fast_parser()
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
        _on_failure[:] = [lambda sentence: _signal_stop(waker, stopped, StartError(sentence, exit_code=4))]
        ready(lambda: _signal_stop(waker, stopped))
        error = stopped.wait()
        if error is not None:
            raise error
    finally:
        _on_failure.clear()
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
    limits = {"max_size": MAX_REST_CONNECTIONS, "socket_timeout": REST_SOCKET_TIMEOUT_S, "log_output": False}
    server = eventlet.spawn(eventlet.wsgi.server, listener, application, **limits)
    return cast(Stop, server.kill)


def _load(manager: Any, apps: Sequence[str]) -> None:
    try:
        manager.load_apps(["controller.openflow.ryu_app", *apps])
    except ImportError as error:
        raise StartError(f"A Ryu application cannot be loaded: {error}.", exit_code=2) from error
    without_app = [app for app in apps if app not in manager.applications_cls]
    if without_app:
        raise StartError(f"There is no Ryu application in {', '.join(without_app)}.", exit_code=2)


def _signal_stop(waker: SwitchClient, stopped: Any, error: StartError | None = None) -> None:
    waker.call(lambda: None if stopped.ready() else stopped.send(error))


def _no_old_match(*_: object) -> None:
    """Return no match in the old form."""


def patch_ryu() -> None:
    """Replace Ryu's listener, connection handler and parser by ours."""
    ofp_handler.OpenFlowController = _Listener
    ofproto_parser.msg = _parse_message
