"""Encoders of token ids as libraries write them: buffers of positions, a mask for all layers, results as an object."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

VOCABULARY, WIDTH, HEADS = 90, 8, 2


@dataclass
class Result:
    """What an encoder returns."""

    last_hidden_state: Tensor


class Embeddings(nn.Module):
    """Words, positions and sentences; the numbers of the latter two are slices of buffers."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.positions = nn.Embedding(VOCABULARY, WIDTH, padding_idx=0), nn.Embedding(32, WIDTH)
        self.types, self.norm = nn.Embedding(2, WIDTH), nn.LayerNorm(WIDTH)
        self.register_buffer("position_ids", torch.arange(32).expand((1, -1)), persistent=False)
        self.register_buffer("type_ids", torch.zeros(1, 32, dtype=torch.long), persistent=False)

    def forward(self, ids: Tensor) -> Tensor:
        """Add them."""
        length = ids.shape[1]
        positions = self.position_ids[:, :length]  # type: ignore[index]
        types = self.type_ids[:, :length].expand(ids.shape[0], length)  # type: ignore[index]
        values: Tensor = self.norm(self.words(ids) + self.types(types) + self.positions(positions))
        return values


class Layer(nn.Module):
    """Attention to the tokens that a mask names and a network, each with normalization behind its residual."""

    def __init__(self) -> None:
        super().__init__()
        self.query, self.key, self.value, self.mixed = (nn.Linear(WIDTH, WIDTH) for _ in range(4))
        self.wide, self.narrow = nn.Linear(WIDTH, 12), nn.Linear(12, WIDTH)
        self.first, self.second = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)

    def forward(self, values: Tensor, mask: Tensor) -> Tensor:
        """Run one layer."""
        query, key, value = (part(values).unflatten(2, (HEADS, -1)).transpose(1, 2)
                             for part in (self.query, self.key, self.value))
        attended = functional.scaled_dot_product_attention(query, key, value, attn_mask=mask)
        values = self.first(values + self.mixed(attended.transpose(1, 2).flatten(2)))
        outputs: Tensor = self.second(values + self.narrow(functional.gelu(self.wide(values))))
        return outputs


class Encoder(nn.Module):
    """Embeddings and layers, with a head for the first token. `shared`: one layer is used twice, as in ALBERT.

    `by_length`: its Python depends on the number of tokens, so torch.fx cannot trace it and torch.export can.
    """

    def __init__(self, shared: bool = False, by_length: bool = False) -> None:
        super().__init__()
        self.embeddings = Embeddings()
        self.layers = nn.ModuleList([Layer()] * 2 if shared else [Layer(), Layer()])
        self.head = nn.Linear(WIDTH, 3)
        self.by_length = by_length

    def encode(self, ids: Tensor) -> Result:
        """Return the values of all tokens."""
        mask = (ids != 0)[:, None, None, :]
        if self.by_length:
            mask = torch.where(mask, torch.tensor(0.0), torch.full([], -1e4))
            if ids.shape[1] > 32:
                raise ValueError("at most 32 tokens")
        values = self.embeddings(ids)
        for layer in self.layers:
            values = layer(values, mask)
        return Result(values)

    def forward(self, ids: Tensor) -> Tensor:
        """Classify."""
        outputs: Tensor = self.head(self.encode(ids).last_hidden_state[:, 0])
        return outputs
