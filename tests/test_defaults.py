"""Settings for library use: defaults, `recent` as a share of D, and the largest D for a number of slots."""

import re
from dataclasses import replace
from typing import Any

import pytest
import torch
from helpers.pairs import DECODING, PREFILL
from helpers.quick import slow
from tiny_models import WORDS, Trace, generate, made_up_statistics, random_prompts, tiny

import scope.decoding
import scope.prefill
from scope.cache import CompressedCache, Policy, with_most_slots
from scope.decoding import Discontinuous, Distinct, KeepAll, MorphKV, Salient, Slide, SnapKVD
from scope.decoding.eviction import Eviction
from scope.policy.layer_entropies import LayerEntropies
from scope.prefill import Full, SnapKV, StreamingLLM
from scope.prefill.budget import Budget
from scope.util.errors import CombinationError, ScopeError, SettingError

NEEDED: dict[str, dict[str, Any]] = {  # what no default can stand for
    "Adaptive": {"tokens": 40},
    "Discontinuous": {"tokens": 40},
    "Entropy": {"statistics": LayerEntropies((1.0, 2.0, 3.0))},
    "TriAttention": {"statistics": made_up_statistics()},
}
CLASSES = [
    getattr(package, name)
    for package in (scope.prefill, scope.decoding)
    for name in package.__all__
    if name not in ("PrefillMethod", "DecodingStrategy", "KVPress")  # no classes of one's own; it needs a press
]


@pytest.mark.parametrize("kind", CLASSES)
def test_every_class_can_be_made_without_budgets(kind: type) -> None:
    made = kind(**NEEDED.get(kind.__name__, {}))
    if isinstance(made, Budget):
        assert made.slots(1000) == 500
    if isinstance(made, Eviction):
        assert (made.budget, made.newest) == (512, 77 if kind is Salient else 256)  # 77: its own default, 15%


def test_the_shortest_way_to_a_compressed_cache() -> None:
    cache = CompressedCache(tiny().config, SnapKV(), Slide())
    tokens = torch.randint(5, 50, (1, 40), generator=torch.Generator().manual_seed(0))
    tiny()(tokens, past_key_values=cache, use_cache=True)
    assert cache.positions(0).shape[-1] == 20


def steps(policy: Policy, prompt: int, tokens: int) -> list[Any]:
    trace = Trace()
    generate(tiny(), WORDS, random_prompts(prompt), policy.prefill, policy.decoding, tokens, observe=trace)
    return trace.steps


def test_a_share_is_the_count_that_it_comes_to() -> None:
    counted, shared = (steps(Policy(SnapKV(8, 3), Slide(9, recent)), 21, 30) for recent in (4, 0.4))
    assert counted == shared
    assert Slide(9, 0.4).newest == 4
    assert Slide(1, 0.1).newest == 1


@pytest.mark.parametrize("value", [0, 0.0, 1.0, 1.5, -1, True, "half", float("nan")])
def test_a_recent_that_is_neither_is_refused(value: Any) -> None:
    with pytest.raises(SettingError, match=r"recent=.*a number of slots \(1 or more\), or a share of D"):
        Slide(10, value)


def peak(policy: Policy, prompt: int, tokens: int) -> float:
    """The most slots held at once in the mean over the layers: a step adds one to what the step before it left."""
    held = [[max(map(len, heads)) for (heads,) in step] for step in steps(policy, prompt, tokens)]  # of the only row
    return max(sum(layers) / len(layers) + 1 for layers in held[:-1])


@pytest.mark.parametrize("strategy", [name for name, made in DECODING.items() if isinstance(made, Eviction)])
@pytest.mark.parametrize("method", ["full", slow("snapkv"), "pyramidkv"])
@pytest.mark.slow
def test_the_largest_d_reaches_the_slots_and_one_more_passes_them(method: str, strategy: str) -> None:
    policy, prompt, slots = Policy(PREFILL[method], DECODING[strategy]), 21, 34
    fitted = with_most_slots(policy, tiny().config, prompt, slots)
    assert fitted.prefill == policy.prefill
    assert isinstance(fitted.decoding, Eviction)
    assert peak(fitted, prompt, 60) <= slots
    if strategy in ("slide", "h2o", "streamingllm", "pyramidinfer"):  # they evict at every step
        assert slots - peak(fitted, prompt, 60) < 1
        more = replace(fitted, decoding=replace(fitted.decoding, budget=fitted.decoding.budget + 1))
        assert peak(more, prompt, 60) > slots


def test_a_share_follows_the_d_that_was_found() -> None:
    config = tiny().config
    for decoding in (Slide(recent=0.25), Distinct(recent=0.25, protect="nothing")):
        found = with_most_slots(Policy(StreamingLLM(12), decoding), config, 30, 53).decoding
        assert isinstance(found, Eviction)
        assert (found.budget, found.newest) == (40, 10)


def test_what_cannot_be_fitted_is_one_line() -> None:
    config = tiny().config
    with pytest.raises(ScopeError, match="KeepAll has no decoding budget"):
        with_most_slots(Policy(SnapKV(8, 3), KeepAll()), config, 30, 20)
    for decoding in (Slide(recent=0.5), SnapKVD(recent=0.5, window=8), Discontinuous(10, 5, tokens=40, delta=20)):
        policy = Policy(Full(), decoding)
        with pytest.raises(
            ScopeError, match=r"^slots=20: too few for a prompt of 30 tokens: needs at least"
        ) as refused:
            with_most_slots(policy, config, 30, 20)
        least = int(re.findall(r"needs at least (\d+)$", str(refused.value))[0])
        assert with_most_slots(policy, config, 30, least)
        with pytest.raises(ScopeError, match="too few"):
            with_most_slots(policy, config, 30, least - 1)


def test_a_share_of_queries_and_a_bound_are_refused(scope: Any) -> None:
    """Each row has its own D then, and would look at another number of queries."""
    said = "must be null where `recent` is a share of D and says how many queries are looked at: give a count"
    with pytest.raises(CombinationError, match=f"max_bytes=500000: {said}"):
        Policy(SnapKV(8, 3), MorphKV(), max_bytes=500_000)
    refused = scope("plan=true", "decoding=vase", "budget.recent=0.5", "budget.bytes=500000", code=2).err
    assert refused == f"error: budget.bytes=500000: {said}\n"


def test_from_the_command_line(scope: Any) -> None:
    said = scope("plan=true", "decoding=slide", "budget.recent=0.5").out
    assert said
    refused = scope("decoding=slide", "budget.recent=1.5", code=2)
    assert refused.err == (
        "error: budget.recent=1.5: must be a number of slots (1 or more), or a share of D (above 0, below 1)\n"
    )
