"""tova: what the prompt's last query looks at in the whole layer (Oren et al. 2024, arXiv 2401.06104)."""

from dataclasses import dataclass

from torch import Tensor

from scope.policy import scores
from scope.policy.attention import Attention
from scope.prefill.budget import Windowed


@dataclass(frozen=True)
class TOVA(Windowed):
    """Keep the last `window` slots and the tokens with the last query's highest attention, the mean over all heads.

    Departures: the paper evicts while it reads and spares no recent tokens (window=1 comes closest).
    """

    @property
    def queries(self) -> int:
        return 1

    def score(self, attention: Attention) -> Tensor:
        return scores.votes(attention, last=1).mean(1, keepdim=True).expand_as(attention.positions)
