"""Accuracy against bytes, at three sizes of a sequence's cache: every decoding strategy, with the prompt protected and
unprotected, and every prefill method with these strategies.

    python -m experiments.distinct              # continues where it stopped
    python -m experiments.distinct --recorded   # the tables and figures of the rows that have been run

A size is the bytes of the full prompt and D decoded slots of slide: keys, values, and what a strategy remembers of a
slot. Every row gets the largest D that fits in these bytes, for a prompt of the mean length.
"""

import argparse
import json
from collections.abc import Callable, Mapping, Sequence
from datetime import date
from math import isnan
from pathlib import Path
from statistics import mean
from typing import Any

from rich.console import Console
from rich.progress import track

from analysis.statistics import Interval
from experiments.distinct import picture
from experiments.distinct.rows import FULL, MAIN, OWN, ROWS, SLIDE, Row, columns, fitted, matrix, size_kib
from experiments.measure import Measured, composed, in_points, measure, recorded
from experiments.tables import pipe_table
from scope import records
from scope.generation import models
from scope.runs.forecast import cache_bytes
from scope.runs.prepare import encode_all
from scope.util.files import write_whole

SIZES = (36, 64, 128)  # D of slide, beside the full prompt
SEED, PROMPTS = 300, 40  # which no search has seen
Results = Mapping[int, Mapping[Row, tuple[int, Measured]]]  # size -> row -> its D, what it did


def mean_prompt(common: Sequence[str]) -> int:
    """Tokens of a prompt."""
    run = composed([*SLIDE.overrides(36), *common]).experiment
    return round(mean(len(prompt.tokens) for prompt in encode_all(run, *models.load_shape(run.model), date.today())))


def size_bytes(size: int, prompt: int, common: Sequence[str]) -> int:
    """Bytes of a sequence's cache for full + slide with D = `size`."""
    run = composed([*SLIDE.overrides(size), *common]).experiment
    return cache_bytes(run, models.load_shape(run.model)[0], prompt)


def run_all(
    sizes: Sequence[int], prompt: int, common: Sequence[str], output: Path, only_recorded: bool
) -> tuple[Measured | None, Results]:
    """The results of the full cache and of all rows at all sizes. A row that does not fit in the bytes is left out.

    only_recorded: run nothing, and leave out rows that have not been run.
    """
    get = recorded if only_recorded else measure
    full = get([*FULL.overrides(0), *common], output)
    found: dict[int, dict[Row, tuple[int, Measured]]] = {size: {} for size in sizes}
    bounds = {size: size_bytes(size, prompt, common) for size in sizes}
    console = Console(stderr=True)
    jobs = [(row, size) for row in ROWS for size in sizes]
    for row, size in track(jobs, "frontier", console=console, disable=not console.is_terminal):
        budget = fitted(row, bounds[size], prompt, common)
        if budget is None:
            continue
        if done := get([*row.overrides(budget), *common], output):
            found[size][row] = budget, done
    return full, found


def report(full: Measured, results: Results, about: str) -> dict[str, Any]:
    """All figures as plain data: accuracies in %, differences in points, with the bounds of 95% intervals.

    Bounds are null where there is no interval, as of a difference between runs whose answers do not differ.
    """
    rows = []
    for size, found in results.items():
        bases = {"slide": found.get(SLIDE), "ours": found.get(OWN)}
        for row, (budget, measured) in found.items():
            against = {"full": full} | {name: base[1] for name, base in bases.items() if base}
            rows.append(
                {
                    "label": row.label,
                    "method": row.method,
                    "decoding": row.decoding,
                    "protect": row.protect,
                    "recent": row.recent,
                    "size": size,
                    "D": budget,
                    "accuracy": _percent(measured.accuracy),
                    "cache_kib": round(measured.cache_bytes / 1024, 1),
                    "of_full": round(measured.cache_bytes / full.cache_bytes, 4),
                    "minus": {
                        name: _percent(measured.minus(other))
                        for name, other in against.items()
                        if other is not measured
                    },
                }
            )
    return {
        "about": about,
        "full": {"accuracy": _percent(full.accuracy), "cache_kib": full.cache_bytes / 1024},
        "sizes": list(results),
        "rows": rows,
        "surroundings": records.surroundings(),
    }


def markdown(made: Mapping[str, Any]) -> str:
    sizes = made["sizes"]
    rows: dict[str, dict[int, Mapping[str, Any]]] = {}
    main = {row.label for row in MAIN}
    for row in made["rows"]:
        if row["label"] in main:
            rows.setdefault(row["label"], {})[row["size"]] = row
    rows = dict(sorted(rows.items(), key=lambda item: _place(item[1])))
    head = _heads(made)
    parts = [
        f"Made by `python -m experiments.distinct`: {made['about']}",
        _table("answers right, %, with its 95% interval; D of the row", head, rows, sizes, _accuracy),
        _table("points above slide at equal bytes, paired [95%]", head, rows, sizes, lambda r: _minus(r, "slide")),
        _table("points above the full cache, paired [95%]", head, rows, sizes, lambda r: _minus(r, "full")),
        _table(
            f"points above {OWN.label} at equal bytes, paired [95%]", head, rows, sizes, lambda r: _minus(r, "ours")
        ),
    ]
    return "\n\n".join(parts) + "\n"


def crossed_markdown(made: Mapping[str, Any]) -> str:
    """All prefill methods by all strategies that were crossed with them, each size apart."""
    parts = [f"Made by `python -m experiments.distinct`: {made['about']}"]
    for size, about in zip(made["sizes"], _heads(made), strict=True):
        found = matrix(made["rows"], size)
        parts += [
            _crossed(found, f"{about}: answers right, %", lambda row: _text(row["accuracy"], ".0f")),
            _crossed(found, "points above full + slide at equal bytes, paired", lambda row: _minus(row, "slide")),
            _crossed(found, "points above the full cache, paired", lambda row: _minus(row, "full")),
        ]
    return "\n\n".join(parts) + "\n"


def _heads(made: Mapping[str, Any]) -> list[str]:
    """What each size is."""
    kib = size_kib(made["rows"])
    return [f"{kib[s]:.0f} KiB (full + slide {s})" for s in made["sizes"]]


def _crossed(found: Mapping[str, Mapping[str, Any]], title: str, cell: Callable[[Any], str]) -> str:
    strategies = columns(found)
    lines = [
        [method, *(cell(row[name]) if name in row else "-" for name in strategies)] for method, row in found.items()
    ]
    return pipe_table([title, *strategies], lines)


def _place(found: Mapping[int, Mapping[str, Any]]) -> tuple[bool, bool, float]:
    """Full prompts first, protected ones before the others, the best before the worse."""
    row = found[max(found)]
    return row["method"] != "full", row["protect"] != "prompt", -row["accuracy"][0]


def _table(title: str, head: Sequence[str], rows: Mapping[str, Any], sizes: Sequence[int], cell: Any) -> str:
    lines = [[label, *(cell(found[s]) if s in found else "-" for s in sizes)] for label, found in rows.items()]
    return pipe_table([title, *head], lines)


def _percent(found: Interval) -> list[float | None]:
    return [None if isnan(value) else round(100 * value, 4) for value in found]


def _accuracy(row: Mapping[str, Any]) -> str:
    return f"{_text(row['accuracy'])}; {row['D']}"


def _minus(row: Mapping[str, Any], name: str) -> str:
    return in_points(row["minus"][name]) if name in row["minus"] else ""


def _text(accuracy: Sequence[float | None], of_bounds: str = ".1f") -> str:
    """An accuracy and, where it has one, its interval."""
    estimate, *bounds = accuracy
    shown = [format(bound, of_bounds) for bound in bounds if bound is not None]
    return f"{estimate:.1f}{' [' + ', '.join(shown) + ']' if shown else ''}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--prompts", type=int, default=PROMPTS)
    parser.add_argument("--seed", type=int, default=SEED, help="of the prompts")
    parser.add_argument("--task", default="arithmetic", help="arithmetic, or arithmetic_long")
    parser.add_argument("--sizes", type=int, nargs="+", default=SIZES, help="D of slide")
    parser.add_argument("--recorded", action="store_true", help="run nothing: show what has been run")
    parser.add_argument("--output", type=Path, default=Path("outputs/frontier"), help="where runs are recorded")
    parser.add_argument("--out", type=Path, default=Path(__file__).with_name("frontier"), help="of .json .md .png")
    args = parser.parse_args()
    rows = f"engine.batch_size={args.prompts}"
    common = [f"task={args.task}", f"task.prompts={args.prompts}", f"seed={args.seed}", rows]
    prompt = mean_prompt(common)
    full, results = run_all(args.sizes, prompt, common, args.output, args.recorded)
    if full is None:
        raise SystemExit(f"{args.output}: the full cache has not been run yet; leave out --recorded")
    about = (
        f"task={args.task}, {args.prompts} prompts of seed {args.seed}, {prompt} tokens on average, {len(full.marks)} "
        f"x {len(next(iter(full.marks.values())))} answers; the full cache: {100 * full.accuracy.estimate:.1f}%, "
        f"{full.cache_bytes / 1024:.0f} KiB a sequence."
    )
    made = report(full, results, about)
    write_whole(args.out.with_suffix(".json"), json.dumps(made, indent=1) + "\n")
    write_whole(args.out.with_suffix(".md"), markdown(made))
    crossed = args.out.with_name(f"{args.out.name}_crossed.md")
    write_whole(crossed, crossed_markdown(made))
    picture.draw(made, args.out.with_suffix(".png"))
    picture.draw_crossed(made, crossed.with_suffix(".png"))
    print(markdown(made))


if __name__ == "__main__":
    main()
