"""r_kv: attended to and not said already (Cai et al. 2025, arXiv 2505.24133)."""

from dataclasses import dataclass

from torch import Tensor

from scope.decoding.periodic import Polled
from scope.policy.attention import Attention
from scope.policy.rkv import importance_without_redundancy
from scope.util.errors import SettingError, check_number


@dataclass(frozen=True)
class RKV(Polled):
    """Every `every` steps keep the `recent` last and the slots of highest balance * I - (1 - balance) * R.

    I: attention of the last `window` queries, max-pooled over `kernel` neighbours, the maximum over the group, the mean
    over the queries. R: softmax over the slots of how alike a slot's key is to the others (cosine similarities up to
    `threshold` count as 0; the newest of those that a slot is alike to is spared). In the released code, unlike here
    and in the paper, smaller similarities count too, the group's maximum comes before a softmax that leaves out the
    window, pooling comes after the mean, and the balance is 0.07.
    """

    balance: float = 0.1
    threshold: float = 0.5

    def __post_init__(self) -> None:
        super().__post_init__()
        check_number(self, "balance", low=0)
        check_number(self, "threshold", low=0)
        if self.balance > 1:
            raise SettingError(self, "balance", self.balance, "a number between 0 and 1")

    def score(self, attention: Attention) -> Tensor:
        return importance_without_redundancy(attention, self.balance, self.kernel, self.threshold)
