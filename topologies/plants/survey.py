"""Makes a fibre plant of what a file states: checks it, derives lengths, and says what was estimated or left out.

Nothing is replaced or left out without a note, and nothing impossible is taken. All mistakes are reported at once.
"""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import dataclass, replace
from statistics import median_low

import networkx as nx

from topologies.plants.attributes import (
    GREAT_CIRCLE,
    MAX_LENGTH_KM,
    length_from,
    remark_unused,
    stated_distance_km,
    stated_duct,
    stated_fibre_type,
    stated_length_km,
    stated_loss,
    stated_rate_gbps,
)
from topologies.plants.directions import StatedSpan, join_directions
from topologies.plants.doubts import doubts_about_directions, doubts_about_names, doubts_about_places
from topologies.plants.plant import Fibre, Plant, Site, distance_km, fibre_km
from topologies.plants.unplaced import Unplaced, settle
from topologies.problems import MapError, listed
from topologies.readers.site_names import keys_by_name, nearest, unique_labels, without_controls
from topologies.readers.source import SourceNetwork, SourceSite, SourceSpan, is_plane_in_km, number_of, off_globe

SAME_PLACE_KM = 1.0
"""Length of a fibre between sites with the same coordinates."""
MOST_MISTAKES = 20


@dataclass(frozen=True, slots=True)
class SurveyOptions:
    """How lengths and places are read. None: the default rule.

    `route_factor`: fibre per great-circle distance, instead of ITU-T G.826. `unplaced`: what is done with sites without
    coordinates. `km_per_unit`: the coordinates are those of a drawing of this scale. `length_attribute`: the attribute
    of a span that is its length in km. `span_km`: the length of spans without one, if an end has no place.
    """

    route_factor: float | None = None
    unplaced: Unplaced | None = None
    km_per_unit: float | None = None
    length_attribute: str | None = None
    span_km: float | None = None


def plant_of(network: SourceNetwork, options: SurveyOptions) -> Plant:
    """The fibre plant of a network as stated in a file.

    Raises: MapError with all mistakes, or if no connected plant with lengths is left, or an option does not apply.
    """
    survey = _Survey(network, options)
    spans = survey.spans()
    if survey.mistakes:
        more = len(survey.mistakes) - MOST_MISTAKES
        rest = [f"… and {more} more mistakes"] if more > 0 else []
        raise MapError([*(f"{network.name}: {each}" for each in survey.mistakes[:MOST_MISTAKES]), *rest])
    return survey.plant(spans)


class _Survey:
    def __init__(self, network: SourceNetwork, options: SurveyOptions) -> None:
        self.network, self.options = network, options
        is_plane = options.km_per_unit is None and is_plane_in_km(network)
        self.km_per_unit = 1.0 if is_plane else options.km_per_unit
        self.mistakes: list[str] = []
        self.notes = list(network.notes)
        self.labels = unique_labels(network.sites)
        self.keys_by_label = keys_by_name(network.sites)
        self.notes += doubts_about_names(network.sites, self.labels)
        if self.km_per_unit is None and network.is_drawing is False:
            self.notes += doubts_about_places(network.sites, self.labels)
        self.sites: dict[str, Site] = {}
        for site in network.sites:
            if site.key in self.sites:
                self.mistakes.append(f"two nodes have the id {site.key!r} (5 and \"5\" are the same)")
            self.sites[site.key] = self._site(site)

    # ------------------------------------------------------------------ what the file states

    def _site(self, site: SourceSite) -> Site:
        label, drawn = self.labels[site.key], self.km_per_unit is not None or self.network.is_drawing
        values = []
        for word, value, most in (("longitude", site.x, 180.0), ("latitude", site.y, 90.0)):
            if value is None or value == "":
                continue
            number = number_of(value)
            if number is None or not math.isfinite(number):
                shown = "NaN" if number is not None and math.isnan(number) else value
                self.mistakes.append(f"{word} of {label} is {shown}; it is a number from -{most:g} to {most:g}")
            elif not drawn and abs(number) > most:
                hint = "; are longitude and latitude swapped?" if word == "latitude" and abs(number) <= 180 else ""
                hint = hint or "; places on a drawing need --km-per-unit"
                self.mistakes.append(f"{word} of {label} is {number:g}; it is from -{most:g} to {most:g}{hint}")
            else:
                values.append(number)
        if len(values) < 2:
            if len([value for value in (site.x, site.y) if value not in (None, "")]) == 1:
                self.notes.append(f"{label} has only one coordinate, so no place")
            return Site(label, None, None)
        if drawn:
            scale = self.km_per_unit
            return Site(label, None, None, None if scale is None else (values[0] * scale, values[1] * scale))
        return Site(label, values[0], values[1])

    def spans(self) -> list[StatedSpan]:
        """The spans as stated, with both directions joined."""
        spans, remarks, loops = [], dict[str, list[str]](), []
        for number, span in enumerate(self.network.spans):
            ends = tuple(self._end(number, end) for end in span.ends)
            if len(found := [end for end in ends if end is not None]) < 2:
                continue
            name = " - ".join(self.labels[end] for end in found)
            if found[0] == found[1]:
                loops.append(self.labels[found[0]])
                continue
            try:
                spans.append(self._span((found[0], found[1]), span, remarks))
            except ValueError as error:
                self.mistakes.append(f"span {name}: {error}")
        self.notes += [
            f"{sentence} {listed(names, 6)}" if sentence.endswith(":") else sentence
            for sentence, names in sorted(remarks.items())
        ]
        if loops:
            self.notes.append(f"left out, a span from a site to itself: {listed(loops)}")
        if not self.network.is_directed:
            self.notes += doubts_about_directions(spans, self.labels)
            return spans
        joined, notes = join_directions(spans, self.labels)
        self.notes += notes
        return joined

    def _end(self, number: int, end: str) -> str | None:
        if end in self.sites:
            return end
        if end in self.keys_by_label:
            return self.keys_by_label[end]
        names = (*self.labels, *self.labels.values())
        if several := [site.key for site in self.network.sites if site.name == end]:
            ids = listed([repr(key) for key in several])
            what = f"is the name of several nodes; use their ids {ids}"
            self.mistakes.append(f"link {number + 1}: its end {end!r} {what}")
            return None
        self.mistakes.append(f"link {number + 1}: its end {end!r} is no node{nearest(end, names)}")
        return None

    def _span(self, ends: tuple[str, str], span: SourceSpan, remarks: dict[str, list[str]]) -> StatedSpan:
        attributes, attribute = span.attributes, self.options.length_attribute
        name = " - ".join(self.labels[end] for end in ends)

        def remark(sentence: str) -> None:
            remarks.setdefault(sentence, []).append(name)

        length = stated_length_km(attributes, remark) if attribute is None else length_from(attributes, attribute)
        distance = stated_distance_km(attributes) if self.network.has_dist and length is None else None
        rate = stated_rate_gbps(attributes, remark)
        is_dist_left = self.network.has_dist and length is not None
        remark_unused(attributes, {attribute, None if is_dist_left else GREAT_CIRCLE}, remark)
        return StatedSpan(
            ends, None if length is None else length.value, distance,
            stated_duct(attributes), None if rate is None else rate.value,
            stated_loss(attributes), stated_fibre_type(attributes),
        )  # fmt: skip

    # ------------------------------------------------------------------ the plant

    def plant(self, spans: list[StatedSpan]) -> Plant:
        """The plant of the stated spans, in one piece, every span with a length."""
        self._check_options(spans)
        graph: nx.MultiGraph[str] = nx.MultiGraph()
        graph.add_nodes_from(self.sites)
        graph.add_edges_from((span.ends[0], span.ends[1], {"known": self._has_length(span)}) for span in spans)
        external = {site.key for site in self.network.sites if site.is_external}
        if self.options.span_km is not None:
            self._assume_lengths(spans, graph, self.options.span_km)
        if self.options.km_per_unit is not None:
            self.notes.append(f"places are those of a drawing of {self.options.km_per_unit:g} km per unit, as asked")
        elif self.km_per_unit is not None:
            self.notes.append("places are km on a plane: `dist` of every span is the distance of its ends there")
        elif self.network.is_drawing:
            self._refuse_drawing(spans)
        settled = settle(graph, self.sites, external, self.options.unplaced, self.network.name)
        self.sites |= settled.placed
        self.notes += settled.notes
        kept = self._largest_piece(graph, settled.left_out)
        fibres, together, estimated = [], list[str](), list[str]()
        for span in spans:
            if set(span.ends) <= kept:
                fibre = self._fibre(span)
                if not fibre.length_km <= MAX_LENGTH_KM:
                    raise MapError([
                        f"{self.network.name}: span {' - '.join(fibre.ends)} is {fibre.length_km:g} km long "
                        f"by the places of its ends; a fibre has at most {MAX_LENGTH_KM:g} km"
                    ])  # fmt: skip
                fibres.append(fibre)
                if not self._has_length(span):
                    estimated.append(" - ".join(fibre.ends))
                if fibre.length_km == SAME_PLACE_KM and not self._has_length(span):
                    together.append(" - ".join(fibre.ends))
        if 0 < len(estimated) < len(fibres):
            number = f"{len(estimated)} of {len(fibres)} spans state no length"
            self.notes.append(f"{number}, it is estimated from the places of their ends: {listed(estimated)}")
        if together:
            self.notes.append(f"sites at the same place, {SAME_PLACE_KM:g} km taken: {listed(together)}")
        sites = tuple(site for key, site in self.sites.items() if key in kept)
        fibres = self._with_rates(fibres)
        name, source = self.network.name, self.network.source
        return Plant(name, source, sites, tuple(fibres), tuple(dict.fromkeys(map(without_controls, self.notes))))

    def _has_length(self, span: StatedSpan) -> bool:
        return span.length_km is not None or span.distance_km is not None

    def _check_options(self, spans: list[StatedSpan]) -> None:
        """Refuse options that change nothing."""
        options, name = self.options, self.network.name
        all_stated = bool(spans) and all(span.length_km is not None for span in spans)
        if options.length_attribute is not None and not any(span.length_km is not None for span in spans):
            words = sorted({str(word) for span in self.network.spans for word in span.attributes})
            raise MapError([
                f"{name}: no span has `{options.length_attribute}`; its attributes: {listed(words) or 'none'}"
            ])  # fmt: skip
        if options.route_factor is not None and all_stated:
            raise MapError([f"{name}: the file states the length of every span, so --route-factor does not apply"])
        if options.km_per_unit is not None and all_stated:
            raise MapError([f"{name}: the file states the length of every span, so --km-per-unit does not apply"])
        is_on_globe = not off_globe([(site.x, site.y) for site in self.network.sites])
        if options.km_per_unit is not None and self.network.is_drawing is False and is_on_globe:
            raise MapError([f"{name}: its places are degrees, no drawing, so --km-per-unit does not apply"])

    def _assume_lengths(self, spans: list[StatedSpan], graph: nx.MultiGraph[str], span_km: float) -> None:
        """Give the length `span_km` to every span that has none and an end without a place."""
        assumed = [
            span
            for span in spans
            if not self._has_length(span) and not all(self.sites[end].is_placed for end in span.ends)
        ]
        if not assumed:
            reason = "every span has a length, or places at both ends"
            raise MapError([f"{self.network.name}: {reason}, so --span-km does not apply"])
        for span in assumed:
            span.length_km = span_km
        for _, _, facts in graph.edges(data=True):
            facts["known"] = True
        names = [" - ".join(self.labels[end] for end in span.ends) for span in assumed]
        whole = "every span" if len(assumed) == len(spans) else listed(names)
        self.notes.append(f"no length known, {span_km:g} km taken as asked: {whole}")

    def _refuse_drawing(self, spans: list[StatedSpan]) -> None:
        missing = [span for span in spans if not self._has_length(span)]
        if missing:
            places = [place for site in self.network.sites if (place := number_of(site.x)) is not None]
            extent = f"x from {min(places):g} to {max(places):g}" if places else "no coordinates"
            raise MapError([
                f"{self.network.name}: its places are on a drawing ({extent}), not degrees, and {len(missing)} of its "
                f"{len(spans)} spans have no length; --km-per-unit K says how many km a unit of the drawing is"
            ])  # fmt: skip

    def _largest_piece(self, graph: nx.MultiGraph[str], left_out: Collection[str]) -> set[str]:
        rest = graph.copy()
        rest.remove_nodes_from(left_out)
        pieces = sorted(nx.connected_components(rest), key=len, reverse=True)
        if not pieces or len(pieces[0]) < 2:
            reason = f"; without coordinates: {listed([self.sites[key].name for key in left_out])}" if left_out else ""
            advice = "; --span-km KM takes them with spans of that length" if left_out else ""
            raise MapError([f"{self.network.name}: no two sites with a fibre between them are left{reason}{advice}"])
        if len(pieces) > 1:
            others = [self.sites[key].name for piece in pieces[1:] for key in self.sites if key in piece]
            self.notes.append(
                f"in {len(pieces)} pieces; the largest, of {len(pieces[0])} sites, is taken; left out: {listed(others)}"
            )
        return set(pieces[0])

    def _fibre(self, span: StatedSpan) -> Fibre:
        a, b = (self.sites[end] for end in span.ends)
        if span.length_km is not None:
            length_km = round(span.length_km, 3)
        else:
            distance = span.distance_km if span.distance_km is not None else distance_km(a, b)
            length_km = round(fibre_km(distance, self.options.route_factor), 1) or SAME_PLACE_KM
        stated = span.duct, span.rate_gbps, span.loss_db_per_km, span.fibre_type
        return Fibre((a.name, b.name), length_km, *stated)

    def _with_rates(self, fibres: list[Fibre]) -> list[Fibre]:
        """Where some spans state their speed, the others get the median of those."""
        stated = [fibre.rate_gbps for fibre in fibres if fibre.rate_gbps is not None]
        if not stated or len(stated) == len(fibres):
            return fibres
        usual = median_low(stated)
        self.notes.append(f"{len(fibres) - len(stated)} of {len(fibres)} spans state no speed: {usual:g} Gb/s taken")
        return [fibre if fibre.rate_gbps is not None else replace(fibre, rate_gbps=usual) for fibre in fibres]
