"""Which edges are cut off from the nodes of the cloud, against a stub of the controller's REST API on a real socket."""

from __future__ import annotations

import contextlib
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit

import pytest

from trainer.reservation.controller_client import ControllerClient
from trainer.reservation.partition_check import PartitionCheck

DOWN = {("edge1", "cloud2"): ["s1-s2"], ("edge1", "cloud3"): ["s1-s3", "s1-s2"], ("edge2", "cloud"): ["s1-s2"],
        ("edge2", "cloud2"): ["s2-s3"], ("edge4", "cloud"): ["s1-s2"]}
"""The links that are down between the hosts that no path joins."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        query = parse_qs(urlsplit(self.path).query)
        down = DOWN.get((query["source"][0], query["destination"][0]))
        content = json.dumps({"paths": [] if down else [{}], "down": down or []}).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the name in the base class
        """Write nothing."""


@pytest.fixture
def said() -> list[str]:
    return []


@pytest.fixture
def check(said: list[str]) -> Iterator[PartitionCheck]:
    with ThreadingHTTPServer(("127.0.0.1", 0), _Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_address[1]}"
        with contextlib.closing(ControllerClient(url, 0, said.append)) as client:
            yield PartitionCheck(client, "cloud", said.append)
        server.shutdown()


def test_an_edge_is_cut_off_from_the_node_that_serves_it(check: PartitionCheck, said: list[str]) -> None:
    sentence = "No path from edge1 to cloud2: s1-s2 is down."
    assert check({"edge1": ["cloud2"], "edge3": ["cloud2"]}) == {"edge1": sentence}
    check({"edge1": ["cloud2"]})
    assert said == [sentence]


def test_an_edge_that_may_go_to_several_nodes_is_cut_off_only_from_all_of_them(check: PartitionCheck) -> None:
    assert check({"edge1": ["cloud2", "cloud"], "edge3": ["cloud2", "cloud3"], "edge2": []}) == {
        "edge2": "No path from edge2 to cloud: s1-s2 is down."}
    assert check({"edge1": ["cloud2", "cloud3", "cloud2"]}) == {
        "edge1": "No path from edge1 to cloud2 or cloud3: s1-s2, s1-s3 are down."}


def test_an_edge_joins_at_the_node_of_the_training_loop_wherever_it_is_served(check: PartitionCheck) -> None:
    """Edges that lack the same are one sentence."""
    sentence = "No path from edge2, edge4 to cloud: s1-s2 is down."
    assert check({"edge2": ["cloud3"], "edge4": ["cloud3"]}) == {"edge2": sentence, "edge4": sentence}
