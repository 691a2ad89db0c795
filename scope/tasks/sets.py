"""Built sets as files: one line per prompt, in the form in which LongGenBench was released."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from scope.tasks.task import Sample
from scope.util.files import make_folder, write_whole


def write_set(path: Path, samples: Sequence[Sample]) -> None:
    """Write samples as JSON lines, which can be used as a `task.source`. Raises what the file system raises."""
    make_folder(path.parent)
    write_whole(path, as_lines(samples))


def as_lines(samples: Sequence[Sample]) -> str:
    """Samples as JSON lines.

    A line has the fields prompt, questions and answers. A subject is written as task, a summary's references as
    references.
    """
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
    return "".join(rows)


def stamped(samples: Sequence[Sample]) -> tuple[Sample, ...]:
    """The samples, each with a hash of all samples as its origin."""
    digest = hashlib.sha256(repr(list(samples)).encode()).hexdigest()
    return tuple(replace(sample, origin=digest) for sample in samples)


def advice(name: str) -> str:
    """What to do if the hub cannot be reached, for an error message."""
    command = f"python -m scope.tasks build task={name}"
    return f"where there is a network: {command}; then here task.source=<the file that it writes>"
