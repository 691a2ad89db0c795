"""`Policy`: a prefill method, a decoding strategy, and what holds for both."""

from dataclasses import MISSING, Field, dataclass, field, fields, is_dataclass, replace
from types import ModuleType
from typing import Any

import scope.decoding
import scope.prefill
from scope.cache.precision import PRECISIONS
from scope.decoding import DecodingStrategy, KeepAll
from scope.decoding.eviction import Eviction
from scope.policy.plan import View
from scope.prefill import Full, PrefillMethod
from scope.prefill.budget import Budget
from scope.util.errors import (
    CombinationError,
    SettingError,
    check_choice,
    check_count,
    check_count_or_share,
    without_score,
)

MANY = 2**40  # tokens: more than any budget leaves
SIZES = ("budget", "window", "recent")  # settings that are always shown
GRANULARITIES = ("kv_head", "query_head")
TURNS = ("protect", "flow")


@dataclass(frozen=True)
class Policy:
    """How a cache is compressed. Without arguments nothing is ever evicted.

        Policy(SnapKV(budget=2048, window=8), Slide(budget=512, recent=256))

    prefill: the prefill method, which compresses the prompt once.
    decoding: the decoding strategy, which compresses the generation at each step.
    granularity: `kv_head`: one set of slots per key/value head; the query heads that share it average their votes.
    `query_head`: one set per query head, as in the released code; a key/value head is stored once for each of its query
    heads.
    max_bytes: the most bytes that the slots of one sequence may take in all layers, channels included; None: no bound.
    D is then the largest that fits beside the prompt, and the strategy's own budget is ignored.
    max_slots: the most slots that one sequence may hold at once in a layer, in the mean over the layers; what is added
    between two evictions counts. None: no bound. D follows as with `max_bytes`. A count (an integer, 1 or more), or a
    share (a float, 0 < max_slots < 1) of what the full cache holds after T tokens were generated, rounded down. There
    a layer with a sliding window counts no more than its window.
    tokens: T, the most tokens that are generated. It is needed, and read, only where `max_slots` is a share.
    precision: how the kept keys and values are stored. `float`: in the model's own numbers. `int8`, `int4`: rounded to
    so many bits. `k8v4`: keys to 8 bits and values to 4. The prompt's own attention is not rounded.
    turns: what tokens are of which several come at once after a generation. `protect`: a later turn of the prompt; the
    prefill method chooses among them as if they were a prompt of their own. `flow`: generated tokens.

    Raises SettingError for a value that is not allowed. Raises CombinationError for `max_slots` beside `max_bytes` or
    as a share without `tokens`. Raises it for either bound with a strategy that grows without bound, and with one that
    looks at as many queries as `recent` says where that is a share of D: D differs from row to row then.
    """

    prefill: PrefillMethod = field(default_factory=Full)
    decoding: DecodingStrategy = field(default_factory=KeepAll)
    granularity: str = "kv_head"
    max_bytes: int | None = None
    max_slots: int | float | None = None
    tokens: int | None = None
    precision: str = "float"
    turns: str = field(default="protect", metadata={"later": True})

    def __post_init__(self) -> None:
        check_choice(self, "granularity", GRANULARITIES)
        check_choice(self, "precision", PRECISIONS)
        check_choice(self, "turns", TURNS)
        methods = ("slots", "capacity", "plan", "score")
        _check_is_one("prefill", self.prefill, methods, scope.prefill, "SnapKV(budget=2048, window=8)")
        methods = ("most", "plan", "observe", "score")
        _check_is_one("decoding", self.decoding, methods, scope.decoding, "Slide(budget=512, recent=256)")
        _check_score("prefill", self.prefill, Budget, View(0, 1, prompt=MANY, stored=MANY))
        anywhere = View(0, 1, prompt=1, stored=MANY, budget=1, capacity=1, prefilled=(1,))
        _check_score("decoding", self.decoding, Eviction, anywhere)
        if self.bound is not None:
            self._check_bound(self.bound)

    @property
    def bound(self) -> str | None:
        """The field that decides D in the strategy's place: `max_bytes` or `max_slots`; None: there is no bound."""
        given = [name for name in ("max_slots", "max_bytes") if getattr(self, name) is not None]
        return given[0] if given else None

    @property
    def shares_d(self) -> bool:
        """Whether `recent` is a share of a D that a bound chooses, so that both differ from row to row."""
        return (
            self.bound is not None and isinstance(self.decoding, Eviction) and isinstance(self.decoding.recent, float)
        )

    @property
    def protects(self) -> bool:
        """Whether the strategy never evicts what the prefill left, so that a later turn belongs to that."""
        return isinstance(self.decoding, Eviction) and self.decoding.protect == "prompt"

    def shares_heads(self, layers: int) -> bool:
        """Whether the heads of a layer share the slots that the prefill method leaves. layers: of the model."""
        plan = self.prefill.plan(View(0, layers, prompt=MANY, stored=MANY))
        return plan is not None and plan.least is not None

    @property
    def sums_votes(self) -> bool:
        """Whether a prompt in chunks needs no queries but the last ones, and the sum of the votes of them all."""
        return self.prefill.votes_only and not self.decoding.channels

    @property
    def recent_queries(self) -> int | None:
        """How many of a prompt's last queries the method and the strategy look at; None: all."""
        if self.sums_votes:
            return self.decoding.queries
        if self.prefill.queries is None or self.decoding.channels:
            return None
        return max(self.prefill.queries, self.decoding.queries)

    def _check_bound(self, name: str) -> None:
        """Refuse a bound that is no number, and one that does not go with the rest. name: its field."""
        value = getattr(self, name)
        if name == "max_bytes":
            check_count(self, name, low=1)
        else:
            check_count_or_share(self, name, low=1, whole="the full cache")
            if self.max_bytes is not None:
                raise CombinationError(self, name, value, "null where the bytes are bounded")
        if isinstance(value, float):
            if self.tokens is None:
                raise CombinationError(self, name, value, "a number of slots where `tokens`, T, is not given")
            check_count(self, "tokens", low=1)
        if self.shares_d and replace(self.decoding, budget=MANY).queries != self.decoding.queries:  # type: ignore[type-var]
            allowed = "null where `recent` is a share of D and says how many queries are looked at: give a count"
            raise CombinationError(self, name, value, allowed)
        if self._grows():
            allowed = "null where nothing is evicted while decoding, or D may be passed (capped=false)"
            raise CombinationError(self, name, value, allowed)

    def _grows(self) -> bool:
        """Whether the strategy has no bound. The answer is the same for every prompt and layer."""
        anywhere = View(0, 1, prompt=1, stored=1, budget=1, capacity=1, prefilled=(1,))
        return self.decoding.most(anywhere) is None


def short(settings: object) -> str:
    """A method or strategy as it may have been written: its sizes, and the other fields that have no default value."""
    if not is_dataclass(settings):
        return type(settings).__name__
    given = {each.name: getattr(settings, each.name) for each in fields(settings)}
    told = [
        f"{each.name}={given[each.name]!r}"
        for each in fields(settings)
        if given[each.name] != _default(each) or (each.name in SIZES and given[each.name] is not None)
    ]
    return f"{type(settings).__name__}({', '.join(told)})"


def _default(each: Field[Any]) -> object:
    return each.default if each.default_factory is MISSING else each.default_factory()


def _check_score(field: str, policy: PrefillMethod | DecodingStrategy, base: type, view: View) -> None:
    """Refuse a policy that has no score of its own, though its plan for such a view keeps the best slots."""
    if not isinstance(policy, base) or type(policy).score is not base.__dict__["score"]:
        return
    try:
        plan = policy.plan(view)
    except Exception:  # a plan of the user's own that needs another view: its score says so once it is asked
        return
    if plan and plan.best:
        raise SettingError(Policy, field, type(policy).__name__, f"a class with a score: {without_score(policy)}")


def _check_is_one(field: str, value: object, needed: tuple[str, ...], package: ModuleType, example: str) -> None:
    """Refuse a value without the needed methods, such as a class or its name, and suggest the class it names."""
    if not isinstance(value, type) and all(callable(getattr(value, name, None)) for name in needed):
        return
    what = value.__name__ if isinstance(value, type) else type(value).__name__
    shown = value if isinstance(value, str) else what
    names = {name.lower(): name for name in package.__all__}
    meant = names.get(str(shown).lower().replace("_", ""), "")
    hint = f"; did you mean {package.__name__}.{meant}(...)?" if meant else ""
    raise SettingError(Policy, field, shown, f"an object of one of its classes, such as {example}{hint}")
