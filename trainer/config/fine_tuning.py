"""What of a model a run trains: frozen parameters, and low-rank adapters in place of all others.

Imports nothing heavy.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from trainer.errors import UsageError

FREEZE_HELP = ("Freeze the parameters and buffers with these names, or in modules with these names; patterns separated "
               'by commas, such as "encoder.layer.[0-3],embeddings" or "0.*". They are neither trained nor sent.')
LORA_HELP = ("Train low-rank adapters (LoRA) of RANK, and the last linear layer or convolution, instead of the model; "
             "adapters are in all linear layers and convolutions, or in those that PATTERN names, such as "
             '"8:query,value". With "auto" as the rank every edge gets the greatest of 2, 4, 8 and 16 that lengthens '
             "a round by no more than 5 %.")
MAX_RANK = 4096
AUTO = "auto"
AUTO_RANKS = (2, 4, 8, 16)
"""What an edge's rank is chosen from with `AUTO`; adapters have room for the last."""


@dataclass(frozen=True, slots=True)
class Lora:
    """Rank of the adapters; `targets`: patterns of the modules that have one, none: all that can.

    `auto`: each edge has a rank of its own, of AUTO_RANKS; `rank` is the last of them.
    """

    rank: int
    targets: tuple[str, ...] = ()
    auto: bool = False

    @property
    def alpha(self) -> int:
        """Scale of what an adapter adds, times the rank."""
        return 2 * self.rank

    @property
    def scale(self) -> float:
        """Factor of what an adapter adds: alpha over rank."""
        return self.alpha / self.rank


@dataclass(frozen=True, slots=True)
class FineTuning:
    """`freeze`: patterns of names in the user's module, or in the `nn.Sequential` of the zoo's layers."""

    freeze: tuple[str, ...] = ()
    lora: Lora | None = None


ALL_TRAINED = FineTuning()


def parse_fine_tuning(freeze: str | None, lora: str | None = None) -> FineTuning:
    """Return what `--freeze` and `--lora` say.

    Raises: UsageError.
    """
    return FineTuning(_patterns(freeze or ""), None if lora is None else _parse_lora(lora))


def auto_rank_mistakes(lora: str | None, needs_whole: Mapping[str, bool]) -> list[str]:
    """Return a sentence for each option in use that needs all edges' adapters to have the same rank."""
    if lora is None or lora.partition(":")[0] != AUTO:
        return []
    return [f"--lora is {lora}, which gives each edge a rank of its own; with {option} all must have the same: give a "
            "number." for option, is_used in needs_whole.items() if is_used]


def _parse_lora(text: str) -> Lora:
    rank, _, patterns = text.partition(":")
    if rank == AUTO:
        return Lora(AUTO_RANKS[-1], _patterns(patterns), auto=True)
    if not rank.isdecimal() or not 1 <= int(rank) <= MAX_RANK:
        raise UsageError(f'--lora is {text!r}; it must be a rank from 1 to {MAX_RANK} or "auto", or RANK:PATTERN such '
                         'as "8:query,value".')
    return Lora(int(rank), _patterns(patterns))


def _patterns(text: str) -> tuple[str, ...]:
    return tuple(filter(None, (part.strip() for part in text.split(","))))
