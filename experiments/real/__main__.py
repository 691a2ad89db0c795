"""Real models, replayed: which policy keeps what, where. `experiments/real/README.md` was written before any of it ran.

python -m experiments.real                          # all rows, in the order of the page; continues where it stopped
python -m experiments.real --hours 1                # for so long
python -m experiments.real --model smollm2 --task text recall
python -m experiments.real --recorded               # the tables and figures of the rows that have run
"""

import argparse
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from experiments import results
from experiments.real import report
from experiments.real.results import Result, append, read
from experiments.real.rows import PLANS, SEED, TASKS, Row


def asked(models: list[str] | None, tasks: list[str] | None) -> Iterator[tuple[str, str, Row]]:
    """Every row that is to run, in order. The rows of a task follow each other, since they share what is read."""
    for model, names, rows in PLANS:
        for task in names:
            if (not models or model in models) and (not tasks or task in tasks):
                yield from ((model, task, row) for row in rows)


def measured(model: str, name: str, row: Row, output: Path) -> Result:
    """Replay a row, or let the model write. Until it ends its records are below `output`, so a killed run goes on."""
    task = TASKS[name]
    common = [f"model={model}", *task.overrides, f"seed={SEED}", f"measure={task.measure}"]
    return results.measured(row, [*row.overrides(task.written), *common], output / "real")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--hours", type=float, default=float("inf"), help="no row is begun after that")
    parser.add_argument("--model", nargs="+", choices=sorted({plan[0] for plan in PLANS}))
    parser.add_argument("--task", nargs="+", choices=sorted(TASKS))
    parser.add_argument("--recorded", action="store_true", help="run nothing: tables and figures of what has run")
    parser.add_argument("--output", type=Path, default=Path("outputs"), help="where the run under way is recorded")
    args = parser.parse_args()
    if not args.recorded:
        there = cache(read)
        left = [(m, t, row) for m, t, row in asked(args.model, args.task) if row not in there(m, t)]
        for model, task, row in results.in_turn(left, lambda job: f"{job[0]} {job[1]} {job[2].label}", args.hours):
            append(model, task, measured(model, task, row, args.output))
    report.write()


if __name__ == "__main__":
    main()
