"""Reads GNPy networks: JSON in GNPy's legacy form or in that of its YANG model, and .xls workbooks by GNPy's reader.

ROADMs are the sites; without two of them, the transceivers are. The fibres, amplifiers and fused nodes between two
sites are one direction of a span.
"""

from __future__ import annotations

import contextlib
import io
import logging
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, get_args

from topologies.maps import LEAST_LOSS_DB_PER_KM, USUAL_LOSS_DB_PER_KM, FibreType
from topologies.problems import MapError, listed
from topologies.readers.site_names import nearest
from topologies.readers.source import SourceNetwork, SourceSite, SourceSpan, as_key, json_kind, number_of

YANG = "gnpy-network-topology:topology"
TYPES = ("Transceiver", "Roadm", "Fiber", "RamanFiber", "Fused", "Edfa", "Multiband_amplifier")
"""The elements of a GNPy network."""
FIBRES = ("Fiber", "RamanFiber")
USUAL_CONNECTOR_DB = 0.5
"""What the transmission quality is computed with (docs/optical.md)."""
FUSED_LOSS_DB = 1.0
"""GNPy's default."""

Element = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class _Elements:
    by_uid: Mapping[str, Element]
    successors: Mapping[str, list[str]]
    sites: frozenset[str]
    repeated: tuple[str, ...]
    """Connections that are stated twice."""


def read_workbook(path: Path) -> SourceNetwork:
    """Read an Excel workbook in GNPy's form by GNPy's own reader.

    Raises: MapError
    """
    from gnpy.tools.convert import xls_to_json_data

    gnpy_log, warned = logging.getLogger("gnpy.tools.convert"), list[str]()

    def take(record: logging.LogRecord) -> bool:
        sentence = record.getMessage()
        if not sentence.startswith("missing header"):  # of every optional column that a workbook lacks
            warned.append(f"GNPy: {sentence}")
        return False

    gnpy_log.addFilter(take)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            facts = xls_to_json_data(path)
            warned += _without_distance(path)
    except Exception as error:  # whatever GNPy, xlrd or openpyxl raise for a workbook in another form
        reason = " ".join(str(error).split()) or type(error).__name__
        reason = f"a cell has a text for a number, or no value ({reason})" if isinstance(error, TypeError) else reason
        raise MapError([f"{path.name}: GNPy cannot read this workbook: {reason}"]) from error
    finally:
        gnpy_log.removeFilter(take)
    found = read_gnpy(path.stem, f"{path.name} (GNPy)", facts)
    return replace(found, notes=(*warned, *found.notes))


def _without_distance(path: Path) -> list[str]:
    """Return a sentence if links of a workbook have no distance, of which GNPy says nothing.

    Source: findings/gnpy-workbook-empty-distance.sh
    """
    from gnpy.tools import convert

    book, is_xlsx = convert.generic_open_workbook(path)
    headers = {"Node A": "start", "Node Z": "end", "east": {"Distance (km)": "km"}}
    rows = convert.parse_sheet(convert.get_sheet(book, "Links", is_xlsx), is_xlsx, headers, convert.LINKS_LINE,
                               convert.LINKS_LINE + 2, convert.LINKS_COLUMN)
    empty = [f"{row['start']} - {row['end']}" for row in rows if row.get("km") in (None, "")]
    states = "1 link states" if len(empty) == 1 else f"{len(empty)} links state"
    usual_km = convert.Link().east_distance
    return [f"{states} no distance, GNPy takes {usual_km:g} km: {listed(empty)}"] if empty else []


def read_gnpy(name: str, source: str, facts: Mapping[str, Any]) -> SourceNetwork:
    """Read a GNPy network.

    Raises: MapError if it is in another form.
    """
    facts = facts.get(YANG, facts)
    if not isinstance(facts, dict):
        raise MapError([f"{name}: {YANG} is no object with elements and connections"])
    elements = _elements(name, facts)
    names = {uid: _site_name(uid) for uid in elements.by_uid if uid in elements.sites}
    sites = [SourceSite(uid, names[uid], *_place(name, elements.by_uid[uid])) for uid in names]
    spans: list[SourceSpan] = []
    spread, unknown, used = set[float](), set[str](), set[str]()
    for uid in names:
        for start in elements.successors.get(uid, ()):
            for chain, end in _chains(elements, start, (uid,)):
                if end != uid:
                    used.update(chain)
                    fibres = [elements.by_uid[each] for each in chain]
                    attributes = _attributes(name, fibres)
                    spans.append(SourceSpan((uid, end), attributes))
                    unknown |= {str(each["type_variety"]) for each in fibres if _is_unknown(each)}
                    if (loss := attributes.get("loss_db_per_km")) is not None:
                        spread.add(float(str(loss)))
    notes = []
    if elements.repeated:
        notes.append(f"connections that are stated twice count once: {listed(elements.repeated, 4)}")
    lost = [uid for uid, each in elements.by_uid.items() if each.get("type") in FIBRES and uid not in used]
    if lost:
        notes.append(f"fibres that lead from no site to another are left out: {listed(lost, 4)}")
    if spread:
        extent = " to ".join(dict.fromkeys(f"{loss:.3g}" for loss in (min(spread), max(spread))))
        notes.append(f"losses other than usual are spread over the length of the span: {extent} dB/km in all")
    if unknown:
        notes.append(f"fibres of type {listed(sorted(unknown))} are computed as SSMF")
    return SourceNetwork(name, source, tuple(sites), tuple(spans), True, notes=tuple(notes))


def _attributes(name: str, chain: list[Element]) -> dict[str, object]:
    """Length of a chain of elements; loss per km and type of fibre if they are other than usual.

    Connectors, attenuators, lumped losses and fused nodes count beyond two connectors of 0.5 dB for each fibre.
    """
    length_km = sum(_length_km(name, element) for element in chain)
    loss_db = sum(_loss_db(name, element) for element in chain)
    attributes: dict[str, object] = {"length_km": length_km}
    if length_km and abs(loss_db / length_km - USUAL_LOSS_DB_PER_KM) > 1e-6:
        attributes["loss_db_per_km"] = round(max(loss_db / length_km, LEAST_LOSS_DB_PER_KM), 5)
    types = {str(element.get("type_variety") or "SSMF") for element in chain if element.get("type") in FIBRES}
    if len(types) == 1 and (kind := types.pop()) != "SSMF" and kind in get_args(FibreType):
        attributes["fibre_type"] = kind
    return attributes


def _loss_db(name: str, element: Element) -> float:
    """The loss of a fibre or a fused node, without the two connectors that every fibre is computed with."""
    params = _entry(element, "params", name)

    def decibels(word: str, stated: object) -> float:
        number = number_of(stated)
        if number is None or not 0 <= number < float("inf"):
            raise MapError([f"{name}: {element['uid']}: {word} is {stated!r:.80}; it is a number of dB, 0 or above"])
        return number

    def value(word: str, usual: float) -> float:
        stated = params.get(word)
        if stated in (None, ""):
            return usual
        by_frequency = stated.get("value") if isinstance(stated, dict) else None
        if isinstance(by_frequency, list) and by_frequency:
            return max(decibels(word, each) for each in by_frequency)
        return decibels(word, stated)

    if element.get("type") == "Fused":
        return value("loss", FUSED_LOSS_DB)
    if element.get("type") not in FIBRES:
        return 0.0
    further = value("con_in", USUAL_CONNECTOR_DB) + value("con_out", USUAL_CONNECTOR_DB) - 2 * USUAL_CONNECTOR_DB
    lumped = params.get("lumped_losses")
    if not isinstance(lumped, list | None) or not all(isinstance(each, dict) for each in lumped or ()):
        advice = "it is a list of objects with `position` and `loss`"
        raise MapError([f"{name}: {element['uid']}: lumped_losses is {lumped!r:.80}; {advice}"])
    further += value("att_in", 0) + sum(decibels("a lumped loss", each.get("loss")) for each in lumped or ())
    return value("loss_coef", USUAL_LOSS_DB_PER_KM) * _length_km(name, element) + further


def _is_unknown(element: Element) -> bool:
    return element.get("type") in FIBRES and (element.get("type_variety") or "SSMF") not in get_args(FibreType)


def _elements(name: str, facts: Mapping[str, Any]) -> _Elements:
    by_uid: dict[str, Element] = {}
    for number, element in enumerate(_list(facts, "elements", name)):
        uid = element.get("uid") if isinstance(element, dict) else None
        if not isinstance(uid, str | int | float) or isinstance(uid, bool):
            raise MapError([f"{name}: elements[{number}] has no `uid`: {element!r:.80}"])
        if as_key(uid) in by_uid:
            raise MapError([f"{name}: elements[{number}]: another element has the uid {uid!r}"])
        if element.get("type") not in TYPES:
            what = f"is {element['type']!r}" if element.get("type") else "is missing"
            advice = f"it is one of {', '.join(TYPES)}"
            raise MapError([f"{name}: elements[{number}] {uid!r}: its `type` {what}; {advice}"])
        by_uid[as_key(uid)] = element
    successors: dict[str, list[str]] = {}
    repeated: list[str] = []
    for number, connection in enumerate(_list(facts, "connections", name)):
        stated = connection if isinstance(connection, dict) else {}
        ends = [as_key(stated.get(word)) for word in ("from_node", "to_node")]
        for end in ends:
            if end not in by_uid:
                raise MapError([f"{name}: connections[{number}]: no element has the uid {end!r}{nearest(end, by_uid)}"])
        if ends[1] in successors.setdefault(ends[0], []):
            repeated.append(" > ".join(ends))
        else:
            successors[ends[0]].append(ends[1])
    for uid, following in successors.items():
        if len(following) > 1 and by_uid[uid].get("type") not in ("Roadm", "Transceiver", "Fused"):
            raise MapError([f"{name}: {uid} leads to {listed(following, 4)}; a {by_uid[uid]['type']} leads to one"])
    for kind in ("Roadm", "Transceiver"):
        sites = frozenset(uid for uid, element in by_uid.items() if element.get("type") == kind)
        if len(sites) > 1:
            return _Elements(by_uid, successors, sites, tuple(repeated))
    raise MapError([f"{name}: a GNPy network needs two elements of type Roadm or two of type Transceiver at least"])


def _chains(elements: _Elements, uid: str, passed: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], str]]:
    """The chains of elements from one site to others, and their last site.

    A fused node joins the fibres of both directions: a chain continues in a fibre that does not lead back.
    """
    if uid in elements.sites:
        yield passed[1:], uid
    elif uid not in passed and elements.by_uid[uid].get("type") not in ("Roadm", "Transceiver"):
        for successor in elements.successors.get(uid, ()):
            yield from _chains(elements, successor, (*passed, uid))


def _length_km(name: str, element: Element) -> float:
    if element.get("type") not in FIBRES:
        return 0.0
    params = _entry(element, "params", name)
    value, units = params.get("length"), params.get("length_units", "km")
    length = number_of(value)
    if units not in ("km", "m") or length is None or not 0 < length < float("inf"):
        raise MapError([
            f"{name}: {element['uid']}: a length of {value!r} {units}; it is above 0, in km or m"
        ])  # fmt: skip
    return length * (0.001 if units == "m" else 1.0)


def _entry(element: Element, word: str, name: str) -> Mapping[str, Any]:
    value = element.get(word)
    if not isinstance(value, dict | None):
        raise MapError([f"{name}: {element.get('uid')}: `{word}` is {value!r:.80}; it is an object"])
    return value or {}


def _list(facts: Mapping[str, Any], word: str, name: str) -> list[Any]:
    value = facts.get(word)
    if not isinstance(value, list):
        what = "is missing" if word not in facts else f"is {json_kind(value)}"
        raise MapError([f"{name}: `{word}` of a GNPy network {what}; it is a list"])
    return value


def _site_name(uid: str) -> str:
    return re.sub(r"^(roadm|trx)[ _-]+", "", uid, flags=re.IGNORECASE).strip() or uid


def _place(name: str, element: Element) -> tuple[object, object]:
    """Longitude and latitude; GNPy writes 0, 0 for a place that it does not know."""
    location = _entry({"uid": element["uid"], **_entry(element, "metadata", name)}, "location", name)
    place = location.get("longitude"), location.get("latitude")
    return (None, None) if all(str(value) in ("0", "0.0") for value in place) else place
