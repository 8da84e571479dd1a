"""Reads a switch on Ryu's hub: its entries, its counters, and what it can do."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from controller.dataplane.entries import COOKIE_TAG, COOKIE_TAG_MASK, Entries, MeterEntry, describe
from controller.dataplane.southbound import FlowCounter, MeterCounter, PortCounter, Reading
from controller.dataplane.switch_capabilities import SwitchCapabilities
from controller.errors import SwitchRefused
from controller.openflow.capability_messages import MALFORMED, QUESTIONS, decode_capabilities
from controller.openflow.connection import corked
from controller.openflow.decoder import (
    decode_flow_stats,
    decode_group_desc,
    decode_meter_config,
    decode_meter_stats,
    decode_port_stats,
)
from controller.openflow.incoming import BadMessageError
from controller.openflow.transactions import Decode, PendingTransactions, Question, StatsRequest, not_connected


def read_state(
    pending: PendingTransactions, datapath: Any, timeout_s: float, on_request: Callable[[], None]
) -> Reading:
    """The entries of a switch, at the moment at which `on_request` is called. Raises: SwitchError."""
    parser, ofproto = datapath.ofproto_parser, datapath.ofproto
    on_request()
    requests: tuple[tuple[Any, Decode], ...] = (
        (_flow_request(datapath, 0, 0), lambda stats: decode_flow_stats(stats).entry),
        (
            parser.OFPMeterConfigStatsRequest(datapath, 0, ofproto.OFPM_ALL),
            lambda config: (config.meter_id, decode_meter_config(config)),
        ),
        (
            parser.OFPGroupDescStatsRequest(datapath, 0),
            lambda stats: (stats.group_id, decode_group_desc(stats, ofproto.OFPGT_FF)),
        ),
    )
    entries, read_meters, read_groups = StatsRequest(pending, datapath, requests, timeout_s).replies()
    ours: Entries = {("meter", number): meter for number, meter in read_meters if meter is not None}
    foreign = [describe(entry) for entry in entries if entry.cookie & COOKIE_TAG_MASK != COOKIE_TAG << 48]
    foreign += [f"meter {number}" for number, meter in read_meters if meter is None]
    foreign += [f"group {number}" for number, group in read_groups if group is None]
    ours |= {
        ("flow", (entry.table, entry.priority, entry.match)): entry
        for entry in entries if entry.cookie & COOKIE_TAG_MASK == COOKIE_TAG << 48
    }  # fmt: skip
    ours |= {("group", number): group for number, group in read_groups if group is not None}
    return Reading(ours, tuple(foreign))


def read_counters(
    pending: PendingTransactions, datapath: Any, cookie: tuple[int, int], meters: Sequence[MeterEntry],
    timeout_s: float,
) -> tuple[list[FlowCounter], list[MeterCounter]]:  # fmt: skip
    """The counters of entries by cookie and mask, and of those of these meters that there are. Raises: SwitchError."""
    meter_request = datapath.ofproto_parser.OFPMeterStatsRequest

    def request(message: Any, decode: Decode) -> StatsRequest:
        return StatsRequest(pending, datapath, [(message, decode)], timeout_s)

    with corked():
        flows = request(_flow_request(datapath, *cookie), decode_flow_stats)
        meter_requests = [
            request(meter_request(datapath, 0, meter.meter_id), partial(decode_meter_stats, meter)) for meter in meters
        ]
    meter_counters: list[MeterCounter] = []
    flow_counters: list[FlowCounter] = flows.replies()[0]
    for sent in meter_requests:
        with contextlib.suppress(SwitchRefused):  # the switch does not have this meter
            meter_counters += sent.replies()[0]
    return flow_counters, meter_counters


def read_ports(pending: PendingTransactions, datapath: Any, timeout_s: float) -> list[PortCounter]:
    """The counters of all ports. Raises: SwitchError."""
    message = datapath.ofproto_parser.OFPPortStatsRequest(datapath, 0, datapath.ofproto.OFPP_ANY)
    request = StatsRequest(pending, datapath, [(message, decode_port_stats)], timeout_s)
    counters: list[PortCounter] = request.replies()[0]
    return counters


def read_capabilities(pending: PendingTransactions, datapath: Any, timeout_s: float) -> SwitchCapabilities:
    """What a switch says it can do; questions that it refuses are left open. Raises: SwitchDown, SwitchTimeout."""
    asked = {question: Question(pending, datapath, question, timeout_s) for question in QUESTIONS}
    replies: dict[str, list[bytes]] = {}
    refused: dict[str, str] = {}
    for question, sent in asked.items():
        try:
            replies[question] = sent.reply()
        except SwitchRefused as error:
            refused[question] = error.detail
    try:
        return decode_capabilities(datapath.id, replies, refused)
    except MALFORMED as error:
        datapath.socket.fail(BadMessageError(f"a description of what it can do cannot be decoded: {error!r}"))
        raise not_connected(datapath.id) from error


def _flow_request(datapath: Any, cookie: int, cookie_mask: int) -> Any:
    ofproto, parser = datapath.ofproto, datapath.ofproto_parser
    any_table_port_group = (ofproto.OFPTT_ALL, ofproto.OFPP_ANY, ofproto.OFPG_ANY)
    return parser.OFPFlowStatsRequest(datapath, 0, *any_table_port_group, cookie, cookie_mask, parser.OFPMatch())
