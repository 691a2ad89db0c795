"""Where should a byte go? Policies and precisions at equal bytes, replayed. `README.md` was written before any ran.

python -m experiments.frontier                          # all rows, in the order of the page; continues where it stopped
python -m experiments.frontier --hours 1                # for so long
python -m experiments.frontier --workload smollm2_text
python -m experiments.frontier --recorded               # the tables and figures of the rows that have run
"""

import argparse
from collections.abc import Iterator
from pathlib import Path

from experiments import results
from experiments.frontier import report
from experiments.frontier.rows import ROWS, SEED, WORKLOADS, Row, Workload


def asked(names: list[str] | None, shares: list[float] | None) -> Iterator[tuple[Workload, Row]]:
    """Every row that is to run, in order. The rows of a workload follow each other, since they share what is read."""
    for workload in WORKLOADS:
        if not names or workload.name in names:
            for row in workload.rows:
                if not shares or row.policy == "full" or row.share in shares:
                    yield workload, row


def measured(workload: Workload, row: Row, output: Path) -> results.Result[Row]:
    """Replay a row. Until it ends its records are below `output`, so a killed run goes on."""
    seed = [f"seed={SEED}"] if workload.task != "text" else []
    common = [f"model={workload.model}", f"task={workload.task}", *workload.overrides, *seed, "measure=replay"]
    own = row.overrides(workload.prompt, workload.written)
    return results.measured(row, [*own, *common], output / f"frontier_{workload.name}")


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m experiments.frontier",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--hours", type=float, default=float("inf"), help="no row is begun after that")
    parser.add_argument("--workload", nargs="+", choices=[workload.name for workload in WORKLOADS])
    parser.add_argument("--share", nargs="+", type=float, help="only rows of these shares, and the full cache's")
    parser.add_argument("--recorded", action="store_true", help="run nothing: tables and figures of what has run")
    parser.add_argument("--output", type=Path, default=Path("outputs"), help="where the run under way is recorded")
    args = parser.parse_args()
    if not args.recorded:
        there = {workload: results.read(report.path_of(workload), ROWS) for workload in WORKLOADS}
        left = [(workload, row) for workload, row in asked(args.workload, args.share) if row not in there[workload]]
        for workload, row in results.in_turn(left, lambda job: f"{job[0].name} {job[1].name}", args.hours):
            results.append(report.path_of(workload), measured(workload, row, args.output))
    report.write()


if __name__ == "__main__":
    main()
