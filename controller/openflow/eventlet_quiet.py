"""Imports eventlet, then Ryu, without warnings and with a name that Ryu 4.34 still expects in eventlet.

All modules import both from here, so that their own import order does not matter.
"""

import os
import warnings

os.environ.setdefault("EVENTLET_NO_GREENDNS", "yes")  # DNS is not used; importing it takes 0.1 s

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # eventlet warns on import that it is deprecated
    import eventlet
    import eventlet.event
    import eventlet.green.ssl
    import eventlet.hubs
    import eventlet.patcher
    import eventlet.wsgi
    from eventlet.greenio import GreenSocket

    if not hasattr(eventlet.wsgi, "ALREADY_HANDLED"):
        # Removed from eventlet in 0.30.3; only ryu.app.wsgi imports it.
        eventlet.wsgi.ALREADY_HANDLED = object()
    from ryu.app.wsgi import start_service
    from ryu.base.app_manager import AppManager, RyuApp
    from ryu.cfg import CONF, IntOpt, ListOpt, StrOpt
    from ryu.controller import controller as ryu_controller
    from ryu.controller import ofp_event, ofp_handler
    from ryu.controller.handler import DEAD_DISPATCHER, MAIN_DISPATCHER, set_ev_cls
    from ryu.ofproto import ofproto_parser, ofproto_v1_3, ofproto_v1_3_parser

__all__ = [
    "CONF", "DEAD_DISPATCHER", "MAIN_DISPATCHER", "AppManager", "GreenSocket", "IntOpt", "ListOpt", "RyuApp", "StrOpt",
    "eventlet", "ofp_event", "ofp_handler", "ofproto_parser", "ofproto_v1_3", "ofproto_v1_3_parser", "ryu_controller",
    "set_ev_cls", "start_service",
]
