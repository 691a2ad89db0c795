"""distinct: keep slots whose key and value are unlike the others (our own method; see experiments/distinct)."""

from dataclasses import dataclass, field

from torch import Tensor

from scope.policy import scores
from scope.policy.attention import Attention
from scope.prefill.budget import Scored
from scope.util.errors import check_weights


@dataclass(frozen=True)
class Distinct(Scored):
    """Keep the last `window` slots and the others that are least like the rest of the prompt.

        score of slot j = - keys * cos(k_j, mean direction of keys) - values * cos(v_j, mean direction of values)

    The means are over the whole prompt.

    keys, values: weights of the two terms, each 0 or more, and one of them above 0. A term with weight 0 is left out.
    It reads no queries. The decoding strategy of the same name uses the same score.
    Raises SettingError or CombinationError for invalid settings.
    """

    values: float = 1.0
    keys: float = field(default=1.0, metadata={"later": True})

    def __post_init__(self) -> None:
        super().__post_init__()
        check_weights(self, "keys", "values")

    @property
    def queries(self) -> int:
        return 0

    def score(self, attention: Attention) -> Tensor:
        return scores.distinctness(attention, attention.positions >= 0, self.keys, self.values)
