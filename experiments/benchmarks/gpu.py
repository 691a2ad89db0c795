"""All that is to be shown on a GPU, in one command and in at most nine minutes: `make gpu`.

    python -m experiments.benchmarks.gpu               # needs only torch and transformers; matplotlib for the picture
    python -m experiments.benchmarks.gpu --rehearse    # all of it, small, on a CPU

First what has to be equal (`equal.py`), then speed against its targets (`cuda.py`), then where compression begins to
pay (`crossover.py`), and what a shrinking memory does. After each part all that there is so far is written to
`results/gpu.json`, `.md` and `.png`. Exit code 1 if something is not equal. A target that is missed does not change it.
"""

import argparse
import json
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from experiments.benchmarks import crossover, cuda, picture
from experiments.benchmarks.crossover import Cell, Grid
from experiments.benchmarks.equal import Check, checks
from experiments.benchmarks.steps import theirs
from experiments.benchmarks.timing import Target, in_turns, milliseconds, processor, ratio, unless_out_of_memory
from experiments.tables import pipe_table
from scope.cache import sizes
from scope.cache.backends import implementation
from scope.generation.models import RandomModel
from scope.util.surroundings import surroundings

MOST_ROWS = 128


@dataclass(frozen=True)
class Pools:
    """A memory for caches that shrinks. gib: its sizes. length: tokens of a full cache. share: what is kept of it."""

    gib: tuple[float, ...] = (64, 32, 16, 8)
    length: int = 16384
    share: float = 0.125


@dataclass(frozen=True)
class Plan:
    """How large everything is."""

    device: str
    targets: cuda.Sizes
    grid: Grid
    pools: Pools = Pools()


LARGE = Plan(
    "cuda",
    replace(cuda.LARGE, steps=256),
    replace(crossover.GRIDS["cuda"], lengths=(4096, 16384), shares=(0.5, 0.125), most=2**19),
)
_LITTLE = RandomModel(device="cpu", num_hidden_layers=2)
REHEARSAL = Plan(  # its figures say nothing of a GPU
    "cpu",
    cuda.Sizes(_LITTLE, "eager", c=64, d=16, recent=8, batches=(1, 4), length=256, steps=40, prompt=512),
    Grid("a small Llama", _LITTLE, "eager", (1, 4), (256, 512), (0.5, 0.25), most=2048),
    Pools((0.02, 0.004), 512, 0.25),
)


@dataclass
class Report:
    """What there is so far. left: names of the parts that did not run, or not to their end."""

    around: Mapping[str, Any]
    checks: list[Check] = field(default_factory=list)
    targets: list[Target] = field(default_factory=list)
    figures: dict[str, Any] = field(default_factory=dict)
    cells: list[Cell] = field(default_factory=list)
    pools: list[dict[str, Any]] = field(default_factory=list)
    left: list[str] = field(default_factory=list)

    @property
    def equal(self) -> bool:
        return bool(self.checks) and all(check.equal is not False for check in self.checks)

    def write(self, path: Path) -> None:
        """path: without a suffix."""
        parts = {
            "surroundings": self.around,
            "checks": [asdict(check) for check in self.checks],
            "targets": [target.data() for target in self.targets],
            "figures": self.figures,
            "cells": [asdict(cell) for cell in self.cells],
            "pools": self.pools,
            "left": self.left,
        }
        path.with_suffix(".json").write_text(json.dumps(parts, indent=1) + "\n")
        path.with_suffix(".md").write_text("\n\n".join(self._sections()) + "\n")
        if self.cells:
            picture.crossover(parts["cells"], path.with_suffix(".png"))

    def _sections(self) -> Iterator[str]:
        around = self.around
        versions = ", ".join(f"{name} {version}" for name, version in around["versions"].items())
        where = f"{around['processor']}, {versions}, {around['created'][:10]}"
        yield f"Made by `python -m experiments.benchmarks.gpu`: {where}."
        if self.left:
            yield f"Not run, or not to its end: {', '.join(self.left)}."
        if self.checks:
            came = sum(check.equal is True for check in self.checks)
            yield f"**Equal**: {came} of {sum(check.equal is not None for check in self.checks)} checks that were made."
            words = {True: "equal", False: "**not equal**", None: "not run"}
            yield pipe_table(
                ["check", "", "detail"], ([check.name, words[check.equal], check.detail] for check in self.checks)
            )
        if self.targets:
            yield pipe_table(["measured", "value", "target", ""], map(_row, self.targets))
        if self.cells:
            yield crossover.table(self.cells)
            yield "\n".join(f"- {line}" for line in crossover.begins(self.cells))
        if self.pools:
            heads = [
                "memory for caches, GiB",
                "rows, full",
                "rows, compressed",
                "tokens/s, full",
                "compressed",
                "ratio",
            ]
            yield pipe_table(heads, ([_cell(value) for value in pool.values()] for pool in self.pools))


def _row(target: Target) -> list[str]:
    if target.bound is None:
        return [target.name, _cell(target.measured), "", ""]
    bound = f"{'at most' if target.at_most else 'at least'} {target.bound:g}"
    return [target.name, _cell(target.measured), bound, "reached" if target.reached else "short"]


def _cell(value: float | None) -> str:
    return "does not fit" if value is None else f"{value:.4g}"


def pools(plan: Plan) -> Iterator[dict[str, Any]]:
    """Tokens/s with as many rows as a given memory for caches holds: of full caches, and of compressed ones."""
    source, engine, length = plan.grid.source, plan.grid.engine, plan.pools.length
    own, stock = source.weights(implementation("sdpa")), source.weights("sdpa")
    share, steps = plan.pools.share, crossover.D + crossover.STEPS
    full = sizes.full_bytes(own.config, source.dtype, length)
    held = sizes.cache_bytes(own.config, crossover.policy_of(length, share), source.dtype, length, crossover.D + 1)

    def speed(rows: int, compressed: bool) -> float | None:
        if not rows:
            return None

        def measure() -> float:
            if compressed:
                step = crossover.compressed(own, length, share, engine, rows)
            else:
                step = theirs(stock, length - steps, rows)
            return 1000 * rows / milliseconds(in_turns({"": step}, steps, own.device), crossover.D)[""]

        return unless_out_of_memory(f"{rows} rows", measure)

    for pool in plan.pools.gib:
        rows = {"full": int(pool * 2**30 // full), "compressed": min(MOST_ROWS, int(pool * 2**30 // held))}
        speeds = {name: speed(count, name == "compressed") for name, count in rows.items()}
        yield {
            "gib": pool,
            "rows_full": rows["full"],
            "rows_compressed": rows["compressed"],
            "full": speeds["full"],
            "compressed": speeds["compressed"],
            "ratio": ratio(speeds["compressed"], speeds["full"]),
        }


Part = Callable[[Report], Iterator[None]]  # yields after each figure, so that a run can be ended between two


def _equal(device: torch.device, report: Report) -> Iterator[None]:
    for check in checks(device):
        report.checks.append(check)
        print(check.line(), flush=True)
        yield


def _targets(name: str, measure: Callable[[], cuda.Found], report: Report) -> Iterator[None]:
    targets, report.figures[name] = measure()
    report.targets += targets
    for target in targets:
        print(target.line(), flush=True)
    yield


def _crossover(grid: Grid, report: Report) -> Iterator[None]:
    for cells in crossover.measured(grid, partial(print, flush=True)):
        report.cells += cells
        yield


def _pools(plan: Plan, report: Report) -> Iterator[None]:
    for pool in pools(plan):
        report.pools.append(pool)
        print(pool, flush=True)
        yield


def parts(plan: Plan) -> dict[str, Part]:
    """In the order of running. What has to be equal comes first."""
    return {
        "equal": partial(_equal, torch.device(plan.device)),
        "a step": partial(_targets, "decode_step", lambda: cuda.decode_step(plan.targets)),
        "batches": partial(_targets, "batches", lambda: cuda.batches(plan.targets)),
        "prefill": partial(_targets, "prefills", lambda: cuda.prefills(plan.targets)),
        "a shrinking memory": partial(_pools, plan),
        "crossover": partial(_crossover, plan.grid),
    }


def run(these: Mapping[str, Part], report: Report, path: Path, deadline: float) -> None:
    """Run the parts in turn until `deadline`, of `time.monotonic`. All that there is is written after each figure."""
    report.left = list(these)
    for name, part in these.items():
        for _ in part(report):
            report.write(path)
            if time.monotonic() > deadline:
                break
        else:
            report.left.remove(name)
            report.write(path)
        if time.monotonic() > deadline:
            print(f"out of time: {', '.join(report.left) or 'nothing left'}", flush=True)
            return


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=9.0, help="no figure is begun after that")
    parser.add_argument("--rehearse", action="store_true", help="small, on a CPU")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results", help="folder of the results")
    options = parser.parse_args()
    began = time.monotonic()
    if not options.rehearse and not torch.cuda.is_available():
        print("error: there is no CUDA device; --rehearse runs all of it, small, on a CPU", file=sys.stderr)
        return 2
    plan = REHEARSAL if options.rehearse else LARGE
    options.out.mkdir(parents=True, exist_ok=True)
    report = Report(surroundings() | {"processor": processor(plan.device)})
    path = options.out / ("rehearsal" if options.rehearse else "gpu")
    run(parts(plan), report, path, began + 60 * options.minutes)
    print(f"{path}.json .md .png; {'all equal' if report.equal else 'NOT EQUAL'}")
    return int(not report.equal)


if __name__ == "__main__":
    sys.exit(main())
