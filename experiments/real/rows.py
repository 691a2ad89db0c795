"""What is compared: policies in three designs, tasks, and the order in which they run."""

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

# Strategies of a full prompt, with the prompt protected and unprotected. slide is h2o with the prompt protected.
PROTECTED = (
    "slide", "distinct", "keydiff", "recent", "random", "adaptive", "discontinuous", "morphkv", "tova",
    "accumulated_h2o", "r_kv", "snapkv_d", "knorm", "raas", "lazyeviction", "vase",
)  # fmt: skip
UNPROTECTED = (
    "h2o", "distinct", "keydiff", "recent", "random", "streamingllm", "pyramidinfer", "morphkv", "tova",
    "accumulated_h2o", "r_kv", "snapkv_d", "knorm", "raas", "lazyeviction", "vase",
)  # fmt: skip
METHODS = (
    "snapkv", "h2o", "distinct", "keydiff", "streamingllm", "pyramidkv", "pyramidinfer", "tova", "r_kv", "knorm",
    "recent", "random",
)  # fmt: skip
BOTH_METHODS = ("snapkv", "h2o", "distinct", "keydiff")
BOTH_STRATEGIES = (
    ("slide", "prompt"), ("distinct", "prompt"), ("h2o", "nothing"), ("distinct", "nothing"), ("keydiff", "nothing"),
)  # fmt: skip
PERIOD = {  # the setting that is the time from one eviction to the next
    "r_kv": "every", "snapkv_d": "every", "vase": "every", "lazyeviction": "recent",
}  # fmt: skip
PART = 5  # a period is a fifth of D; as many slots are added between two evictions, so D is smaller by as many


@dataclass(frozen=True)
class Task:
    """A task with the sizes at which it is run. written: T, tokens of a continuation in the mean."""

    name: str
    overrides: tuple[str, ...]
    written: int
    answers: bool = True  # whether it has answer tokens
    measure: str = "replay"  # or generation: the model writes its own text


@dataclass(frozen=True)
class Row:
    """A policy. share: of the prompt (C = share * P), of the continuation (D = share * T), or of both."""

    design: str  # decode: the prompt is kept whole; prefill: the continuation is; both: neither
    share: float
    method: str
    decoding: str
    protect: str = "prompt"

    @property
    def label(self) -> str:
        beside = ", prompt unprotected" if self.decoding != "none" and self.protect == "nothing" else ""
        return f"{self.method} + {self.decoding}{beside}"

    @property
    def name(self) -> str:
        """Names the row in the results."""
        return "/".join(map(str, asdict(self).values()))

    def overrides(self, written: int) -> list[str]:
        """The row on the command line, for continuations of `written` tokens."""
        chosen: dict[str, Any] = {"method": self.method, "decoding": self.decoding}
        if self.method != "full":
            chosen["budget.prefill"] = self.share
        if self.decoding != "none":
            slots = round(self.share * written)
            period = max(1, slots // PART) if self.decoding in PERIOD else 1
            chosen["budget.decode"] = slots + 1 - period
            chosen["budget.recent"] = slots // 2
            chosen["decoding.protect"] = self.protect
            if self.decoding in PERIOD:
                name = PERIOD[self.decoding]
                chosen["budget.recent" if name == "recent" else f"decoding.{name}"] = period
            if self.decoding == "vase":
                chosen["decoding.anchors"] = period
        return [f"{key}={value}" for key, value in chosen.items()]


FULL = Row("full", 1.0, "full", "none")


def decode(share: float) -> Iterator[Row]:
    yield from (Row("decode", share, "full", name, "prompt") for name in PROTECTED)
    yield from (Row("decode", share, "full", name, "nothing") for name in UNPROTECTED)


def prefill(share: float) -> Iterator[Row]:
    yield from (Row("prefill", share, name, "none") for name in METHODS)


def both(share: float) -> Iterator[Row]:
    yield from (Row("both", share, name, *strategy) for name in BOTH_METHODS for strategy in BOTH_STRATEGIES)


SHARES = (0.1, 0.25, 0.5, 0.75)
MAIN = (FULL, *decode(0.25), *prefill(0.5))  # what the questions of the page are asked of
REST = (*both(0.5), *both(0.25), *decode(0.1), *prefill(0.25), *decode(0.5), *prefill(0.1), *prefill(0.75),
        *both(0.1), *both(0.75))  # fmt: skip
ROWS = (*MAIN, *REST)

SEED = 500  # of the split `report`, which no search and no choice has used
FREE = "recall_free"  # the first prompts of recall, written by the model itself
TASKS = {
    task.name: task
    for task in (
        Task(
            "text",
            ("task=text", "task.prompt_tokens=512", "task.continuation_tokens=256", "task.prompts=24"),
            256,
            False,
        ),
        Task("recall", ("task=recall", "task.facts=8", "task.max_new_tokens=240", "task.prompts=24"), 220),
        Task(
            FREE,
            ("task=recall", "task.facts=8", "task.max_new_tokens=240", "task.prompts=12"),
            220,
            measure="generation",
        ),
        Task("recall_written", ("task=recall_written", "task.max_new_tokens=480", "task.prompts=16"), 440),
        Task(
            "gsm_symbolic", ("task=gsm_symbolic", "task.questions=4", "task.max_new_tokens=600", "task.prompts=16"), 400
        ),
        Task("arithmetic", ("task=arithmetic", "task.prompts=24"), 510),
        # Forms of the embedded task that need no training: does one of them order policies as real models do?
        Task("arithmetic_dense", ("task=arithmetic", "task.prompts=24", "task.most_filler=0"), 510),
        Task("arithmetic_diluted", ("task=arithmetic", "task.prompts=24", "task.most_filler=12"), 510),
        Task("arithmetic_chained", ("task=arithmetic", "task.prompts=24", "task.reference_share=0.8"), 520),
        Task("arithmetic_unchained", ("task=arithmetic", "task.prompts=24", "task.reference_share=0"), 500),
        Task("arithmetic_long", ("task=arithmetic_long", "task.prompts=24"), 670),
    )
}
VARIANTS = ("arithmetic_dense", "arithmetic_diluted", "arithmetic_chained", "arithmetic_unchained", "arithmetic_long")
PLANS = (  # model, tasks, rows; in this order
    ("embedded", ("arithmetic", *VARIANTS), MAIN),
    ("smollm2", ("text", "recall", "recall_written", "gsm_symbolic"), MAIN),
    ("smollm2", (FREE,), MAIN),
    ("gemma3_270m", ("text", "recall"), MAIN),
    ("smollm2", ("text", "recall", "recall_written", "gsm_symbolic"), REST),
    ("gemma3_270m", ("text", "recall"), (*both(0.5), *both(0.25))),
)
