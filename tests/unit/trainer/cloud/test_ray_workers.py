"""Workers on Ray: an address without a cluster is told at once."""

from __future__ import annotations

import socket

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
