"""From a sample to the tokens that the model reads: its layout, no doubled beginning, no end, and what does not fit."""

import hashlib
import inspect
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime, time
from functools import cached_property
from typing import Any

import jinja2
from jinja2 import meta
from jinja2.sandbox import ImmutableSandboxedEnvironment
from transformers import PreTrainedTokenizerBase

from scope.tasks import Reference, Sample
from scope.util.errors import ConfigError, ImpossibleError, ScopeError, one_line, shown

LAYOUTS = ("auto", "chat", "plain", "paper")
TEMPLATED = ("auto", "chat")  # layouts that may use a chat template
OVERLONG = ("refuse", "cut")
GENERATION_TAG = r"{%-?\s*(end)?generation\s*-?%}"  # transformers' own, not Jinja's
# A template calls CLOCK with a format. transformers hands no function of ours to a template, only plain data. So a
# macro of that name looks the format up in what it was told, and asks for one that is missing.
CLOCK, TOLD, ASKS = "strftime_now", "scope_clock", "scope asks for the clock as "
CLOCK_MACRO = (
    f"{{%- macro {CLOCK}(form) -%}}"
    f"{{%- if form not in {TOLD} -%}}{{{{ raise_exception('{ASKS}' ~ form) }}}}{{%- endif -%}}"
    f"{{{{ {TOLD}[form] }}}}"
    "{%- endmacro %}\n"
)
MOST_FORMATS = 32
# Names that a template gets from scope or transformers, and not from `model.template`.
RESERVED = {*inspect.signature(PreTrainedTokenizerBase.apply_chat_template).parameters, "messages", "raise_exception"}
RESERVED |= {"conversations", "kwargs", CLOCK, TOLD}


@dataclass(frozen=True)
class TemplateInput:
    """What a chat template is given beside the turn. day: its clock stands at that day's midnight; None: now."""

    arguments: Mapping[str, Any] = field(default_factory=dict)
    day: date | None = None


@dataclass(frozen=True)
class Encoded:
    """A prompt's tokens; `cut` counts those that were taken out of its middle.

    dated: the template has read its clock. text: before it was cut into tokens.
    """

    tokens: tuple[int, ...]
    cut: int = 0
    dated: bool = False
    text: str = ""

    @cached_property
    def hash(self) -> str:
        """16 hex digits, of the tokens."""
        return hashlib.sha256(" ".join(map(str, self.tokens)).encode()).hexdigest()[:16]

    def starts_thinking(self, markers: tuple[str, str] | None) -> bool:
        """Whether the prompt ends in what opens a thinking part, as some templates have it."""
        return markers is not None and self.text.rstrip().endswith(markers[0])


def render(tokenizer: PreTrainedTokenizerBase, sample: Sample, layout: str, given: TemplateInput | None = None) -> str:
    """The text of a prompt, as the model gets it.

    chat: one turn of the user in the tokenizer's own template; plain: instruction and prompt; paper: as the paper's
    code frames them, whatever the model; auto: chat where the tokenizer has a template, else plain.
    Raises ConfigError for `chat`, or for arguments of a template, where there is none, and for a template that fails.
    """
    return _rendered(tokenizer, sample, layout, given or TemplateInput())[0]


def _rendered(
    tokenizer: PreTrainedTokenizerBase, sample: Sample, layout: str, given: TemplateInput
) -> tuple[str, bool]:
    """-> the text, and whether the template has read its clock."""
    if sample.as_text:
        return sample.prompt, False
    content = f"{sample.instruction}\n\n{sample.prompt}" if sample.instruction else sample.prompt
    if is_chat(tokenizer, layout):
        if not tokenizer.chat_template:
            raise ConfigError("model.layout=chat: the tokenizer has no chat template; take plain or paper")
        return _in_template(tokenizer, content, given)
    if given.arguments:
        name, value = next(iter(given.arguments.items()))
        setting = f"model.template.{name}={shown(value)}"
        raise ConfigError(f"{setting}: the tokenizer has no chat template that could take it")
    if layout == "paper" and sample.instruction:
        return f"<<SYS>>\n {sample.instruction} \n<</SYS>>\n\n{sample.prompt}", False
    return content, False


def _in_template(tokenizer: PreTrainedTokenizerBase, content: str, given: TemplateInput) -> tuple[str, bool]:
    now = datetime.combine(given.day, time()) if given.day else datetime.now()
    turn = [{"role": "user", "content": content}]
    told: dict[str, str] = {}  # the clock, in each format that the template has asked for
    try:
        template = str(tokenizer.get_chat_template())
        while True:
            try:
                text = tokenizer.apply_chat_template(
                    turn,
                    chat_template=CLOCK_MACRO + template if CLOCK in template else template,
                    tokenize=False,
                    add_generation_prompt=True,
                    **{**given.arguments, TOLD: told},
                )
                return str(text), bool(told)
            except jinja2.TemplateError as error:
                asked, form = str(error).partition(ASKS)[1:]
                if not asked or len(told) == MOST_FORMATS:
                    raise
                told[form] = now.strftime(form)
    except Exception as error:  # a template is a program of its own
        reason = one_line(f"{type(error).__name__}: {error}")
        said = f"the tokenizer's chat template fails (model.layout=plain uses none): {reason}"
        raise ImpossibleError(said) from error


def is_chat(tokenizer: PreTrainedTokenizerBase, layout: str) -> bool:
    return layout == "chat" or (layout == "auto" and bool(tokenizer.chat_template))


def unused_arguments(tokenizer: PreTrainedTokenizerBase, layout: str, given: TemplateInput) -> list[str]:
    """Of the arguments, those that the chat template does not know."""
    if not given.arguments or not is_chat(tokenizer, layout) or not tokenizer.chat_template:
        return []
    template = re.sub(GENERATION_TAG, "", str(tokenizer.get_chat_template()))
    try:
        parsed = ImmutableSandboxedEnvironment(extensions=["jinja2.ext.loopcontrols"]).parse(template)
    except jinja2.TemplateError:
        return []  # rendering it says so
    return sorted(given.arguments.keys() - meta.find_undeclared_variables(parsed))


def encode(
    tokenizer: PreTrainedTokenizerBase,
    sample: Sample,
    layout: str,
    room: int | None,
    overlong: str,
    given: TemplateInput | None = None,
) -> Encoded:
    """room: tokens that the model has for a prompt, None where it sets no bound.

    A prompt longer than `sample.most_tokens` loses its middle. What is longer than `room` then is refused, or loses its
    middle too (overlong="cut"). Raises ScopeError for what is refused.
    """
    text, dated = _rendered(tokenizer, sample, layout, given or TemplateInput())
    tokens: list[int] = tokenizer(text, add_special_tokens=False).input_ids
    if sample.as_text or not is_chat(tokenizer, layout):  # a template writes the special tokens itself
        tokens = _without_end(tokenizer(text).input_ids, tokens)
    while tokenizer.bos_token_id is not None and tokens[:2] == [tokenizer.bos_token_id] * 2:
        tokens = tokens[1:]
    if not tokens:
        raise ScopeError(f"{sample.name}: its prompt is empty")
    most = sample.most_tokens
    kept = len(tokens) if most is None else min(most, len(tokens))
    if room is not None and kept > room:
        if overlong == "refuse":
            raise ImpossibleError(
                f"{sample.name}: its prompt of {kept} tokens does not fit the model's context, which leaves {room}; "
                "model.overlong=cut takes out the middle"
            )
        kept = room
    head = kept - kept // 2
    return Encoded((*tokens[:head], *tokens[len(tokens) - kept // 2 :]), len(tokens) - kept, dated, text)


def forced_tokens(tokenizer: PreTrainedTokenizerBase, gold: Reference) -> tuple[list[int], list[bool]]:
    """A right answer's tokens, to be forced after those of its prompt, and of each whether it is part of a value.

    Raises ImpossibleError for a tokenizer that does not say where in the text its tokens lie.
    """
    if not tokenizer.is_fast:
        raise ImpossibleError("the tokenizer does not say where its tokens lie in a text: take a fast one")
    encoded = tokenizer(gold.text, add_special_tokens=False, return_offsets_mapping=True)
    return list(encoded.input_ids), gold.answer_tokens(encoded.offset_mapping)


def _without_end(tokens: Sequence[int], bare: Sequence[int]) -> list[int]:
    """A text's tokens without what the tokenizer puts behind them; `bare`: the text's own, without special tokens.

    An end of sequence there would tell the model that all is said. One that the text itself ends in stays.
    """
    for begin in range(len(tokens) - len(bare) + 1):
        end = begin + len(bare)
        if list(tokens[begin:end]) == list(bare):
            return list(tokens[:end])
    return list(tokens)
