"""Runs a model over texts and averages its queries as they are before their rotation."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from transformers import PreTrainedModel

from scope.cache import CompressedCache, Layout, Policy
from scope.cache.rotary import rotary_of
from scope.generation.rows import Prompt
from scope.generation.stream import prefill
from scope.policy.attention import Attention
from scope.policy.query_statistics import QueryStatistics
from scope.util.errors import ScopeError


@torch.inference_mode()
def calibrate(
    model: PreTrainedModel, texts: Sequence[Sequence[int]], told: Callable[[int], None] | None = None
) -> QueryStatistics:
    """Statistics of the model's queries over all tokens of these texts.

    texts: tokens of each; each is read alone, from position 0 on. told: is called after each text, with its number of
    tokens.
    Raises ScopeError for texts without a token, and for a model whose rotary embedding is not known.
    """
    if not sum(map(len, texts)):
        raise ScopeError("calibrate: there is no token to read")
    sums = [_Sums(model, layer) for layer in range(model.config.get_text_config(decoder=True).num_hidden_layers)]

    def add(attention: Attention) -> None:
        sums[attention.layer].add(attention)

    for tokens in filter(len, texts):
        cache = CompressedCache.of(model.config, Policy(), Layout(1), add)
        prefill(model, cache, [Prompt("", tuple(tokens))], 0, None)
        if told:
            told(len(tokens))
    means, magnitudes = zip(*(each.means() for each in sums), strict=True)
    return QueryStatistics(torch.stack(means), torch.stack(magnitudes))


class _Sums:
    """Of one layer: sums over the queries so far."""

    def __init__(self, model: PreTrainedModel, layer: int) -> None:
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
