"""Built sets as files: a line per prompt, in the form in which LongGenBench was released."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from scope.tasks.task import Sample
from scope.util.files import make_folder, write_whole


def write_set(path: Path, samples: Sequence[Sample]) -> None:
    """Fields prompt, questions, answers, task for a subject, references for a summary; good as a `task.source`."""
    rows = []
    for sample in samples:
        row = {
            "prompt": sample.prompt,
            "questions": list(sample.asked) or [f"Question_{question.number}" for question in sample.questions],
            "answers": [question.expected for question in sample.questions],
        }
        row |= {"task": sample.subject} if sample.subject else {}
        row |= {"references": list(sample.references)} if sample.references else {}
        rows.append(json.dumps(row, ensure_ascii=False) + "\n")
    make_folder(path.parent)
    write_whole(path, "".join(rows))


def stamped(samples: Sequence[Sample]) -> tuple[Sample, ...]:
    """The samples with the hash of all that they hold as their origin."""
    digest = hashlib.sha256(repr(list(samples)).encode()).hexdigest()
    return tuple(replace(sample, origin=digest) for sample in samples)


def advice(name: str) -> str:
    """What to do where the hub is out of reach."""
    command = f"python -m scope.tasks build task={name}"
    return f"where there is a network: {command}; then here task.source=<the file that it writes>"
