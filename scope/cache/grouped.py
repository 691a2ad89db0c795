"""The attention of a decode step over slots, without repeating key/value heads; it gives the probabilities too."""

from torch import Tensor

from scope.policy.attention import LEAST, scaled_products


def grouped(
    query: Tensor, keys: Tensor, values: Tensor, visible: Tensor | None, scaling: float
) -> tuple[Tensor, Tensor]:
    """Attend with one query per row over the slots. Softmax is in float32.

    query [B, Hq, 1, D]; keys, values [B, H, S, D]; visible [B, H, S] bool, None: all slots are.
    -> output [B, 1, Hq, D], and probabilities [B, H, G, S] float32. G = Hq / H query heads share a key/value head.
    """
    batch, query_heads, _, dim = query.shape
    heads = keys.shape[1]
    logits = scaled_products(query.reshape(batch, heads, query_heads // heads, dim), keys, scaling)
    if visible is not None:
        hidden = visible.logical_not().float().mul_(LEAST)[:, :, None]
        logits.add_(hidden)  # faster than masked_fill
    probabilities = logits.softmax(-1)
    output = probabilities.to(values.dtype) @ values
    return output.reshape(batch, 1, query_heads, values.shape[-1]), probabilities
