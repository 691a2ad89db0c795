"""Accuracy against budget on the embedded model: `python -m experiments.tiny.calibrate`.

Three questions, over the same prompts. What does squeezing the prompt cost, method by method, when everything generated
stays? What does squeezing the generation cost, strategy by strategy, when the whole prompt stays? And who is best
where prompt and generation together may hold the same number of slots? One table and one figure; the runs are recorded
below outputs/calibration and found there again, so a killed calibration goes on where it stopped.
"""

import argparse
import json
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from statistics import mean
from typing import Any

from rich.console import Console
from rich.progress import track

from analysis.statistics import Interval
from experiments.measure import Measured, measure, points
from experiments.tables import pipe_table
from experiments.tiny import calibration_figure
from experiments.tiny.recipe import Recipe
from scope.tasks import Arithmetic
from scope.util.files import write_whole

SHARES = (0.9, 0.75, 0.5)  # C, of the prompt
BUDGETS = (20, 36, 64, 128, 192)  # D, slots
RECENT = 2 / 3  # of D, the newest slots that always stay
METHODS = ("h2o", "snapkv", "pyramidkv", "pyramidinfer", "streamingllm", "random")
PROTECTING = ("slide", "adaptive", "discontinuous", "recent", "random")
UNIFIED = ("h2o", "streamingllm", "pyramidinfer")
LIGHT, TIGHT = 0.9, 0.75  # C where the prompt is compressed lightly, and as `experiment=grid` does
SQUEEZED = (64, 128, 256)  # slots taken from one phase or the other


@dataclass(frozen=True)
class Cell:
    """One run: `budget` is what its row of the table is sorted by (a share of the prompt, or slots)."""

    method: str
    decoding: str
    budget: float
    prefill: float | None = None
    decode: int | None = None

    @property
    def label(self) -> str:
        return f"{self.method} + {self.decoding}" + (f", C = {self.prefill:.2f} P" if self.prefill else "")

    def overrides(self) -> list[str]:
        chosen = [f"method={self.method}", f"decoding={self.decoding}"]
        if self.prefill:
            chosen.append(f"budget.prefill={self.prefill}")
        if self.decode:
            chosen += [f"budget.decode={self.decode}", f"budget.recent={round(RECENT * self.decode)}"]
        return chosen


FULL = Cell("full", "none", 0)


def alone_prefill() -> list[Cell]:
    return [Cell(method, "none", share, prefill=share) for share in SHARES for method in METHODS]


def alone_decoding(budgets: Sequence[int]) -> list[Cell]:
    return [Cell("full", s, budget, decode=budget) for budget in budgets for s in (*PROTECTING, *UNIFIED)]


def equal_total(prompt: int, budgets: Sequence[int]) -> list[Cell]:
    """P + D slots in all: what is taken from a prompt of mean length is given to the generation."""
    cells = []
    for budget in budgets:
        cells += [Cell("full", s, budget, decode=budget) for s in (*PROTECTING, "h2o", "streamingllm")]
        for method, strategy, share in (
            ("h2o", "slide", LIGHT),
            ("snapkv", "slide", LIGHT),
            ("h2o", "h2o", TIGHT),
            ("streamingllm", "streamingllm", TIGHT),
        ):
            spared = round((1 - share) * prompt)
            cells.append(Cell(method, strategy, budget, prefill=share, decode=budget + spared))
    return cells


def squeezed(prompt: int, generation: int) -> list[Cell]:
    """The same number of slots taken from the prompt alone, and from the generation alone."""
    cells = []
    for slots in SQUEEZED:
        share = round(1 - slots / prompt, 3)
        cells += [Cell(method, "none", slots, prefill=share) for method in ("h2o", "snapkv")]
        cells.append(Cell("full", "slide", slots, decode=generation - slots))
    return cells


def lengths(prompts: int, seed: int) -> tuple[int, int]:
    """Mean tokens of the prompts and of their perfect generations."""
    task = Arithmetic(prompts=prompts, seed=seed)
    made = [task.document(i) for i in range(prompts)]
    return round(mean(len(d.prompt) for d in made)), round(mean(len(d.generation) for d in made))


def _measure(job: tuple[list[str], Path]) -> Measured:
    return measure(*job)


def run_all(cells: Sequence[Cell], output: Path, common: list[str], workers: int) -> dict[Cell, Measured]:
    unique = {tuple(cell.overrides()): cell for cell in cells}
    jobs = [([*overrides, *common], output) for overrides in unique]
    console = Console(stderr=True)
    with ProcessPoolExecutor(workers) as pool:
        done = track(
            pool.map(_measure, jobs), "calibrating", len(jobs), console=console, disable=not console.is_terminal
        )
        by_overrides = dict(zip(unique, done, strict=True))
    return {cell: by_overrides[tuple(cell.overrides())] for cell in cells}


def row(cell: Cell, found: Measured, full: Measured) -> dict[str, Any]:
    accuracy = found.accuracy
    return {
        "label": cell.label,
        "method": cell.method,
        "decoding": cell.decoding,
        "budget": cell.budget,
        "C": cell.prefill,
        "D": cell.decode,
        "accuracy": round(100 * accuracy.estimate, 2),
        "low": round(100 * accuracy.low, 2),
        "high": round(100 * accuracy.high, 2),
        "cache_kib": round(found.cache_bytes / 1024, 1),
        "of_full": round(found.cache_bytes / full.cache_bytes, 3),
    }


def comparisons(results: Mapping[Cell, Measured], total: Sequence[Cell]) -> Iterator[tuple[str, float, Interval]]:
    """The claims, each as a paired difference: name, budget, first minus second."""

    def at(budget: float, method: str, decoding: str) -> Measured:
        return next(results[c] for c in total if (c.budget, c.method, c.decoding) == (budget, method, decoding))

    for budget in dict.fromkeys(cell.budget for cell in total):
        slide = at(budget, "full", "slide")
        yield "full + slide - full + recent", budget, slide.minus(at(budget, "full", "recent"))
        yield "full + slide - full + random", budget, slide.minus(at(budget, "full", "random"))
        yield "full + slide - full + streamingllm", budget, slide.minus(at(budget, "full", "streamingllm"))
        yield "full + slide - full + h2o", budget, slide.minus(at(budget, "full", "h2o"))
        yield "full + slide - h2o + h2o", budget, slide.minus(at(budget, "h2o", "h2o"))
        yield (
            "full + slide - streamingllm + streamingllm",
            budget,
            slide.minus(at(budget, "streamingllm", "streamingllm")),
        )
    for share in SHARES:
        h2o = results[Cell("h2o", "none", share, prefill=share)]
        for other in ("snapkv", "streamingllm", "random"):
            yield f"h2o - {other}, prompt alone", share, h2o.minus(results[Cell(other, "none", share, prefill=share)])


def markdown(report: Mapping[str, Any]) -> str:
    """All sections as pipe tables: rows are methods, columns budgets."""
    parts = [f"Made by `python -m experiments.tiny.calibrate`: {report['about']}"]
    for title, rows in report["sections"].items():
        budgets = list(dict.fromkeys(r["budget"] for r in rows))
        labels = list(dict.fromkeys(label_of(r) for r in rows))
        cells = {(label_of(r), r["budget"]): f"{r['accuracy']:.1f} [{r['low']:.1f}, {r['high']:.1f}]" for r in rows}
        bytes_ = {b: f"{100 * mean(r['of_full'] for r in rows if r['budget'] == b):.0f}%" for b in budgets}
        shown = [[name, *(cells.get((name, b), "") for b in budgets)] for name in labels]
        shown.append(["*bytes, of the full cache's*", *(bytes_[b] for b in budgets)])
        parts.append(pipe_table([title, *(f"{b:g}" for b in budgets)], shown))
    names = list(dict.fromkeys(c["name"] for c in report["differences"]))
    lines = ["| difference, points | " + "at budget: difference [95% interval] |", "| --- | --- |"]
    for name in names:
        found = [f"{c['budget']:g}: {c['points']}" for c in report["differences"] if c["name"] == name]
        lines.append(f"| {name} | {'; '.join(found)} |")
    return "\n\n".join([*parts, "\n".join(lines)]) + "\n"


def label_of(row: Mapping[str, Any]) -> str:
    """The name of a row of the table; with C where it is not what the columns are about."""
    name = f"{row['method']} + {row['decoding']}"
    return f"{name}, C = {row['C']:.2f} P" if row["C"] and row["D"] else name


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m experiments.tiny.calibrate",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--prompts", type=int, default=32)
    parser.add_argument("--seed", type=int, default=0, help="of the prompts")
    parser.add_argument("--budgets", type=int, nargs="+", default=BUDGETS, help="values of D")
    parser.add_argument("--workers", type=int, default=2, help="processes")
    parser.add_argument("--output", type=Path, default=Path("outputs/calibration"), help="where runs are recorded")
    parser.add_argument("--out", type=Path, default=Path(__file__).with_name("calibration"), help="of .json .md .png")
    args = parser.parse_args()
    prompt, generation = lengths(args.prompts, args.seed)
    total = equal_total(prompt, args.budgets)
    sections = {
        "prompt alone: C, share of the prompt": alone_prefill(),
        "generation alone: D, slots": alone_decoding(args.budgets),
        "equal total: P + this many slots": total,
        "where to save: slots taken from one phase": squeezed(prompt, generation),
    }
    cells = [FULL, *(cell for section in sections.values() for cell in section)]
    common = [f"task.prompts={args.prompts}", f"seed={args.seed}", f"engine.batch_size={args.prompts}"]
    results = run_all(cells, args.output, common, args.workers)
    full = results[FULL]
    report = {
        "about": f"{args.prompts} prompts of seed {args.seed}, {prompt} + {generation} tokens on average, "
        f"recent = 2/3 D; accuracy in % with its 95% interval clustered by prompt; "
        f"the full cache: {100 * full.accuracy.estimate:.1f}%, {full.cache_bytes / 1024:.0f} KiB a sequence.",
        "recipe": Recipe.read([]).digest(),
        "full": row(FULL, full, full),
        "sections": {name: [row(c, results[c], full) for c in section] for name, section in sections.items()},
        "differences": [
            {
                "name": name,
                "budget": budget,
                **{k: 100 * v for k, v in found._asdict().items()},
                "points": points(found),
            }
            for name, budget, found in comparisons(results, total)
        ],
    }
    write_whole(args.out.with_suffix(".json"), json.dumps(report, indent=1) + "\n")
    write_whole(args.out.with_suffix(".md"), markdown(report))
    calibration_figure.draw(report, args.out.with_suffix(".png"))
    print(markdown(report))


if __name__ == "__main__":
    main()
