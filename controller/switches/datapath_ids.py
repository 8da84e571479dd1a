"""Names of switches and datapath ids: the controller uses names, the southbound interface datapath ids."""

from __future__ import annotations

from concurrent.futures import Future
from typing import TypeVar

from controller.dataplane.southbound import HUB_TIMEOUT_S
from controller.domain.network import Network
from controller.errors import SwitchError, SwitchTimeout

Result = TypeVar("Result")


class DatapathIds:
    """Names and datapath ids of the switches of a map."""

    def __init__(self, network: Network) -> None:
        self.name_of = {number: node.name for number, node in network.switch_by_datapath_id.items()}
        self.datapath_id_of = {name: number for number, name in self.name_of.items()}

    def result(self, future: Future[Result]) -> Result:
        """The result of a southbound future; errors name switches instead of datapath ids.

        Raises: SwitchError.
        """
        try:
            return future.result(HUB_TIMEOUT_S)
        except SwitchError as error:
            raise self.with_names(error) from error
        except TimeoutError as error:
            raise SwitchTimeout("The southbound interface of the controller does not respond.", switches=[]) from error

    def with_names(self, error: SwitchError) -> SwitchError:
        """The same error with names of switches."""
        numbers = error.facts.get("datapath_ids")
        if not isinstance(numbers, list):
            return error
        names = [self.name_of.get(number, f"{number:016x}") for number in numbers]
        sentence = error.detail
        for name in names:
            sentence = sentence.replace(f"{self.datapath_id_of.get(name, 0):016x}", name)
        return type(error)(sentence, switches=names)
