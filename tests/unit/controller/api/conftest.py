"""Fixtures: the service of the pair map with simulated switches, and a client of its REST API."""

from __future__ import annotations

from collections.abc import Iterator

import httpx
import pytest

from controller.api.app import create_app
from controller.service.reservation_service import Service
from controller.storage.ledger import IN_MEMORY, Ledger
from tests.unit.controller.simulated_switches import running_service, serving


@pytest.fixture(scope="module")
def service() -> Iterator[Service]:
    with running_service(Ledger(IN_MEMORY, "pair")) as running:
        yield running


@pytest.fixture(scope="module")
def client(service: Service) -> Iterator[httpx.Client]:
    with serving(create_app(service)) as client:
        yield client


@pytest.fixture
def nothing_reserved(service: Service) -> Iterator[None]:
    """Release all reservations after the test."""
    yield
    for reservation in service.queries.reservations():
        service.release(reservation.id)
