"""The time of a decode step under each strategy, divided by that of slide. The strategies run in turns, so that other
work on the machine slows all alike. Three models: the embedded one, one so wide that the weights take most of a step,
and one of SmolLM2-135M's shape with a longer prompt, which is also left unprotected. Of its layers and its vocabulary
there is a fifth: that keeps a step's parts in proportion, and all caches fit into memory. triattention is left out,
since it needs statistics of the model.

    python -m experiments.distinct.cost
"""

import argparse
import json
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import torch

from experiments.benchmarks.steps import ours
from experiments.benchmarks.timing import in_turns
from experiments.distinct.rows import OURS, PLAIN, RIVALS, Row
from experiments.measure import composed
from experiments.tables import pipe_table
from scope import records
from scope.cache import CompressedCache, Layout
from scope.generation import models
from scope.util.files import write_whole

ROOM, BLOCK = 128, 32  # D; steps in a turn, which is the longest period at this D
NEWER = "salient", "g_kv", "ams", "diverse", "expected_attention"
BATCHES = 1, 8  # rows
PROTECTED = [Row("full", name) for name in ("slide", *PLAIN, OURS, *RIVALS, *NEWER)]
UNPROTECTED = [Row("full", name, "nothing") for name in ("recent", "random", OURS, *RIVALS, *NEWER)]


@dataclass(frozen=True)
class Model:
    """A model, and what is measured on it. prompt: in tokens."""

    title: str
    overrides: tuple[str, ...]
    prompt: int
    rows: tuple[Row, ...]


MODELS = {
    "embedded": Model("the embedded model", ("model=embedded",), 512, tuple(PROTECTED)),
    "random": Model("random weights, hidden 512", ("model=random",), 512, tuple(PROTECTED)),
    "smollm2": Model(
        "random weights, SmolLM2's shape",
        (
            "model=random",
            "model.hidden_size=576",
            "model.intermediate_size=1536",
            "model.num_hidden_layers=6",
            "model.num_attention_heads=9",
            "model.num_key_value_heads=3",
            "model.vocab_size=9830",
        ),
        1000,
        (*PROTECTED, *UNPROTECTED),
    ),
}


def ratios(of: Model, batch: int, count: int) -> tuple[dict[str, list[float]], float]:
    """-> each strategy's step over slide's, of every turn in rising order; slide's median in ms."""
    steps, model = {}, models.load(composed([*of.overrides]).experiment.model).model
    for row in of.rows:
        policy = composed(row.overrides(ROOM)).experiment.decoding
        cache = CompressedCache(model.config, decoding=policy, layout=Layout(of.prompt + count))
        steps[row.strategy] = ours(model, cache, of.prompt, batch=batch)
    seconds = in_turns(steps, count, torch.device("cpu"), BLOCK)
    turns = [slice(t * BLOCK, (t + 1) * BLOCK) for t in range(ROOM // BLOCK + 1, count // BLOCK)]  # it is full by then
    slide = seconds["slide"]
    found = {name: sorted(sum(times[t]) / sum(slide[t]) for t in turns) for name, times in seconds.items()}
    return found, 1000 * median(slide[turns[0].start :])


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m experiments.distinct.cost",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--steps", type=int, default=448, help="of each strategy, of which the first D fill the cache")
    parser.add_argument("--out", type=Path, default=Path(__file__).with_name("cost"), help="of .json .md")
    parser.add_argument("--models", nargs="+", choices=MODELS, default=list(MODELS))
    args = parser.parse_args()
    torch.set_num_threads(1)
    found = {(name, rows): ratios(MODELS[name], rows, args.steps) for name in args.models for rows in BATCHES}
    turns = len(found[args.models[0], 1][0]["slide"])
    about = (
        f"a step's time over slide's in the same turn of {BLOCK} steps, median and quartiles of {turns} turns; "
        f"D = {ROOM}, one thread."
    )
    made = {
        f"{name}, batch {rows}": {
            key: [round(times[len(times) * part // 4], 3) for part in (2, 1, 3)] for key, times in of.items()
        }
        for (name, rows), (of, _) in found.items()
    }
    heads = [
        f"{MODELS[name].title}, {MODELS[name].prompt} + {ROOM} slots, batch {rows} (slide: {slide:.1f} ms)"
        for (name, rows), (_, slide) in found.items()
    ]
    lines = [
        [name, *("{:.2f} [{:.2f}, {:.2f}]".format(*of[name]) if name in of else "" for of in made.values())]
        for name in dict.fromkeys(name for of in made.values() for name in of)
    ]
    report = {"about": about, "ratios": made, "surroundings": records.surroundings()}
    write_whole(args.out.with_suffix(".json"), json.dumps(report, indent=1) + "\n")
    table = f"Made by `python -m experiments.distinct.cost`: {about}\n\n{pipe_table(['strategy', *heads], lines)}\n"
    write_whole(args.out.with_suffix(".md"), table)
    print(table)


if __name__ == "__main__":
    main()
