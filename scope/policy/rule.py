"""How a layer attends: which tokens a query sees, and what makes probabilities of its products with their keys.

Shapes are those of `scope.policy.attention`.
"""

from dataclasses import dataclass, replace

import torch
from torch import Tensor


@dataclass(frozen=True)
class Sight:
    """Which of the tokens up to its own a query sees.

    window: how many tokens at most; None: all.
    chunked: the text is cut into pieces of `window` tokens, and a query sees its own piece only (Llama 4). Otherwise
    the window slides: a query sees the last `window` tokens.
    """

    window: int | None = None
    chunked: bool = False

    def first(self, at: Tensor) -> Tensor:
        """-> the first position that a query at each of these positions sees, or a number below 0."""
        if self.window is None:
            return torch.zeros_like(at)
        return at // self.window * self.window if self.chunked else at - (self.window - 1)

    def queries(self, positions: Tensor, last: Tensor) -> Tensor:
        """-> how many queries see the token at each of these positions, if the text's last query is at `last`."""
        if self.window is None:
            return last - positions + 1
        end = (positions // self.window + 1) * self.window if self.chunked else positions + self.window
        return torch.minimum(last + 1, end) - positions


@dataclass(frozen=True, eq=False)
class Rule:
    """How a layer turns the products of a query and the keys into probabilities.

        l_j = scaling * q . k_j, or softcap * tanh(scaling * q . k_j / softcap)
        p_j = exp(l_j) / (exp(sink) + sum of exp(l_i) over the seen slots i)

    softcap: a bound that logits do not reach (Gemma 2, arXiv 2408.00118); None: none.
    sinks: [Hq], a logit of each query head that takes a part of the probability and gives it to no slot (gpt-oss,
    arXiv 2508.10925); None: none, and exp(sink) is not in the sum.
    """

    scaling: float
    sight: Sight = Sight()
    softcap: float | None = None
    sinks: Tensor | None = None

    @property
    def plain(self) -> bool:
        """Whether there are neither soft caps nor sinks."""
        return self.softcap is None and self.sinks is None

    def capped(self, products: Tensor) -> Tensor:
        """Scaled products -> logits, in the same memory."""
        return products if self.softcap is None else products.div_(self.softcap).tanh_().mul_(self.softcap)

    def softmax(self, logits: Tensor, out: Tensor | None = None) -> Tensor:
        """Logits -> probabilities, [B, H, G * Q, S] each. With sinks they add up to less than 1.

        out: memory that may be used for them.
        """
        sinks = self.sinks_of(*logits.shape[1:3])
        if sinks is None:
            return torch.softmax(logits, -1, out=out)
        column = sinks.to(logits)[..., None].expand(*logits.shape[:-1], 1)
        return torch.cat([logits, column], -1).softmax(-1)[..., :-1]

    def sinks_of(self, heads: int, rows: int) -> Tensor | None:
        """-> [H, G * Q]: the sink of each row of the logits of H heads; None: there are no sinks."""
        if self.sinks is None:
            return None
        group = len(self.sinks) // heads
        return self.sinks.view(heads, group).repeat_interleave(rows // group, -1)

    def of_head(self, head: int, heads: int) -> "Rule":
        """The rule of one of H heads and its query heads."""
        return self if self.sinks is None else replace(self, sinks=self.sinks.view(heads, -1)[head])
