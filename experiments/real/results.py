"""Where the results of the rows lie: a file for each model and task."""

from pathlib import Path

from experiments import results
from experiments.real.rows import ROWS, Row

HERE = Path(__file__).parent / "results"
Result = results.Result[Row]


def path_of(model: str, task: str) -> Path:
    return HERE / f"{model}_{task}.jsonl"


def read(model: str, task: str) -> dict[Row, Result]:
    """The results so far. A line that a kill has cut is left out."""
    return results.read(path_of(model, task), ROWS)


def append(model: str, task: str, result: Result) -> None:
    results.append(path_of(model, task), result)
