"""Questions and answers as the data sets have them, brought into one form."""

import re
from collections.abc import Mapping
from string import ascii_uppercase
from typing import Any

from scope.tasks.sources import require
from scope.util.errors import ConfigError, shown

NUMBER = re.compile(r"-?(\d+\.?\d*|\.\d+)")
SOLUTION = re.compile(r"####\s*(.+?)\s*$")  # how GSM8K ends an answer


def with_choices(question: Any, choices: Any, answer: Any, where: str) -> tuple[str, str]:
    """-> the question with its labelled choices, the right label. choices: texts, or {label: [...], text: [...]}."""
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
    """What a cell holds as a list; empty where it holds anything else."""
    return list(value) if isinstance(value, list | tuple) else []


def expected_number(answer: Any, where: str) -> str:
    """The number after GSM8K's ####, or a bare number, as it stands there: the paper's scorer reads 1,200 as 1."""
    ending = SOLUTION.search(str(answer))
    number = (ending[1] if ending else str(answer)).strip()
    if not NUMBER.fullmatch(number.replace(",", "").lstrip("$")):
        end = str(answer).replace("\n", " ")[-40:]
        raise ConfigError(f"{where}: answer={end}: must be a number, or end in '#### ' and a number")
    return number


def expected_label(answer: Any, where: str) -> str:
    if not isinstance(answer, str) or len(answer) != 1 or answer not in ascii_uppercase:
        raise ConfigError(f"{where}: answer={shown(answer)}: must be the letter of a choice")
    return answer
