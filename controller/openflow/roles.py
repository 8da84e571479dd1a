"""The role of this controller at the switches, where another one is connected to them as well.

A connection is used only after the switch has confirmed the role: a switch refuses a generation that is older than the
newest it has seen, so a controller that was deposed cannot change it any more. Source: OpenFlow 1.3.5, section 6.3.6.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

log = logging.getLogger(__name__)

Adopt = Callable[[Any], None]


@dataclass(frozen=True, slots=True)
class Role:
    """Master or slave; `generation` grows with every new master."""

    is_master: bool
    generation: int


class SwitchRoles:
    """Asks for the role on every connection; on Ryu's hub. Without a role, connections are used as they are."""

    def __init__(self, end: Callable[[Any], None]) -> None:
        """`end`: closes a connection."""
        self._end = end
        self._role: Role | None = None
        self._adopt: dict[Any, Adopt] = {}
        """What to do with connections whose role is not confirmed yet."""

    def set(self, role: Role, datapaths: Iterable[Any]) -> None:
        """Have this role from now on, on these connections as well."""
        self._role = role
        for datapath in datapaths:
            self._send(datapath, role)

    def confirm(self, datapath: Any, adopt: Adopt) -> None:
        """Call `adopt` as soon as the switch has confirmed the role."""
        if self._role is None:
            adopt(datapath)
        else:
            self._adopt[datapath] = adopt
            self._send(datapath, self._role)

    def on_reply(self, datapath: Any) -> None:
        """The switch has confirmed a role."""
        log.info("switch=%016x has confirmed role=%s", datapath.id, self._role)
        adopt = self._adopt.pop(datapath, None)
        if adopt is not None:
            adopt(datapath)

    def on_error(self, datapath: Any, kind: int) -> bool:
        """Handle an error of a switch, if it is of a role: the connection ends."""
        if kind != datapath.ofproto.OFPET_ROLE_REQUEST_FAILED:
            return False
        log.warning("switch %016x obeys a newer controller; generation %s", datapath.id, self._role)
        self._end(datapath)
        return True

    def forget(self, datapath: Any) -> None:
        """A connection has ended."""
        self._adopt.pop(datapath, None)

    def _send(self, datapath: Any, role: Role) -> None:
        ofproto = datapath.ofproto
        number = ofproto.OFPCR_ROLE_MASTER if role.is_master else ofproto.OFPCR_ROLE_SLAVE
        datapath.send_msg(datapath.ofproto_parser.OFPRoleRequest(datapath, number, role.generation))
