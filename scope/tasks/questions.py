"""Rows of questions and answers as a task: a new data set needs a YAML and no code."""

import hashlib
import math
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from functools import cached_property
from pathlib import Path
from string import Formatter
from typing import Any

from scope.scoring import FORMS, score
from scope.scoring.answer import Question
from scope.tasks.numbered import (
    PARTS,
    Item,
    Worked,
    as_printed,
    asked_in,
    check_prompts,
    expected_label,
    expected_number,
    prompt_row,
    solved,
    steps_of,
    with_choices,
)
from scope.tasks.sets import advice, stamped, write_set
from scope.tasks.sources import Hub, Row, read, read_examples, require
from scope.tasks.task import BuiltOnce, Pieces, Sample
from scope.util.errors import ConfigError, SettingError, check_choice, check_count, nearest, shown

IN_THE_SAMPLES = {"limit": True}  # not part of the identity itself: the hash in `origin` covers it


@dataclass(frozen=True)
class Questions(BuiltOnce):
    """K rows of a data set in each prompt, as numbered questions. The last prompt asks the rest of the rows.

    The prompt has LongGenBench's form (scope.tasks.numbered): worked examples, then the questions.

    name: of the samples. questions: K. max_new_tokens: T.
    source: a file or folder of rows. hub: a data set of the hub, used if there is no source.
    columns: the names that the rows have for question and answer, and if needed for choices and subject. choices is one
    column of lists, or a list of columns. If there are subjects, each prompt asks about one of them.
    form: what an answer looks like, one of `scope.scoring.FORMS`.
    instruction: the text that goes before the prompt.
    examples: worked examples, as rows with the same columns, or as a .yaml or .json file of such rows.
    question_format: the text of a question. {column} stands for the row's text in that column. None takes the question.
    answer_format: the same for a worked answer; {answer} is the right one. None takes the example's `steps`, if it has
    them, and "The answer is {answer}."
    stop: texts that end a generation. shuffle: a seed for another order of the rows; None keeps their order.
    cache: a folder that keeps the prompts built from the hub.
    Raises SettingError for an invalid value.
    """

    name: str
    columns: Mapping[str, str | Sequence[str]] = field(metadata=IN_THE_SAMPLES)
    form: str
    max_new_tokens: int
    questions: int = 1
    instruction: str = field(default="", metadata=IN_THE_SAMPLES)
    examples: Sequence[Mapping[str, object]] | str = field(default=(), metadata=IN_THE_SAMPLES)
    question_format: str | None = field(default=None, metadata=IN_THE_SAMPLES)
    answer_format: str | None = field(default=None, metadata=IN_THE_SAMPLES)
    stop: Sequence[str] = ()
    shuffle: int | None = None
    source: str | None = field(default=None, metadata=IN_THE_SAMPLES)
    hub: Hub | None = field(default=None, metadata=IN_THE_SAMPLES)
    cache: str | None = field(default=None, metadata=IN_THE_SAMPLES)

    def __post_init__(self) -> None:
        check_count(self, "questions", low=1)
        check_count(self, "max_new_tokens", low=1)
        check_choice(self, "form", FORMS)
        if self.shuffle is not None:
            check_count(self, "shuffle")
        if not {"question", "answer"} <= set(self.columns) <= set(PARTS):
            raise SettingError(self, "columns", self.columns, "names for question, answer, and maybe choices, subject")
        if several := [part for part, name in self.columns.items() if part != "choices" and not isinstance(name, str)]:
            raise SettingError(self, f"columns.{several[0]}", self.columns[several[0]], "the name of one column")
        if "choices" in self.columns and self.form != "choice":
            raise SettingError(self, "form", self.form, "choice where columns.choices is given")
        if isinstance(self.stop, str) or not all(isinstance(text, str) and text for text in self.stop):
            raise SettingError(self, "stop", self.stop, "a list of texts, none of them empty")
        for name in ("question_format", "answer_format"):
            template = getattr(self, name)
            if template is not None and not _is_template(template):
                raise SettingError(self, name, template, "a text with {column} in it; {{ and }} print a brace")
        if isinstance(self.examples, str) and not self.examples.endswith((".yaml", ".yml", ".json")):
            raise SettingError(self, "examples", self.examples, "a list of rows, or a .yaml or .json file")
        if self.source is None and self.hub is None:
            raise SettingError(self, "source", None, "a file or folder of questions, unless there is a task.hub")

    @cached_property
    def _samples(self) -> tuple[Sample, ...]:
        if self.source is not None:
            rows, where = read(self.source, [self.name]), f"task.source={self.source}"
            return self._stamped(self._made(rows, where) if set(rows[0]) >= MADE else self._build(rows, where), where)
        assert self.hub is not None
        if self.cache is None:
            return self._stamped(self._build(self.hub.rows(advice(self.name)), self.hub.dataset), self.hub.dataset)
        kept = self._kept(self.hub)
        if kept.exists():
            return self._stamped(read(str(kept), []), str(kept))
        samples = self._stamped(self._build(self.hub.rows(advice(self.name)), self.hub.dataset), self.hub.dataset)
        write_set(kept, samples)
        return samples

    def _kept(self, hub: Hub) -> Path:
        """The file of the set built from the hub. A hash in its name covers all that the set is built from."""
        made_of = [hub, self.columns, self.form, self.questions, self.shuffle, self._worked]
        digest = hashlib.sha256(repr([*made_of, self.question_format]).encode()).hexdigest()
        return Path(self.cache or ".") / f"{self.name}-{digest[:12]}.jsonl"

    def _stamped(self, rows: Sequence[Row], where: str) -> tuple[Sample, ...]:
        return stamped([self._sample(row, at, f"{where}: prompt {at + 1}") for at, row in enumerate(rows)])

    def _sample(self, row: Row, at: int, where: str) -> Sample:
        questions = asked_in(row, self.form, where)
        return Sample(
            f"{self.name}-{at}",
            str(row["prompt"]),
            questions,
            stop=tuple(self.stop),
            asked=tuple(map(str, row["questions"])),
            subject=str(row.get("task") or ""),
            instruction=self.instruction.strip(),
            gold=solved(row, questions, where),
        )

    def _made(self, rows: Sequence[Row], where: str) -> Sequence[Row]:
        """Prompts that are already built, after a check that they fit the settings."""
        check_prompts(rows, where)
        if (most := max(len(row["questions"]) for row in rows)) != self.questions:
            raise ConfigError(f"{where}: its prompts ask up to {most} questions, and task.questions={self.questions}")
        return rows

    # from rows of the data set to prompts

    def _build(self, rows: Sequence[Row], where: str) -> list[Row]:
        if len(rows) < self.questions:
            raise ConfigError(f"{where}: has {len(rows)} questions, fewer than task.questions={self.questions}")
        keys = {name: f"task.columns.{part}" for part, named in self.columns.items() for name in _names(named)}
        require(rows[0], list(keys), f"{where}: row 1", keys)
        items = [self._item(row, f"{where}: row {at}") for at, row in enumerate(rows, start=1)]
        there = {example.question: f"worked example {at}" for at, example in enumerate(self._worked, start=1)}
        for at, item in enumerate(items, start=1):  # a repeat counts double; an example tells the answer
            if (other := there.setdefault(item.text, f"row {at}")) != f"row {at}":
                raise ConfigError(f"{where}: row {at} asks the same as {other}: leave one of them out")
        if self.shuffle is not None:
            random.Random(self.shuffle).shuffle(items)
        return [prompt_row(self._worked, group, group[0].subject) for group in self._groups(items)]

    def _groups(self, items: Sequence[Item]) -> Iterator[Sequence[Item]]:
        """The questions of each prompt: K after K of each subject. The last prompt of a subject may have fewer."""
        for subject in dict.fromkeys(item.subject for item in items):
            of_one = [item for item in items if item.subject == subject]
            for start in range(0, len(of_one), self.questions):
                yield of_one[start : start + self.questions]

    def _item(self, row: Row, where: str) -> Item:
        """A row as it is printed, with its right answer in the form that the scorers read."""
        if None in row:  # in a .csv: a cell has a comma and no quotes
            raise ConfigError(f"{where} has more cells than there are columns")
        require(row, [name for named in self.columns.values() for name in _names(named)], where)
        given = {
            part: row[named] if isinstance(named, str) else [row[name] for name in named]
            for part, named in self.columns.items()
        }
        if not isinstance(given["question"], str):
            raise ConfigError(f"{where}: {self.columns['question']} must be a text")
        text = _text(given["question"], f"{where}: {self.columns['question']}")
        if self.question_format is not None:
            text = filled(self.question_format, row, f"task.question_format: {where}")
        answer = given["answer"]
        if self.form == "number":
            answer = expected_number(_digits(answer), where)
        else:
            if "choices" in given:
                text, answer = with_choices(text, *_in_order(given["choices"], answer, where), where)
            answer = expected_label(answer, where)
        if not self._reads(answer, f"The answer is {self._printed(answer)}."):
            raise ConfigError(f"{where}: answer={shown(answer)}: the scorers do not read such a {self.form}")
        subject = _text(given["subject"], f"{where}: {self.columns['subject']}") if "subject" in given else None
        return Item(
            _text(text, f"{where}: what is asked"), answer, subject, self._solution(row, given["answer"], answer)
        )

    def _solution(self, row: Row, given: object, answer: str) -> Pieces:
        """The right answer in the manner of a worked one, or without its `answer_format` where the row lacks columns.

        given: the answer as the row has it, maybe with steps.
        """
        steps = str(row.get("steps") or "").strip() or steps_of(given)
        template, mark = self.answer_format, "\0"
        named = {name for _, name, _, _ in Formatter().parse(template or "")} - {None, "answer", "steps"}
        if template is None or not all(isinstance(row.get(str(name)), str | int | float) for name in named):
            return as_printed(steps, answer)
        printed = self._printed(answer).replace(answer, mark)
        first, *others = filled(template, row | {"steps": steps, "answer": printed}, "").split(mark)
        return [
            (first, False),
            *((part, is_value) for other in others for part, is_value in ((answer, True), (other, False))),
        ]

    def _printed(self, answer: str) -> str:
        return f"({answer})" if self.form == "choice" else answer

    def _reads(self, answer: str, text: str) -> bool:
        """Whether the scorers take this text for the right answer."""
        return score([Question(1, answer)], f"Answer_1:\n{text}\n", self.form)[0].correct

    @cached_property
    def _worked(self) -> list[Worked]:
        """The worked examples; the same columns as the data have, and `steps` if there are any."""
        where, rows = "task.examples", self.examples
        if isinstance(rows, str):
            where = f"task.examples={rows}"
            rows = read_examples(Path(rows), where)
        return [self._example(dict(row), f"{where}: example {at}") for at, row in enumerate(rows, start=1)]

    def _example(self, row: Row, where: str) -> Worked:
        """A worked example as it is printed.

        Raises ConfigError if the scorers would not read its answer. A model that follows such an example would score 0.
        """
        subject = {str(name): "any" for part, name in self.columns.items() if part == "subject"}
        item = self._item(row | subject, where)
        template = self.answer_format
        if template is None:
            template = "{steps}\nThe answer is {answer}." if "steps" in row else "The answer is {answer}."
        values = row | {"answer": self._printed(item.answer)}
        answer = filled(template, values, f"task.answer_format: {where}")
        if not self._reads(item.answer, answer):
            raise ConfigError(
                f"task.answer_format: {where}: the scorers do not read {item.answer} in this answer; "
                "end it with 'The answer is {answer}.'"
            )
        return Worked(item.text, answer)


MADE = {"prompt", "questions", "answers"}  # the columns of prompts that are already built


def _names(named: str | Sequence[str]) -> Sequence[str]:
    return [named] if isinstance(named, str) else named


def _text(value: object, where: str) -> str:
    """The text to print, without surrounding blanks. Raises ConfigError, naming `where`, if it is empty or no text."""
    text = str(value).strip() if isinstance(value, str | int | float) else ""
    if not text or text != text.encode(errors="ignore").decode():  # half of a surrogate pair
        raise ConfigError(f"{where} must be a text")
    return text


def _digits(answer: object) -> object:
    """A JSON number without an exponent: 1e-07 becomes 0.0000001."""
    return f"{Decimal(repr(answer)):f}" if isinstance(answer, float) and math.isfinite(answer) else answer


def _in_order(choices: object, answer: object, where: str) -> tuple[object, object]:
    """Choices and answer as `with_choices` takes them.

    Labels of the data set's own (1, 2, .. or a, b, ..) become letters in their order. Raises ConfigError, naming
    `where`.
    """
    texts = choices
    if isinstance(choices, Mapping):
        require(choices, ["label", "text"], f"{where}: choices")
        labels = [str(label) for label in choices["label"]] if isinstance(choices["label"], list) else []
        if str(answer) not in labels:
            raise ConfigError(f"{where}: answer={shown(answer)}: must be one of {', '.join(labels)}")
        texts, answer = choices["text"], labels.index(str(answer))
    if isinstance(texts, list) and any(text is None or not str(text).strip() for text in texts):
        raise ConfigError(f"{where}: choices={shown(texts)}: must have no empty one")
    return texts, answer


def _is_template(text: object) -> bool:
    """Whether each pair of braces holds a plain name: no attribute, no conversion, no width."""
    try:
        parts = list(Formatter().parse(text)) if isinstance(text, str) else [("", "", "", None)]
    except ValueError:
        return False
    return all(name is None or (name and not spec and not conversion) for _, name, spec, conversion in parts)


def filled(template: str, row: Mapping[str, Any], where: str) -> str:
    """The template with the row's text in place of each {column}. Braces within the row's text are left as they are.

    Raises ConfigError, naming `where`, if a column is missing or holds no text or number.
    """
    parts = []
    for text, name, _, _ in Formatter().parse(template):
        parts.append(text)
        if name is None:
            continue
        if name not in row:
            there = ", ".join(sorted(map(str, row)))
            raise ConfigError(f"{where} has no column {name}; it has {there}{nearest(name, map(str, row))}")
        if isinstance(row[name], list | dict):
            raise ConfigError(f"{where}: column {name} holds no text that can be printed")
        parts.append("" if row[name] is None else str(row[name]).strip())
    return "".join(parts)
