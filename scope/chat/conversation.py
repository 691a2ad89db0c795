"""A text that a user and a model write in turn. All of it goes through one compressed cache, once."""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from scope.cache import CompressedCache, Layout, Policy
from scope.generation.clock import Clock
from scope.generation.engine import Engine, devices_of
from scope.generation.models import Loaded, context
from scope.generation.rows import Prompt, Row
from scope.generation.sampling import Sampling, choose
from scope.generation.steps import Stepper
from scope.generation.stream import eos_of, prefill
from scope.generation.turns import read_turn
from scope.util.errors import ImpossibleError

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class Conversation:
    """The cache of one conversation, and the tokens that have come.

    cache: holds all tokens but those that wait. seconds: of the decode steps of the last answer. answer: its tokens.
    """

    def __init__(self, loaded: Loaded, policy: Policy, sampling: Sampling, most: int, engine: Engine) -> None:
        """most: tokens of an answer. engine: how steps are run; its batch size has no use here.

        Raises ScopeError for a model that a compressed cache does not support.
        """
        self._model: PreTrainedModel = loaded.model
        self._tokenizer, self._sampling, self._most, self._chunk = (
            loaded.tokenizer,
            sampling,
            most,
            engine.prefill_chunk,
        )
        self._kind = engine.on(devices_of(loaded.model))
        self._ends = eos_of(loaded.model)
        self.cache = CompressedCache.of(self._model.config, policy, Layout(whole=self._kind != "eager"))
        self._text: list[int] = []  # all tokens of both
        self._fed = 0  # of these, how many are in the cache
        self._turns = 0
        self._clock = Clock(self._model.device)
        self.answer: list[int] = []
        self.seconds = 0.0

    @torch.inference_mode()
    def say(self, tokens: Sequence[int]) -> Iterator[int]:
        """The user's next turn -> the tokens of the answer, as they come. It may be left at any token.

        An end of sequence that the model writes is left out: the next turn begins with what ends an answer.
        Raises ImpossibleError where the model's context has no room for the turn and an answer.
        """
        self._require_room(len(tokens))
        self._text += tokens
        logits = self._feed(self._text[self._fed :])
        prompt, name = tuple(self._text), f"turn {self._turns}"
        processors = self._sampling.row_processors(self._model, prompt, self._most, self._ends)
        lot, most = self._sampling.generator(name), min(self._most, self._room)
        row = Row(0, Prompt(name, prompt), self._tokenizer, self._ends, most, lot, processors)
        last = torch.tensor([[self._fed - 1]], device=self._model.device)  # its position
        stepper = Stepper(self._model, self.cache, last, self._kind)
        self.answer, self._turns, began = row.tokens, self._turns + 1, self._clock.now()
        while True:
            token = choose(logits, self._sampling, [row])
            self.seconds = self._clock.now() - began
            row.add(int(token), self.seconds)
            if row.finish == "eos":
                return
            self._text.append(int(token))
            yield int(token)
            if row.finish:
                return
            logits = stepper(token)
            self._fed += 1

    def _feed(self, tokens: Sequence[int]) -> Tensor:
        """Bring tokens into the cache -> logits [1, V] after the last of them."""
        if not self._fed:
            logits, _ = prefill(self._model, self.cache, [Prompt("", tokens)], 0, self._chunk)
        else:
            self.cache = self.cache.fork([0])  # a copy takes a turn also where no token was generated before
            logits, _ = read_turn(self._model, self.cache, [tokens], [self._fed])
        self._fed += len(tokens)
        return logits

    @property
    def _room(self) -> int:
        """Tokens that the model's context still has room for."""
        most = context(self._model.config)
        return self._most if most is None else most - len(self._text)

    def _require_room(self, tokens: int) -> None:
        if context(self._model.config) is not None and tokens >= self._room:
            used = f"{len(self._text)} tokens so far, and {tokens} in this turn"
            raise ImpossibleError(f"the model's context of {context(self._model.config)} tokens is full: {used}")
