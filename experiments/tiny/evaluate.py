"""What the embedded model can do with the full cache: `python -m experiments.tiny.evaluate`.

Accuracy by number of questions, for two seeds of prompts that training never drew; at one length also with another
start of the numbering, another listing of the same questions, and by where and what was asked. Writes accuracy.json.
"""

import argparse
import json
import platform
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
import transformers
from rich.console import Console
from rich.progress import track

from analysis.statistics import clustered_proportion
from experiments.tiny.recipe import Recipe
from scope.cache import Policy
from scope.generation import models
from scope.generation.models import Loaded, ModelSource
from scope.generation.rows import Prompt
from scope.generation.stream import generate
from scope.scoring import score
from scope.tasks import Arithmetic
from scope.tasks.language import Question
from scope.util.files import write_whole

LENGTHS = (4, 8, 12, 16, 20, 24, 28, 32)
SEEDS = (0, 1)
BASE = 24
RESULT = Path(__file__).with_name("accuracy.json")

Marks = list[list[bool]]  # per prompt, per question: whether it was answered right


def mark(loaded: Loaded, task: Arithmetic) -> Marks:
    """Answer the task's prompts with the full cache."""
    samples = task.samples()
    prompts = [Prompt(s.name, tuple(loaded.tokenizer(s.prompt).input_ids), s.stop) for s in samples]
    made = generate(loaded.model, loaded.tokenizer, prompts, Policy(), task.max_new_tokens)
    return [[a.correct for a in score(s.questions, m.text)] for s, m in zip(samples, made, strict=True)]


def figures(marks: Marks) -> dict[str, Any]:
    """Accuracy in %, with its interval clustered by prompt."""
    found = clustered_proportion([sum(row) for row in marks], [len(row) for row in marks])
    return {"answers": sum(map(len, marks))} | {k: round(100 * v, 2) for k, v in found._asdict().items()}


def back(question: Question) -> int:
    """How many answers back its reference lies; 0 = it has none."""
    return question.number - question.refers_to if question.refers_to else 0


def parts(task: Arithmetic, marks: Marks) -> dict[str, dict[str, Any]]:
    """By place among the answers, and by what was asked."""
    asked = [task.document(i).questions for i in range(len(marks))]

    def only(which: Callable[[int, Question], bool]) -> dict[str, Any]:
        rows = zip(marks, asked, strict=True)
        return figures([[m for i, m in enumerate(row) if which(i, qs[i])] for row, qs in rows])

    def quarter(i: int) -> int:
        return 4 * i // task.questions

    return {f"quarter {n + 1} of the answers": only(lambda i, q, n=n: quarter(i) == n) for n in range(4)} | {
        "one step": only(lambda i, q: len(q.steps) == 1),
        "two steps": only(lambda i, q: len(q.steps) == 2),
        "no reference": only(lambda i, q: not q.refers_to),
        "reference 1 to 3 answers back": only(lambda i, q: 1 <= back(q) <= 3),
        "reference 4 to 9 answers back": only(lambda i, q: 4 <= back(q) <= 9),
        "reference 10 or more answers back": only(lambda i, q: back(q) >= 10),
    }


def measure(loaded: Loaded, prompts: int, steps: Callable[[Sequence[Any]], Any]) -> dict[str, Any]:
    def task(questions: int, **settings: int) -> Arithmetic:
        return Arithmetic(questions=questions, prompts=prompts, max_new_tokens=40 * questions, **settings)

    lengths = {n: {seed: mark(loaded, task(n, seed=seed)) for seed in SEEDS} for n in steps(LENGTHS)}
    return {
        "questions": {
            n: {f"seed {seed}": figures(marks) for seed, marks in by_seed.items()} for n, by_seed in lengths.items()
        },
        f"the same {BASE} questions": {
            "numbered from 1": figures(mark(loaded, task(BASE, start=1))),
            "listed another way": figures(mark(loaded, task(BASE, listing=1))),
        },
        f"parts of {BASE} questions": parts(task(BASE), lengths[BASE][SEEDS[0]]),
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m experiments.tiny.evaluate",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--model", default="embedded", help="a folder written by experiments.tiny.export")
    parser.add_argument("--prompts", type=int, default=40)
    parser.add_argument("--out", type=Path, default=RESULT)
    args = parser.parse_args()
    source = ModelSource(path=args.model, device="cpu", threads=1)
    loaded = models.load(source)
    console = Console(stderr=True)
    measured = measure(
        loaded, args.prompts, lambda todo: track(todo, "answering", console=console, disable=not console.is_terminal)
    )
    about = {
        "recipe": Recipe.read([]).digest(),
        "weights": source.fingerprint(),
        "parameters": sum(p.numel() for p in loaded.model.parameters()),
        "prompts": args.prompts,
        "unit": "percent of answers right, with a 95% interval clustered by prompt",
        "versions": {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "transformers": transformers.__version__,
        },
    }
    write_whole(args.out, json.dumps(about | measured, indent=1) + "\n")
    print(json.dumps(measured, indent=1))


if __name__ == "__main__":
    main()
