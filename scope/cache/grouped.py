"""The attention of a decode step over slots, without repeating key/value heads; it gives the probabilities too."""

from torch import Tensor

from scope.cache.states import States
from scope.policy.attention import LEAST
from scope.policy.rule import Rule


def grouped(
    query: Tensor, keys: States, values: States, slots: int, visible: Tensor | None, rule: Rule
) -> tuple[Tensor, Tensor]:
    """Attend with one query per row over the first S = `slots` slots. Softmax is in float32.

    query [B, Hq, 1, D]; keys, values: of H heads; visible [B, H, S] bool, None: all slots are.
    -> output [B, 1, Hq, D], and probabilities [B, H, G, S] float32. G = Hq / H query heads share a key/value head.
    """
    batch, query_heads, _, dim = query.shape
    by_head = query.reshape(batch, keys.heads, query_heads // keys.heads, dim)
    logits = rule.capped(keys.products(by_head, rule.scaling, slots))
    if visible is not None:
        hidden = visible.logical_not().float().mul_(LEAST)[:, :, None]
        logits.add_(hidden)  # faster than masked_fill
    probabilities = rule.softmax(logits)
    output = values.mixed(probabilities)
    return output.reshape(batch, 1, query_heads, output.shape[-1]), probabilities
