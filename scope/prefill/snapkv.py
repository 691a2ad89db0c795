"""snapkv: keep what the prompt's last queries attend to (Li et al. 2024, arXiv 2404.14469)."""

from dataclasses import dataclass

from torch import Tensor

from scope.policy import scores
from scope.policy.attention import Attention
from scope.prefill.budget import Scored
from scope.util.errors import check_odd


@dataclass(frozen=True)
class SnapKV(Scored):
    """Keep the last `window` slots and the others that the last `window` queries attend to most.

        score of slot j = max over the `kernel` slots around j of (sum over the last `window` queries i of a(i, j))

    a(i, j) is the attention that query i gives to slot j, averaged over the query heads that share a key/value head.
    The slots of the window are not pooled with the others.

    kernel: slots that are pooled, an odd number; 1 pools nothing.
    Departure: query heads that share a key/value head select together. With `fidelity.granularity=query_head` each
    selects alone, as in the released code.
    Raises SettingError or CombinationError for invalid settings.
    """

    kernel: int = 7

    def __post_init__(self) -> None:
        super().__post_init__()
        check_odd(self, "kernel")

    @property
    def queries(self) -> int:
        return self.window

    def score(self, attention: Attention) -> Tensor:
        return scores.pooled(scores.votes(attention, last=self.window), self.kernel, self.window)
