"""Numbered questions: K of them in one prompt. The answers of data sets are brought into one form.

The prompt has LongGenBench's form (arXiv 2410.04199). Worked examples come first, as Question_1.. and Answer_1... The
questions that are asked follow and go on with the next number. Scorers find an answer by its header, `Answer_12:`."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from string import ascii_uppercase
from typing import Any

from scope.scoring.answer import Question
from scope.tasks.sets import written_gold
from scope.tasks.sources import Row, require
from scope.tasks.task import Pieces, Reference
from scope.util.errors import ConfigError, shown

PARTS = ("question", "answer", "choices", "subject")  # what `columns` may name
ASKED = "Following Question:"  # the questions that are asked stand after this line
HEADER = re.compile(r"^Question_(\d+):", re.MULTILINE)
NUMBER = re.compile(r"-?(\d+\.?\d*|\.\d+)")
SOLUTION = re.compile(r"####\s*(.+?)\s*$")  # how GSM8K ends an answer
CALCULATION = re.compile(r"<<[^<>\n]*>>")  # its notes for a calculator


@dataclass(frozen=True)
class Item:
    """One question as it is printed, and its right answer: a number, or the letter of a choice.

    solution: the answer as a perfect model would print it; None where the answer's own steps and value say that.
    """

    text: str
    answer: str
    subject: str | None = None
    solution: Pieces | None = None


@dataclass(frozen=True)
class Worked:
    """A worked example as it is printed: a question, and an answer with its steps."""

    question: str
    answer: str


def prompt_row(worked: Sequence[Worked], items: Sequence[Item], subject: str | None = None) -> Row:
    """One prompt as a row in the form in which the benchmark was released.

    The row has the columns prompt, questions and answers, and task if there is a subject.
    """
    shown_first = [f"Question_{number}:\n{example.question}\n" for number, example in enumerate(worked, start=1)]
    shown_first += [f"Answer_{number}:\n{example.answer}\n" for number, example in enumerate(worked, start=1)]
    examples = ["Examples: ", *shown_first] if worked else []
    about = [f"Subject: {subject.replace('_', ' ')}\n"] if subject else []
    following = [f"Question_{number}:\n{item.text}\n" for number, item in enumerate(items, start=len(worked) + 1)]
    named = {"task": subject} if subject else {}
    return named | {
        "prompt": "\n".join([*examples, f"{ASKED} ", *about, *following, ""]),
        "questions": [item.text for item in items],
        "answers": [item.answer for item in items],
        "solutions": [item.solution for item in items],
    }


def asked_in(row: Row, form: str, where: str) -> tuple[Question, ...]:
    """The questions of a prompt, with the numbers that it prints. form: "number" or "choice".

    Raises ConfigError, naming `where`, if the prompt prints another number of questions than it has answers, or if an
    answer does not have this form.
    """
    _, header, asking = str(row["prompt"]).partition(ASKED)
    numbers = [int(number) for number in HEADER.findall(asking)]
    if not header or len(numbers) != len(row["answers"]):
        raise ConfigError(f"{where} asks {len(numbers)} questions after '{ASKED}', and has {len(row['answers'])}")
    expected = expected_number if form == "number" else expected_label
    answers = [expected(answer, where) for answer in row["answers"]]
    return tuple(Question(number, answer) for number, answer in zip(numbers, answers, strict=True))


def solved(row: Row, questions: Sequence[Question], where: str) -> Reference:
    """All answers to a prompt, in the manner of its worked examples. The values are what "The answer is" says.

    Raises ConfigError, naming `where`, for a written one that is none.
    """
    if (written := written_gold(row, where)) is not None:
        return written
    solutions = row.get("solutions") or [None] * len(questions)
    pieces: list[tuple[str, bool]] = []
    for question, answer, solution in zip(questions, row["answers"], solutions, strict=True):
        pieces += [("\n" if pieces else "", False), (f"Answer_{question.number}:\n", False)]
        pieces += solution or as_printed(steps_of(answer), question.expected)
        pieces.append(("\n", False))
    return Reference.of(pieces)


def as_printed(steps: str, value: str) -> list[tuple[str, bool]]:
    """A right answer with its steps, if there are any, as the worked examples have theirs."""
    before, after = ("(", ")") if value.isalpha() else ("", "")
    led = f"{steps}\n" if steps else ""
    return [(f"{led}The answer is {before}", False), (value, True), (f"{after}.", False)]


def steps_of(answer: object) -> str:
    """The steps of an answer that ends as GSM8K's do, without its notes for a calculator; empty for any other."""
    steps, ending, _ = str(answer).rpartition("####")
    return CALCULATION.sub("", steps).strip() if ending else ""


def check_prompts(rows: Sequence[Row], where: str) -> None:
    """Raise ConfigError, naming `where`, if a row is not a prompt in the released form."""
    for at, row in enumerate(rows, start=1):
        require(row, ["prompt", "questions", "answers"], f"{where}: row {at}")
        questions, answers = (row[column] for column in ("questions", "answers"))
        if not isinstance(questions, list) or not isinstance(answers, list) or len(questions) != len(answers):
            raise ConfigError(f"{where}: row {at}: questions and answers must be lists of the same length")


def with_choices(question: Any, choices: Any, answer: Any, where: str) -> tuple[str, str]:
    """The question with its labelled choices below it, and the label of the right one.

    choices: a list of texts, labelled A, B, ..; or {label: [...], text: [...]}. answer: a label, or an index from 0.
    Raises ConfigError, naming `where`, if there are fewer than two choices, or if the answer is none of them.
    """
    if isinstance(choices, Mapping):
        require(choices, ["label", "text"], f"{where}: choices")
        labels, texts = _listed(choices["label"]), _listed(choices["text"])
    else:
        texts = _listed(choices)
        labels = list(ascii_uppercase[: len(texts)])
    if len(texts) < 2 or len(texts) != len(labels):
        raise ConfigError(f"{where}: choices={shown(choices)}: must be a list of two or more")
    right = str(answer).strip()
    if right.isdigit() and right not in labels and int(right) < len(labels):
        right = labels[int(right)]
    if right not in labels:
        raise ConfigError(f"{where}: answer={shown(answer)}: must be one of {', '.join(map(str, labels))}")
    listed = " ".join(f"({label}) {text}" for label, text in zip(labels, texts, strict=True))
    return f"{question}\n{listed}", right


def _listed(value: Any) -> list[Any]:
    """A cell as a list; empty if the cell holds anything else."""
    return list(value) if isinstance(value, list | tuple) else []


def expected_number(answer: Any, where: str) -> str:
    """The number of a data set's answer, as it is written there: after GSM8K's ####, or the whole answer.

    It is not normalised, since the released scorer reads 1,200 as 1. Raises ConfigError, naming `where`, if there is
    none.
    """
    ending = SOLUTION.search(str(answer))
    number = (ending[1] if ending else str(answer)).strip()
    if not NUMBER.fullmatch(number.replace(",", "").lstrip("$")):
        end = str(answer).replace("\n", " ")[-40:]
        raise ConfigError(f"{where}: answer={end}: must be a number, or end in '#### ' and a number")
    return number


def expected_label(answer: Any, where: str) -> str:
    """The letter of a choice. Raises ConfigError, naming `where`, if the answer is anything else."""
    if not isinstance(answer, str) or len(answer) != 1 or answer not in ascii_uppercase:
        raise ConfigError(f"{where}: answer={shown(answer)}: must be the letter of a choice")
    return answer
