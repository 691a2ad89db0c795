"""Built sets as files: one line per prompt, in the form in which LongGenBench was released."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path

from scope.tasks.sources import Row
from scope.tasks.task import Reference, Sample
from scope.util.errors import ConfigError, shown
from scope.util.files import make_folder, write_whole


def write_set(path: Path, samples: Sequence[Sample]) -> None:
    """Write samples as JSON lines, which can be used as a `task.source`. Raises what the file system raises."""
    make_folder(path.parent)
    write_whole(path, as_lines(samples))


def as_lines(samples: Sequence[Sample]) -> str:
    """Samples as JSON lines.

    A line has the fields prompt, questions and answers. A subject is written as task, a summary's references as
    references. A right answer with its spans is written as gold.
    """
    rows = []
    for sample in samples:
        row: Row = {
            "prompt": sample.prompt,
            "questions": list(sample.asked) or [f"Question_{question.number}" for question in sample.questions],
            "answers": [question.expected for question in sample.questions],
        }
        row |= {"task": sample.subject} if sample.subject else {}
        row |= {"references": list(sample.references)} if sample.references else {}
        row |= {"gold": asdict(sample.gold)} if sample.gold else {}
        rows.append(json.dumps(row, ensure_ascii=False) + "\n")
    return "".join(rows)


def written_gold(row: Row, where: str) -> Reference | None:
    """The right answer of a prompt, as `write_set` has written it; None where the row has none.

    Raises ConfigError, naming `where`, for what is none.
    """
    if (gold := row.get("gold")) is None:
        return None
    text, spans = (gold.get("text"), gold.get("spans", [])) if isinstance(gold, dict) else (None, [])
    if not isinstance(text, str) or not isinstance(spans, list) or not all(_is_span(span, text) for span in spans):
        allowed = "a text and its spans, each a begin and an end in it"
        raise ConfigError(f"{where}: gold={shown(gold)}: must be {allowed}")
    return Reference(text, tuple((begin, end) for begin, end in spans))


def _is_span(span: object, text: str) -> bool:
    if not isinstance(span, list) or len(span) != 2 or any(type(edge) is not int for edge in span):
        return False
    return bool(0 <= span[0] < span[1] <= len(text))


def stamped(samples: Sequence[Sample]) -> tuple[Sample, ...]:
    """The samples, each with a hash of all samples as its origin."""
    digest = hashlib.sha256(repr(list(samples)).encode()).hexdigest()
    return tuple(replace(sample, origin=digest) for sample in samples)


def advice(name: str) -> str:
    """What to do if the hub cannot be reached, for an error message."""
    command = f"python -m scope.tasks build task={name}"
    return f"where there is a network: {command}; then here task.source=<the file that it writes>"
