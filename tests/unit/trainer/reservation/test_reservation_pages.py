"""The client of the REST API reads all pages of the list of reservations."""

from __future__ import annotations

import pytest

from controller.api.app import create_app
from controller.api.routes import reservations
from controller.storage.ledger import IN_MEMORY, Ledger
from tests.unit.controller.service.test_setup import spec
from tests.unit.controller.simulated_switches import running_service, serving
from trainer.reservation.controller_client import ControllerClient


def test_a_list_has_the_reservations_of_all_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reservations, "PAGE_LIMIT", 2)
    with running_service(Ledger(IN_MEMORY, "pair")) as service, serving(create_app(service)) as api:
        ids = [service.reserve(spec(number)).result(60)[0].id for number in range(1, 6)]
        client = ControllerClient(str(api.base_url).rstrip("/"), 0, lambda _: None)
        listed = client.list_json("active")
        assert (list(listed), [found["id"] for found in listed["reservations"]]) == (["reservations"], ids)
        client.close()
