"""distinct: what is unlike the rest stays, in its key and in its value (SCOPE's own; experiments/frontier)."""

from dataclasses import dataclass

from torch import Tensor

from scope.policy import scores
from scope.policy.attention import Attention
from scope.prefill.budget import Windowed
from scope.util.errors import check_number


@dataclass(frozen=True)
class Distinct(Windowed):
    """Keep the last `window` slots and those that are least like the others: the decoding strategy's score
    (`scope/decoding/distinct.py`), once, over the whole prompt.
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
