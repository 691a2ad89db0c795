"""r_kv: keep slots that get attention and whose keys are not redundant (Cai et al. 2025, arXiv 2505.24133)."""

from dataclasses import dataclass

from torch import Tensor

from scope.policy.attention import Attention, latest
from scope.policy.rkv import importance_without_redundancy
from scope.prefill.budget import Scored
from scope.util.errors import check_number, check_odd, check_part


@dataclass(frozen=True)
class RKV(Scored):
    """Keep the last `window` slots and the others of highest importance and lowest redundancy.

        score of slot j = balance * I_j - (1 - balance) * R_j

    I is the attention of the last `window` queries and R the similarity of the keys. The decoding strategy `RKV`
    (scope/decoding/r_kv.py) defines both. Here they are computed once, for the prompt.

    kernel: slots that are pooled, an odd number. balance: weight of I, in 0..1. threshold: cosine similarities up to it
    count as 0.
    Departure: the paper compresses while it generates. Its released code treats the prompt in the same way, as here.
    Raises SettingError or CombinationError for invalid settings.
    """

    kernel: int = 7
    balance: float = 0.1
    threshold: float = 0.5

    def __post_init__(self) -> None:
        super().__post_init__()
        check_odd(self, "kernel")
        check_part(self, "balance")
        check_number(self, "threshold", low=0)

    @property
    def queries(self) -> int:
        return self.window

    def score(self, attention: Attention) -> Tensor:
        asked = latest(attention, self.window)
        return importance_without_redundancy(asked, self.balance, self.kernel, self.threshold)
