"""Speed and memory against the full cache, on random weights: `python -m experiments.benchmarks [--device cuda]`.

One line per target: name, measured, target, ok or short; exit code 1 where one is short. A line without a target
is only to be known. Figures, a picture of them and the surroundings are written to experiments/benchmarks/results/
after each part. Everything is compared within one run.
"""

import argparse
import json
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from experiments.benchmarks import cpu, cuda
from experiments.benchmarks.picture import draw
from experiments.benchmarks.timing import Target, processor
from scope.util.surroundings import surroundings

RESULTS = Path(__file__).with_name("results")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--only", metavar="PART", help="one part of the set, by name; nothing is written")
    parser.add_argument("--steps", type=int, default=512, help="decode steps of a comparison")
    parser.add_argument("--long", type=int, default=4096, help="decode steps of the long generation")
    parser.add_argument("--prompt", type=int, default=32768, help="tokens of the long prompt")
    options = parser.parse_args()
    if options.device == "cuda" and not torch.cuda.is_available():
        print("error: --device cuda: there is no CUDA device", file=sys.stderr)
        return 2
    device = {"cpu": cpu, "cuda": cuda}[options.device]
    for name, allowed in {"steps": device.STEPS, "long": cpu.LONG, "prompt": device.PROMPTS}.items():
        if getattr(options, name) not in allowed:
            wanted = f"must be from {allowed[0]} to {allowed[-1]}"
            print(f"error: --{name} {getattr(options, name)}: {wanted}", file=sys.stderr)
            return 2
    large = replace(cuda.LARGE, steps=options.steps, prompt=options.prompt)
    parts: Mapping[str, Callable[[], tuple[list[Target], dict[str, Any]]]] = {
        "cpu": {
            "decode_step": lambda: cpu.decode_step(options.steps),
            "decode_batches": cpu.decode_batches,
            "long_generation": lambda: cpu.long_generation(options.long),
            "batches": cpu.batches,
            "prefills": lambda: cpu.prefills(options.prompt),
        },
        "cuda": {
            "decode_step": lambda: cuda.decode_step(large),
            "batches": lambda: cuda.batches(large),
            "prefills": lambda: cuda.prefills(large),
        },
    }[options.device]
    if options.only and options.only not in parts:
        print(f"error: --only {options.only}: must be one of {', '.join(parts)}", file=sys.stderr)
        return 2
    targets: list[Target] = []
    figures: dict[str, Any] = {}
    for name, part in parts.items():
        if options.only in (None, name):
            reached, figures[name] = part()
            targets += reached
            for target in reached:
                print(target.line(), flush=True)
            if not options.only:
                _write(options.device, targets, figures, [other for other in parts if other not in figures])
    return int(not all(target.reached for target in targets))


def _write(device: str, targets: Sequence[Target], figures: Mapping[str, Any], missing: Sequence[str]) -> None:
    """What there is so far; missing: the parts that are to come."""
    RESULTS.mkdir(exist_ok=True)
    found = {
        "surroundings": surroundings() | {"processor": processor(device), "load": os.getloadavg()},
        "targets": [target.data() for target in targets],
        "missing": missing,
        "figures": figures,
    }
    (RESULTS / f"{device}.json").write_text(json.dumps(found, indent=1) + "\n")
    draw(found, RESULTS / f"{device}.png")


if __name__ == "__main__":
    sys.exit(main())
