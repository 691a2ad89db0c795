"""entropy: snapkv with more slots in the layers whose attention is more spread (after CAKE, arXiv 2503.12491)."""

from dataclasses import dataclass

from scope.policy.layer_entropies import LayerEntropies
from scope.policy.plan import View, proportional
from scope.prefill.snapkv import SnapKV
from scope.util.errors import ScopeError, SettingError


@dataclass(frozen=True)
class Entropy(SnapKV):
    """Score the slots as `SnapKV`, and spread the budget over the layers by the entropy of their attention.

    With L layers, of which layer l has the entropy H_l, and C slots in the mean:

        layer l keeps window + 1 + L * (C - window - 1) * H_l / (sum over the layers of H) slots

    in whole slots, whose mean over the layers is C. No layer keeps more than the prompt: what it cannot hold goes to
    the others, in the same proportion. H_l is in nats, the mean over heads and queries of - sum over slots j of
    a(j) ln a(j).

    statistics: H of the model, which `python -m scope.calibrate` makes once.
    A layer with a sliding window keeps no more than that window. The mean is then less than C.
    Source: the idea, and H as one of two factors, are of CAKE (Qin et al. 2025, arXiv 2503.12491).
    Departures: CAKE measures each prompt while it is read, and shrinks earlier layers afterwards. Here H is an average
    over other texts, so that the slots of each layer are known before the prompt. CAKE's second factor, the variance of
    the attention over the queries, its exponents and its score are left out.
    Raises SettingError or CombinationError for invalid settings.
    """

    statistics: LayerEntropies | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if not isinstance(self.statistics, LayerEntropies):
            raise SettingError(self, "statistics", self.statistics, "what scope.calibrate makes of the model")

    def capacity(self, view: View) -> int:
        """Raises ScopeError for statistics of a model with another number of layers."""
        assert self.statistics is not None
        nats, slots = self.statistics.nats, self.slots(view.prompt)
        if len(nats) != view.layers:
            raise ScopeError(f"Entropy.statistics: are of another model: {len(nats)} layers, here {view.layers}")
        if view.prompt <= slots:
            return slots
        return self.window + proportional(nats, slots - self.window, view.prompt - self.window)[view.layer]
