"""From a sample to the tokens that the model reads.

The layout frames the prompt. The beginning of sequence comes once, and no end of sequence follows the prompt. A prompt
that is too long is refused or cut in its middle.
"""

import hashlib
import inspect
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime, time
from functools import cached_property
from typing import Any

import jinja2
from jinja2 import meta
from jinja2.sandbox import ImmutableSandboxedEnvironment
from transformers import PreTrainedTokenizerBase

from scope.tasks import Reference, Sample
from scope.tasks.task import require_offsets
from scope.util.errors import ConfigError, ImpossibleError, ScopeError, one_line, shown

LAYOUTS = ("auto", "chat", "plain", "paper")
TEMPLATED = ("auto", "chat")  # layouts that may use a chat template
OVERLONG = ("refuse", "cut")
GENERATION_TAG = r"{%-?\s*(end)?generation\s*-?%}"  # a tag that transformers adds to Jinja
# Some templates call CLOCK with a format, to get the date. transformers passes only plain data to a template, and no
# function. So a macro with this name looks up the format in the data TOLD. If the format is missing, the macro fails
# with the message ASKS, and the template is rendered again with the format added.
CLOCK, TOLD, ASKS = "strftime_now", "scope_clock", "scope asks for the clock as "
CLOCK_MACRO = (
    f"{{%- macro {CLOCK}(form) -%}}"
    f"{{%- if form not in {TOLD} -%}}{{{{ raise_exception('{ASKS}' ~ form) }}}}{{%- endif -%}}"
    f"{{{{ {TOLD}[form] }}}}"
    "{%- endmacro %}\n"
)
MOST_FORMATS = 32  # of the clock in one template
# Names that scope or transformers gives to a template, so that `model.template` may not.
RESERVED = {*inspect.signature(PreTrainedTokenizerBase.apply_chat_template).parameters, "messages", "raise_exception"}
RESERVED |= {"conversations", "kwargs", CLOCK, TOLD}


@dataclass(frozen=True)
class TemplateInput:
    """What a chat template gets beside the message.

    arguments: by name. day: the template's clock shows the midnight of this day; None: the current time.
    """

    arguments: Mapping[str, Any] = field(default_factory=dict)
    day: date | None = None


def hash_of(tokens: Sequence[int]) -> str:
    """16 hex digits: a hash of tokens, by which records tell prompts and forced texts apart."""
    return hashlib.sha256(" ".join(map(str, tokens)).encode()).hexdigest()[:16]


@dataclass(frozen=True)
class Encoded:
    """A prompt as the model reads it.

    tokens: its tokens. cut: how many tokens were taken out of its middle. dated: whether the template has used its
    clock. text: the whole text, before it became tokens. turns: the tokens of each later turn. asking: those of a
    question that comes when the prompt is compressed; empty: there is none.
    """

    tokens: tuple[int, ...]
    cut: int = 0
    dated: bool = False
    text: str = ""
    turns: tuple[tuple[int, ...], ...] = ()
    asking: tuple[int, ...] = ()

    @cached_property
    def hash(self) -> str:
        """16 hex digits: a hash of the tokens, those of a question that comes later and of later turns too."""
        return hash_of([token for tokens in (self.tokens, self.asking, *self.turns) for token in tokens])

    def starts_thinking(self, markers: tuple[str, str] | None) -> bool:
        """Whether the prompt ends with the mark that opens a thinking part, as with some templates."""
        return markers is not None and self.text.rstrip().endswith(markers[0])


def render(tokenizer: PreTrainedTokenizerBase, sample: Sample, layout: str, given: TemplateInput | None = None) -> str:
    """The text of a prompt as the model reads it.

    layout: `chat`: one message of the user in the tokenizer's own template. `plain`: instruction and prompt. `paper`:
    as the paper's code frames them, for every model. `auto`: chat if the tokenizer has a template, else plain.
    given: the day and the arguments of the template.

    Raises ConfigError for `chat`, or for arguments, if the tokenizer has no template. Raises ImpossibleError for a
    template that fails.
    """
    return _rendered(tokenizer, sample, layout, given or TemplateInput())[0]


def _rendered(
    tokenizer: PreTrainedTokenizerBase, sample: Sample, layout: str, given: TemplateInput
) -> tuple[str, bool]:
    """-> the text, and whether the template has used its clock."""
    if sample.as_text:
        return sample.prompt + sample.asking, False
    content = f"{sample.instruction}\n\n{sample.prompt}" if sample.instruction else sample.prompt
    if is_chat(tokenizer, layout):
        if not tokenizer.chat_template:
            raise ConfigError("model.layout=chat: the tokenizer has no chat template; take plain or paper")
        return in_template(tokenizer, [{"role": "user", "content": content}], given)
    if given.arguments:
        name, value = next(iter(given.arguments.items()))
        setting = f"model.template.{name}={shown(value)}"
        raise ConfigError(f"{setting}: the tokenizer has no chat template that could take it")
    if layout == "paper" and sample.instruction:
        return f"<<SYS>>\n {sample.instruction} \n<</SYS>>\n\n{sample.prompt}", False
    return content, False


def in_template(
    tokenizer: PreTrainedTokenizerBase,
    messages: Sequence[Mapping[str, str]],
    given: TemplateInput,
    goes_on: bool = False,
) -> tuple[str, bool]:
    """Messages, each with `role` and `content`, as the chat template frames them, and the beginning of an answer.

    goes_on: the last message is written on, and no other begins.
    -> the text, and whether the template has used its clock. Raises ImpossibleError for a template that fails.
    """
    now = datetime.combine(given.day, time()) if given.day else datetime.now()
    told: dict[str, str] = {}  # the time, in each format that the template has asked for
    try:
        template = str(tokenizer.get_chat_template())
        while True:
            try:
                text = tokenizer.apply_chat_template(
                    [dict(message) for message in messages],
                    chat_template=CLOCK_MACRO + template if CLOCK in template else template,
                    tokenize=False,
                    add_generation_prompt=not goes_on,
                    continue_final_message=goes_on,
                    **{**given.arguments, TOLD: told},
                )
                return str(text), bool(told)
            except jinja2.TemplateError as error:
                asks, form = str(error).partition(ASKS)[1:]
                if not asks or len(told) == MOST_FORMATS:
                    raise
                told[form] = now.strftime(form)
    except Exception as error:  # a template is a program, and may raise anything
        reason = one_line(f"{type(error).__name__}: {error}")
        said = f"the tokenizer's chat template fails (model.layout=plain uses none): {reason}"
        raise ImpossibleError(said) from error


def is_chat(tokenizer: PreTrainedTokenizerBase, layout: str) -> bool:
    """Whether a prompt with this layout is framed by the chat template."""
    return layout == "chat" or (layout == "auto" and bool(tokenizer.chat_template))


def unused_arguments(tokenizer: PreTrainedTokenizerBase, layout: str, given: TemplateInput) -> list[str]:
    """The arguments that the chat template does not use."""
    if not given.arguments or not is_chat(tokenizer, layout) or not tokenizer.chat_template:
        return []
    template = re.sub(GENERATION_TAG, "", str(tokenizer.get_chat_template()))
    try:
        parsed = ImmutableSandboxedEnvironment(extensions=["jinja2.ext.loopcontrols"]).parse(template)
    except jinja2.TemplateError:
        return []  # rendering the template will report it
    return sorted(given.arguments.keys() - meta.find_undeclared_variables(parsed))


def encode(
    tokenizer: PreTrainedTokenizerBase,
    sample: Sample,
    layout: str,
    room: int | None,
    overlong: str,
    given: TemplateInput | None = None,
) -> Encoded:
    """A sample's prompt in tokens.

    room: tokens that the model's context leaves for a prompt; None: no bound. overlong: what happens to a prompt that
    is longer: `refuse` it, or `cut` its middle. layout, given: as in `render`.
    A prompt that is longer than `sample.most_tokens` is cut in any case, and before that.
    With `sample.asking`, the tokens are those of the whole text, and divided where the question begins. A token that
    lies across belongs to the question.

    Raises ImpossibleError for a prompt that does not fit, and ScopeError for an empty one. Other errors are those of
    `render` and `forced_tokens`.
    """
    text, dated = _rendered(tokenizer, sample, layout, given or TemplateInput())
    special = sample.as_text or not is_chat(tokenizer, layout)  # a template writes the special tokens itself
    tokens = tokenized(tokenizer, text, special)
    tokens, asking = _divided(tokenizer, tokens, text, len(sample.asking))
    if not tokens:
        raise ScopeError(f"{sample.name}: its prompt is empty")
    most, room = sample.most_tokens, None if room is None else room - len(asking)
    length = len(tokens) if most is None else min(most, len(tokens))
    if room is not None and length > room:
        if overlong == "refuse":
            raise ImpossibleError(
                f"{sample.name}: its prompt of {length} tokens does not fit the model's context, which leaves {room}; "
                "model.overlong=cut takes out the middle"
            )
        length = room
    begin = length - length // 2
    whole = (*tokens[:begin], *tokens[len(tokens) - length // 2 :])
    return Encoded(whole, len(tokens) - length, dated, text, turn_tokens(tokenizer, sample), tuple(asking))


def _divided(
    tokenizer: PreTrainedTokenizerBase, tokens: list[int], text: str, last: int
) -> tuple[list[int], list[int]]:
    """The tokens of a text -> those before its last characters, and those that reach into them."""
    if not last:
        return tokens, []
    require_offsets(tokenizer)
    offsets = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True).offset_mapping
    begin = len(tokens) - sum(end > len(text) - last for _, end in offsets)
    return tokens[:begin], tokens[begin:]


def turn_tokens(tokenizer: PreTrainedTokenizerBase, sample: Sample) -> tuple[tuple[int, ...], ...]:
    """The tokens of a sample's later turns, each a text that goes on with the answer before it."""
    return tuple([tuple(tokenizer(turn, add_special_tokens=False).input_ids) for turn in sample.turns])


def tokenized(tokenizer: PreTrainedTokenizerBase, text: str, special: bool) -> list[int]:
    """The tokens of a text. special: with the beginning of sequence, which comes once; an end is never put behind."""
    tokens: list[int] = tokenizer(text, add_special_tokens=False).input_ids
    if special:
        tokens = _without_end(tokenizer(text).input_ids, tokens)
    while tokenizer.bos_token_id is not None and tokens[:2] == [tokenizer.bos_token_id] * 2:
        tokens = tokens[1:]
    return tokens


def forced_tokens(tokenizer: PreTrainedTokenizerBase, gold: Reference) -> tuple[list[int], list[bool]]:
    """A right answer's tokens, to be forced after those of its prompt, and of each whether it is part of a value.

    Raises ImpossibleError for a tokenizer that does not say where in the text its tokens lie.
    """
    require_offsets(tokenizer)
    encoded = tokenizer(gold.text, add_special_tokens=False, return_offsets_mapping=True)
    return list(encoded.input_ids), gold.answer_tokens(encoded.offset_mapping)


def pieces(tokenizer: PreTrainedTokenizerBase, tokens: Sequence[int]) -> list[str]:
    """The text of each token, as it stands inside of a text: with the space before a word, if the token has one.

    The text of a special token is its name. A token that is part of a character has the replacement character.
    """

    def decoded(some: Sequence[int]) -> str:
        return str(tokenizer.decode(list(some), clean_up_tokenization_spaces=False))

    before = [tokens[0]]  # some decoders drop the space at the beginning of a text
    texts = {token: decoded([*before, token])[len(decoded(before)) :] for token in dict.fromkeys(tokens)}
    return [texts[token] for token in tokens]


def unknown_share(tokenizer: PreTrainedTokenizerBase, prompts: Iterable[Encoded]) -> float:
    """The share of the prompts' characters, 0..1, that the tokenizer turns into its unknown token.

    Characters and not tokens: many unknown words in a row may be one token. 0 for a tokenizer that knows all text.
    """
    unknown = _unknown(tokenizer)
    characters = lost = 0
    for prompt in prompts:
        characters += len(prompt.text)
        if unknown is not None and unknown in prompt.tokens and tokenizer.is_fast:
            read = tokenizer(prompt.text, add_special_tokens=False, return_offsets_mapping=True)
            spans = zip(read.input_ids, read.offset_mapping, strict=True)
            lost += sum(end - begin for token, (begin, end) in spans if token == unknown)
    return lost / max(1, characters)


def _unknown(tokenizer: PreTrainedTokenizerBase) -> int | None:
    """The token of what the tokenizer does not know; None where it has none that means this alone."""
    inner = getattr(getattr(tokenizer, "backend_tokenizer", None), "model", None)
    name = getattr(inner, "unk_token", None)
    found = tokenizer.unk_token_id if name is None else tokenizer.convert_tokens_to_ids(name)
    means_more = found in (tokenizer.bos_token_id, tokenizer.eos_token_id)
    return found if isinstance(found, int) and not means_more else None


def _without_end(tokens: Sequence[int], bare: Sequence[int]) -> list[int]:
    """The tokens of a text without the special tokens that the tokenizer puts behind it, such as an end of sequence.

    bare: the tokens of the text alone. An end of sequence that is part of the text stays.
    """
    for begin in range(len(tokens) - len(bare) + 1):
        end = begin + len(bare)
        if list(tokens[begin:end]) == list(bare):
            return list(tokens[:end])
    return list(tokens)
