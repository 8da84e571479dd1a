"""Workers on Ray: an address without a cluster is told at once."""

from __future__ import annotations

import re
import socket
from dataclasses import replace

import pytest

from trainer.errors import RayUnavailableError
from trainer.transport.credentials import NO_CREDENTIALS


def test_an_address_without_a_cluster_is_told() -> None:
    from trainer.cloud.ray_workers import CloudPlace, RayWorkers

    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))  # it does not listen
        address = "{}:{}".format(*unused.getsockname())
        with pytest.raises(RayUnavailableError, match=f"^No Ray cluster at {address}: .*refused. Start one"):
            RayWorkers(address, 2, 2, lambda: NO_CREDENTIALS, "cpu", CloudPlace("127.0.0.1", "cloud", {}, False), print)


def test_a_worker_is_at_the_node_of_the_map_whose_address_it_has() -> None:
    from trainer.cloud.ray_workers import CloudPlace

    place = CloudPlace("0.0.0.0", "cloud", {"10.0.0.1": "cloud", "10.0.0.2": "cloud2"}, reserves=True)
    assert place.node_of("worker1", "10.0.0.2") == "cloud2"
    sentence = ("worker2 listens on 192.0.2.9; reservations go to nodes of the cloud: cloud at 10.0.0.1, cloud2 at "
                "10.0.0.2. Start Ray on these, give --ray local, or --best-effort.")
    with pytest.raises(RayUnavailableError, match=re.escape(sentence)):
        place.node_of("worker2", "192.0.2.9")
    assert replace(place, reserves=False).node_of("worker2", "192.0.2.9") == "cloud"
