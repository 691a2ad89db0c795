"""`python -m scope.chat`. Oracle: the same tokens through a full cache of transformers' own, turn by turn."""

import io
import signal
from collections.abc import Iterator
from datetime import date
from typing import Any

import pytest
import torch
from rich.console import Console
from tiny_models import WORDS, random_prompts, tiny
from transformers import AutoTokenizer

from scope import decoding, prefill
from scope.cache import Policy
from scope.chat.conversation import Conversation
from scope.chat.framing import Framing
from scope.chat.screen import Screen
from scope.cli.chat import main
from scope.generation.engine import Engine
from scope.generation.models import EMBEDDED, Loaded, ModelSource
from scope.generation.sampling import Sampling
from scope.models.published import PUBLISHED
from scope.util.errors import ImpossibleError

FULL = Policy(prefill.Full(), decoding.KeepAll())
SMALL = Policy(prefill.SnapKV(0.5, 4), decoding.Slide(6, 3))
TEMPLATE = (
    "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}<|end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


def conversation(policy: Policy, most: int = 9, engine: str = "eager") -> Conversation:
    return Conversation(Loaded(tiny(), WORDS), policy, Sampling(), most, Engine(engine))


def greedy(text: list[int], most: int) -> list[int]:
    """What follows a text, each token by a forward of its own over all of it."""
    written: list[int] = []
    for _ in range(most):
        logits = tiny(attention="sdpa")(torch.tensor([text + written])).logits[0, -1]
        written.append(int(logits.argmax()))
    return written


@torch.no_grad()
def test_the_answers_are_those_to_the_whole_text() -> None:
    talk, text = conversation(FULL), []
    for turn in random_prompts(12, 5, 1, 7):
        text += turn.tokens
        said = list(talk.say(turn.tokens))
        assert said == greedy(text, 9)
        text += said
        assert talk.cache.summary().tokens == (len(text) - 1,)  # the last one waits


@pytest.mark.parametrize("engine", ["eager", pytest.param("graph", marks=pytest.mark.slow)])
def test_a_compressed_cache_stays_small_and_an_answer_may_be_left(engine: str) -> None:
    talk = conversation(SMALL, engine=engine)
    for turn in random_prompts(20, 8, 8):
        for n, _ in enumerate(talk.say(turn.tokens), 1):
            if n == 4:
                break
    held = talk.cache.summary()
    assert held.tokens == (20 + 8 + 8 + 3 * 4 - 1,)
    assert (
        max(n for layer in held.slots for n in layer) == 10 + 5 + 5 + 6
    )  # half of each turn, with the token that waited, and D


def test_an_answer_that_ends_at_once_is_followed_by_a_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    turns = random_prompts(12, 5, seed=4)
    monkeypatch.setattr(tiny().generation_config, "eos_token_id", greedy([*turns[0].tokens], 1)[0])
    talk = conversation(FULL, 3)
    assert list(talk.say(turns[0].tokens)) == []
    assert list(talk.say(turns[1].tokens)) == greedy([*turns[0].tokens, *turns[1].tokens], 3)


def test_a_full_context_is_refused_in_a_line() -> None:
    talk = conversation(FULL, 400)
    assert len(list(talk.say(random_prompts(500)[0].tokens))) == 12
    with pytest.raises(ImpossibleError, match="context of 512 tokens is full: 512 tokens so far, and 5 in this turn"):
        list(talk.say([5] * 5))


def framing(template: str | None) -> Framing:
    tokenizer = AutoTokenizer.from_pretrained(EMBEDDED)
    tokenizer.chat_template = template
    return Framing(tokenizer, ModelSource(str(EMBEDDED)), date(2026, 1, 1))


def test_a_template_frames_the_turns_as_it_frames_the_whole_conversation() -> None:
    frame = framing(TEMPLATE)
    made = [frame.tokens(line) for line in ("Sam has 3", "Leo has 4", "Ian has 5")]
    texts = ["<|user|>Sam has 3<|end|>\n<|assistant|>"]
    texts += [f"<|end|>\n<|user|>{line}<|end|>\n<|assistant|>" for line in ("Leo has 4", "Ian has 5")]
    assert made == [tuple(frame.tokenizer(text, add_special_tokens=False).input_ids) for text in texts]


def test_without_a_template_a_turn_is_the_line() -> None:
    frame = framing(None)
    first, second = frame.tokens("Sam has 3"), frame.tokens("Sam has 3")
    bare = tuple(frame.tokenizer("Sam has 3", add_special_tokens=False).input_ids)
    assert second == bare
    assert first[-len(bare) :] == bare


def test_a_template_that_shows_no_earlier_answer_is_refused() -> None:
    frame = framing("{{ messages[-1].content }}")
    frame.tokens("Sam")
    with pytest.raises(ImpossibleError, match=r"shows no earlier answer: take model\.layout=plain"):
        frame.tokens("Leo")


def test_on_a_terminal_what_the_cache_holds_stands_below_the_answer() -> None:
    tokenizer = AutoTokenizer.from_pretrained(EMBEDDED)
    out = io.StringIO()
    ids = tokenizer("The answer is 65.\nAnswer_10: now wet", add_special_tokens=False).input_ids
    first, second = tokenizer.decode(ids, skip_special_tokens=True).split("\n")
    with Screen(tokenizer, Console(file=out, force_terminal=True, width=80), lambda: "12 slots") as screen:
        for token in ids:
            screen.show(token)
    said = out.getvalue()
    assert said.index(first) < said.index(second) < said.rindex("[12 slots]")
    assert "m12 slots" in said  # dim, while it was written


def typed(monkeypatch: pytest.MonkeyPatch, *lines: str) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("".join(f"{line}\n" for line in lines)))


SETTINGS = ["model=embedded", "task.max_new_tokens=12", "budget.prefill=0.5", "budget.window=4", "budget.decode=8"]
SETTINGS += ["budget.recent=4"]


def test_lines_of_the_input_are_answered(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    typed(monkeypatch, "Question_1: Leo has 3 and buys 6.", "", "Now give Answer_1.", "/quit", "Sam")
    assert main(SETTINGS) == 0
    said = capsys.readouterr().out.splitlines()
    held = [line for line in said if line.startswith("[")]
    assert len(held) == 2
    assert all("slots in each head" in line and "full cache" in line for line in held)
    assert ", 0 evicted" not in held[1]


def test_an_interrupt_stops_the_answer_and_not_the_conversation(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    say = Conversation.say
    lengths: list[int] = []
    inherited = signal.signal(signal.SIGINT, signal.default_int_handler)  # a job in the background ignores it

    def interrupted(self: Conversation, tokens: Any) -> Iterator[int]:
        lengths.append(0)
        for token in say(self, tokens):
            lengths[-1] += 1
            if lengths == [3]:
                signal.raise_signal(signal.SIGINT)
            yield token

    monkeypatch.setattr(Conversation, "say", interrupted)
    typed(monkeypatch, "Leo has 3", "Sam has 4")
    try:
        assert main(SETTINGS) == 0
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    finally:
        signal.signal(signal.SIGINT, inherited)
    assert lengths[0] == 3
    assert lengths[1] > 3
    capsys.readouterr()


def test_wrong_words_are_refused_in_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["model=embedded", "decoding=slid"]) == 2
    assert "did you mean decoding=slide?" in capsys.readouterr().err


@pytest.mark.slow
def test_three_turns_with_a_real_model_whose_cache_is_compressed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    if not PUBLISHED["smollm2"].made:
        pytest.skip("not fetched: python -m scope.models get smollm2")
    typed(monkeypatch, "What is the capital of France?", "And of Italy?", "Name three famous sights there.")
    budgets = ["budget.prefill=0.75", "budget.window=8", "budget.decode=32", "budget.recent=16"]
    assert main(["model=smollm2", *budgets, "task.max_new_tokens=40"]) == 0
    first, second, third, _ = capsys.readouterr().out.split("[")
    assert "Paris" in first
    assert "Rome" in second
    assert "famous" in third
    assert ", 0 evicted" not in second
