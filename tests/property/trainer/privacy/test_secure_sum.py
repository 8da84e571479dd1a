"""A secure sum is that of the vectors that arrived, whichever edges drop out when."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from trainer.errors import ProtocolError
from trainer.models.averaging import average
from trainer.privacy import fixed_point, secret_sharing
from trainer.privacy.secure_sum import Participant, Revealed, threshold_of, unmask

SESSION = "5" * 32


@st.composite
def stages(draw: st.DrawFn) -> tuple[int, list[int]]:
    """Return the number of edges, and for each after how many of the four steps it drops out (4: never)."""
    edges = draw(st.integers(3, 7))
    return edges, draw(st.lists(st.integers(0, 4), min_size=edges, max_size=edges))


def run_sum(vectors: dict[str, Tensor], stays: dict[str, int], threshold: int) -> tuple[Tensor, set[str]]:
    """Run the protocol; return the sum, and the edges in it."""
    edges = {name: Participant(name, SESSION, threshold) for name in vectors}
    peers = {name: edge.public_keys() for name, edge in edges.items() if stays[name] > 0}
    sent = {name: edges[name].share_keys(peers) for name in peers if stays[name] > 1}
    if len(sent) < threshold:
        raise ProtocolError("too few")
    masked = {
        name: edges[name].mask(vectors[name], {other: sent[other][name] for other in sent if other != name})
        for name in sent if stays[name] > 2
    }
    revealed: dict[str, Revealed] = {name: edges[name].reveal(masked.keys()) for name in masked if stays[name] > 3}
    if not masked:
        raise ProtocolError("too few")
    total = torch.stack(list(masked.values())).sum(dim=0)
    return unmask(total, peers, sent.keys(), masked.keys(), revealed, SESSION, threshold), set(masked)


@given(stages())
def test_the_sum_is_exact_over_the_edges_that_sent_their_vector(run: tuple[int, list[int]]) -> None:
    number, stays = run
    threshold = threshold_of(number)
    vectors = {f"edge{edge}": torch.randint(-(2**62), 2**62, (37,)) for edge in range(number)}
    stay = {f"edge{edge}": after for edge, after in enumerate(stays)}
    if sum(after == 4 for after in stays) < threshold:
        with pytest.raises(ProtocolError):
            run_sum(vectors, stay, threshold)
        return
    total, edges = run_sum(vectors, stay, threshold)
    assert edges == {name for name, after in stay.items() if after > 2}
    assert torch.equal(total, torch.stack([vectors[name] for name in sorted(edges)]).sum(dim=0))


@given(st.lists(st.integers(1, 1000), min_size=3, max_size=6), st.integers(0, 2**31),
       st.sampled_from([torch.float32, torch.float64, torch.bfloat16, torch.complex64]))
def test_the_mean_is_that_of_plain_averaging_to_the_stated_tolerance(
    samples: list[int], seed: int, dtype: torch.dtype
) -> None:
    generator = torch.Generator().manual_seed(seed)
    previous = {"0.weight": torch.randn(3, 5, generator=generator).to(dtype), "1.steps": torch.tensor(40),
                "1.mask": torch.tensor([True, False]), "2.bias": torch.tensor([float("-inf"), 2.0])}
    models = [{**previous, "0.weight": (previous["0.weight"] + torch.randn(3, 5, generator=generator)).to(dtype),
               "1.steps": torch.tensor(44), "1.mask": torch.tensor([True, edge == 0])}
              for edge in range(len(samples))]
    names = list(previous)
    shares = [count / sum(samples) for count in samples]
    vectors = {f"edge{edge}": fixed_point.encode(fixed_point.changes(model, previous, names), share)
               for edge, (model, share) in enumerate(zip(models, shares, strict=True))}
    assert len(vectors["edge0"]) == fixed_point.length_of(previous, names)
    stay = dict.fromkeys(vectors, 4) | {"edge0": 2}
    total, edges = run_sum(vectors, stay, threshold_of(len(samples)))
    left = [number for number in range(len(samples)) if f"edge{number}" in edges]
    sum_of_shares = sum(shares[number] for number in left)
    mean = fixed_point.apply(fixed_point.decode(total, sum_of_shares), previous, names)
    expected = average([models[number] for number in left], [samples[number] for number in left])
    assert mean.keys() == expected.keys()
    for name, value in expected.items():
        if name == "1.mask":
            continue
        torch.testing.assert_close(mean[name], value, atol=fixed_point.tolerance(len(left), sum_of_shares) * 2 ** 0.5,
                                   rtol=2 * torch.finfo(dtype).eps)
    assert mean["1.mask"].tolist() == [True, False]


@given(st.binary(min_size=32, max_size=32), st.integers(1, 6), st.data())
def test_as_many_shares_as_the_threshold_give_the_secret_and_fewer_do_not(
    secret: bytes, threshold: int, data: st.DataObject
) -> None:
    points = list(range(1, 9))
    shares = dict(zip(points, secret_sharing.split(secret, threshold, points), strict=True))
    chosen = data.draw(st.lists(st.sampled_from(points), min_size=threshold, max_size=8, unique=True))
    assert secret_sharing.combine({point: shares[point] for point in chosen}, threshold) == secret
    with pytest.raises(ProtocolError, match="shares of a secret were revealed"):
        secret_sharing.combine({point: shares[point] for point in chosen[: threshold - 1]}, threshold)
