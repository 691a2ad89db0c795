"""What is compared at equal bytes: policies, precisions, workloads, and the order in which they run."""

from collections.abc import Iterator
from dataclasses import dataclass, field

SHARES = (0.25, 0.5, 0.75, 0.1)  # of the full cache's slots; in the order of running
PART = 10  # a strategy with a period evicts every D / 10 steps, and D is smaller by as many
# Bytes of a pair of key and value with 64 numbers each, as in SmolLM2: in 16 bits, and rounded. A pair of 256, as in
# Gemma, takes a little less when it is rounded.
FULL_BYTES = 256
ROUNDED = {"int8": 136, "k8v4": 108, "int4": 80}


@dataclass(frozen=True)
class Policy:
    """A prefill method with a strategy. It holds equally many slots whether the prompt is protected or not.

    recent: a share of D. settings: other settings on the command line. periodic: whether `every` follows D.
    """

    method: str
    decoding: str
    protect: str = "nothing"
    recent: float = 0.5
    periodic: bool = False
    settings: tuple[str, ...] = ()


OURS = Policy("salient", "salient", recent=0.15, periodic=True)
POLICIES = {
    "slide, protected": Policy("snapkv", "slide", "prompt"),
    "distinct, protected": Policy("distinct", "distinct", "prompt", 0.15),
    "salient": OURS,
    "snapkv_d": Policy("snapkv", "snapkv_d", periodic=True),
    "distinct": Policy("distinct", "distinct", recent=0.15),
    "keydiff": Policy("keydiff", "keydiff"),
    "raas": Policy("snapkv", "raas"),
    "h2o": Policy("snapkv", "h2o"),
    "triattention": Policy("snapkv", "triattention", periodic=True),
    "vase": Policy("snapkv", "vase", periodic=True),
    "streamingllm": Policy("streamingllm", "streamingllm"),
    "snapkv_d, recent 15%": Policy("snapkv", "snapkv_d", recent=0.15, periodic=True),
    "salient, prompt 0.3": Policy("salient", "salient", recent=0.15, periodic=True, settings=("decoding.prompt=0.3",)),
    "morphkv": Policy("snapkv", "morphkv"),
}
QUERIES = {"salient": 16, "snapkv_d": 8}  # window: it may not be more than the recent slots


@dataclass(frozen=True)
class Row:
    """A policy at a share of the full cache's slots. With a precision it holds more slots in the same bytes.

    share: bytes over those of the full cache in 16 bits.
    """

    policy: str
    share: float
    precision: str = "float"

    @property
    def label(self) -> str:
        if self.policy == "full":
            return "full cache" if self.precision == "float" else f"full cache, {self.precision}"
        return self.policy if self.precision == "float" else f"{self.policy}, {self.precision}"

    @property
    def name(self) -> str:
        return f"{self.policy}/{self.share:g}/{self.precision}"

    @property
    def slots(self) -> float:
        """The share of the full cache's slots that it holds."""
        return self.share * FULL_BYTES / ROUNDED.get(self.precision, FULL_BYTES)

    def overrides(self, prompt: int, written: int) -> list[str]:
        """The row on the command line, for prompts of `prompt` tokens and continuations of `written`, in the mean."""
        stored = [] if self.precision == "float" else [f"cache.precision={self.precision}"]
        if self.policy == "full":
            return ["method=full", "decoding=none", *stored]
        policy, slots = POLICIES[self.policy], round(self.slots * written)
        period = max(1, slots // PART) if policy.periodic else 1
        room = slots + 1 - period
        recent = max(1, min(room, round(policy.recent * slots)))
        chosen = [
            f"method={policy.method}", f"budget.prefill={self.slots:.4g}",
            f"budget.window={max(1, min(8, round(self.slots * prompt / 4)))}",
            f"decoding={policy.decoding}", f"budget.decode={room}", f"budget.recent={recent}",
            f"decoding.protect={policy.protect}",
        ]  # fmt: skip
        if policy.periodic:
            chosen.append(f"decoding.every={period}")
        if policy.decoding in QUERIES:
            chosen.append(f"decoding.window={min(recent, QUERIES[policy.decoding])}")
        if policy.decoding == "vase":
            chosen.append(f"decoding.anchors={period}")
        return [*chosen, *policy.settings, *stored]


@dataclass(frozen=True)
class Workload:
    """A model and a task, of seeds and windows that no search and no choice has used. prompt, written: P and T in the
    mean, in tokens."""

    model: str
    task: str
    prompt: int
    written: int
    overrides: tuple[str, ...] = field(default=())
    answers: bool = True

    @property
    def name(self) -> str:
        return f"{self.model}_{self.task}"

    @property
    def rows(self) -> list["Row"]:
        """Its rows, in the order of running. Rounded pairs of the embedded model have other bytes."""
        return [row for row in ROWS if self.model != "embedded" or row.precision == "float"]


SEED = 700
_TEXT = ("task.prompt_tokens=512", "task.continuation_tokens=256", "task.prompts=12", "task.skip=24")
_RECALL = ("task.facts=8", "task.max_new_tokens=240", "task.prompts=12")
WORKLOADS = (
    Workload("embedded", "arithmetic", 510, 510, ("task.prompts=24",)),
    Workload("smollm2", "recall_written", 130, 440, ("task.max_new_tokens=480", "task.prompts=12")),
    Workload("smollm2", "recall", 390, 220, _RECALL),
    Workload("smollm2", "text", 512, 256, _TEXT, answers=False),
    Workload("smollm2", "gsm_symbolic", 1210, 400, ("task.questions=4", "task.max_new_tokens=600", "task.prompts=8")),
    Workload("gemma3_270m", "text", 512, 256, _TEXT, answers=False),
    Workload("gemma3_270m", "recall", 390, 220, _RECALL),
)


FULL = Row("full", 1.0)
# Added after the first results: does it matter which policy drops the slots that rounding leaves no room for?
ALSO_ROUNDED = ("slide, protected", "snapkv_d", "distinct", "raas", "h2o", "streamingllm")
QUANTISED = tuple(Row("full", bytes_ / FULL_BYTES, name) for name, bytes_ in ROUNDED.items())


def rows() -> Iterator[Row]:
    yield FULL
    yield from QUANTISED
    for share in SHARES:
        yield from (Row(name, share) for name in POLICIES)
        yield from (row for name in ("int8", "int4") if (row := Row("salient", share, name)).slots < 1)
    yield from (Row(name, 0.25, "int4") for name in ALSO_ROUNDED)


ROWS = tuple(rows())
