"""salient: keep slots that are attended to or unlike the others (our own strategy; see experiments/frontier)."""

from dataclasses import dataclass

from torch import Tensor

from scope.decoding.snapkv_d import SnapKVD
from scope.policy.attention import Attention
from scope.policy.salience import salience
from scope.util.errors import check_number


@dataclass(frozen=True)
class Salient(SnapKVD):
    """Every `every` steps keep the `recent` last slots and the others with the highest sum of two standard scores.

        score of slot j = z(log(a_j + 1e-6)) + weight * z(d_j) + prompt * [j is of the prompt]

    a_j: max over the `kernel` slots around j of (sum over the last `window` queries i of a(i, j)), as in `snapkv_d`.
    d_j: - cos(k_j, mean direction of keys) - cos(v_j, mean direction of values), over all stored slots, as in
    `distinct`. z: less the mean, over the standard deviation, both over the slots of a head that may go.
    Votes have a heavy tail: without the logarithm a few slots make up their whole scale, and the others are chosen by
    d alone. Attention alone loses what was written early and is needed late; likeness alone loses what is needed now.

    weight: of the likeness, 0 or more; 0 keeps what `snapkv_d` keeps.
    prompt: what a slot of the prompt has in advance, in standard deviations: a soft protection. 0 has none.
    The window's slots count as 0 in a. The other parameters are those of `SnapKVD`.
    Raises SettingError or CombinationError for invalid settings.
    """

    recent: int | float = 0.15
    every: int = 32
    window: int = 16
    weight: float = 1.0
    prompt: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        check_number(self, "weight", low=0)
        check_number(self, "prompt", low=0)

    def score(self, attention: Attention) -> Tensor:
        found = salience(attention, super().score(attention), self.evictable(attention), self.weight)
        if not self.prompt or self.protect == "prompt":
            return found
        return found + self.prompt * attention.of_prompt
