"""How the next token is chosen: greedily, or sampled."""

import hashlib
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor
from transformers.generation.logits_process import (
    LogitsProcessorList,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from scope.generation.processors import RowProcessors, as_generate, asked_for, least_tokens
from scope.generation.rows import Row
from scope.util.errors import CombinationError, SettingError, check_choice, check_count

if TYPE_CHECKING:
    from transformers import PreTrainedModel

PROCESSORS = ("none", "model")


@dataclass(frozen=True)
class Sampling:
    """How the next token is chosen: greedily at temperature 0, else sampled. The default is greedy.

    temperature: logits are divided by it.
    top_p: sample among the most likely tokens, as many as have this probability together.
    top_k: sample among so many most likely tokens; 0: all.
    seed: of sampling. Each prompt gets a seed of its own from it and its name, so tokens do not depend on the batch.
    min_new_tokens: an end of sequence is not chosen before so many tokens.
    samples: how many generations each prompt gets.
    processors: what else changes the logits. `none`: nothing. `model`: what the model's generation config asks for, as
    `model.generate` applies it (repetition_penalty, suppress_tokens and others). Temperature, top_p, top_k and whether
    to sample are still those given here, and so is min_new_tokens if it is above 0.

    Raises SettingError or CombinationError for values that are not allowed.
    """

    recorded_as: ClassVar[str] = "scope.generate.Sampling"

    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int = 0
    seed: int = 0
    min_new_tokens: int = 0
    samples: int = field(default=1, metadata={"limit": True})
    processors: str = "none"

    def __post_init__(self) -> None:
        for name, low, high in (("temperature", 0.0, 100.0), ("top_p", 0.0, 1.0)):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
                raise SettingError(self, name, value, f"a number from {low:g} to {high:g}")
        if self.top_p == 0:
            raise SettingError(self, "top_p", self.top_p, "above 0")
        check_count(self, "top_k")
        check_count(self, "seed")
        check_count(self, "min_new_tokens")
        check_count(self, "samples", low=1, high=10_000)  # all requests of a run are held in memory
        check_choice(self, "processors", PROCESSORS)
        if self.samples > 1 and self.temperature == 0:
            allowed = "1 at temperature 0, where all would be the same (sampling.temperature)"
            raise CombinationError(self, "samples", self.samples, allowed)

    def warpers(self) -> LogitsProcessorList:
        """What transformers applies to the logits for temperature, top_k and top_p."""
        chosen = LogitsProcessorList([TemperatureLogitsWarper(float(self.temperature))])
        if self.top_k:
            chosen.append(TopKLogitsWarper(self.top_k))
        if self.top_p < 1:
            chosen.append(TopPLogitsWarper(self.top_p))
        return chosen

    def needs_tokens(self, model: "PreTrainedModel") -> bool:
        """Whether the choice of a token depends on the tokens before it."""
        asks = self.processors == "model" and asked_for(model.generation_config, self.temperature > 0)
        return bool(self.min_new_tokens or asks)

    def row_processors(
        self, model: "PreTrainedModel", prompt: Sequence[int], most: int, eos: Collection[int]
    ) -> RowProcessors | None:
        """What changes the logits of a row; None if nothing does. most: T. eos: tokens that end a generation.

        With processors=model, temperature, top_k and top_p are included.
        """
        if self.processors == "none":
            return least_tokens(model, prompt, self.min_new_tokens, eos, most) if self.min_new_tokens and eos else None
        given: dict[str, Any] = {"do_sample": False, "temperature": None, "top_k": None, "top_p": None}
        if self.temperature > 0:
            given = {
                "do_sample": True,
                "temperature": float(self.temperature),
                "top_k": self.top_k,
                "top_p": float(self.top_p),
            }
        if self.min_new_tokens:
            given["min_new_tokens"] = self.min_new_tokens
        return as_generate(model, prompt, most, given)

    def seed_of(self, name: str) -> int:
        """The seed of the prompt with this name. It does not depend on the batch."""
        digest = hashlib.sha256(f"{self.seed} {name}".encode()).digest()
        return int.from_bytes(digest[:7], "big")

    def generator(self, name: str) -> torch.Generator:
        """The random numbers of the prompt with this name."""
        return torch.Generator().manual_seed(self.seed_of(name))


def choose(logits: Tensor, sampling: Sampling, rows: Sequence[Row]) -> Tensor:
    """Choose the next token of each row: logits [B, V] -> tokens [B]."""
    if any(row.processors for row in rows):
        changed = [
            row.processors(logits[b : b + 1], row.tokens) if row.processors and not row.finish else logits[b : b + 1]
            for b, row in enumerate(rows)
        ]
        logits = torch.cat([row.to(torch.float32) for row in changed])
    if sampling.temperature == 0:
        return logits.argmax(-1)
    scores = logits.float().cpu()
    if sampling.processors == "none":
        none = torch.LongTensor(logits.shape[0], 0)  # the warpers need no tokens
        scores = sampling.warpers()(none, scores)
    drawn = [
        torch.multinomial(chance, 1, generator=row.lot) for chance, row in zip(scores.softmax(-1), rows, strict=True)
    ]
    return torch.cat(drawn).to(logits.device)
