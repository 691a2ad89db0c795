"""The rule that all prefill methods share: how many slots of the prompt stay, and which always stay."""

from dataclasses import dataclass, field, replace
from typing import ClassVar, Protocol

from torch import Tensor

from scope.policy.attention import Attention
from scope.policy.plan import ROUNDINGS, Plan, View, pyramid
from scope.util.errors import (
    CombinationError,
    check_choice,
    check_count,
    check_count_or_share,
    check_part,
    without_score,
)


class PrefillMethod(Protocol):
    """Decides once, after the prompt's own attention, which slots of the prompt stay.

    It decides for one row of one layer at a time. In shapes, B is rows, H heads and S slots.
    """

    @property
    def layer_inputs(self) -> bool:
        """Whether the score needs the layer's module and its hidden states (`Attention.inputs`)."""
        ...

    @property
    def queries(self) -> int | None:
        """How many of the prompt's last queries the score reads; None means all.

        Where the prompt is fed in chunks, earlier queries are not stored. The score sees them as 0.
        """
        ...

    @property
    def votes_only(self) -> bool:
        """Whether the score reads no queries but for the votes of them all, `scores.votes(attention)`.

        Where the prompt is fed in chunks, these votes are then summed chunk by chunk, and no query is stored.
        """
        ...

    def slots(self, prompt: int) -> int:
        """C, in slots, for a prompt of `prompt` tokens."""
        ...

    def capacity(self, view: View) -> int:
        """The most slots that the method leaves in this layer: C, unless the budget differs between layers."""
        ...

    def plan(self, view: View) -> Plan | None:
        """Which slots to keep; None keeps all."""
        ...

    def score(self, attention: Attention) -> Tensor:
        """A score for each slot, [B, H, S]; higher is kept. Called only if a plan has a `best`."""
        ...


@dataclass(frozen=True)
class Budget:
    """A budget C for the prompt. A prompt of at most C tokens is not compressed.

    budget: C, as a count of slots (an integer, 2 or more), or as a share of the prompt (a float, 0 < budget < 1).
    A method whose plan keeps the best slots has a `score` of its own; this class has none.
    Raises SettingError if `budget` is neither a count nor a share.
    """

    budget: int | float = 0.5

    layer_inputs: ClassVar[bool] = False

    @property
    def votes_only(self) -> bool:
        return False

    @property
    def queries(self) -> int | None:
        return None

    def __post_init__(self) -> None:
        check_count_or_share(self, "budget", low=2, whole="the prompt")

    def slots(self, prompt: int) -> int:
        """C, in slots, for a prompt of `prompt` tokens. A share becomes max(2, round(budget * prompt))."""
        return self.budget if isinstance(self.budget, int) else max(2, round(self.budget * prompt))

    def capacity(self, view: View) -> int:
        return self.slots(view.prompt)

    def require(self, prompt: int) -> None:
        """Raise CombinationError if a prompt of `prompt` tokens is too short for this budget."""

    def score(self, attention: Attention) -> Tensor:
        """Raises ScopeError: to keep the newest slots, return `scope.policy.scores.age(attention)`."""
        raise without_score(self)


@dataclass(frozen=True)
class Windowed(Budget):
    """Keep the last `window` slots of the prompt and the C - window others with the highest score.

    window: slots, 1 or more, and fewer than C.
    A share becomes a count only when the prompt is known. `require` then raises CombinationError if this count is no
    more than the window. Without that check, one slot beside the window is kept.
    Raises SettingError for an invalid value, CombinationError if a count C is no more than the window.
    """

    window: int = 8

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
class Scored(Windowed):
    """The heads of a layer may share its slots, by their scores.

    heads: `each`: every head keeps C slots. `shared`: the heads of a layer keep C slots in the mean. Those beside the
    window go to the highest scores of the layer, whatever their head. In a layer with a sliding window each keeps C.
    Source: Ada-KV, Feng et al. 2024, arXiv 2407.11550.
    least: where heads share, the part of C - window that each head keeps in any case, in 0..1.
    Raises SettingError or CombinationError for invalid settings.
    """

    heads: str = field(default="each", kw_only=True, metadata={"later": True})
    least: float = field(default=0.2, kw_only=True, metadata={"later": True})

    def __post_init__(self) -> None:
        super().__post_init__()
        check_choice(self, "heads", ("each", "shared"))
        check_part(self, "least")

    def plan(self, view: View) -> Plan | None:
        plan = super().plan(view)
        if plan is None or self.heads == "each" or view.window is not None:
            return plan
        return replace(plan, least=int(self.least * plan.best))


@dataclass(frozen=True)
class Pyramid(Scored):
    """Spread the budget over the layers: more slots in the first layers, fewer in the last, C on average.

    With m = C - window and L layers, for a prompt of P tokens:

        low = m // beta    high = 2 m - low
        high is at most P - window; then low = 2 m - high
        layer l keeps window + high - l * (high - low) / (L - 1) slots

    beta: a larger one leaves fewer slots to the last layer.
    short: for a prompt with P < 2 m. `clip` applies the bound above. `flat` gives all layers C, as the released code.
    order: how the kept slots are stored. `position` keeps the prompt's order. `score` puts the best first, as the
    released code. A decoding strategy with boundary="budget" protects the first C of them.
    pyramid: `exact` rounds so that the mean is exactly C. `floor` rounds as the released code, and keeps more than C.
    A layer with a sliding window keeps no more than that window. The mean is then less than C.
    Raises SettingError for an invalid value, CombinationError as `Windowed` does.
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
        """Whether all layers keep the same number of slots of a prompt of `prompt` tokens."""
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
