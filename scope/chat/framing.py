"""What a model reads of each turn of the user: framed by its chat template, or the line as it is."""

from dataclasses import dataclass, field
from datetime import date

from transformers import PreTrainedTokenizerBase

from scope.generation.models import ModelSource
from scope.generation.prompts import encode, in_template, is_chat
from scope.tasks import Sample
from scope.util.errors import ImpossibleError

QUESTION, ANSWER = "(a question)", "(an answer)"  # stand for earlier turns, to find what a template puts behind them


@dataclass
class Framing:
    """Makes tokens of the user's turns. day: that the template takes for today."""

    tokenizer: PreTrainedTokenizerBase
    source: ModelSource
    day: date
    _begun: bool = field(default=False, init=False)

    def tokens(self, said: str) -> tuple[int, ...]:
        """Of the next turn. A later one begins with what a template puts behind an answer.

        Raises ConfigError and ImpossibleError as `encode` does, and for a template in which no second turn is found.
        """
        given = self.source.template_input(self.day)
        if not self._begun:
            self._begun = True
            return encode(self.tokenizer, Sample("", said, ()), self.source.layout, None, "refuse", given).tokens
        if is_chat(self.tokenizer, self.source.layout):
            roles = ("user", QUESTION), ("assistant", ANSWER), ("user", said)
            messages = [{"role": role, "content": content} for role, content in roles]
            text, _ = in_template(self.tokenizer, messages, given)
            _, found, said = text.partition(ANSWER)
            if not found:
                raise ImpossibleError("the tokenizer's chat template shows no earlier answer: take model.layout=plain")
        return tuple(self.tokenizer(said, add_special_tokens=False).input_ids)
