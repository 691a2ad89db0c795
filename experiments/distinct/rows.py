"""What the frontier compares: pairs of prefill method and decoding strategy, each with the D that the bytes allow."""

from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from experiments.measure import composed
from scope.generation import models
from scope.runs.forecast import cache_bytes
from scope.util.errors import ScopeError

START = 64  # a D that all rows can have
RECENT = 2 / 3  # of D, the newest slots that always stay
ANSWER = 26  # `recent` where a row has its own: the most tokens that an answer takes
PERIOD = 4  # periods and anchors are D / 4: the papers' 64, 128 and 256 are too large for the D here
LIGHT = 0.9  # C, of the prompt, where a prefill method compresses it
SHORTER = {  # what a strategy has beside D and `recent`, as shares of D
    "snapkv_d": {"every": 1 / PERIOD},
    "r_kv": {"every": 1 / PERIOD},
    "g_kv": {"every": 1 / PERIOD},
    "ams": {"every": 1 / PERIOD},
    "diverse": {"every": 1 / PERIOD},
    "expected_attention": {"every": 1 / PERIOD},
    "salient": {"every": 1 / PERIOD},
    "vase": {"every": 1 / PERIOD, "anchors": 1 / PERIOD},
    "lazyeviction": {"recent": 1 / PERIOD},  # which is its period
}
OURS = "distinct"
PLAIN = ("adaptive", "discontinuous", "recent", "random")
RIVALS = (
    "keydiff",
    "knorm",
    "tova",
    "accumulated_h2o",
    "raas",
    "lazyeviction",
    "snapkv_d",
    "vase",
    "r_kv",
    "morphkv",
)
PREFILLS = (OURS, "keydiff", "snapkv", "h2o", "pyramidkv", "streamingllm")
OTHERS = ("pyramidinfer", "r_kv", "knorm", "tova", "recent", "random")
UNIFIED = ("h2o", "streamingllm", "pyramidinfer")  # which hold prompt and generation to one budget


@dataclass(frozen=True)
class Row:
    """One line of the table: the names of its options, and what the prompt's protection is."""

    method: str
    decoding: str
    protect: str = "prompt"
    recent: int | None = None  # the newest slots that always stay; None: as all have it

    @property
    def strategy(self) -> str:
        parts = [self.decoding] if self.recent is None else [self.decoding, f"recent {self.recent}"]
        return ", ".join([*parts, *(["prompt unprotected"] if self.protect == "nothing" else [])])

    @property
    def label(self) -> str:
        return f"{self.method} + {self.strategy}"

    def settings(self, budget: int) -> dict[str, Any]:
        """Of the strategy, with this D: fields and their values."""
        if self.decoding == "none":
            return {}
        shares = {"recent": RECENT} | SHORTER.get(self.decoding, {})
        scaled = {name: max(1, round(share * budget)) for name, share in shares.items()}
        chosen = {"budget": budget, "protect": self.protect} | scaled
        return chosen if self.recent is None else chosen | {"recent": self.recent}

    def overrides(self, budget: int) -> list[str]:
        """The same on the command line, with the row's method."""
        keys = {"budget": "budget.decode", "recent": "budget.recent"}
        chosen = {keys.get(name, f"decoding.{name}"): value for name, value in self.settings(budget).items()}
        if self.method != "full":
            chosen["budget.prefill"] = LIGHT
        names = [f"method={self.method}", f"decoding={self.decoding}"]
        return names + [f"{key}={value}" for key, value in chosen.items()]


FULL = Row("full", "none")
SLIDE = Row("full", "slide")
OWN = Row("full", OURS, recent=ANSWER)
MAIN = [  # what matters most comes first
    SLIDE,
    OWN,
    *(Row("full", name, recent=ANSWER) for name in ("slide", "keydiff")),
    *(Row("full", name) for name in ("keydiff", *PLAIN, OURS)),
    *(Row("full", name) for name in RIVALS if name != "keydiff"),
    *(Row(method, "slide") for method in PREFILLS),
    *(Row(method, OURS, recent=ANSWER) for method in PREFILLS),
    *(Row("full", name, "nothing") for name in ("recent", *UNIFIED)),
    *(Row("full", name, "nothing", ANSWER) for name in (OURS, "keydiff")),
    *(Row(method, "recent") for method in PREFILLS),
    *(Row("full", name, "nothing") for name in RIVALS),
]
CROSSED = [  # every prefill method with every strategy
    *(
        Row(method, name)
        for method in (*PREFILLS, *OTHERS)
        for name in ("slide", "adaptive", "discontinuous", "recent")
    ),
    *(Row(method, OURS, protect, ANSWER) for method in (*PREFILLS, *OTHERS) for protect in ("prompt", "nothing")),
    *(Row(method, name, "nothing") for method in (*PREFILLS, *OTHERS) for name in UNIFIED),
    *(Row(method, name) for method in (*PREFILLS, *OTHERS) for name in ("random", *RIVALS)),
]
ROWS = list(dict.fromkeys([*MAIN, *CROSSED]))


def size_kib(rows: Sequence[Mapping[str, Any]]) -> dict[int, float]:
    """What each size of a report's rows is: the bytes that full + slide takes, which none of them passes."""
    return {row["size"]: row["cache_kib"] for row in rows if row["label"] == SLIDE.label}


def matrix(rows: Sequence[Mapping[str, Any]], size: int) -> dict[str, dict[str, Mapping[str, Any]]]:
    """The rows of one size, by prefill method and strategy. Only the strategies in `CROSSED` are included."""
    strategies = {row.strategy for row in CROSSED}
    found: dict[str, dict[str, Mapping[str, Any]]] = {}
    for method in ("full", *PREFILLS, *OTHERS):
        for row in rows:
            strategy = row["label"].removeprefix(f"{method} + ")
            if row["size"] == size and row["method"] == method and strategy in strategies:
                found.setdefault(method, {})[strategy] = row
    return found


def columns(found: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """The strategies of a matrix, in their order."""
    there = {strategy for row in found.values() for strategy in row}
    return [name for name in dict.fromkeys(row.strategy for row in CROSSED) if name in there]


def fitted(row: Row, nbytes: float, prompt: int, common: Sequence[str]) -> int | None:
    """The largest D whose cache never takes more than `nbytes`, for a prompt of that many tokens. None: none fits."""
    run = composed([*row.overrides(START), *common]).experiment
    config, _ = models.load_shape(run.model)

    def most(budget: int) -> int:
        """Bytes, which grow with D; 0 where D is too small for what always stays."""
        try:
            decoding = replace(run.decoding, **row.settings(budget))
            return cache_bytes(replace(run, decoding=decoding), config, prompt)
        except ScopeError:
            return 0

    budget = bisect_right(range(1, run.task.max_new_tokens + 1), nbytes, key=most)
    return budget if budget and most(budget) else None
