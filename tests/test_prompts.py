"""What a model reads of a sample: a made-up tokenizer whose words can be read back, and templates of our own."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from test_run import experiment, go
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit
from tokenizers.processors import TemplateProcessing
from transformers import PreTrainedTokenizerFast

from scope.generation.prompts import Encoded, encode, render
from scope.runs.summary import headline
from scope.tasks import Sample
from scope.util.errors import ConfigError, ScopeError

CHAT = "{{ bos_token }} [user] {{ messages[0]['content'] }} [end]{% if add_generation_prompt %} [assistant]{% endif %}"
FRAME = ("<s>", "[user]", "[end]", "[assistant]", "<<SYS>>", "<</SYS>>", "Be", "brief.")
WORDS = (*FRAME, "one", "two", "three", "four", "five", "six", "seven", "eight")
SAMPLE = Sample("p", "one two three", (), instruction="Be brief.")


def tokenizer(template: str | None = CHAT, adds_bos: bool = True) -> PreTrainedTokenizerFast:
    made = Tokenizer(WordLevel({word: at for at, word in enumerate(WORDS)}))
    made.pre_tokenizer = WhitespaceSplit()
    if adds_bos:
        made.post_processor = TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    return PreTrainedTokenizerFast(tokenizer_object=made, bos_token="<s>", chat_template=template)


def words(made: Encoded) -> str:
    return " ".join(WORDS[token] for token in made.tokens)


def read(layout: str, sample: Sample = SAMPLE, **kind: Any) -> str:
    return words(encode(tokenizer(**kind), sample, layout, None, "refuse"))


LAYOUTS = {
    "chat": "<s> [user] Be brief. one two three [end] [assistant]",
    "plain": "<s> Be brief. one two three",
    "paper": "<s> <<SYS>> Be brief. <</SYS>> one two three",
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_layout_frames_instruction_and_prompt(layout: str) -> None:
    assert read(layout) == LAYOUTS[layout]


TEMPLATES = {
    "{{ raise_exception('only one turn') }}": "TemplateError: only one turn",
    "{{ messages[0]['content'] ": "TemplateSyntaxError: ",
    "{% for %}": "TemplateSyntaxError: ",
    "{{ ''.__class__.__mro__ }}": "SecurityError: ",
    "{{ messages.clear() }}": "SecurityError: ",
    "{{ messages[7]['content'] }}": "UndefinedError: ",
    "{{ 1 / 0 }}": "ZeroDivisionError: ",
    "{{ messages[0]['content'] + 1 }}": "TypeError: ",
    "{% include 'other' %}": "TypeError: no loader",
}


@pytest.mark.parametrize("layout", ["chat", "auto"])
@pytest.mark.parametrize("template", TEMPLATES)
def test_a_template_that_fails_is_refused_in_a_line(template: str, layout: str) -> None:
    with pytest.raises(ConfigError) as refused:
        read(layout, template=template)
    said = str(refused.value)
    assert said.startswith(f"model.layout={layout}: the chat template fails: {TEMPLATES[template]}")
    assert "\n" not in said
    assert read("plain", template=template) == LAYOUTS["plain"]  # the cure that it names


def test_auto_is_chat_where_there_is_a_template() -> None:
    assert read("auto") == LAYOUTS["chat"]
    assert read("auto", template=None) == LAYOUTS["plain"]


def test_without_an_instruction_a_prompt_stands_alone() -> None:
    sample = Sample("p", "one two", ())
    assert {layout: read(layout, sample) for layout in LAYOUTS} == {
        "chat": "<s> [user] one two [end] [assistant]",
        "plain": "<s> one two",
        "paper": "<s> one two",
    }


def test_blank_lines_stand_where_the_layout_says() -> None:
    assert render(tokenizer(), SAMPLE, "plain") == "Be brief.\n\none two three"
    assert render(tokenizer(), SAMPLE, "paper") == "<<SYS>>\n Be brief. \n<</SYS>>\n\none two three"


def test_chat_without_a_template_is_one_line() -> None:
    with pytest.raises(ConfigError, match=r"^model\.layout=chat: the tokenizer has no chat template; take plain or"):
        read("chat", template=None)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("adds_bos", [True, False])
@pytest.mark.parametrize("written", ["", "<s> "])
def test_the_beginning_is_never_doubled(layout: str, adds_bos: bool, written: str) -> None:
    """Whether the tokenizer, the template, the prompt itself or several of them write it."""
    sample = Sample("p", f"{written}one two", ())
    made = read(layout, sample, template="{{ bos_token }} {{ messages[0]['content'] }}", adds_bos=adds_bos)
    begins = adds_bos or bool(written) or layout == "chat"
    assert made == ("<s> one two" if begins else "one two")


ENDS = {
    "eos": ("$A </s>", [("</s>", 1)]),
    "bos and eos": ("<s> $A </s>", [("<s>", 0), ("</s>", 1)]),
    "several": ("<s> $A [sep] </s> </s>", [("<s>", 0), ("[sep]", 2), ("</s>", 1)]),
    "as BERT has it": ("[sep] $A [sep]", [("[sep]", 2)]),
}


@pytest.mark.parametrize("layout", ["plain", "paper", "auto", "chat"])
@pytest.mark.parametrize("ends", ENDS)
@pytest.mark.parametrize("written", ["", " </s>", " </s> </s>", " two </s>"])
def test_a_prompt_ends_where_its_text_ends(layout: str, ends: str, written: str) -> None:
    """Whatever the tokenizer appends; what the text itself writes stays."""
    vocabulary = ["<s>", "</s>", "[sep]", *WORDS[1:]]
    made = Tokenizer(WordLevel({word: at for at, word in enumerate(vocabulary)}))
    made.pre_tokenizer = WhitespaceSplit()
    single, special = ENDS[ends]
    made.post_processor = TemplateProcessing(single=single, special_tokens=special)
    template = CHAT.removeprefix("{{ bos_token }} ") if layout == "chat" else None
    appending = PreTrainedTokenizerFast(
        tokenizer_object=made, bos_token="<s>", eos_token="</s>", sep_token="[sep]", chat_template=template
    )
    prompt = f"one two{written}"
    tokens = encode(appending, Sample("p", prompt, ()), layout, None, "refuse").tokens
    begins = single.partition("$A")[0] if layout != "chat" else ""
    framed = f"[user] {prompt} [end] [assistant]" if layout == "chat" else prompt
    assert [vocabulary[token] for token in tokens] == f"{begins}{framed}".split()


def test_a_template_alone_decides_how_a_chat_begins() -> None:
    """As transformers' own apply_chat_template does."""
    for template in (CHAT, CHAT.removeprefix("{{ bos_token }} ")):
        made = tokenizer(template)
        turn = [{"role": "user", "content": "Be brief. one two three"}]
        wanted = made.apply_chat_template(turn, add_generation_prompt=True, return_dict=False)
        assert list(encode(made, SAMPLE, "chat", None, "refuse").tokens) == wanted


LONG = Sample("long", "one two three four five six seven eight", ())  # and <s>: 9 tokens


def test_what_does_not_fit_is_refused_with_the_remedy() -> None:
    assert encode(tokenizer(), LONG, "plain", 9, "refuse").cut == 0
    with pytest.raises(ScopeError) as refused:
        encode(tokenizer(), LONG, "plain", 8, "refuse")
    assert str(refused.value) == (
        "long: its prompt of 9 tokens does not fit the model's context, which leaves 8; "
        "model.overlong=cut takes out the middle"
    )
    with pytest.raises(ScopeError, match="p: its prompt is empty"):
        encode(tokenizer(adds_bos=False), Sample("p", "", ()), "plain", None, "refuse")


@pytest.mark.parametrize(
    ("room", "left"),
    [
        (9, "<s> one two three four five six seven eight"),
        (6, "<s> one two six seven eight"),
        (5, "<s> one two seven eight"),
        (1, "<s>"),
    ],
)
def test_a_cut_takes_out_the_middle_and_is_counted(room: int, left: str) -> None:
    made = encode(tokenizer(), LONG, "plain", room, "cut")
    assert (words(made), made.cut) == (left, 9 - room)


def test_the_tasks_own_length_is_cut_to_whatever_the_model_has_room_for() -> None:
    sample = Sample("long", LONG.prompt, (), most_tokens=4)
    for room in (None, 4, 9):
        made = encode(tokenizer(), sample, "plain", room, "refuse")
        assert (words(made), made.cut) == ("<s> one seven eight", 5)
    with pytest.raises(ScopeError, match="its prompt of 4 tokens does not fit"):
        encode(tokenizer(), sample, "plain", 3, "refuse")
    assert encode(tokenizer(), sample, "plain", 3, "cut").cut == 6


# in a run of the embedded model


@dataclass(frozen=True)
class Skies:
    """A prompt of so many sentences each, four tokens a sentence."""

    sentences: tuple[int, ...] = (3, 10)
    most_tokens: int | None = None
    max_new_tokens: int = 4

    def samples(self) -> list[Sample]:
        return [Sample(f"{n}", " The sky looks grey." * n, (), most_tokens=self.most_tokens) for n in self.sentences]

    def measures(self, sample: Sample, generation: str) -> dict[str, float]:
        return {}


def test_a_record_counts_what_was_cut(tmp_path: Path) -> None:
    _, lines = go(experiment(task=Skies(most_tokens=21)), tmp_path)
    assert sorted((line["prompt_tokens"], line["prompt_cut_tokens"]) for line in lines) == [(13, 0), (21, 20)]
    assert "1 of 2 prompts cut in the middle" in headline(lines)


def test_a_prompt_that_does_not_fit_leaves_nothing_behind(tmp_path: Path) -> None:
    context = 2048
    task = Skies((context // 4,))
    with pytest.raises(
        ScopeError, match=r"its prompt of 2049 tokens does not fit the .* leaves 2044; model.overlong=cut"
    ):
        go(experiment(task=task), tmp_path / "out")
    assert not (tmp_path / "out").exists()
