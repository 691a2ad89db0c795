"""The rule that every prefill method shares: how many slots of the prompt stay, and which are beyond question."""

from dataclasses import dataclass, replace
from typing import ClassVar, Protocol

from torch import Tensor

from scope.policy import scores
from scope.policy.attention import Attention
from scope.policy.plan import ROUNDINGS, Plan, View, pyramid
from scope.util.errors import MOST, CombinationError, SettingError, check_choice, check_count


class PrefillMethod(Protocol):
    """Decides once, after the prompt's own attention, what of the prompt stays (one row of one layer at a time)."""

    @property
    def layer_inputs(self) -> bool:
        """Whether its score needs the layer's module and hidden states (`Attention.inputs`)."""
        ...

    @property
    def queries(self) -> int | None:
        """How many of the prompt's last queries its score looks at, None for all: of a prompt that comes in chunks the
        others are not held, and are shown to it as 0."""
        ...

    def slots(self, prompt: int) -> int:
        """C: the budget for a prompt of that many tokens, as a count."""
        ...

    def capacity(self, view: View) -> int:
        """The most slots this method leaves in this layer: C, but for a budget that differs from layer to layer."""
        ...

    def plan(self, view: View) -> Plan | None:
        """What to keep; None keeps everything."""
        ...

    def score(self, attention: Attention) -> Tensor:
        """-> [B, H, S]; called only where a plan has a `best`."""
        ...


@dataclass(frozen=True)
class Budget:
    """A number of slots for the prompt; nothing is evicted from a prompt that is shorter.

    `budget` counts slots, or is a share of the prompt (0 < budget < 1), which becomes a count here and nowhere else.
    The score of the bare rule is age. Raises SettingError for values that cannot be.
    """

    budget: int | float

    layer_inputs: ClassVar[bool] = False

    @property
    def queries(self) -> int | None:
        return None

    def __post_init__(self) -> None:
        share = isinstance(self.budget, float) and 0 < self.budget < 1
        count = isinstance(self.budget, int) and not isinstance(self.budget, bool) and 2 <= self.budget <= MOST
        if not share and not count:
            allowed = "a number of slots (2 or more), or a share of the prompt (above 0, below 1)"
            raise SettingError(self, "budget", self.budget, allowed)

    def slots(self, prompt: int) -> int:
        """The budget as a count of slots, for a prompt of that many tokens."""
        return self.budget if isinstance(self.budget, int) else max(2, round(self.budget * prompt))

    def capacity(self, view: View) -> int:
        return self.slots(view.prompt)

    def require(self, prompt: int) -> None:
        """Raises CombinationError where a prompt of that many tokens has too few to keep this budget."""

    def score(self, attention: Attention) -> Tensor:
        return scores.age(attention)


@dataclass(frozen=True)
class Windowed(Budget):
    """Keep the last `window` slots of the prompt and the best-scored others, `budget` in all.

    Raises CombinationError where the window leaves nothing to choose. What a share comes to is known with a prompt:
    `require` refuses one of which it is no more than the window, else one slot beside the window is kept.
    """

    window: int

    def __post_init__(self) -> None:
        super().__post_init__()
        check_count(self, "window", low=1)
        if isinstance(self.budget, int) and self.window >= self.budget:
            raise CombinationError(self, "window", self.window, f"smaller than the prefill budget, {self.budget}")

    def slots(self, prompt: int) -> int:
        return max(super().slots(prompt), self.window + 1)

    def require(self, prompt: int) -> None:
        budget = super().slots(prompt)
        if self.window >= budget:
            share = f"{self.budget:g} of a prompt of {prompt} tokens"
            raise CombinationError(self, "window", self.window, f"smaller than the prefill budget, {budget}: {share}")

    def plan(self, view: View) -> Plan | None:
        if view.prompt <= self.slots(view.prompt):
            return None
        return Plan(head=0, best=self.capacity(view) - self.window, tail=self.window)


@dataclass(frozen=True)
class Pyramid(Windowed):
    """The budget C on average, spread over the layers: more in the first, less in the last.

    `beta` says how little the last layer gets: (C - window) / beta. `short`: what becomes of the pyramid over a prompt
    shorter than twice the budget (P < 2 (C - window)): `clip` bounds the first layer by the prompt and raises the last;
    `flat` gives all layers the same, as the released code does. `order`: how the slots lie that stay, by `position`, or
    the best by `score`, as in the released code, where it decides which of them a decoding strategy finds first.
    `pyramid`: with `exact` the layers keep C slots on average, to the slot; `floor` rounds as the released code does,
    and keeps more. A layer with a sliding window keeps no more than that holds, and then the average is less.
    """

    beta: int = 20
    short: str = "clip"
    order: str = "position"
    pyramid: str = "exact"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_count(self, "beta", low=1)
        check_choice(self, "short", ("clip", "flat"))
        check_choice(self, "order", ("position", "score"))
        check_choice(self, "pyramid", ROUNDINGS)

    def flat(self, prompt: int) -> bool:
        """Whether all layers get the same for a prompt of that length."""
        slots = self.slots(prompt)
        return prompt <= slots or (self.short == "flat" and prompt < 2 * (slots - self.window))

    def capacity(self, view: View) -> int:
        slots = self.slots(view.prompt)
        if self.flat(view.prompt):
            return slots
        mean, most = slots - self.window, view.prompt - self.window
        return self.window + pyramid(view.layer, view.layers, mean, most, self.beta, self.pyramid)

    def plan(self, view: View) -> Plan | None:
        plan = super().plan(view)
        return replace(plan, ranked=self.order == "score") if plan else None
