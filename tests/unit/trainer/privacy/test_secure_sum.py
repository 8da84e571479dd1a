"""What an edge refuses in a secure sum, and what the cloud sees of a vector."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch import Tensor

from trainer.errors import DivergedError, ProtocolError
from trainer.privacy import fixed_point, secret_sharing
from trainer.privacy.key_agreement import agree, decrypt, encrypt, expand, new_key_pair
from trainer.privacy.secure_sum import Participant, Revealed, unmask

NAMES = ("edge1", "edge2", "edge3", "edge4")
SESSION = "0" * 32
THRESHOLD = 3
LENGTH = 1000


class Sum:
    """Four edges that have sent masked zeros."""

    def __init__(self) -> None:
        self.edges = {name: Participant(name, SESSION, THRESHOLD) for name in NAMES}
        self.peers = {name: edge.public_keys() for name, edge in self.edges.items()}
        self.sent = {name: edge.share_keys(self.peers) for name, edge in self.edges.items()}
        self.masked: dict[str, Tensor] = {}

    def shares_for(self, name: str) -> dict[str, bytes]:
        return {other: self.sent[other][name] for other in NAMES if other != name}

    def mask_all(self) -> None:
        self.masked = {name: edge.mask(torch.zeros(LENGTH, dtype=torch.int64), self.shares_for(name))
                       for name, edge in self.edges.items()}


def test_a_masked_vector_looks_like_noise_over_the_whole_ring() -> None:
    run = Sum()
    run.mask_all()
    for masked in run.masked.values():
        bits = torch.stack([(masked >> place) & 1 for place in range(64)]).to(torch.float64).mean(dim=1)
        assert bool(((bits - 0.5).abs() < 0.1).all())  # 6 standard deviations
    assert not bool(torch.stack(list(run.masked.values())).sum(dim=0).eq(0).all())


def test_an_edge_reveals_only_once_and_never_both_secrets_of_an_edge() -> None:
    run = Sum()
    run.mask_all()
    answer = run.edges["edge1"].reveal(["edge1", "edge2", "edge3"])
    assert set(answer.seeds) == {"edge1", "edge2", "edge3"} and set(answer.keys) == {"edge4"}
    with pytest.raises(ProtocolError, match="only once"):
        run.edges["edge1"].reveal(["edge1", "edge2", "edge4"])


@pytest.mark.parametrize("survivors", [
    ["edge1", "edge2"], ["edge2", "edge3", "edge4"], ["edge1", "edge2", "edge9"], []])
def test_an_edge_reveals_nothing_for_too_few_or_unknown_edges(survivors: list[str]) -> None:
    run = Sum()
    run.mask_all()
    with pytest.raises(ProtocolError, match="asks to unmask a sum"):
        run.edges["edge1"].reveal(survivors)


def test_an_edge_reveals_nothing_before_it_sent_its_vector() -> None:
    with pytest.raises(ProtocolError, match="asks to unmask a sum"):
        Sum().edges["edge1"].reveal(NAMES)


def test_an_edge_refuses_keys_of_too_few_edges_or_without_its_own() -> None:
    edge = Participant("edge1", SESSION, THRESHOLD)
    peers = Sum().peers
    for wrong in ({"edge1": edge.public_keys(), "edge2": peers["edge2"]}, peers):
        with pytest.raises(ProtocolError, match=r"named \d edges for a secure sum; 3 are needed"):
            edge.share_keys(wrong)


def test_an_edge_refuses_shares_of_too_few_edges_or_changed_ones() -> None:
    run = Sum()
    vector = torch.zeros(LENGTH, dtype=torch.int64)
    with pytest.raises(ProtocolError, match="2 edges are left in the secure sum; 3 are needed"):
        run.edges["edge1"].mask(vector, {"edge2": run.sent["edge2"]["edge1"]})
    with pytest.raises(ProtocolError, match="do not take part"):
        run.edges["edge2"].mask(vector, {**run.shares_for("edge2"), "edge9": b""})
    shares = run.shares_for("edge3")
    with pytest.raises(ProtocolError, match="cannot be decrypted"):
        run.edges["edge3"].mask(vector, {**shares, "edge1": shares["edge2"]})


def test_false_shares_are_found_and_do_not_become_a_model() -> None:
    run = Sum()
    run.mask_all()
    survivors = ("edge1", "edge2", "edge3")
    revealed = {name: run.edges[name].reveal(survivors) for name in survivors}
    total = torch.stack([run.masked[name] for name in survivors]).sum(dim=0)
    assert torch.equal(unmask(total, run.peers, NAMES, survivors, revealed, SESSION, THRESHOLD),
                       torch.zeros(LENGTH, dtype=torch.int64))
    other = secret_sharing.split(bytes(32), 2, [1])[0]
    for false in (dataclasses.replace(revealed["edge1"], seeds={**revealed["edge1"].seeds, "edge2": other}),
                  Revealed(revealed["edge1"].seeds, {"edge4": other})):
        with pytest.raises(ProtocolError, match=r"than it announced|do not belong to one secret"):
            unmask(total, run.peers, NAMES, survivors, {**revealed, "edge1": false}, SESSION, THRESHOLD)
    left_in = total + expand(bytes(32), LENGTH)
    with pytest.raises(ProtocolError, match="no edge can have sent"):
        fixed_point.decode(left_in, 1.0)


def test_two_owners_derive_the_same_key_and_another_for_another_purpose() -> None:
    one, other = new_key_pair(), new_key_pair()
    key = agree(one.private, other.public, "masks")
    assert key == agree(other.private, one.public, "masks")
    assert key != agree(one.private, other.public, "shares")
    assert decrypt(key, encrypt(key, b"text", "a b"), "a b") == b"text"
    with pytest.raises(ProtocolError, match="cannot be decrypted"):
        decrypt(key, encrypt(key, b"text", "a b"), "b a")
    with pytest.raises(ProtocolError, match="is not one of X25519"):
        agree(one.private, bytes(32), "masks")
    assert len(expand(key, 0)) == 0


@pytest.mark.parametrize("change", [float("nan"), float("inf"), 2.0**22, -1e12])
def test_a_change_that_the_ring_cannot_hold_is_refused(change: float) -> None:
    with pytest.raises(DivergedError, match="--secure-aggregation at most 4194304 is possible"):
        fixed_point.encode(torch.tensor([0.0, change], dtype=torch.float64), 0.5)
