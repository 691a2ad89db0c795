"""Which scorers have not scored the records of a run, which of them failed at a text, and the command that scores."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from scope import records
from scope.runs.experiment import Experiment
from scope.scoring import ScorerError
from scope.scoring.scorers import short_name
from scope.util.secrets import command_line


def unscored(experiment: Experiment, answered: Iterable[Mapping[str, Any]], folder: Path) -> tuple[list[str], int]:
    """The scorers that have not scored all of these records by their present code, and how many records lack one.

    Of the scorers only those that the experiment asks for, in its order. folder: of the run, for its manifest.
    """
    asked = [line["questions"] for line in answered if line["questions"]]
    if not asked:
        return [], 0
    before, now = records.read_manifest(folder).get("scoring_code", {}), experiment.scoring_code()
    edited = {name for name in now if before.get(name, now[name]) != now[name]}
    lacking = [
        edited | {name for name in now if any(name not in q["scores"] for q in questions)} for questions in asked
    ]
    found = set[str]().union(*lacking)
    return [name for name in experiment.scoring if short_name(name) in found], sum(map(bool, lacking))


def how_to_score(names: Sequence[str], where: str, folders: Iterable[Path], scoring: Iterable[str]) -> str:
    """Says which scorers have not scored as they are now, and the command that does it. scoring: all that are asked."""
    words = ["python", "-m", "scope.scoring", *map(str, folders), "--scoring", ",".join(scoring), "--write"]
    listed = ", ".join(f"`{short_name(name)}`" for name in names)
    were = "was" if len(names) == 1 else "were"
    return f"{listed} {were} not scored by the present code in {where}: {command_line(words)}"


def faults(lines: Iterable[Mapping[str, Any]]) -> Iterator[ScorerError]:
    """Each fault of a scorer that these records tell of."""
    for line in lines:
        for scorer, why in line.get("unscored", {}).items():
            yield ScorerError(scorer, why, f"sample {line['sample']}")
