"""Runs a model over texts, and averages its queries before their rotation, and the entropy of its attention."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from scope.cache import CompressedCache, Layout, Policy
from scope.cache.rotary import rotary_of
from scope.generation.rows import Prompt
from scope.generation.stream import prefill
from scope.policy import scores
from scope.policy.attention import Attention, latest
from scope.policy.layer_entropies import LayerEntropies
from scope.policy.query_statistics import QueryStatistics
from scope.util.errors import ScopeError

if TYPE_CHECKING:
    from transformers import PreTrainedModel

LAST_QUERIES = 32  # of each text, whose entropy is measured
DIGITS = 4  # of an entropy: the next ones depend on the number of threads, and would make another run


@dataclass(frozen=True)
class Calibrated:
    """What `calibrate` measures of a model."""

    queries: QueryStatistics
    entropies: LayerEntropies


@torch.inference_mode()
def calibrate(
    model: "PreTrainedModel", texts: Sequence[Sequence[int]], told: Callable[[int], None] | None = None
) -> Calibrated:
    """Statistics of the model's queries over all tokens of these texts, and of the attention's entropy at their ends.

    texts: tokens of each; each is read alone, from position 0 on. told: is called after each text, with its number of
    tokens. An entropy is the mean over the heads and the last 32 queries of each text, in nats, to 4 digits.
    Raises ScopeError for texts without a token, and for a model whose rotary embedding is not known.
    """
    if not sum(map(len, texts)):
        raise ScopeError("calibrate: there is no token to read")
    layers = range(model.config.get_text_config(decoder=True).num_hidden_layers)
    sums, entropies = [_Sums(model, layer) for layer in layers], [_Entropy() for _ in layers]

    def add(attention: Attention) -> None:
        sums[attention.layer].add(attention)
        entropies[attention.layer].add(attention)

    for tokens in filter(len, texts):
        cache = CompressedCache.of(model.config, Policy(), Layout(1), add)
        prefill(model, cache, [Prompt("", tuple(tokens))], 0, None)
        if told:
            told(len(tokens))
    means, magnitudes = zip(*(each.means() for each in sums), strict=True)
    queries = QueryStatistics(torch.stack(means), torch.stack(magnitudes))
    return Calibrated(queries, LayerEntropies(tuple(each.mean() for each in entropies)))


class _Sums:
    """Of one layer: sums over the queries so far."""

    def __init__(self, model: "PreTrainedModel", layer: int) -> None:
        self._rotary = rotary_of(model.config, layer, "calibrate")
        self._count = 0
        self._queries, self._lengths = torch.zeros(1).double(), torch.zeros(1).double()

    def add(self, attention: Attention) -> None:
        rotary = self._rotary.to(attention.queries.device)
        before = rotary.turned(attention.queries[0], -attention.query_positions)[..., : rotary.width]
        self._count += before.shape[1]
        self._queries = self._queries + before.sum(1).double().cpu()
        self._lengths = self._lengths + rotary.lengths(before).sum(1).double().cpu()

    def means(self) -> tuple[Tensor, Tensor]:
        """-> the mean query [Hq, 2F], and the mean length of each pair [Hq, F]."""
        return (self._queries / self._count).float(), (self._lengths / self._count).float()


class _Entropy:
    """Of one layer: the sum of the entropies of the last queries of the texts so far."""

    def __init__(self) -> None:
        self._count, self._nats = 0, 0.0

    def add(self, attention: Attention) -> None:
        nats = torch.special.entr(scores.looks(latest(attention, LAST_QUERIES))).sum(-1)
        self._count += nats.numel()
        self._nats += nats.double().sum().item()

    def mean(self) -> float:
        return float(f"{self._nats / self._count:.{DIGITS}g}")
