"""salient: keep slots that are attended to or unlike the others (our own method; see experiments/frontier)."""

from dataclasses import dataclass

from torch import Tensor

from scope.policy.attention import Attention
from scope.policy.salience import salience
from scope.prefill.snapkv import SnapKV
from scope.util.errors import check_number


@dataclass(frozen=True)
class Salient(SnapKV):
    """Keep the last `window` slots and the others with the highest sum of two standard scores.

        score of slot j = z(log(a_j + 1e-6)) + weight * z(d_j)

    a_j: the score of `SnapKV`. d_j: that of `Distinct`. z: less the mean, over the standard deviation, both over the
    prompt's slots before the window. The decoding strategy of the same name uses the same score.

    weight: of d, 0 or more; 0 keeps what `SnapKV` keeps. The other parameters are those of `SnapKV`.
    Raises SettingError or CombinationError for invalid settings.
    """

    weight: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        check_number(self, "weight", low=0)

    def score(self, attention: Attention) -> Tensor:
        before = (attention.positions >= 0) & (attention.positions <= attention.now - self.window)
        return salience(attention, super().score(attention), before, self.weight)
