"""Decides which connection is that of a switch: by its certificate, and by a sign of life where two claim to be it."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Mapping
from functools import partial
from typing import Any

from controller.dataplane.southbound import CertificateMismatch, DuplicateConnection, SwitchEvent
from controller.errors import SwitchError
from controller.openflow.encoder import encode_barrier_request
from controller.openflow.eventlet_quiet import DEAD_DISPATCHER
from controller.openflow.switch_tls import peer_names_of
from controller.openflow.transactions import PendingTransactions, TransactionGroup

log = logging.getLogger(__name__)

PROBE_TIMEOUT_S = 2.0
"""How long a connected switch has for a sign of life when another connection claims to be it."""

Adopt = Callable[[Any], None]
"""Makes a connection the current one of its switch."""


class SwitchAdmission:
    """Accepts or closes connections whose handshake is complete; on Ryu's hub."""

    def __init__(
        self, datapaths: Mapping[int, Any], pending: PendingTransactions, report: Callable[[SwitchEvent], None]
    ) -> None:
        """`datapaths`: the current connections by datapath id. `report`: called with every refused impostor."""
        self._datapaths = datapaths
        self._pending = pending
        self._report = report
        self._names: Mapping[int, str] | None = None
        """Of the switches of the map; None: it is not loaded yet."""
        self._ports: Mapping[int, Collection[int]] = {}

    def expect(self, names: Mapping[int, str], ports: Mapping[int, Collection[int]]) -> None:
        """Set the name that the certificate of each switch must contain, and its ports, by datapath id."""
        self._ports = ports
        self._names = names

    def is_on_map(self, datapath_id: int) -> bool:
        """Whether a switch is on the map."""
        return self._names is None or datapath_id in self._names

    def ports_of(self, datapath_id: int) -> Collection[int]:
        """The ports of a switch that the map uses."""
        return self._ports.get(datapath_id, ())

    def on_handshake(self, datapath: Any, adopt: Adopt, drop: Adopt) -> None:
        """Adopt a connection, or close it.

        A switch that is connected already is asked for a sign of life first: if it gives one, the new connection is
        refused, otherwise the old one is dropped. Where TLS is used, both have shown a certificate for the switch.
        """
        current = self._datapaths.get(datapath.id)
        if not self._is_acceptable(datapath):
            end(datapath)
        elif current is None:
            adopt(datapath)
        else:
            datapath.socket.complete_handshake()
            on_end = partial(self._on_probed, datapath, current, adopt, drop)
            group = TransactionGroup(self._pending, PROBE_TIMEOUT_S, on_end)
            xid = current.set_xid(current.ofproto_parser.OFPBarrierRequest(current))
            group.send(current, xid, encode_barrier_request(xid))
            group.complete()

    def _on_probed(self, datapath: Any, current: Any, adopt: Adopt, drop: Adopt, error: SwitchError | None) -> None:
        if datapath.state == DEAD_DISPATCHER:
            return
        if error is None or self._datapaths.get(datapath.id) not in (None, current):
            names = tuple(sorted(peer_names_of(datapath.socket.connection) or ()))
            self._report(DuplicateConnection(datapath.id, names, datapath.address[0]))
            end(datapath)
            return
        if self._datapaths.get(current.id) is current:
            drop(current)
            end(current)
        adopt(datapath)

    def _is_acceptable(self, datapath: Any) -> bool:
        if not self.is_on_map(datapath.id):
            unknown = [number for number in self._datapaths if not self.is_on_map(number)]
            if len(unknown) >= datapath.socket.limits.unknown_switches:
                sentence = "refused a switch at %s: %016x is not on the map, as %d connected ones are not"
                log.warning(sentence, datapath.address[0], datapath.id, len(unknown))
                return False
        return self.is_authentic(datapath)

    def is_authentic(self, datapath: Any) -> bool:
        """Whether the switch's certificate contains its name; True if no certificate was required."""
        peer_names = peer_names_of(datapath.socket.connection)
        if peer_names is None:
            return True
        if self._names is None:  # the map is not loaded yet; the switch will reconnect
            return False
        name = self._names.get(datapath.id)
        if name is None or name in peer_names:  # switches outside the map are ignored
            return True
        self._report(CertificateMismatch(datapath.id, tuple(sorted(peer_names)), datapath.address[0]))
        return False


def end(datapath: Any) -> None:
    """Close a connection in both directions."""
    datapath.close()
    datapath.socket.disconnect()
