"""What decides over a cache: the two policies, and the bounds that hold for both."""

from dataclasses import dataclass, field
from types import ModuleType

import scope.decoding
import scope.prefill
from scope.decoding import DecodingStrategy, KeepAll
from scope.policy.plan import View
from scope.prefill import Full, PrefillMethod
from scope.util.errors import CombinationError, SettingError, check_choice, check_count

GRANULARITIES = ("kv_head", "query_head")


@dataclass(frozen=True)
class Policy:
    """How a cache is compressed. Without arguments: nothing is ever evicted.

        Policy(SnapKV(budget=2048, window=8), Slide(budget=512, recent=256))

    prefill compresses the prompt, decoding what is generated. granularity: slots per key/value head (`kv_head`: the
    query heads that share one average their votes), or per query head (`query_head`, the released code's layout: each
    key/value head is stored as often as it is shared). max_bytes: the most bytes that one sequence's slots may take in
    all layers, channels included; D is then the largest that fits beside the prompt, whatever the strategy's budget.
    Raises SettingError for what is no policy or no bound, and CombinationError for `max_bytes` with a strategy that
    grows without bound.
    """

    prefill: PrefillMethod = field(default_factory=Full)
    decoding: DecodingStrategy = field(default_factory=KeepAll)
    granularity: str = "kv_head"
    max_bytes: int | None = None

    def __post_init__(self) -> None:
        check_choice(self, "granularity", GRANULARITIES)
        methods = ("slots", "capacity", "plan", "score")
        _check_is_one("prefill", self.prefill, methods, scope.prefill, "SnapKV(budget=2048, window=8)")
        methods = ("most", "plan", "observe", "score")
        _check_is_one("decoding", self.decoding, methods, scope.decoding, "Slide(budget=512, recent=256)")
        if self.max_bytes is not None:
            check_count(self, "max_bytes", low=1)
            if self._grows():
                allowed = "null where nothing is evicted while decoding, or D may be passed (capped=false)"
                raise CombinationError(self, "max_bytes", self.max_bytes, allowed)

    @property
    def recent_queries(self) -> int | None:
        """How many of a prompt's last queries the two look at; None: all."""
        if self.prefill.queries is None or self.decoding.channels:
            return None
        return max(self.prefill.queries, self.decoding.queries)

    def _grows(self) -> bool:
        """Whether nothing bounds the slots: this holds for every prompt and layer, or for none."""
        anywhere = View(0, 1, prompt=1, stored=1, budget=1, capacity=1, prefilled=(1,))
        return self.decoding.most(anywhere) is None


def _check_is_one(field: str, value: object, needed: tuple[str, ...], package: ModuleType, example: str) -> None:
    """Refuse what is no policy, such as its name or its class: with the one that was probably meant."""
    if not isinstance(value, type) and all(callable(getattr(value, name, None)) for name in needed):
        return
    what = value.__name__ if isinstance(value, type) else type(value).__name__
    shown = value if isinstance(value, str) else what
    names = {name.lower(): name for name in package.__all__}
    meant = names.get(str(shown).lower().replace("_", ""), "")
    hint = f"; did you mean {package.__name__}.{meant}(...)?" if meant else ""
    raise SettingError(Policy, field, shown, f"an object of one of its classes, such as {example}{hint}")
