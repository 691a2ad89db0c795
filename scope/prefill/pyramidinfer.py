"""pyramidinfer: h2o with fewer slots in later layers (Yang et al. 2024, arXiv 2405.12532)."""

from dataclasses import dataclass

from scope.policy.plan import Plan, View
from scope.prefill.budget import Pyramid
from scope.prefill.heavy_hitters import HeavyHitters
from scope.util.errors import check_flag


@dataclass(frozen=True)
class PyramidInfer(Pyramid, HeavyHitters):
    """Score the slots as `HeavyHitters`, and spread the budget over the layers as `Pyramid`.

        score of slot j = sum over all queries i of a(i, j), as h2o

    beside: if all layers get the same budget, keep C + window slots instead of C, as the released code.
    The other parameters are those of `Pyramid` and `HeavyHitters`.
    Raises SettingError or CombinationError for invalid settings.
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
