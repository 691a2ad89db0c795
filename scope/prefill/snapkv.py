"""snapkv: what the prompt's last queries look at (Li et al. 2024, arXiv 2404.14469)."""

from dataclasses import dataclass

from torch import Tensor

from scope.policy import scores
from scope.policy.attention import Attention
from scope.prefill.budget import Windowed
from scope.util.errors import check_odd


@dataclass(frozen=True)
class SnapKV(Windowed):
    """Keep the last `window` slots and those that their queries attend to most, max-pooled over `kernel` neighbours."""

    kernel: int = 7

    def __post_init__(self) -> None:
        super().__post_init__()
        check_odd(self, "kernel")

    @property
    def queries(self) -> int:
        return self.window

    def score(self, attention: Attention) -> Tensor:
        return scores.pooled(scores.votes(attention, last=self.window), self.kernel, self.window)
