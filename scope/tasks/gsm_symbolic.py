"""GSM-Symbolic (Mirzadeh et al. 2024, arXiv 2410.05229): sums in words with fresh names and numbers, without end.

They are made by the package reasoning-gym, from the templates that it has checked, and asked in LongGenBench's shape.
"""

import hashlib
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

from scope.tasks.longgenbench import LongGenBench
from scope.tasks.numbered import steps_of
from scope.tasks.sets import stamped
from scope.tasks.sources import Hub, Row
from scope.tasks.task import SPLITS, BuiltOnce, Sample
from scope.util.errors import ScopeError, check_choice, check_count

MOST_PROMPTS = 1000
ORDER = " Give the result as your final answer. Do not include units."  # the package's own, after every question


@dataclass(frozen=True)
class GSMSymbolic(BuiltOnce):
    """`questions` sums in each prompt, after worked examples, with solutions that replay can force.

    split: what the samples are for; its seeds are those of no other. seed: of the sums. prompts: how many samples; the
    i-th is the same whatever it is. examples, instruction: as in `LongGenBench`.
    Raises SettingError for values that cannot be.
    """

    questions: int
    max_new_tokens: int
    examples: str = field(default="gsm8k", metadata={"limit": True})  # the samples' origin tells what was in it
    instruction: str | None = field(default=None, metadata={"limit": True})
    split: str = "report"
    seed: int = 0
    prompts: int = field(default=24, metadata={"limit": True})

    def __post_init__(self) -> None:
        check_count(self, "questions", low=1)
        check_count(self, "max_new_tokens", low=1)
        check_choice(self, "split", SPLITS)
        check_count(self, "seed")
        check_count(self, "prompts", low=1, high=MOST_PROMPTS)

    @cached_property
    def _samples(self) -> tuple[Sample, ...]:
        """Raises ScopeError where reasoning-gym is not installed."""
        count = self.questions * self.prompts
        made = LongGenBench(
            f"gsm_symbolic-{self.split}-{self.seed}",
            _Templates("reasoning-gym", "gsm_symbolic", self.split, seed=self.seed, count=count),
            {"question": "question", "answer": "answer"},
            "number",
            self.questions,
            self.max_new_tokens,
            examples=self.examples,
            instruction=self.instruction,
        ).samples()
        # The first tells the package, the examples and the instruction; the settings tell the rest.
        origin = stamped([replace(made[0], origin="")])[0].origin
        return tuple(replace(sample, origin=origin) for sample in made)


@dataclass(frozen=True)
class _Templates(Hub):
    """Rows that are made on the spot: the first `count` sums of a seed, none of them twice."""

    seed: int = 0
    count: int = 1

    def rows(self, advice: str) -> list[Row]:
        try:
            from reasoning_gym.arithmetic.gsm_symbolic import gsm_symbolic
        except ImportError as error:
            raise ScopeError("task=gsm_symbolic needs: pip install -e '.[gsm]'") from error
        # The package draws its n-th sum from seed + n, so seeds have to lie far apart.
        digest = hashlib.sha256(f"{self.split}-{self.seed}".encode()).hexdigest()
        config = gsm_symbolic.GSMSymbolicDatasetConfig(seed=int(digest[:15], 16), size=2 * self.count + 1000)
        made: dict[str, Row] = {}
        for entry in gsm_symbolic.GSMSymbolicDataset(config):
            row = _row(entry)
            made.setdefault(row["question"], row)
            if len(made) == self.count:
                break
        return list(made.values())


def _row(entry: Any) -> Row:
    """A sum in GSM8K's columns. The package's solutions end in 8.0 where its answer is 8."""
    steps = steps_of(entry["metadata"]["answer_cot"])
    return {"question": entry["question"].removesuffix(ORDER), "answer": f"{steps}\n#### {entry['answer']}"}
