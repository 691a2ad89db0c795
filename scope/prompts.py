"""From a sample to the tokens that the model reads: its layout, no doubled beginning, and what does not fit."""

from collections.abc import Sequence
from dataclasses import dataclass

from transformers import PreTrainedTokenizerBase

from scope.errors import ConfigError, ScopeError
from scope.scoring.thinking import Markers
from scope.tasks import Sample

LAYOUTS = ("auto", "chat", "plain", "paper")
OVERLONG = ("refuse", "cut")
TAIL = 32  # tokens of a prompt's end: more than a marker has


@dataclass(frozen=True)
class Encoded:
    """A prompt's tokens; `cut` counts those that were taken out of its middle."""

    tokens: tuple[int, ...]
    cut: int = 0


def render(tokenizer: PreTrainedTokenizerBase, sample: Sample, layout: str) -> str:
    """The text of a prompt, as the model gets it.

    chat: one turn of the user in the tokenizer's own template; plain: instruction and prompt; paper: as the paper's
    code frames them, whatever the model; auto: chat where the tokenizer has a template, else plain.
    Raises ConfigError for `chat` where there is no template.
    """
    content = f"{sample.instruction}\n\n{sample.prompt}" if sample.instruction else sample.prompt
    if is_chat(tokenizer, layout):
        if not tokenizer.chat_template:
            raise ConfigError("model.layout=chat: the tokenizer has no chat template; take plain or paper")
        turn = [{"role": "user", "content": content}]
        return str(tokenizer.apply_chat_template(turn, tokenize=False, add_generation_prompt=True))
    if layout == "paper" and sample.instruction:
        return f"<<SYS>>\n {sample.instruction} \n<</SYS>>\n\n{sample.prompt}"
    return content


def is_chat(tokenizer: PreTrainedTokenizerBase, layout: str) -> bool:
    return layout == "chat" or (layout == "auto" and bool(tokenizer.chat_template))


def encode(tokenizer: PreTrainedTokenizerBase, sample: Sample, layout: str, room: int | None, overlong: str) -> Encoded:
    """room: tokens that the model has for a prompt, None where it sets no bound.

    A prompt longer than `sample.most_tokens` loses its middle. What is longer than `room` then is refused, or loses its
    middle too (overlong="cut"). Raises ScopeError for what is refused.
    """
    text = render(tokenizer, sample, layout)
    # a template writes the special tokens itself
    tokens = tokenizer(text, add_special_tokens=not is_chat(tokenizer, layout)).input_ids
    while tokenizer.bos_token_id is not None and tokens[:2] == [tokenizer.bos_token_id] * 2:
        tokens = tokens[1:]
    if not tokens:
        raise ScopeError(f"{sample.name}: its prompt is empty")
    most = sample.most_tokens
    kept = len(tokens) if most is None else min(most, len(tokens))
    if room is not None and kept > room:
        if overlong == "refuse":
            raise ScopeError(
                f"{sample.name}: its prompt of {kept} tokens does not fit the model's context, which leaves {room}; "
                "model.overlong=cut takes out the middle"
            )
        kept = room
    head = kept - kept // 2
    return Encoded((*tokens[:head], *tokens[len(tokens) - kept // 2 :]), len(tokens) - kept)


def opens_thinking(tokenizer: PreTrainedTokenizerBase, tokens: Sequence[int], markers: Markers | None) -> bool:
    """Whether a prompt ends in what opens a thinking part, as some templates have it: the answer begins inside one."""
    if markers is None:
        return False
    ending = str(tokenizer.decode(list(tokens[-TAIL:]), skip_special_tokens=False))
    return ending.rstrip().endswith(markers[0])
