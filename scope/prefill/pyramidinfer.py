"""pyramidinfer: h2o with a budget that falls from layer to layer (Yang et al. 2024, arXiv 2405.12532)."""

from dataclasses import dataclass

from scope.policy.plan import Plan, View
from scope.prefill.budget import Pyramid
from scope.prefill.heavy_hitters import HeavyHitters
from scope.util.errors import check_flag


@dataclass(frozen=True)
class PyramidInfer(Pyramid, HeavyHitters):
    """The heavy hitters' score, the pyramid's numbers.

    `beside`: where the layers get the same, the window is kept beside the budget (C + window slots), as the released
    code does.
    """

    beside: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        check_flag(self, "beside")

    def capacity(self, view: View) -> int:
        return super().capacity(view) + (self.window if self.beside and self.flat(view.prompt) else 0)

    def plan(self, view: View) -> Plan | None:
        whole = self.flat(view.prompt) and view.prompt <= self.capacity(view)
        return None if whole else super().plan(view)
