"""Secure aggregation: the cloud learns the sum of the edges' vectors and no single one, although edges may drop out.

Every two edges agree on a mask, which one adds and the other subtracts, so that masks cancel in the sum; every edge
also adds a mask of its own. Secrets of both are shared among all edges: of an edge that dropped out before it sent its
vector, the others reveal the key of its pairwise masks; of every other, its own mask; never both.

    step           edge                                         cloud
    0 keys         two public keys, hash of the own mask        hands out the keys of U1, the edges that answered
    1 shares       encrypted shares of both secrets             hands out the shares of U2
    2 vectors      its vector with its masks                    adds those of U3
    3 unmasking    shares for U3 and for U2 without U3          reconstructs the masks that did not cancel

Pure: no I/O. An honest but curious cloud learns nothing else; one that hands out keys of its own learns all.
Source: Bonawitz et al. 2017, "Practical Secure Aggregation for Privacy-Preserving Machine Learning", figure 4 without
the parts for an active adversary.
"""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from trainer.errors import ProtocolError
from trainer.privacy import secret_sharing
from trainer.privacy.key_agreement import KEY_BYTES, KeyPair, agree, decrypt, derive, encrypt, expand, new_key_pair
from trainer.privacy.secret_sharing import SHARE_BYTES


def threshold_of(edges: int) -> int:
    """Return how many of a run's edges must take part: a majority, so that no two disjoint sets can be asked."""
    return edges // 2 + 1


@dataclass(frozen=True, slots=True)
class PublicKeys:
    """What an edge tells all others in step 0: keys for shares and for masks, and the hash of its own mask's seed."""

    shares: bytes
    masks: bytes
    seed_hash: bytes


@dataclass(frozen=True, slots=True)
class Revealed:
    """Shares that an edge reveals in step 3, by the edge whose secret they belong to."""

    seeds: Mapping[str, bytes] = field(repr=False)
    keys: Mapping[str, bytes] = field(repr=False)


class Participant:
    """An edge in one secure sum. `session` is new for every sum."""

    def __init__(self, name: str, session: str, threshold: int) -> None:
        self._name = name
        self._session = session
        self._threshold = threshold
        self._share_keys, self._mask_keys = new_key_pair(), new_key_pair()
        self._seed = secrets.token_bytes(KEY_BYTES)
        self._peers: dict[str, PublicKeys] = {}
        self._shares: dict[str, tuple[bytes, bytes]] = {}
        """By edge: the shares of its seed and of its private key for masks that this edge holds."""
        self._revealed = False

    def public_keys(self) -> PublicKeys:
        """Step 0."""
        return PublicKeys(self._share_keys.public, self._mask_keys.public, _hash(self._seed))

    def share_keys(self, peers: Mapping[str, PublicKeys]) -> dict[str, bytes]:
        """Step 1: return the encrypted shares for every other edge of U1.

        Raises: ProtocolError if the edges are too few, or this one is missing or has other keys.
        """
        if self._peers or peers.get(self._name) != self.public_keys() or len(peers) < self._threshold:
            raise ProtocolError(f"The cloud named {len(peers)} edges for a secure sum; {self._threshold} are needed, "
                                f"{self._name} with its keys among them.")
        self._peers = dict(peers)
        points = _points(peers)
        seeds = secret_sharing.split(self._seed, self._threshold, list(points.values()))
        keys = secret_sharing.split(self._mask_keys.private, self._threshold, list(points.values()))
        encrypted = {}
        for peer, seed, key in zip(points, seeds, keys, strict=True):
            if peer == self._name:
                self._shares[peer] = seed, key
            else:
                encrypted[peer] = encrypt(self._share_key(peer), seed + key, self._context(self._name, peer))
        return encrypted

    def mask(self, vector: Tensor, shares: Mapping[str, bytes]) -> Tensor:
        """Step 2: return the vector with the masks for U2, the edges whose encrypted shares these are, and this one.

        Raises: ProtocolError if they are too few, or a share is not what its edge sent.
        """
        if not self._shares or len(self._shares) > 1 or self._name in shares or not shares.keys() <= self._peers.keys():
            raise ProtocolError("The cloud sent shares of edges that do not take part in the secure sum.")
        if len(shares) + 1 < self._threshold:
            raise ProtocolError(f"{len(shares) + 1} edges are left in the secure sum; {self._threshold} are needed.")
        masked = vector + expand(derive(self._seed, "own mask"), len(vector))
        for peer, ciphertext in shares.items():
            plaintext = decrypt(self._share_key(peer), ciphertext, self._context(peer, self._name))
            if len(plaintext) != 2 * SHARE_BYTES:
                raise ProtocolError(f"{peer} sent shares of {len(plaintext)} bytes; they have {2 * SHARE_BYTES}.")
            self._shares[peer] = plaintext[:SHARE_BYTES], plaintext[SHARE_BYTES:]
            masked += pair_mask(self._name, peer, self._mask_keys.private, self._peers[peer].masks, self._session,
                                len(vector))
        return masked

    def reveal(self, survivors: Collection[str]) -> Revealed:
        """Step 3: return the shares of the own masks of U3 and of the keys of those of U2 that dropped out.

        Raises: ProtocolError if the edges are too few, or were asked for before.
        """
        known = self._shares.keys()
        if (self._revealed or len(known) < 2 or self._name not in survivors or not set(survivors) <= known
                or len(survivors) < self._threshold):
            raise ProtocolError(f"The cloud asks to unmask a sum of {len(survivors)} edges; {self._threshold} are "
                                "needed, each of them in the sum, and only once.")
        self._revealed = True
        return Revealed({name: self._shares[name][0] for name in survivors},
                        {name: self._shares[name][1] for name in known - set(survivors)})

    def _share_key(self, peer: str) -> bytes:
        return agree(self._share_keys.private, self._peers[peer].shares, f"shares {self._session}")

    def _context(self, sender: str, receiver: str) -> str:
        return f"{self._session} {sender} {receiver}"


def unmask(
    total: Tensor, peers: Mapping[str, PublicKeys], sharing: Collection[str], survivors: Collection[str],
    revealed: Mapping[str, Revealed], session: str, threshold: int,
) -> Tensor:
    """Return the sum of the survivors' vectors from the sum of their masked ones.

    `peers`: U1 with their keys, `sharing`: U2, `survivors`: U3; `revealed`: by the edge that revealed it.

    Raises: ProtocolError if too little is revealed, or it does not fit what the edges told before.
    """
    points = _points(peers)
    plain = total.clone()
    for name in survivors:
        shares = {points[holder]: answer.seeds[name] for holder, answer in revealed.items() if name in answer.seeds}
        seed = secret_sharing.combine(shares, threshold)
        if _hash(seed) != peers[name].seed_hash:
            raise ProtocolError(f"The edges revealed another mask of {name} than it announced.")
        plain -= expand(derive(seed, "own mask"), len(plain))
    for name in set(sharing) - set(survivors):
        shares = {points[holder]: answer.keys[name] for holder, answer in revealed.items() if name in answer.keys}
        private = secret_sharing.combine(shares, threshold)
        if KeyPair.of(private).public != peers[name].masks:
            raise ProtocolError(f"The edges revealed another key of {name} than it announced.")
        for survivor in survivors:
            plain += pair_mask(name, survivor, private, peers[survivor].masks, session, len(plain))
    return plain


def pair_mask(name: str, peer: str, private: bytes, public: bytes, session: str, count: int) -> Tensor:
    """Return what `name` adds for its pair with `peer`; the peer adds the negative of it."""
    mask = expand(agree(private, public, f"masks {session}"), count)
    return mask if name < peer else torch.neg(mask)


def _points(peers: Collection[str]) -> dict[str, int]:
    """Return the point of every edge's shares, by their names' order."""
    return {name: number for number, name in enumerate(sorted(peers), start=1)}


def _hash(seed: bytes) -> bytes:
    return hashlib.sha256(seed).digest()
