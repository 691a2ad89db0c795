"""Generations that are on disk: our records, and result files in the released code's format.

The latter are `<folder>/<setting>/.../<dataset>/<method>.json`, one JSON object per line with `pred` and `answers`:
GSM8K's solutions ending in `#### n`, or letters. Where `prompt` is there too, its last `Question_n` says how they are
numbered; without it, the first is the benchmark's: 9 where numbers are asked, 6 where choices are.
"""

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scope.errors import ScopeError
from scope.scoring import Answer, form_of, score
from scope.scoring.answer import Question

PRINTED = re.compile(r"\bQuestion_(\d{1,9})\b")
FIRST = {"number": 9, "choice": 6}


@dataclass(frozen=True)
class Scored:
    """The generations of one run, scored again. `answers`: prompt -> those to its questions, of all its generations."""

    task: str
    name: str
    answers: dict[str, list[Answer]]


def read(folder: Path) -> list[Scored]:
    """All runs in and below a folder. ScopeError, in one line: none, or one that cannot be read."""
    if not folder.is_dir():
        raise ScopeError(f"{folder}: no such folder")
    manifests = sorted(folder.rglob("manifest.json"))
    ours = {path.parent for path in manifests}
    found = [_record_run(path) for path in manifests]
    for path in sorted(folder.rglob("*.json")):
        if not ours & set(path.parents) and _has_generations(path):
            found.append(_released_run(path, folder))
    found = [run for run in found if run.answers]
    if not found:
        raise ScopeError(
            f"{folder}: no generation with questions here or below: neither records nor <dataset>/<method>.json"
        )
    return found


def _record_run(manifest: Path) -> Scored:
    path = manifest.with_name("records.jsonl")
    labels = _labels(manifest)
    latest: dict[str, tuple[int, dict[str, Any]]] = {}
    for number, line in _lines(path, torn=True) if path.exists() else ():
        latest[line.get("sample", "")] = number, line
    answers: dict[str, list[Answer]] = {}
    for number, line in latest.values():
        if line.get("status") != "ok":
            continue
        try:
            questions = [Question(q["number"], q["expected"]) for q in line["questions"]]
            scored = score(questions, line["generation"], form_of(questions))
        except KeyError as error:
            raise ScopeError(f"{path}:{number}: lacks {error}") from error
        if questions:
            answers.setdefault(line.get("prompt", line["sample"]), []).extend(scored)
    name = " + ".join(str(labels[key]) for key in ("model", "method", "decoding", "budget") if key in labels)
    return Scored(str(labels.get("task", "")), name or manifest.parent.name, answers)


def _labels(manifest: Path) -> dict[str, Any]:
    try:
        labels = json.loads(manifest.read_bytes()).get("labels", {})
    except (ValueError, AttributeError) as error:
        raise ScopeError(f"{manifest}: not the manifest of a run ({error})") from error
    if not isinstance(labels, dict):
        raise ScopeError(f"{manifest}: not the manifest of a run (labels must be an object)")
    return labels


def _released_run(path: Path, folder: Path) -> Scored:
    answers: dict[str, list[Answer]] = {}
    for number, line in _lines(path):
        where = f"{path}:{number}"
        for key, kind in (("pred", str), ("answers", list)):
            if not isinstance(line.get(key), kind):
                raise ScopeError(f"{where}: {key} must be a {'text' if kind is str else 'list of texts'}")
        questions = _questions(line["answers"], str(line.get("prompt", "")), where)
        # The prompt's end, where the questions are, tells prompts apart in every file; else their order has to.
        name = str(line.get("prompt") or len(answers))
        answers.setdefault(name, []).extend(score(questions, line["pred"], form_of(questions)))
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
    """Whether a file is one of generations and not of, say, metrics: its first line says so."""
    with path.open(encoding="utf-8", errors="replace") as stream:
        first = next((line for line in stream if line.strip()), "")
    return first.lstrip().startswith("{") and ('"pred"' in first or '"answers"' in first)


def _lines(path: Path, torn: bool = False) -> Iterator[tuple[int, dict[str, Any]]]:
    """(number, object) of every line; torn: the last may be half written."""
    lines = path.read_text(encoding="utf-8", errors="replace").split("\n")
    for number, text in enumerate(lines, start=1):
        if not text.strip():
            continue
        try:
            line = json.loads(text)
        except ValueError as error:
            if torn:  # a killed writer; the run wrote the sample again, or its table says that it is missing
                continue
            raise ScopeError(f"{path}:{number}: not JSON ({error})") from error
        if not isinstance(line, dict):
            raise ScopeError(f"{path}:{number}: not a JSON object")
        yield number, line
