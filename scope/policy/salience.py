"""The score of `salient`: how much a slot is attended to, and how unlike the others it is, on one scale."""

from torch import Tensor

from scope.policy import scores
from scope.policy.attention import Attention

LEAST = 1e-6  # added to votes before their logarithm


def salience(attention: Attention, votes: Tensor, free: Tensor, weight: float) -> Tensor:
    """-> [B, H, S]: z(log(votes + 1e-6)) + weight * z(distinctness).

    z takes the mean away and divides by the standard deviation, both over the free slots of a head. The mean directions
    of `scores.distinctness` are over all stored slots, keys and values with weight 1. The score of other slots than the
    free ones means nothing: they always stay.

    votes [B, H, S], 0 or more. free [B, H, S] bool: the slots that the policy chooses among.
    """
    attended = (votes + LEAST).log()
    if not weight:
        return _standardised(attended, free)
    unlike = scores.distinctness(attention, attention.positions >= 0, 1.0, 1.0)
    return _standardised(attended, free) + weight * _standardised(unlike, free)


def _standardised(weights: Tensor, free: Tensor) -> Tensor:
    return scores.standardised(weights[:, :, None], free[:, :, None])[:, :, 0]
