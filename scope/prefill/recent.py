"""recent: a control, the newest slots whatever is in them."""

from dataclasses import dataclass

from scope.prefill.budget import Windowed


@dataclass(frozen=True)
class Recent(Windowed):
    """Keep the last C slots: the bare rule, whose score is age."""

    @property
    def queries(self) -> int:
        return 0
