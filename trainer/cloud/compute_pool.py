"""Threads that compute the cloud's half of several edges at once.

PyTorch releases the interpreter's lock within its operations. Every thread computes with one thread of PyTorch's own,
as one alone does, and no two compute for the same edge: the result is the same bit for bit.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import contextmanager
from typing import TypeVar

import torch

A = TypeVar("A")
R = TypeVar("R")


class ComputePool:
    """A number of threads; with one all work is done by the caller's."""

    def __init__(self, threads: int = 1) -> None:
        self.threads = threads
        self._executor = None if threads == 1 else ThreadPoolExecutor(
            threads, "compute", initializer=lambda: torch.set_num_threads(1))

    @contextmanager
    def each(self, function: Callable[[A], R], arguments: Sequence[A]) -> Iterator[Iterator[R]]:
        """Give the results in the order of the arguments, each as soon as it is there; behind it no work is left.

        Raises: what the function raises.
        """
        if self._executor is None or len(arguments) == 1:
            yield map(function, arguments)
            return
        futures = [self._executor.submit(function, argument) for argument in arguments]
        try:
            yield (future.result() for future in futures)
        finally:
            for future in futures:
                future.cancel()
            wait(futures)


def usable_cpus() -> int:
    """Return the number of CPUs that this process may use."""
    return len(os.sched_getaffinity(0))
