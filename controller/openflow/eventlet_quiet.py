"""Imports eventlet and Ryu, in this order, quietly and with what Ryu 4.34 still expects of eventlet.

Every module that uses either imports it from here, so the order of imports elsewhere does not matter.
"""

import os
import warnings

os.environ.setdefault("EVENTLET_NO_GREENDNS", "yes")  # nobody here asks for a name; it takes 0.1 s to import

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # eventlet announces its retirement on import
    import eventlet
    import eventlet.event
    import eventlet.green.ssl
    import eventlet.hubs
    import eventlet.patcher
    import eventlet.wsgi
    from eventlet.greenio import GreenSocket

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

__all__ = [
    "CONF", "DEAD_DISPATCHER", "MAIN_DISPATCHER", "AppManager", "GreenSocket", "IntOpt", "ListOpt", "RyuApp", "StrOpt",
    "eventlet", "ofp_event", "ofp_handler", "ofproto_v1_3", "ofproto_v1_3_parser", "ryu_controller",
    "set_ev_cls", "start_service",
]
