"""Generations on disk: our records, and result files in the released code's format.

A released file is `<folder>/<setting>/.../<dataset>/<method>.json`. Each line is a JSON object with `pred` and
`answers`: GSM8K's solutions, which end in `#### n`, or letters. If a line has `prompt`, its last `Question_n` gives the
numbers of the questions. Otherwise the first number is the benchmark's: 9 for numbers, 6 for choices.
"""

import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from scope.records.code import scorer_code
from scope.records.identity import model_name
from scope.records.read import RunFiles, read_manifest, read_run, run_folders
from scope.records.rewrite import rewrite
from scope.scoring import Answer, Scorer, ScorerError, form_of, score
from scope.scoring.answer import Question
from scope.scoring.scorers import module_of, short_name
from scope.scoring.thinking import THINK, Markers
from scope.util.errors import ScopeError

PRINTED = re.compile(r"\bQuestion_(\d{1,9})\b")
FIRST = {"number": 9, "choice": 6}


@dataclass(frozen=True)
class Scored:
    """The generations of one run, scored again.

    answers: for each prompt, the answers to its questions in all its generations.
    The other fields are for a run of ours only.
    folder: of the run.
    notes: one for each kind of line that is not a plain record.
    changed: whether lines were left out because somebody changed them.
    """

    task: str
    name: str
    answers: dict[str, list[Answer]]
    folder: Path | None = None
    notes: tuple[str, ...] = ()
    changed: bool = False


def recorded_scorers(folder: Path) -> list[str]:
    """The scorers of the runs in and below a folder, as their settings name them. Raises RecordsError."""
    return list(dict.fromkeys(name for run in run_folders(folder) for name in read_manifest(run).get("scoring", {})))


def read(folder: Path, by: Mapping[str, Scorer] | None = None) -> list[Scored]:
    """All runs in and below a folder, scored. by: the scorers; None takes the standard ones.

    Raises ScopeError, in one line, if there is no run or one cannot be read.
    """
    ours = set(run_folders(folder))
    found = [_record_run(run, by) for run in sorted(ours)]
    for path in sorted(folder.rglob("*.json")):
        if not ours & set(path.parents) and _has_generations(path):
            found.append(_released_run(path, folder, by))
    found = [run for run in found if run.answers or run.notes]
    if not found:
        raise ScopeError(
            f"{folder}: no generation with questions here or below: neither records nor <dataset>/<method>.json"
        )
    return found


def _record_run(folder: Path, by: Mapping[str, Scorer] | None) -> Scored:
    run = read_run(folder)
    labels = run.manifest.get("labels", {})
    if "model" in labels:
        labels = labels | {"model": model_name(labels, run.manifest.get("settings", {}).get("model", {}))}
    answers: dict[str, list[Answer]] = {}
    for name, line in run.answered.items():
        if line["questions"]:
            answers.setdefault(line.get("prompt", name), []).extend(_answers(run, line, by))
    named = " + ".join(labels[key] for key in ("model", "method", "decoding", "budget") if key in labels)
    changed = any(problem.means_change for problem in run.problems)
    return Scored(labels.get("task", ""), named or folder.name, answers, folder, run.notes, changed)


def _answers(run: RunFiles, line: Mapping[str, Any], by: Mapping[str, Scorer] | None) -> list[Answer]:
    """The answers in a record's text. Raises ScorerError, naming the sample, if a scorer fails at it."""
    questions = [Question(q["number"], q["expected"]) for q in line["questions"]]
    opened = line.get("starts_thinking", False)
    try:
        return score(questions, line["generation"], None, by, _markers(run.manifest), opened)
    except ScorerError as error:
        raise error.at(f"sample {line['sample']} of {run.folder}") from error


@dataclass(frozen=True)
class Rewritten:
    """What was written into a run's records. new, changed: scores, by scorer. before: the file that keeps the old."""

    new: Mapping[str, int]
    changed: Mapping[str, int]
    before: Path | None


def write_scores(folder: Path, by: Mapping[str, Scorer]) -> Rewritten:
    """Write the scores by these scorers into a run's records, from the recorded texts. Scores by others stay.

    Raises ScorerError if a scorer fails at a text, and ScopeError if the run is being written or cannot be: the records
    stay as they were.
    """
    new, changed = Counter[str](), Counter[str]()

    def rescored(run: RunFiles, line: Mapping[str, Any]) -> Mapping[str, Any]:
        if line.get("status") != "ok" or not line["questions"]:
            return line
        questions = []
        for question, answer in zip(line["questions"], _answers(run, line, by), strict=True):
            before = question["scores"]
            now = {name: before.get(name, {}) | asdict(found) for name, found in answer.scores.items()}
            new.update(name for name in now if name not in before)
            changed.update(name for name in now if name in before and now[name] != before[name])
            questions.append({**question, "scores": {**before, **now}})
        left = {name: why for name, why in line.get("unscored", {}).items() if short_name(name) not in by}
        rest = {key: value for key, value in line.items() if key != "unscored" or left}
        return {**rest, "questions": questions, **({"unscored": left} if left else {})}

    def change(run: RunFiles) -> tuple[list[Mapping[str, Any]], Mapping[str, Any]]:
        lines = [rescored(run, line) for line in run.records]
        if not any(line["questions"] for line in run.answered.values()):
            return lines, run.manifest
        said = {name: about for name, about in run.manifest.get("scoring", {}).items() if short_name(name) not in by}
        said |= {scorer.name: scorer.about for scorer in by.values()}
        code = run.manifest.get("scoring_code", {})
        code = code | {name: scorer_code(module_of(scorer.name)) for name, scorer in by.items()}
        return lines, {**run.manifest, "scoring": said, "scoring_code": code}

    kept = rewrite(folder, change)
    return Rewritten(new, changed, kept)


def _markers(manifest: Mapping[str, Any]) -> Markers | None:
    """The run's thinking markers; None if its model has none. A manifest without the key means the usual ones."""
    model = manifest.get("settings", {}).get("model") or {}
    found = model.get("thinking", THINK)
    return None if found is None else (found[0], found[1])


def _released_run(path: Path, folder: Path, by: Mapping[str, Scorer] | None) -> Scored:
    answers: dict[str, list[Answer]] = {}
    for number, line in _lines(path):
        where = f"{path}:{number}"
        for key, kind in (("pred", str), ("answers", list)):
            if not isinstance(line.get(key), kind):
                raise ScopeError(f"{where}: {key} must be a {'text' if kind is str else 'list of texts'}")
        questions = _questions(line["answers"], str(line.get("prompt", "")), where)
        # A prompt is named by its text, which is the same in every file. Without a text, by its place in the file.
        name = str(line.get("prompt") or len(answers))
        try:
            answers.setdefault(name, []).extend(score(questions, line["pred"], None, by))
        except ScorerError as error:
            raise error.at(where) from error
    setting = path.parent.parent.relative_to(folder).as_posix()
    return Scored(path.parent.name, f"{setting} {path.stem}".removeprefix(". "), answers)


def _questions(answers: Sequence[Any], prompt: str, where: str) -> list[Question]:
    if not answers or not all(isinstance(answer, str) and answer.strip() for answer in answers):
        raise ScopeError(f"{where}: answers must be a list of texts, one for each question")
    expected = [answer.rpartition("####")[2].strip() for answer in answers]
    form = form_of([Question(0, text) for text in expected])
    if wrong := [text for text in expected if form == "number" and not re.search(r"\d", text)]:
        raise ScopeError(f"{where}: answers: {wrong[0][:40]!r} is neither a letter nor ends in '#### ' and a number")
    printed = [int(number) for number in PRINTED.findall(prompt)]
    first = max(printed) - len(answers) + 1 if printed else FIRST[form]
    return [Question(first + k, text) for k, text in enumerate(expected)]


def _has_generations(path: Path) -> bool:
    """Whether the first line of a file looks like a generation. It may be a file of metrics."""
    with path.open(encoding="utf-8", errors="replace") as stream:
        first = next((line for line in stream if line.strip()), "")
    return first.lstrip().startswith("{") and ('"pred"' in first or '"answers"' in first)


def _lines(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """(line number, object) for each line of a released file."""
    lines = path.read_text(encoding="utf-8", errors="replace").split("\n")
    for number, text in enumerate(lines, start=1):
        if not text.strip():
            continue
        try:
            line = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise ScopeError(f"{path}:{number}: not JSON ({error})") from error
        if not isinstance(line, dict):
            raise ScopeError(f"{path}:{number}: not a JSON object")
        yield number, line
