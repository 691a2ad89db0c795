"""LongGenBench (Liu et al. 2024, arXiv 2410.04199) as SCOPE uses it: K questions in one prompt, one long generation.

Departure: the worked examples and the instruction are our own. Built prompts have the form of the benchmark's released
files (scope.tasks.sets)."""

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from scope.scoring import FORMS
from scope.tasks.numbered import (
    PARTS,
    Item,
    Worked,
    asked_in,
    check_prompts,
    expected_number,
    prompt_row,
    solved,
    with_choices,
)
from scope.tasks.sets import advice, stamped, write_set
from scope.tasks.sources import WORKED, Hub, Row, read, read_examples, read_text, require
from scope.tasks.task import BuiltOnce, Sample
from scope.util.errors import ConfigError, SettingError, check_choice, check_count, nearest


@dataclass(frozen=True)
class LongGenBench(BuiltOnce):
    """K questions of a data set in each prompt. If the questions have subjects, each prompt asks about one subject.

    name: of the samples. hub: the data set.
    source: a file or folder instead of the hub. It holds raw questions, or prompts as the benchmark released them; the
    latter are used as they are.
    columns: the names that the data set has for question, answer, choices and subject.
    form: what an answer looks like, "number" or "choice". questions: K. max_new_tokens: T.
    examples: the worked examples; a name in `worked`, or a .yaml or .json file of your own.
    instruction: a text file of your own; None takes the one in `worked`.
    subjects: the subjects to ask about; None asks about all.
    order: of the questions within a prompt. "given", or "length" for the shortest first.
    cache: a folder that keeps the prompts built from the hub.
    Raises SettingError for an invalid value.
    """

    name: str
    hub: Hub
    columns: Mapping[str, str]
    form: str
    questions: int
    max_new_tokens: int
    examples: str = field(metadata={"limit": True})  # the hash in `origin` covers its content
    instruction: str | None = field(default=None, metadata={"limit": True})
    subjects: Sequence[str] | None = None
    order: str = "given"
    source: str | None = field(default=None, metadata={"limit": True})
    cache: str | None = field(default=None, metadata={"limit": True})

    def __post_init__(self) -> None:
        check_count(self, "questions", low=1)
        check_count(self, "max_new_tokens", low=1)
        check_choice(self, "form", FORMS)
        check_choice(self, "order", ("given", "length"))
        if not {"question", "answer"} <= set(self.columns) <= set(PARTS):
            raise SettingError(self, "columns", self.columns, "names for question, answer, and maybe choices, subject")
        if self.subjects is not None and "subject" not in self.columns:
            raise SettingError(self, "subjects", self.subjects, "null: this data set has none")

    @cached_property
    def _samples(self) -> tuple[Sample, ...]:
        file = Path(self.instruction) if self.instruction else WORKED / "instruction.txt"
        instruction = read_text(file, "task.instruction").strip()
        kept = self.source is None and self.cache is not None and self._path.exists()
        rows = read(str(self._path), []) if kept else self._rows()
        samples = stamped([self._sample(row, at, instruction) for at, row in enumerate(rows)])
        if self.source is None and self.cache and not kept:
            write_set(self._path, samples)
        return samples

    def _rows(self) -> list[Row]:
        """One row for each prompt, in the released form."""
        if self.source is not None:
            short = self.name.partition("_")[0]
            named = (short, f"{short}_{self.questions}", self.hub.subset, self.hub.split)
            rows = read(self.source, [name for name in named if name])
            where = f"task.source={self.source}"
            return self._released(rows, where) if "prompt" in rows[0] else self._build(rows, where)
        return self._build(self.hub.rows(advice(self.name)), self.hub.dataset)

    @cached_property
    def _path(self) -> Path:
        """The file of the built set. A hash in its name covers all that the set is built from."""
        made_of = [self.hub, self.columns, self.questions, self.subjects, self.order, self._worked]
        digest = hashlib.sha256(repr(made_of).encode()).hexdigest()
        return Path(self.cache or ".") / f"{self.name}-{digest[:12]}.jsonl"

    # from rows of the data set to prompts

    @cached_property
    def _worked(self) -> list[Row]:
        """The worked examples: rows with question, steps and answer, and choices if the answer is one."""
        named = self.examples.endswith((".yaml", ".yml", ".json"))
        file = Path(self.examples) if named else WORKED / f"{self.examples}.yaml"
        if not named and not file.exists():
            known = sorted(path.stem for path in WORKED.glob("*.yaml"))
            allowed = f"one of {', '.join(known)}, or a .yaml or .json file"
            raise ConfigError(SettingError(self, "examples", self.examples, allowed).describe("task.examples"))
        where = f"task.examples={self.examples}"
        rows = read_examples(file, where)
        for at, row in enumerate(rows, start=1):
            require(row, ["question", "steps", "answer"], f"{where}: example {at}")
        return rows

    def _build(self, rows: Sequence[Row], where: str) -> list[Row]:
        items = [self._item(row, f"{where}: row {at}") for at, row in enumerate(rows, start=1)]
        return [self._prompt(subject, group) for subject, group in self._groups(items, where)]

    def _item(self, row: Row, where: str) -> Item:
        keys = {column: f"task.columns.{part}" for part, column in self.columns.items()}
        require(row, list(keys), where, keys)
        given = {part: row[column] for part, column in self.columns.items()}
        if self.form == "number":
            expected_number(given["answer"], where)
            return Item(str(given["question"]), str(given["answer"]), given.get("subject"))
        text, label = with_choices(given["question"], given.get("choices"), given["answer"], where)
        return Item(text, label, given.get("subject"))

    def _groups(self, items: Sequence[Item], where: str) -> Iterator[tuple[str | None, Sequence[Item]]]:
        """Subject and questions of each prompt: the first K questions of each subject, or K after K of all.

        Questions that do not fill a last prompt are left out.
        """
        if "subject" not in self.columns:
            if len(items) < self.questions:
                raise ConfigError(self._too_few(where, "", len(items)))
            for start in range(0, len(items) - self.questions + 1, self.questions):
                yield None, items[start : start + self.questions]
            return
        by_subject: dict[str, list[Item]] = {}
        for item in items:
            by_subject.setdefault(str(item.subject), []).append(item)
        for subject in self.subjects or by_subject:
            if subject not in by_subject:
                raise ConfigError(unknown_subject(subject, by_subject))
            if len(by_subject[subject]) < self.questions:
                raise ConfigError(self._too_few(where, f" of {subject}", len(by_subject[subject])))
            yield subject, by_subject[subject][: self.questions]

    def _too_few(self, where: str, of: str, there: int) -> str:
        return f"{where}: has {there} questions{of}, fewer than task.questions={self.questions}"

    def _prompt(self, subject: str | None, items: Sequence[Item]) -> Row:
        if self.order == "length":
            items = sorted(items, key=lambda item: len(item.text))
        worked = []
        for number, row in enumerate(self._worked, start=1):
            text, answer = str(row["question"]), str(row["answer"])
            if self.form == "choice":
                where = f"task.examples={self.examples}: example {number}"
                text, label = with_choices(row["question"], row.get("choices"), answer, where)
                answer = f"({label})"
            worked.append(Worked(text, f"{str(row['steps']).strip()}\nThe answer is {answer}."))
        return prompt_row(worked, items, subject)

    # from prompts to samples

    def _released(self, rows: Sequence[Row], where: str) -> list[Row]:
        """Prompts as the benchmark released them, after a check that they fit the settings."""
        if self.order != "given":
            raise ConfigError(f"task.order={self.order}: must be `given` for prompts that are already built ({where})")
        check_prompts(rows, where)
        for at, row in enumerate(rows, start=1):
            if (asks := len(row["questions"])) != self.questions:
                raise ConfigError(f"{where}: row {at} asks {asks} questions, and task.questions={self.questions}")
        if self.subjects is None:
            return list(rows)
        there = {str(row.get("task")): row for row in rows}
        if unknown := [subject for subject in self.subjects if subject not in there]:
            raise ConfigError(unknown_subject(unknown[0], there))
        return [there[subject] for subject in self.subjects]

    def _sample(self, row: Row, at: int, instruction: str) -> Sample:
        where = f"{self.source or self.hub.dataset}: prompt {at + 1}"
        questions = asked_in(row, self.form, where)
        subject = str(row.get("task") or "")
        return Sample(
            f"{self.name}-{subject or at}",
            str(row["prompt"]),
            questions,
            asked=tuple(map(str, row["questions"])),
            subject=subject,
            instruction=instruction,
            gold=solved(row, questions, where),
        )


def unknown_subject(subject: str, known: Iterable[str]) -> str:
    return f"task.subjects: {subject} is not in the data set{nearest(subject, known)}"
