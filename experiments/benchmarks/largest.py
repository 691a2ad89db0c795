"""The largest batch within a given resident memory, and resident memory against what was predicted. For Linux.

    python -m experiments.benchmarks.largest

Each measurement is a process of its own. It loads a model of random weights, reads its resident memory, writes a batch,
and notes the most that was resident, looking every few milliseconds. Counted is anonymous memory: the kernel may drop
pages of files, such as those of libraries, whenever it likes. The C library is told to give freed tensors back at once.
A batch fits if the most is within the given memory, the process itself included. The largest batch of a kind is found
by trying: one row more does not fit. With the engine, tries end after some steps, since its caches have all their slots
by then. The largest batch is written to its end.

The refills are another process: twice as many prompts as rows, of different lengths. Its resident memory is read after
each step. The results are written to experiments/benchmarks/results/largest.json and printed, one line per target.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from threading import Event, Thread
from typing import Any

import torch
from transformers import DynamicCache, PreTrainedModel

from experiments.benchmarks.policies import row_bytes
from experiments.benchmarks.timing import Target
from scope import decoding, prefill
from scope.cache import Policy, sizes
from scope.generation.models import Loaded, RandomModel, load
from scope.generation.options import Hooks, Options
from scope.generation.rows import Prompt
from scope.generation.sampling import Sampling
from scope.generation.stream import stream
from scope.records import surroundings

RESULTS = Path(__file__).with_name("results") / "largest.json"
C, WINDOW, D, RECENT = 2048, 8, 128, 64
# A vocabulary of 256, since Python then needs 8 bytes for each token of a prompt: little beside its cache
GQA = {"hidden_size": 128, "intermediate_size": 256, "num_attention_heads": 2, "num_key_value_heads": 1}
SOURCE = RandomModel(**GQA, num_hidden_layers=2, vocab_size=256, device="cpu")
COMPRESSED = Policy(prefill.SnapKV(C, WINDOW), decoding.Slide(D, RECENT))
OWN, FULL, AT_ONCE = "snapkv + slide", "full, ours", "snapkv + slide, prompts all at once"
KINDS = {OWN: (COMPRESSED, 1), FULL: (Policy(), 1), AT_ONCE: (COMPRESSED, None)}  # prompts at a time; None: all
STOCK = "full, transformers' DynamicCache"
TRIES = 8
EVERY = 0.004  # seconds from one look at the resident memory to the next
ALLOCATOR = {"MALLOC_MMAP_THRESHOLD_": str(2**17), "MALLOC_TRIM_THRESHOLD_": str(2**17)}  # bytes
SOME = 8  # steps after which a try ends


@dataclass(frozen=True)
class Task:
    """What one process writes.

    prompt: P. tokens: T. rows: of the batch. prompts: how many there are in all. whole: whether it is written to its
    end; else some steps are taken. transformers' own generate always writes to the end.
    """

    kind: str
    prompt: int
    tokens: int
    rows: int
    prompts: int
    whole: bool = True

    def predicted(self) -> tuple[int, int]:
        """(bytes of a row's cache, bytes of reading one prompt), as `engine.batch_size=auto` counts them."""
        policy = KINDS[self.kind][0] if self.kind in KINDS else Policy()
        row, once = row_bytes(SOURCE.config(), "float32", policy, self.prompt, self.tokens)
        return row, once + sizes.cache_bytes(SOURCE.config(), policy, "float32", self.prompt, 1)


def resident() -> int:
    """Resident anonymous bytes of this process."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("RssAnon"))


class Most:
    """A context that notes the most resident bytes within it, in `bytes`."""

    def __enter__(self) -> "Most":
        self.bytes, self._ended = resident(), Event()
        self._thread = Thread(target=self._watch)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._ended.wait(EVERY):
            self.bytes = max(self.bytes, resident())


class _EnoughError(Exception):
    """Some steps have been taken."""


def measure(task: Task) -> dict[str, Any]:
    """Write a batch in this process -> its resident bytes: before, most, and after each step."""
    loaded = load(SOURCE)
    write = partial_stock(task) if task.kind == STOCK else partial_ours(loaded, task)
    for _ in write(replace(task, rows=1, prompts=1, prompt=64, tokens=4), lambda: None):
        pass  # so that what torch sets up at first is not counted as memory of the batch
    before, began = resident(), time.perf_counter()
    steps: list[int] = []

    def look() -> None:
        steps.append(resident())
        if len(steps) > SOME and not task.whole:
            raise _EnoughError

    written = 0
    with Most() as most, suppress(_EnoughError):
        for tokens in write(task, look):
            written += tokens
    seconds = time.perf_counter() - began
    return {"before": before, "most": most.bytes, "steps": steps, "tokens": written, "seconds": seconds}


Write = Callable[[Task, Callable[[], object]], Iterator[int]]


def partial_ours(loaded: Loaded, own: Task) -> Write:
    """Writes a task with the engine. Rows end at random where there are more prompts than rows."""
    policy, at_once = KINDS[own.kind]

    def write(task: Task, look: Callable[[], object]) -> Iterator[int]:
        model, refilled = loaded.model, task.prompts > task.rows
        model.generation_config.eos_token_id = list(range(2)) if refilled else None
        options = Options(
            batch_size=task.rows, prefill_rows=at_once or task.rows, hooks=Hooks(observe=lambda _: look())
        )
        sampling = Sampling(temperature=1.0) if refilled else None
        prompts = [Prompt(str(i), tokens) for i, tokens in enumerate(random_tokens(task))]
        for _, made in stream(model, loaded.tokenizer, prompts, policy, task.tokens, sampling, options):
            yield len(made.tokens)

    return write


def partial_stock(own: Task) -> Write:
    """Writes a task with transformers' own generate and its full cache: all prompts at once, as it does."""
    model: PreTrainedModel = SOURCE.weights("sdpa")

    def write(task: Task, look: Callable[[], object]) -> Iterator[int]:
        ids = torch.tensor(random_tokens(task))
        made = model.generate(  # type: ignore[operator]
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            past_key_values=DynamicCache(config=model.config),
            max_new_tokens=task.tokens,
            min_new_tokens=task.tokens,
            do_sample=False,
        )
        yield made.shape[0] * (made.shape[1] - task.prompt)

    return write


def random_tokens(task: Task) -> list[list[int]]:
    """The prompts; where there are more than rows, each is somewhat shorter than the one before."""
    lots = torch.Generator().manual_seed(1)
    less = task.prompt // (2 * task.prompts) if task.prompts > task.rows else 0
    lengths = [task.prompt - less * i for i in range(task.prompts)]
    return [torch.randint(3, SOURCE.config().vocab_size, (n,), generator=lots).tolist() for n in lengths]


def in_a_process(task: Task) -> dict[str, Any]:
    """`measure` in a new process."""
    command = [sys.executable, "-m", "experiments.benchmarks.largest", "--task", json.dumps(vars(task))]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, env=os.environ | ALLOCATOR)
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    print(f"{task.kind}: {task.rows} rows, {found['most'] / 2**20:.0f} MiB, {found['seconds']:.0f} s", file=sys.stderr)
    return found


def largest(kind: str, given: int, prompt: int, tokens: int) -> dict[str, Any]:
    """The largest batch of a kind whose process never has more than `given` bytes resident, with one row more tried."""
    most: dict[int, int] = {}  # resident bytes by rows
    per_row, rows = Task(kind, prompt, tokens, 1, 1).predicted()[0] * 11 // 10, 1  # with some room for the rest
    for _ in range(TRIES):
        most[rows] = in_a_process(Task(kind, prompt, tokens, rows, rows, whole=False))["most"]
        if (most[rows] <= given and rows + 1 in most) or (
            most[rows] > given and most.get(rows - 1, given + 1) <= given
        ):
            break
        if len(most) > 1:
            per_row = max(1, (most[max(most)] - most[min(most)]) // (max(most) - min(most)))
        rows = max(1, rows + (given - most[rows]) // per_row)
        if rows in most:  # whether it fits is known, so its neighbour decides
            rows += 1 if most[rows] <= given else -1
    fits = max(n for n in most if most[n] <= given)
    whole = in_a_process(Task(kind, prompt, tokens, fits, fits))
    return {
        "rows": fits,
        "settled": fits + 1 in most and whole["most"] <= given,
        "tries_most_by_rows": dict(sorted(most.items())),
        "most": whole["most"],
        "before": whole["before"],
        "seconds": whole["seconds"],
        "tokens": whole["tokens"],
    }


def refills(rows: int, prompt: int, tokens: int) -> dict[str, Any]:
    """Resident memory over a whole generation with refills, and the prediction: all rows' caches, and one prompt."""
    task = Task(OWN, prompt, tokens, rows, 2 * rows)
    found, (row, once) = in_a_process(task), task.predicted()
    steps = [n - found["before"] for n in found["steps"]]
    return {
        "rows": rows,
        "prompts": 2 * rows,
        "steps": len(steps),
        "tokens": found["tokens"],
        "caches_predicted": rows * row,
        "one_prompt_predicted": once,
        "after_steps": {"least": min(steps), "most": max(steps)},
        "most": found["most"] - found["before"],
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mib", type=int, default=380, help="the given memory, resident, of the whole process")
    parser.add_argument("--prompt", type=int, default=8192 - 2 * D, help="tokens of a prompt; half of it for refills")
    parser.add_argument("--tokens", type=int, default=2 * D, help="tokens that each row writes")
    parser.add_argument("--rows", type=int, default=24, help="rows of the batch that is refilled")
    parser.add_argument("--out", type=Path, default=RESULTS, help="where the figures are written")
    parser.add_argument("--task", help=argparse.SUPPRESS)  # what a process of its own measures
    options = parser.parse_args()
    if options.task:
        print(json.dumps(measure(Task(**json.loads(options.task)))))
        return 0
    given = {name: getattr(options, name) for name in ("mib", "prompt", "tokens")}
    given |= {"C": C, "window": WINDOW, "D": D, "recent": RECENT, "model": SOURCE.sizes}
    written: dict[str, Any] = {"surroundings": surroundings(), "given": given, "load": os.getloadavg(), "largest": {}}
    targets: list[Target] = []
    parts: dict[str, Callable[[], dict[str, Any]]] = {
        kind: partial(largest, kind, options.mib * 2**20, options.prompt, options.tokens) for kind in (*KINDS, STOCK)
    }
    for kind, part in parts.items():
        written["largest"][kind] = part()
        if kind == FULL:
            written["refills"] = refills(options.rows, options.prompt // 2, options.tokens)
            targets += of_refills(written["refills"])
        if kind != OWN:
            targets.append(against(written["largest"], kind))
        written["targets"] = [vars(target) | {"reached": target.reached} for target in targets]
        options.out.write_text(json.dumps(written, indent=1) + "\n")
    for target in targets:
        print(target.line())
    return int(not all(target.reached for target in targets))


def against(found: Mapping[str, Mapping[str, Any]], kind: str) -> Target:
    """The largest batch over that of another kind."""
    ratio = found[OWN]["rows"] / found[kind]["rows"]
    return Target(f"largest batch, {OWN} / {kind}", ratio, None if kind == AT_ONCE else 3.0, at_most=False)


def of_refills(found: Mapping[str, Any]) -> list[Target]:
    """Resident memory is at most 1.1 times that of the caches and one prompt, and not less than 0.9 of the caches."""
    caches, once, steps = found["caches_predicted"], found["one_prompt_predicted"], found["after_steps"]
    return [
        Target("refills: most resident / (1.1 x caches + one prompt)", found["most"] / (1.1 * caches + once), 1.0),
        Target("refills: least resident after a step / caches", steps["least"] / caches, 0.9, at_most=False),
        Target("refills: most resident after a step / caches", steps["most"] / caches),
    ]


if __name__ == "__main__":
    sys.exit(main())
