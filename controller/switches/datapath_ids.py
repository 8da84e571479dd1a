"""Switches by name and by datapath id: the controller speaks of names, the switches' side of numbers."""

from __future__ import annotations

from concurrent.futures import Future
from typing import TypeVar

from controller.dataplane.southbound import HUB_TIMEOUT_S
from controller.domain.network import Network
from controller.errors import SwitchError, SwitchTimeout

Result = TypeVar("Result")


class Directory:
    """The switches of the map."""

    def __init__(self, network: Network) -> None:
        self.name_of = {number: node.name for number, node in network.switch_by_datapath_id.items()}
        self.number_of = {name: number for number, name in self.name_of.items()}

    def result(self, future: Future[Result]) -> Result:
        """The future's result; datapath ids in errors become names.

        Raises: SwitchError.
        """
        try:
            return future.result(HUB_TIMEOUT_S)
        except SwitchError as error:
            raise self.by_name(error) from error
        except TimeoutError as error:
            raise SwitchTimeout("The switches' side of the controller does not answer.", switches=[]) from error

    def by_name(self, error: SwitchError) -> SwitchError:
        """The same error about names."""
        numbers = error.facts.get("datapath_ids")
        if not isinstance(numbers, list):
            return error
        names = [self.name_of.get(n, f"{n:016x}") for n in numbers]
        sentence = error.detail
        for name in names:
            sentence = sentence.replace(f"{self.number_of.get(name, 0):016x}", name)
        return type(error)(sentence, switches=names)
