"""streamingllm: keep the first slots and the last (Xiao et al. 2023, arXiv 2309.17453)."""

from dataclasses import dataclass

from scope.policy.plan import Plan, View
from scope.prefill.budget import Budget, Windowed


@dataclass(frozen=True)
class StreamingLLM(Budget):
    """Keep the first C - window slots and the last `window`. No score is needed.

    window: slots; None takes half of C, rounded down, as in SCOPE's experiments.
    Departure: slots keep their true positions. The paper renumbers positions within the cache.
    Raises SettingError or CombinationError for invalid settings.
    """

    window: int | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.window is not None:
            Windowed(self.budget, self.window)  # for its checks

    @property
    def queries(self) -> int:
        return 0

    def require(self, prompt: int) -> None:
        if self.window is not None:
            Windowed(self.budget, self.window).require(prompt)

    def plan(self, view: View) -> Plan | None:
        slots = self.slots(view.prompt)
        if view.prompt <= slots:
            return None
        tail = slots // 2 if self.window is None else min(self.window, slots)
        return Plan(head=slots - tail, best=0, tail=tail)
