"""OpenFlow 1.3 on Ryu; the only package that imports ryu or eventlet.

Ryu keeps the connections: handshake, echo requests, events, parsing of statistics. Reservations take a shorter path of
our own (`encoder`, `connection`, `transactions`, `switch_client`), because Ryu creates several objects, an event and
greenlet switches per message. It is why a confirmed reservation over six hops takes 2 ms at the median, where
installing the same entries through Ryu's ofctl_rest takes about 21 ms, unconfirmed. Measured by
bench/reservation_setup.py: `confirmed_p50_ms` 1.8-3.3 ms; `rate_ratio_to_ofctl_rest`, reservations per second, 4.3-4.7.

Ryu's own encoder is the oracle of this path: tests/property/controller/openflow/test_encoder.py compares every message
byte by byte.
"""
