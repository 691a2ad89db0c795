"""The largest batch within a given resident memory, and resident memory against what was predicted. For Linux.

    python -m experiments.benchmarks.largest

Each measurement is a process of its own. It loads a model of random weights, reads its resident memory, writes a batch,
and reads the most that was resident at any time, as the kernel counted it. A batch fits if this is within the given
memory, the process itself included. The largest batch of a kind is found by trying: one row more did not fit.

The refills are another process: twice as many prompts as rows, of different lengths. Its resident memory is read after
each step. The results are written to experiments/benchmarks/results/largest.json and printed, one line per target.
"""

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
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
C, WINDOW, D, RECENT = 2048, 8, 512, 256
GQA = {"hidden_size": 256, "intermediate_size": 256, "num_attention_heads": 4, "num_key_value_heads": 1}
SOURCE = RandomModel(**GQA, num_hidden_layers=2, device="cpu")
COMPRESSED = Policy(prefill.SnapKV(C, WINDOW), decoding.Slide(D, RECENT))
KINDS = {  # policy, and prompts that are read at a time; None: all
    "snapkv + slide": (COMPRESSED, 1),
    "full, ours": (Policy(), 1),
    "snapkv + slide, prompts all at once": (COMPRESSED, None),
}
STOCK = "full, transformers' DynamicCache"
TRIES = 8


@dataclass(frozen=True)
class Task:
    """What one process writes. prompt: P. tokens: T. rows: of the batch. prompts: how many there are in all."""

    kind: str
    prompt: int
    tokens: int
    rows: int
    prompts: int

    def predicted(self) -> tuple[int, int]:
        """(bytes of a row's cache, bytes of reading one prompt), as `engine.batch_size=auto` counts them."""
        policy = KINDS[self.kind][0] if self.kind in KINDS else Policy()
        row, once = row_bytes(SOURCE.config(), "float32", policy, self.prompt, self.tokens)
        return row, once + sizes.cache_bytes(SOURCE.config(), policy, "float32", self.prompt, 1)


def resident(name: str = "VmRSS") -> int:
    """Resident bytes of this process; of `VmHWM`: the most so far."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith(name))


def measure(task: Task) -> dict[str, Any]:
    """Write a batch in this process -> its resident bytes: before, most, and after each step."""
    loaded = load(SOURCE)
    write = partial_stock(task) if task.kind == STOCK else partial_ours(loaded, task)
    for _ in write(replace(task, rows=1, prompts=1, prompt=64, tokens=4), lambda: None):
        pass  # so that what torch sets up at first is not counted as memory of the batch
    before, began = resident(), time.perf_counter()
    steps: list[int] = []
    written = sum(write(task, lambda: steps.append(resident())))
    seconds = time.perf_counter() - began
    return {"before": before, "most": resident("VmHWM"), "steps": steps, "tokens": written, "seconds": seconds}


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
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    print(f"{task.kind}: {task.rows} rows, {found['most'] / 2**20:.0f} MiB, {found['seconds']:.0f} s", file=sys.stderr)
    return found


def largest(kind: str, given: int, prompt: int, tokens: int) -> dict[str, Any]:
    """The largest batch of a kind whose process never has more than `given` bytes resident, with one row more tried."""
    most: dict[int, int] = {}  # by rows
    rows = 1
    for _ in range(TRIES):
        task = Task(kind, prompt, tokens, rows, rows)
        most[rows] = in_a_process(task)["most"]
        fitting = [n for n in most if most[n] <= given]
        if fitting and max(fitting) + 1 in most:
            break
        per_row = task.predicted()[0]
        if len(most) > 1:
            per_row = (most[max(most)] - most[min(most)]) // (max(most) - min(most))
        last = rows
        rows = max(1, last + (given - most[last]) // per_row)
        if rows in most:  # it fits, or does not: its neighbour decides
            rows += 1 if most[rows] <= given else -1
    fits = max(n for n in most if most[n] <= given)
    return {"rows": fits, "settled": fits + 1 in most, "most_bytes_by_rows": dict(sorted(most.items()))}


def refills(rows: int, prompt: int, tokens: int) -> dict[str, Any]:
    """Resident memory over a whole generation with refills, and the prediction: all rows' caches, and one prompt."""
    task = Task("snapkv + slide", prompt, tokens, rows, 2 * rows)
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
    parser.add_argument("--mib", type=int, default=700, help="the given memory, resident, of the whole process")
    parser.add_argument("--prompt", type=int, default=8192 - D, help="tokens of a prompt")
    parser.add_argument("--tokens", type=int, default=D, help="tokens that each row writes")
    parser.add_argument("--rows", type=int, default=16, help="rows of the batch that is refilled")
    parser.add_argument("--out", type=Path, default=RESULTS, help="where the figures are written")
    parser.add_argument("--task", help=argparse.SUPPRESS)  # what a process of its own measures
    options = parser.parse_args()
    if options.task:
        print(json.dumps(measure(Task(**json.loads(options.task)))))
        return 0
    found = {kind: largest(kind, options.mib * 2**20, options.prompt, options.tokens) for kind in (*KINDS, STOCK)}
    refilled = refills(options.rows, options.prompt, options.tokens)
    own, full = found["snapkv + slide"]["rows"], found["full, ours"]["rows"]
    caches, once = refilled["caches_predicted"], refilled["one_prompt_predicted"]
    targets = [
        Target("largest batch / full cache's, both with prompts one at a time", own / full, 3.0, at_most=False),
        Target("largest batch / transformers' full cache's", own / found[STOCK]["rows"], 3.0, at_most=False),
        Target("all prompts at once: largest batch / full cache's", found[[*KINDS][2]]["rows"] / full),
        Target("refills: most resident / (1.1 x caches + one prompt)", refilled["most"] / (1.1 * caches + once), 1.0),
        Target("refills: least resident after a step / caches", refilled["after_steps"]["least"] / caches, 0.9, False),
        Target("refills: most resident after a step / caches", refilled["after_steps"]["most"] / caches),
    ]
    for target in targets:
        print(target.line())
    given = {name: getattr(options, name) for name in ("mib", "prompt", "tokens")}
    written = {
        "surroundings": surroundings(),
        "given": given | {"C": C, "window": WINDOW, "D": D, "recent": RECENT, "model": SOURCE.sizes},
        "targets": [vars(target) | {"reached": target.reached} for target in targets],
        "largest": found,
        "refills": refilled,
    }
    options.out.write_text(json.dumps(written, indent=1) + "\n")
    return int(not all(target.reached for target in targets))


if __name__ == "__main__":
    sys.exit(main())
