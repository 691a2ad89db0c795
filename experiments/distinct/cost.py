"""The time of a decode step under each strategy, divided by that of slide. The strategies run in turns, so that other
work on the machine slows all alike. Two models: the embedded one, and one so wide that the weights take most of a step.

    python -m experiments.distinct.cost
"""

import argparse
import json
from pathlib import Path
from statistics import median

import torch

from experiments.benchmarks.steps import ours
from experiments.benchmarks.timing import in_turns
from experiments.distinct.rows import OURS, PLAIN, RIVALS, Row
from experiments.measure import composed, pipe_table
from scope import records
from scope.cache import CompressedCache, Layout
from scope.generation import models
from scope.util.files import write_whole

PROMPT, ROOM, BLOCK = 512, 128, 32  # tokens; D; steps in a turn, which is the longest period at this D
MODELS = {"embedded": "the embedded model", "random": "random weights, hidden 512"}
BATCHES = 1, 8  # rows


def ratios(model_name: str, batch: int, count: int) -> tuple[dict[str, list[float]], float]:
    """-> each strategy's step over slide's, of every turn in rising order; slide's median in ms."""
    steps, model = {}, models.load(composed([f"model={model_name}"]).experiment.model).model
    for name in ("slide", *PLAIN, OURS, *RIVALS):
        policy = composed(Row("full", name).overrides(ROOM)).experiment.decoding
        cache = CompressedCache(model.config, decoding=policy, layout=Layout(PROMPT + count))
        steps[name] = ours(model, cache, PROMPT, batch=batch)
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
    args = parser.parse_args()
    torch.set_num_threads(1)
    found = {(name, rows): ratios(name, rows, args.steps) for name in MODELS for rows in BATCHES}
    turns = len(found["embedded", 1][0]["slide"])
    about = (
        f"a step's time over slide's in the same turn of {BLOCK} steps, median and quartiles of {turns} turns; "
        f"{PROMPT} + {ROOM} slots, one thread."
    )
    made = {
        f"{name}, batch {rows}": {
            key: [round(times[len(times) * part // 4], 3) for part in (2, 1, 3)] for key, times in of.items()
        }
        for (name, rows), (of, _) in found.items()
    }
    heads = [f"{MODELS[name]}, batch {rows} (slide: {slide:.1f} ms)" for (name, rows), (_, slide) in found.items()]
    lines = [
        [name, *("{:.2f} [{:.2f}, {:.2f}]".format(*of[name]) for of in made.values())]
        for name in ["slide", *PLAIN, OURS, *RIVALS]
    ]
    report = {"about": about, "ratios": made, "surroundings": records.surroundings()}
    write_whole(args.out.with_suffix(".json"), json.dumps(report, indent=1) + "\n")
    table = f"Made by `python -m experiments.distinct.cost`: {about}\n\n{pipe_table(['strategy', *heads], lines)}\n"
    write_whole(args.out.with_suffix(".md"), table)
    print(table)


if __name__ == "__main__":
    main()
