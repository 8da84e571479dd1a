"""OpenFlow 1.3 on Ryu; the only package that imports ryu or eventlet."""
