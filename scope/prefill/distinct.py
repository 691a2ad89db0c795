"""distinct: keep slots whose key and value are unlike the others (our own method; see experiments/frontier)."""

from dataclasses import dataclass

from torch import Tensor

from scope.policy import scores
from scope.policy.attention import Attention
from scope.prefill.budget import Scored
from scope.util.errors import check_number


@dataclass(frozen=True)
class Distinct(Scored):
    """Keep the last `window` slots and the others that are least like the rest of the prompt.

        score of slot j = - cos(k_j, mean direction of all keys) - values * cos(v_j, mean direction of all values)

    values: weight of the values' term, 0 or more. 0 uses the keys alone.
    It reads no queries. The decoding strategy of the same name uses the same score.
    Raises SettingError or CombinationError for invalid settings.
    """

    values: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        check_number(self, "values", low=0)

    @property
    def queries(self) -> int:
        return 0

    def score(self, attention: Attention) -> Tensor:
        return scores.distinctness(attention, attention.positions >= 0, self.values)
