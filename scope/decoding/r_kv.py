"""r_kv: keep slots that get attention and whose keys are not redundant (Cai et al. 2025, arXiv 2505.24133)."""

from dataclasses import dataclass

from torch import Tensor

from scope.decoding.periodic import Pooled
from scope.policy.attention import Attention
from scope.policy.rkv import importance_without_redundancy
from scope.util.errors import check_number, check_part


@dataclass(frozen=True)
class RKV(Pooled):
    """Every `every` steps keep the `recent` last slots and the others of highest importance and lowest redundancy.

        score of slot j = balance * I_j - (1 - balance) * R_j

    I (importance): attention of the last `window` queries, max-pooled over `kernel` neighbours; then the maximum over
    the query heads that share a key/value head; then the mean over the queries.
    R (redundancy): softmax over j of the mean over the other slots i of cos(k_i, k_j). Similarities up to `threshold`
    count as 0. Each slot i leaves out the newest of the slots that it resembles.

    balance: weight of I, in 0..1. threshold: 0 or more.
    Departures of the authors' released code from their paper, which we do not follow: smaller similarities count too;
    the maximum over the heads comes before a softmax that leaves out the window; pooling comes after the mean; balance
    is 0.07.
    Raises SettingError or CombinationError for invalid settings.
    """

    balance: float = 0.1
    threshold: float = 0.5

    def __post_init__(self) -> None:
        super().__post_init__()
        check_part(self, "balance")
        check_number(self, "threshold", low=0)

    def score(self, attention: Attention) -> Tensor:
        return importance_without_redundancy(attention, self.balance, self.kernel, self.threshold)
