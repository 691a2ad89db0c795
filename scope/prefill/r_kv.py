"""r_kv: attended to and not said already (Cai et al. 2025, arXiv 2505.24133)."""

from dataclasses import dataclass

from torch import Tensor

from scope.policy.attention import Attention, latest
from scope.policy.rkv import importance_without_redundancy
from scope.prefill.budget import Windowed
from scope.util.errors import SettingError, check_number, check_odd


@dataclass(frozen=True)
class RKV(Windowed):
    """Keep the last `window` slots and those of highest balance * I - (1 - balance) * R: the decoding strategy's score
    (`scope/decoding/r_kv.py`), once, from the window's queries.

    The paper compresses while it writes; its released code treats the prompt alike.
    """

    kernel: int = 7
    balance: float = 0.1
    threshold: float = 0.5

    def __post_init__(self) -> None:
        super().__post_init__()
        check_odd(self, "kernel")
        check_number(self, "balance", low=0)
        check_number(self, "threshold", low=0)
        if self.balance > 1:
            raise SettingError(self, "balance", self.balance, "a number between 0 and 1")

    @property
    def queries(self) -> int:
        return self.window

    def score(self, attention: Attention) -> Tensor:
        asked = latest(attention, self.window)
        return importance_without_redundancy(asked, self.balance, self.kernel, self.threshold)
