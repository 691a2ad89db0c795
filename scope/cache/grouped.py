"""A decode step's attention over slots as they lie: key/value heads not repeated, its probabilities at hand."""

from torch import Tensor

from scope.policy.attention import LEAST, scaled_products


def grouped(
    query: Tensor, keys: Tensor, values: Tensor, visible: Tensor | None, scaling: float
) -> tuple[Tensor, Tensor]:
    """One query per row over the slots: query [B, Hq, 1, D], keys, values [B, H, S, D], visible [B, H, S] bool or None.

    -> output [B, 1, Hq, D] and probabilities [B, H, G, S] float32 (softmax in float32).
    """
    batch, query_heads, _, dim = query.shape
    heads = keys.shape[1]
    logits = scaled_products(query.reshape(batch, heads, query_heads // heads, dim), keys, scaling)
    if visible is not None:
        hidden = visible.logical_not().float().mul_(LEAST)[:, :, None]
        logits.add_(hidden)  # to fill where they are would take longer
    probabilities = logits.softmax(-1)
    output = probabilities.to(values.dtype) @ values
    return output.reshape(batch, 1, query_heads, values.shape[-1]), probabilities
