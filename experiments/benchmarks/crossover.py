"""Where compression begins to pay: a step's speed and memory over those of the full cache, by rows, length and budget.

    python -m experiments.benchmarks.crossover                 # a model of SmolLM2-135M's shape, on this CPU
    python -m experiments.benchmarks.crossover --device cuda   # one of Llama-3-8B's shape in bfloat16

Weights are random. The full cache is transformers' DynamicCache. On a CPU all caches of a cell run in turns, so other
work slows them alike. On a GPU each is alone in memory.
"""

import argparse
import json
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel

from experiments.benchmarks import picture
from experiments.benchmarks.picture import PAYS
from experiments.benchmarks.steps import Step, ours, theirs
from experiments.benchmarks.timing import (
    TURN,
    PeakMemory,
    in_turns,
    milliseconds,
    over,
    processor,
    ratio,
    unless_out_of_memory,
)
from experiments.tables import pipe_table
from scope import decoding, prefill
from scope.cache import CompressedCache, Layout, Policy, sizes
from scope.cache.backends import implementation
from scope.generation.models import RandomModel
from scope.util.surroundings import surroundings

WINDOW, D, RECENT, STEPS = 8, 32, 16, 32  # D is filled first, then STEPS steps are timed
SMOLLM2 = {
    "hidden_size": 576,
    "intermediate_size": 1536,
    "num_hidden_layers": 30,
    "num_attention_heads": 9,
    "num_key_value_heads": 3,
    "vocab_size": 49152,
}


@dataclass(frozen=True)
class Grid:
    """What is measured on a device. most: no cell has more tokens than this in the full caches of all rows."""

    shape: str
    source: RandomModel
    engine: str
    batches: tuple[int, ...]
    lengths: tuple[int, ...]
    shares: tuple[float, ...]
    most: int

    def cells(self) -> Iterator[tuple[int, int]]:
        """(length, rows)"""
        for length in self.lengths:
            yield from ((length, rows) for rows in self.batches if length * rows <= self.most)


GRIDS = {
    "cpu": Grid(
        "SmolLM2-135M",
        RandomModel(device="cpu", **SMOLLM2),
        "eager",
        (1, 4, 16),
        (512, 2048, 8192),
        (0.5, 0.25, 0.125),
        32768,
    ),
    "cuda": Grid(
        "Llama-3-8B",
        RandomModel(preset="llama3_8b", dtype="bfloat16", device="cuda"),
        "graph",
        (1, 8, 32),
        (4096, 16384, 32768),
        (0.5, 0.25, 0.125),
        2**20,
    ),
}


@dataclass(frozen=True)
class Cell:
    """A compressed cache beside the full one. None: memory did not suffice for one of them.

    share: of the full cache's slots. speed: tokens/s over the full cache's. memory: the most bytes that weights, caches
    and a step took, over those with the full cache. bound: the bytes of weights and caches that a step reads, full over
    compressed: how much faster a step can be at best, where reading memory is all that takes time.
    """

    length: int
    rows: int
    share: float
    speed: float | None
    memory: float | None
    bound: float
    ms: float | None
    full_ms: float | None


def prompt_budget(length: int, share: float) -> int:
    """C, so that C + D is `share` of `length` slots."""
    return round(share * length) - D


def policy_of(length: int, share: float) -> Policy:
    """snapkv + slide that holds `share` of `length` slots, D of them for what is generated."""
    return Policy(prefill.SnapKV(prompt_budget(length, share), WINDOW), decoding.Slide(D, RECENT))


def compressed(model: PreTrainedModel, length: int, share: float, engine: str, rows: int) -> Step:
    """A step with `policy_of`. A prompt of C tokens leaves as many slots as one of `length` tokens, in less time."""
    cache = CompressedCache.of(model.config, policy_of(length, share), Layout(D + STEPS + 1, whole=True))
    return ours(model, cache, prompt_budget(length, share), engine, rows)


def cell(grid: Grid, models: tuple[PreTrainedModel, PreTrainedModel], length: int, rows: int) -> list[Cell]:
    """models: with scope's attention, and with transformers' own."""
    own, stock = models
    kinds: dict[float, Callable[[], Step]] = {1.0: lambda: theirs(stock, length - D - STEPS, rows)}
    kinds |= {share: partial(compressed, own, length, share, grid.engine, rows) for share in grid.shares}
    device = own.device
    together = [kinds] if device.type == "cpu" else [{share: make} for share, make in kinds.items()]
    seconds: dict[str, list[float]] = {}
    peaks: dict[str, int] = {}
    for some in together:
        found = unless_out_of_memory(f"{length} tokens, {rows} rows", partial(_timed, some, device))
        seconds |= found[0] if found else {}
        peaks |= found[1] if found else {}
    ms = milliseconds(seconds, D + TURN) if seconds else {}
    weights = sum(parameter.nbytes for parameter in own.parameters())
    full_bytes = rows * sizes.full_bytes(own.config, grid.source.dtype, length)
    made = []
    for share in grid.shares:
        name, both = f"{share:g}", f"{share:g}" in ms and "1" in ms
        held = rows * sizes.cache_bytes(own.config, policy_of(length, share), grid.source.dtype, length, D + 1)
        made.append(
            Cell(
                length,
                rows,
                share,
                speed=over(seconds, "1", name, D) if both else None,
                memory=ratio(weights + peaks[name], weights + peaks["1"]) if both else None,
                bound=(weights + full_bytes) / (weights + held),
                ms=ms.get(name),
                full_ms=ms.get("1"),
            )
        )
    return made


def _timed(
    kinds: Mapping[float, Callable[[], Step]], device: torch.device
) -> tuple[dict[str, list[float]], dict[str, int]]:
    """-> seconds of each kind's steps, and the bytes of its caches with what a step takes beside them."""
    steps, held = {}, {}
    for share, make in kinds.items():
        with PeakMemory(device) as made:
            steps[f"{share:g}"] = make()
        held[f"{share:g}"] = made.left
    seconds = in_turns(steps, D + STEPS, device)
    peaks = {}
    for name, step in steps.items():
        with PeakMemory(device) as peak:
            step()
        peaks[name] = held[name] + peak.bytes
    return seconds, peaks


def measured(grid: Grid, tell: Callable[[str], None] = lambda _: None) -> Iterator[list[Cell]]:
    """The cells of a grid, one length and number of rows after the other."""
    models = grid.source.weights(implementation("sdpa")), grid.source.weights("sdpa")
    for length, rows in grid.cells():
        tell(f"{length} tokens, {rows} rows")
        yield cell(grid, models, length, rows)


def table(cells: Sequence[Cell]) -> str:
    """Speed and memory over the full cache's, by length and rows."""
    shares = sorted({one.share for one in cells}, reverse=True)
    heads = ["tokens", "rows"]
    for share in shares:
        heads += [f"{share:.3g}: tokens/s", "at best", "memory"]
    lines = []
    for length, rows in dict.fromkeys((one.length, one.rows) for one in cells):
        line = [f"{length}", f"{rows}"]
        for share in shares:
            one = next(one for one in cells if (one.length, one.rows, one.share) == (length, rows, share))
            line += [_times(one.speed), f"{one.bound:.2f}", _times(one.memory)]
        lines.append(line)
    return pipe_table(heads, lines)


def _times(value: float | None) -> str:
    return "does not fit" if value is None else f"{value:.2f}"


def begins(cells: Sequence[Cell]) -> list[str]:
    """A line for each length and share: from how many rows on it pays, of those that were measured."""
    lines = []
    for length, share in dict.fromkeys((one.length, one.share) for one in cells):
        rows = sorted(
            one.rows
            for one in cells
            if (one.length, one.share) == (length, share) and one.speed is not None and one.speed >= PAYS
        )
        from_ = f"pays from {rows[0]} rows on" if rows else "does not pay at any number of rows that was measured"
        lines.append(f"{length} tokens, {share:.3g} of the slots: {from_}")
    return lines


def write(path: Path, about: str, cells: Sequence[Cell], around: Mapping[str, Any]) -> None:
    """path: without a suffix. Writes .json, .md and, where matplotlib is installed, .png."""
    found = {"about": about, "surroundings": around, "cells": [asdict(one) for one in cells]}
    path.with_suffix(".json").write_text(json.dumps(found, indent=1) + "\n")
    text = [
        f"Made by `python -m experiments.benchmarks.crossover`: {about}",
        "Tokens/s and memory are those with the compressed cache over those with the full one. At best: how much "
        "faster a step can be if reading weights and caches is all that takes time.",
        table(cells),
        "\n".join(f"- {line}" for line in begins(cells)),
    ]
    path.with_suffix(".md").write_text("\n\n".join(text) + "\n")
    picture.crossover([asdict(one) for one in cells], path.with_suffix(".png"))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=GRIDS, default="cpu")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results", help="folder of the results")
    options = parser.parse_args()
    if options.device == "cuda" and not torch.cuda.is_available():
        print("error: --device cuda: there is no CUDA device", file=sys.stderr)
        return 2
    grid, cells = GRIDS[options.device], []
    around = surroundings() | {"processor": processor(options.device)}
    about = (
        f"snapkv + slide against transformers' DynamicCache, {grid.shape}'s shape, {grid.source.dtype}, "
        f"{around['processor']}, {torch.get_num_threads()} threads, torch {around['versions']['torch']}, "
        f"{around['created'][:10]}."
    )
    options.out.mkdir(parents=True, exist_ok=True)
    for some in measured(grid, lambda text: print(text, file=sys.stderr, flush=True)):
        cells += some
        write(options.out / f"crossover_{options.device}", about, cells, around)
    print((options.out / f"crossover_{options.device}.md").read_text())
    return 0


if __name__ == "__main__":
    sys.exit(main())
