"""What a decode step costs under each strategy, as a ratio to slide's: all in turns, so that what else the machine does
falls on all alike.

    python -m experiments.frontier.cost
"""

import argparse
import json
from pathlib import Path
from statistics import median

import torch

from experiments.benchmarks.steps import ours
from experiments.benchmarks.timing import in_turns
from experiments.frontier.rows import OURS, PLAIN, RIVALS, Row
from experiments.measure import composed
from scope import models, records
from scope.cache import CompressedCache
from scope.files import write_whole

PROMPT, ROOM, BLOCK = 512, 128, 32  # tokens; D; steps in a turn, which is the longest period at this D


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="embedded", help="embedded, or random")
    parser.add_argument("--batch", type=int, default=8, help="rows")
    parser.add_argument("--steps", type=int, default=448, help="of each strategy, of which the first D fill the cache")
    parser.add_argument("--out", type=Path, default=Path(__file__).with_name("cost"), help="of .json .md")
    args = parser.parse_args()
    torch.set_num_threads(1)
    steps, model = {}, models.load(composed([f"model={args.model}"]).experiment.model).model
    for name in ("slide", *PLAIN, OURS, *RIVALS):
        policy = composed(Row("full", name).overrides(ROOM)).experiment.decoding
        cache = CompressedCache(model.config, decode=policy, tokens=PROMPT + args.steps)
        steps[name] = ours(model, cache, PROMPT, batch=args.batch)
    seconds = in_turns(steps, args.steps, torch.device("cpu"), BLOCK)
    turns = range(ROOM // BLOCK + 1, args.steps // BLOCK)  # the cache is full, and evicts
    ratios: dict[str, list[float]] = {}
    for name, found in seconds.items():
        ratios[name] = sorted(
            sum(found[t * BLOCK : (t + 1) * BLOCK]) / sum(seconds["slide"][t * BLOCK : (t + 1) * BLOCK]) for t in turns
        )
    about = (
        f"a step's time over slide's in the same turn of {BLOCK} steps, median and quartiles of {len(turns)} turns; "
        f"the embedded model, {args.batch} rows, {PROMPT} + {ROOM} slots, one thread; slide: "
        f"{1000 * median(seconds['slide'][ROOM + BLOCK :]):.1f} ms."
    )
    made = {name: [round(found[len(found) * part // 4], 3) for part in (2, 1, 3)] for name, found in ratios.items()}
    report = {"about": about, "ratios": made, "surroundings": records.surroundings()}
    lines = ["| strategy | step / slide's | quartiles |", "| --- | ---: | ---: |"]
    lines += [f"| {name} | {middle:.2f} | {low:.2f} - {high:.2f} |" for name, (middle, low, high) in made.items()]
    write_whole(args.out.with_suffix(".json"), json.dumps(report, indent=1) + "\n")
    table = "\n".join([f"Made by `python -m experiments.frontier.cost`: {about}", "", *lines]) + "\n"
    write_whole(args.out.with_suffix(".md"), table)
    print(table)


if __name__ == "__main__":
    main()
