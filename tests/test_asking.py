"""A question that comes when its context has been compressed. Oracle: each row alone, a copy of its compressed context,
in transformers' `generate`."""

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from golden import composed
from helpers.library import but_for_timings, experiment, go
from helpers.quick import every
from helpers.tokenizers_made import KINDS, made
from tiny_models import WORDS, random_prompts, tiny
from torch import Tensor

from scope import decoding, prefill
from scope.cache import CompressedCache, Policy
from scope.generation import stream
from scope.generation.options import Options
from scope.generation.prompts import encode
from scope.generation.rows import Generated, Prompt
from scope.runs.forecast import Forecaster
from scope.runs.traces import Trace
from scope.tasks import Recall
from scope.util.errors import ImpossibleError, SettingError

T, WINDOW = 7, 3
CONTEXTS = (30, 9, 21)
HALF = Policy(prefill.SnapKV(0.5, WINDOW), decoding.Slide(8, 4))
SHARED = (0, 0, 1, 2, 2)  # the context of each row
LIST = Recall(8, 1.0, "shuffled", 40, 0, 0, 40, prompts=2, question="later", questions=4)


def asked(later: bool) -> list[Prompt]:
    contexts, questions = random_prompts(*CONTEXTS), random_prompts(5, 11, 5, 6, 5, seed=3)
    rows = [(contexts[at].tokens, question.tokens) for at, question in zip(SHARED, questions, strict=True)]
    if later:
        return [Prompt(f"{at}", context, asking=question) for at, (context, question) in enumerate(rows)]
    return [Prompt(f"{at}", [*context, *question]) for at, (context, question) in enumerate(rows)]


@torch.no_grad()
def alone(policy: Policy, prompt: Prompt) -> tuple[list[int], CompressedCache]:
    """What `generate` writes of one row whose context was compressed before its question came, and its cache."""
    assert prompt.asking is not None
    context, cache = torch.tensor([prompt.tokens]), CompressedCache.of(tiny().config, policy)
    tiny()(context, past_key_values=cache)
    cache = cache.fork([0])
    ids = torch.cat([context, torch.tensor([prompt.asking])], 1)
    written: Tensor = tiny().generate(
        ids, attention_mask=torch.ones_like(ids), past_key_values=cache, max_new_tokens=T, do_sample=False
    )
    return written[0, ids.shape[1] :].tolist(), cache


def answers(policy: Policy, later: bool, **options: Any) -> list[Generated]:
    return stream.generate(tiny(), WORDS, asked(later), policy, T, options=Options(**options))


# in the engine


@pytest.mark.parametrize("turns", ["protect", "flow"])
@pytest.mark.parametrize(
    "options",
    every(
        4,
        [
            {},
            {"batch_size": 2, "ahead": True},
            {"engine": "graph", "batch_size": 2},
            {"batch_size": 3, "prefill_rows": 1},
        ],
    ),
)
def test_rows_are_those_that_each_question_gets_of_a_fresh_compressed_context(
    turns: str, options: dict[str, Any]
) -> None:
    policy = replace(HALF, turns=turns)
    for prompt, got in zip(asked(True), answers(policy, True, **options), strict=True):
        written, own = alone(policy, prompt)
        assert got.tokens == tuple(written)
        assert got.slots_kept == tuple(own.slots(0, own._layers[0].steps[0] + 1))
        assert got.trace == own.trace(0, own._layers[0].steps[0] + 1)
        assert prompt.asking is not None
        whole = len(prompt.tokens) + len(prompt.asking)
        assert set(got.slots_full) == {whole + T - 1}
        assert set(got.prefill_full) == {whole if turns == "protect" else len(prompt.tokens)}


@pytest.mark.parametrize("turns", ["protect", "flow"])
def test_with_a_full_cache_it_is_the_same_when_the_question_comes(turns: str) -> None:
    later, at_once = (answers(Policy(turns=turns), when) for when in (True, False))
    assert [row.tokens for row in later] == [row.tokens for row in at_once]
    assert [row.cache_bytes for row in later] == [row.cache_bytes for row in at_once]
    assert all(row.prefill_kept == row.prefill_full for row in later)


def test_a_method_that_looks_at_the_question_keeps_other_slots_if_it_does_not_know_it() -> None:
    whole = Policy(prefill.SnapKV(10, WINDOW))
    known, unknown = (answers(replace(whole, turns="flow"), when) for when in (False, True))
    assert [row.tokens for row in known] != [row.tokens for row in unknown]
    contexts = [row.prefill_kept for row in unknown]
    assert contexts[0] == contexts[1] == (10,) * len(contexts[0])


def test_a_context_is_read_once_for_all_questions_that_follow_each_other(monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[int] = []
    original = stream.prefill

    def counting(model: Any, cache: Any, prompts: list[Prompt], *more: Any) -> Any:
        read.extend(len(prompt.tokens) for prompt in prompts)
        return original(model, cache, prompts, *more)

    monkeypatch.setattr(stream, "prefill", counting)
    answers(HALF, True, batch_size=1)
    assert read == [*CONTEXTS]


def test_one_token_answers_count_the_slots_of_the_question() -> None:
    (row,) = stream.generate(tiny(), WORDS, asked(True)[:1], Policy(), 1)
    assert row.cache_bytes == row.full_cache_bytes > 0


def test_a_question_is_tokens_of_a_text() -> None:
    with pytest.raises(SettingError, match=r"^Prompt.asking=an empty list: must be the tokens of one text"):
        Prompt("a", [1], asking=[])


# in the task


def test_samples_about_one_list_divide_its_facts_and_share_its_text() -> None:
    samples, at_once = LIST.samples(), replace(LIST, question="in_prompt").samples()
    assert [one.prompt + one.asking for one in samples] == [one.prompt for one in at_once]
    assert [one.gold for one in samples] == [one.gold for one in at_once]
    assert {one.asking for one in at_once} == {""}
    assert len({one.name for one in samples}) == 8
    plain = replace(LIST, question="in_prompt", questions=1).samples()
    for at, whole in enumerate(plain):
        own = samples[4 * at : 4 * at + 4]
        assert {one.cluster for one in own} == {whole.name}
        (context,) = {one.prompt for one in own}
        assert whole.prompt.startswith(context)
        assert whole.gold is not None
        assert "".join(one.gold.text for one in own if one.gold) == whole.gold.text
        assert [LIST.measures(one, whole.gold.text) for one in own] == [{"values": 1.0}] * 4
        for one in own:
            assert one.gold is not None
            assert not set(one.gold.text.splitlines()) & set(one.asking.splitlines())


@pytest.mark.parametrize("kind", KINDS)
def test_the_tokens_are_those_of_the_prompt_that_holds_its_question(kind: str) -> None:
    tokenizer = made(kind)
    for later, whole in zip(LIST.samples(), replace(LIST, question="in_prompt").samples(), strict=True):
        divided, one = (encode(tokenizer, sample, "plain", None, "refuse") for sample in (later, whole))
        assert (*divided.tokens, *divided.asking) == one.tokens
        assert divided.hash == one.hash
        assert one.asking == ()
        asking, read = (re.sub(r"[\s▁]", "", text) for text in (later.asking, tokenizer.decode(divided.asking)))
        assert read.endswith(asking)
        assert len(read) < len(asking) + 4  # a token with the list's last characters in it is the question's
    contexts = {encode(tokenizer, sample, "plain", None, "refuse").tokens for sample in LIST.samples()}
    assert len(contexts) == LIST.prompts


def test_a_question_takes_its_share_of_the_context() -> None:
    tokenizer, sample = made("bytes"), LIST.samples()[0]
    divided = encode(tokenizer, sample, "plain", None, "refuse")
    room = len(divided.tokens) + len(divided.asking)
    assert encode(tokenizer, sample, "plain", room, "refuse") == divided
    with pytest.raises(ImpossibleError, match="does not fit the model's context"):
        encode(tokenizer, sample, "plain", room - 1, "refuse")
    cut = encode(tokenizer, sample, "plain", room - 9, "cut")
    assert (cut.cut, cut.asking) == (9, divided.asking)


def test_settings_are_checked_and_leave_older_runs_their_identity() -> None:
    later = ("task=recall", "task.question=later", "task.prompts=2")
    plain = composed("task=recall")
    assert composed("task=recall", "task.question=in_prompt", "task.questions=1").identity() == plain.identity()
    assert len({plain.identity(), composed(*later).identity(), composed(*later, "task.questions=5").identity()}) == 3
    with pytest.raises(ImpossibleError, match=r"^measure=replay: .*: task\.question=in_prompt$"):
        composed(*later, "measure=replay").identity()
    for setting, said in (
        ({"question": "late"}, "Recall.question=late: must be one of in_prompt, later"),
        ({"questions": 9}, "Recall.questions=9: must be a whole number of at most 8"),
        ({"turns": 3}, "Recall.turns=3: must be a whole number of at most 2"),
    ):
        with pytest.raises(SettingError, match=f"^{said}"):
            replace(LIST, **setting)


def test_a_plan_counts_the_question() -> None:
    task = ("task=recall", "task.facts=2", "task.max_new_tokens=20", "task.prompts=1", "method=full", "decoding=none")
    later, at_once = (
        Forecaster(30).forecast(composed(*task, f"task.question={when}")) for when in ("later", "in_prompt")
    )
    assert later.prompt_tokens is not None
    assert at_once.prompt_tokens is not None
    assert later.prompt_tokens[0] < at_once.prompt_tokens[0]
    assert later.full_cache_bytes == at_once.full_cache_bytes == later.cache_bytes == at_once.cache_bytes


def test_a_run_records_the_list_as_cluster_and_goes_on_where_it_was(tmp_path: Path) -> None:
    task = Recall(2, 1.0, "listed", 40, 0, 0, 12, prompts=2, question="later", questions=2)
    what = experiment(task=task, method=prefill.SnapKV(0.5, WINDOW), turns="flow")
    _, whole = go(what, tmp_path / "whole")
    assert [line["cluster"] for line in whole] == [sample.cluster for sample in task.samples()]
    assert [line["sample"] for line in whole] == [sample.name for sample in task.samples()]
    assert all(set(line["measures"]) == {"values"} and line["prefill_evicted"] > 0 for line in whole)
    folder, first = go(replace(what, limit=3), tmp_path / "part")
    again, rest = go(what, tmp_path / "part")
    assert again == folder
    assert rest[:3] == first
    assert but_for_timings(rest) == but_for_timings(whole)


@pytest.mark.parametrize("asked", ["question=later", "turns=2"])
def test_a_trace_shows_no_question_that_comes_later(asked: str, tmp_path: Path) -> None:
    name, value = asked.split("=")
    task = replace(Recall(2, 1.0, "listed", 40, 0, 0, 12, prompts=1), **{name: int(value) if value == "2" else value})
    with pytest.raises(ImpossibleError, match=r"^trace: shows one answer .*: trace=none$"):
        go(experiment(task=task, method=prefill.SnapKV(0.5, WINDOW), trace=Trace([0])), tmp_path)
