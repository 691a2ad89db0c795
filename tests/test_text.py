"""Stop strings and the text of a row. Oracle: the whole text decoded again after every token.

Tokenizers are built here: byte-level BPE (GPT-2, Llama 3, Qwen), BPE with byte fallback and marked spaces (Llama 2,
Mistral), and the embedded model's.
"""

import random
from collections.abc import Sequence
from functools import cache
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_models import WORDS, generate, random_prompts, tiny
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import AutoTokenizer, PreTrainedTokenizerBase, PreTrainedTokenizerFast

from scope import decoding, prefill
from scope.generation.models import EMBEDDED
from scope.generation.rows import Prompt
from scope.generation.text import BROKEN, Text
from scope.util.errors import SettingError

SPECIAL = ["<s>", "</s>", "<|im_start|>", "<|im_end|>", "<think>", "</think>"]
CORPUS = [
    "The answer is 42. Answer_9: stop here, stopping at the stop. User: hello User: bye",
    "Lastopper stopped to stop; the top of the stop opera. Ünïcödé naïve façade",
    "Question 3: 12 + 30 = 42\nAnswer_3: 42\n\nQuestion 4: what?\n",
]


@cache
def byte_level() -> PreTrainedTokenizerBase:
    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    made.train_from_iterator(CORPUS, trainers.BpeTrainer(vocab_size=400, initial_alphabet=alphabet))
    made.add_special_tokens([AddedToken(text, special=True, normalized=False) for text in SPECIAL])
    return PreTrainedTokenizerFast(tokenizer_object=made, eos_token="</s>", bos_token="<s>")


@cache
def byte_fallback() -> PreTrainedTokenizerBase:
    """As Llama 2's: spaces are part of the next word, unknown characters are bytes."""
    letters = sorted({c for text in CORPUS for c in text.replace(" ", "▁") if c.isascii() or c == "▁"})
    words = ["▁st", "op", "▁stop", "per", "▁to", "st", "▁User", "ser", ":▁", "▁A", "ns", "wer", "▁▁", "▁▁▁"]
    names = ["<unk>", *SPECIAL, *(f"<0x{n:02X}>" for n in range(256)), *letters, *words]
    vocabulary = {name: n for n, name in enumerate(dict.fromkeys(names))}
    made = Tokenizer(models.BPE(vocabulary, [], unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    made.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    made.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    made.add_special_tokens([AddedToken(text, special=True, normalized=False) for text in SPECIAL])
    return PreTrainedTokenizerFast(tokenizer_object=made, eos_token="</s>", bos_token="<s>", unk_token="<unk>")


@cache
def metaspace() -> PreTrainedTokenizerBase:
    made = Tokenizer(
        models.BPE(byte_fallback().backend_tokenizer.get_vocab(), [], unk_token="<unk>", byte_fallback=True)
    )
    made.pre_tokenizer = pre_tokenizers.Metaspace()
    made.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Metaspace()])
    made.add_special_tokens([AddedToken(text, special=True, normalized=False) for text in SPECIAL])
    return PreTrainedTokenizerFast(tokenizer_object=made, eos_token="</s>", bos_token="<s>", unk_token="<unk>")


@cache
def embedded() -> PreTrainedTokenizerBase:
    made: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(EMBEDDED)
    return made


BUILT = {"byte_level": byte_level, "byte_fallback": byte_fallback, "metaspace": metaspace, "embedded": embedded}
every_tokenizer = pytest.mark.parametrize("name", BUILT)


def decoded(tokenizer: PreTrainedTokenizerBase, tokens: Sequence[int], special: bool) -> str:
    return str(tokenizer.decode(list(tokens), skip_special_tokens=not special, clean_up_tokenization_spaces=False))


def naive(tokenizer: PreTrainedTokenizerBase, tokens: Sequence[int], stop: Sequence[str]) -> int | None:
    """How many tokens there are when a stop string is first in the text, with special tokens or without."""
    for count in range(1, len(tokens) + 1):
        if any(s in decoded(tokenizer, tokens[:count], special) for s in stop for special in (True, False)):
            return count
    return None


def found(tokenizer: PreTrainedTokenizerBase, tokens: Sequence[int], stop: Sequence[str]) -> tuple[int | None, str]:
    text = Text(tokenizer, stop)
    for count, token in enumerate(tokens, start=1):
        if text.add(token):
            return count, text.final()
    return None, text.final()


def ids(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    return list(tokenizer(text, add_special_tokens=False).input_ids)


def check(tokenizer: PreTrainedTokenizerBase, tokens: Sequence[int], stop: Sequence[str]) -> None:
    count, text = found(tokenizer, tokens, stop)
    assert count == naive(tokenizer, tokens, stop)
    if count is not None:
        shown = decoded(tokenizer, tokens[:count], special=False)
        cuts = [shown.find(s) for s in stop if s in shown]
        if cuts and not any(s in decoded(tokenizer, tokens[:count], special=True) for s in stop if s not in shown):
            assert text == shown[: min(cuts)]
        if BROKEN not in shown:
            assert shown.startswith(text)
        assert not any(s in text for s in stop)


CASES = [
    ("a 😀 b", "😀"),
    ("say 😀😀 now", "😀😀"),
    ("漢字 is 中文字。Next", "文字。"),
    ("漢字漢字漢字漢字漢字漢字漢字漢字漢字漢字X", "字漢字X"),
    ("e\u0301 cafe\u0301 au lait", "e\u0301 au"),
    ("the stopper is here", "stop"),
    ("the lastopper is here", "stop"),
    ("go User: hello", " User:"),
    ("go\nUser: hello", "\nUser:"),
    ("Answer_3: 42\n\nQuestion 4", "\n\nQuestion"),
    ("a  b   c    d", "   c"),
    ("It 's fine , really .", " ,"),
    ("It 's fine, really.", "e,"),
    ("x👩‍👩‍👧‍👦y", "👩‍👧"),
    ("ends in it", "it"),
    ("stop", "stop"),
    ("stop it", "s"),
    ("The sky looks grey.\nAnswer_7: 42. The answer is 42.", "wer_7"),
    ("A clock was cold. The sky looks grey.", "e sky looks gr"),
]


@every_tokenizer
@pytest.mark.parametrize(("text", "stop"), CASES, ids=[repr(stop) for _, stop in CASES])
def test_a_stop_string_is_found_at_the_token_that_completes_it(name: str, text: str, stop: str) -> None:
    tokenizer = BUILT[name]()
    tokens = ids(tokenizer, text)
    if stop in decoded(tokenizer, tokens, special=False):  # the embedded model does not know every character
        assert found(tokenizer, tokens, (stop,))[0] is not None
    check(tokenizer, tokens, (stop,))


@pytest.mark.parametrize("name", ["byte_level", "byte_fallback", "metaspace"])
@pytest.mark.parametrize(
    ("parts", "stop", "shown"),
    [
        (["hello", "<|im_end|>", "more"], "<|im_end|>", "hello"),
        (["hello", "<|im_end|>", "\n", "<|im_start|>", "x"], "<|im_end|>\n<|im_start|>", "hello"),
        (["a", "<think>", "b", "</s>", "c"], "</s>", "ab"),
        (["hello", "<|im_end|>"], "im_end", "hello"),
        (["to", "<|im_start|>", "stop"], "to<|im_start|>st", ""),
        (["st", "<|im_start|>", "op", "x"], "stop", ""),
        (["😀", "<|im_end|>", "x"], "😀<|im_end|>", ""),
        (["<s>", "hi", "<|im_end|>", "x"], "<|im_end|>", "hi"),
    ],
)
def test_a_stop_string_may_hold_special_tokens(name: str, parts: list[str], stop: str, shown: str) -> None:
    tokenizer = BUILT[name]()
    tokens = [token for part in parts for token in ids(tokenizer, part)]
    joined = decoded(tokenizer, tokens, special=True)
    if stop not in joined and stop not in decoded(tokenizer, tokens, special=False):
        pytest.skip(f"this tokenizer writes {joined!r}")
    count, text = found(tokenizer, tokens, (stop,))
    assert count == naive(tokenizer, tokens, (stop,))
    assert count is not None
    assert text.replace(" ", "") == shown


def test_one_token_may_complete_a_character_a_stop_string_and_begin_another_character() -> None:
    """Byte-level tokens that hold the end of one character, text, and the beginning of another."""
    made = Tokenizer(models.BPE({t: n for n, t in enumerate(["a", "ð", "ŁĺĢst", "opðŁ", "ĺĢ", "z"])}, []))
    made.decoder = decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=made)
    tokens = [0, 1, 2, 3, 4, 5]
    assert decoded(tokenizer, tokens, special=False) == "a😀stop😀z"
    for stop, count, text in [("😀s", 3, "a"), ("stop", 4, "a😀"), ("p😀", 5, "a😀sto"), ("op", 4, "a😀st")]:
        assert found(tokenizer, tokens, (stop,)) == (count, text)
        assert naive(tokenizer, tokens, (stop,)) == count
    assert found(tokenizer, tokens[:4], ("nothing",)) == (None, "a😀stop")  # half a character is not shown


@every_tokenizer
@pytest.mark.parametrize("stop", [("op it", "stop"), ("zzz", "top i", "o"), ("stop it now", "it n"), ("p", "o")])
def test_of_several_the_one_that_is_complete_first_counts_and_the_earliest_cut(
    name: str, stop: tuple[str, ...]
) -> None:
    tokenizer = BUILT[name]()
    check(tokenizer, ids(tokenizer, "please stop it now or stop it never"), stop)


@every_tokenizer
def test_long_stop_strings_and_many_tokens(name: str) -> None:
    tokenizer = BUILT[name]()
    before, stop = "." + " 7." * 40, " 42 13." * 45
    tokens = ids(tokenizer, f"{before}{stop} 9 8 7 6")
    assert before + stop in decoded(tokenizer, tokens, special=False)
    count, text = found(tokenizer, tokens, (stop,))
    assert count == naive(tokenizer, tokens, (stop,))
    assert text == before
    assert found(tokenizer, ids(tokenizer, before + stop[:-9]), (stop,))[0] is None


def test_the_cost_of_a_token_does_not_grow() -> None:
    """Tokens decoded in all, counted: of words, of bytes that are no character, of a special token over and over."""
    tokenizer = byte_fallback()
    special, byte = ids(tokenizer, "<|im_end|>")[0], tokenizer.convert_tokens_to_ids("<0x80>")

    class Counting:
        def __init__(self) -> None:
            self.tokens = 0

        def decode(self, tokens: Sequence[int], **more: Any) -> str:
            self.tokens += len(tokens)
            return str(tokenizer.decode(tokens, **more))

    for endless in (ids(tokenizer, "hello "), [byte], [special], [byte, byte, special], [10**6]):
        cost = []
        for length in (500, 1000):
            counting = Counting()
            text = Text(counting, ("no such thing",))  # type: ignore[arg-type]
            for token in (endless * length)[:length]:
                assert not text.add(token)
            cost.append(counting.tokens)
        assert cost[1] <= 2.2 * cost[0] + 50
        assert cost[1] <= 1000 * 45


@every_tokenizer
@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 10**6))
def test_any_tokens_in_any_order(name: str, seed: int) -> None:
    """What no text is encoded as: bytes that are no character, special tokens anywhere, ids beyond the vocabulary."""
    tokenizer, lots = BUILT[name](), random.Random(seed)
    size = len(tokenizer)
    likely = ids(tokenizer, "stop 😀 the 漢字 User: </s><|im_end|>")
    tokens = [lots.choice(likely) if lots.random() < 0.7 else lots.randrange(size + 2) for _ in range(40)]
    whole = decoded(tokenizer, tokens, special=lots.random() < 0.5)
    stop = []
    for _ in range(lots.choice([1, 3])):
        at = lots.randrange(max(1, len(whole)))
        stop.append(whole[at : at + lots.randrange(1, 9)])
    stop = [s for s in stop if s and BROKEN not in s] or ["😀"]
    check(tokenizer, tokens, stop)


@pytest.mark.parametrize("name", ["byte_level", "byte_fallback", "metaspace"])
@pytest.mark.parametrize("left", [1, 2, 3])
@pytest.mark.parametrize("before", ["", "hi ", "漢字", "😀"])
def test_a_character_that_is_not_complete_is_not_shown(name: str, left: int, before: str) -> None:
    tokenizer = BUILT[name]()
    tokens = ids(tokenizer, f"{before}😀")[:-left]
    assert BROKEN in decoded(tokenizer, tokens, special=False)  # as it was shown
    for stop in ((), ("x",)):
        text = Text(tokenizer, stop)
        assert not any(text.add(token) for token in tokens)
        assert text.final() == before


@pytest.mark.parametrize("name", ["byte_level", "byte_fallback", "metaspace"])
@pytest.mark.parametrize("stop", [(), ("9",)])
def test_markers_that_are_special_tokens_stay_visible(name: str, stop: tuple[str, ...]) -> None:
    tokenizer = BUILT[name]()
    tokens = [t for part in ("<s>", "<think>", "is it 5", "</think>", "7", "</s>", "9") for t in ids(tokenizer, part)]

    def shown(visible: tuple[str, ...]) -> str:
        text = Text(tokenizer, stop, visible)
        for token in tokens:
            if text.add(token):
                break
        return text.final().replace(" ", "")

    last = "" if stop else "9"
    assert shown(()) == f"isit57{last}"
    assert shown(("<think>", "</think>")) == f"<think>isit5</think>7{last}"
    assert shown(("</think>",)) == f"isit5</think>7{last}"


@every_tokenizer
@pytest.mark.parametrize("text", [text for text, _ in CASES])
def test_without_stop_strings_the_text_is_the_tokenizers(name: str, text: str) -> None:
    tokenizer = BUILT[name]()
    tokens = [*ids(tokenizer, text), *([tokenizer.eos_token_id] if tokenizer.eos_token_id is not None else [])]
    made = Text(tokenizer, (), ("<think>",))
    for token in tokens:
        assert not made.add(token)
    assert made.final() == decoded(tokenizer, tokens, special=False)


# in the engine


def writes(prompt: Prompt, tokens: int = 24) -> Any:
    (row,) = generate(tiny(), WORDS, [prompt], prefill.Full(), decoding.KeepAll(), tokens)
    return row


def test_a_stop_string_that_begins_in_the_prompt_does_not_count() -> None:
    (prompt,) = random_prompts(20)
    free = writes(prompt)
    across = f"{prompt.tokens[-1]} {free.tokens[0]}"
    stopped = writes(Prompt("p", prompt.tokens, (across,)))
    at = free.text.find(across)
    assert stopped.tokens == (free.tokens if at < 0 else free.tokens[: len(stopped.tokens)])
    assert len(stopped.tokens) > 1


def test_a_row_ends_at_the_token_that_completes_its_stop_string() -> None:
    (prompt,) = random_prompts(20)
    free = writes(prompt)
    stop = free.text[14:19]
    row = writes(Prompt("p", prompt.tokens, (stop,)))
    count = next(n for n in range(1, 25) if stop in " ".join(map(str, free.tokens[:n])))
    assert (row.tokens, row.finish) == (free.tokens[:count], "stop")
    assert row.text == free.text[: free.text.index(stop)]


def test_an_empty_stop_string_is_refused() -> None:
    with pytest.raises(SettingError, match=r"stop=.*: must be strings of at least one character"):
        Prompt("p", (1,), ("a", ""))
