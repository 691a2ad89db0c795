"""ams and diverse take any base. Where quota or penalty decides nothing, they keep in every step what the base keeps by
itself: a base that remembers, asks queries or leaves protected slots out is shown what it sees alone."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from golden import composed
from helpers.lives import LENGTHS, TOKENS, C
from tiny_models import LAYERS, WORDS, Step, generate, random_prompts, stored, tiny

from scope import decoding, prefill
from scope.decoding.eviction import Eviction
from scope.util.errors import ScopeError, SettingError

D, RECENT = 9, 5
BASES: dict[str, Eviction] = {
    "accumulated_h2o": decoding.AccumulatedH2O(decay=0.9),
    "distinct": decoding.Distinct(),
    "g_kv": decoding.GKV(D, RECENT, every=1, window=3),
    "lazyeviction": decoding.LazyEviction(threshold=0.05),
    "morphkv": decoding.MorphKV(),
    "r_kv": decoding.RKV(D, RECENT, every=1, window=3, kernel=3),
    "raas": decoding.RaaS(),
    "random": decoding.Random(),
    "tova": decoding.TOVA(),
    "vase": decoding.VASE(every=1, sinks=1, anchors=2),
}
QUICK = ("g_kv",)  # remembers, and asks queries
OVER = {
    "ams": lambda base: decoding.AMS(every=base.period, base=base, window=4, share=1.0, sinks=0, mix=0.5),
    "diverse": lambda base: decoding.Diverse(every=base.period, base=base, penalty=0),
}


def held(policy: Eviction, **options: Any) -> list[Step]:
    steps: list[Step] = []
    generate(
        tiny(),
        WORDS,
        random_prompts(*LENGTHS),
        prefill.SnapKV(C, 4),
        policy,
        TOKENS,
        observe=lambda cache: steps.append([stored(cache, layer) for layer in range(LAYERS)]),
        **options,
    )
    return steps


@pytest.mark.parametrize("protect", ["nothing", pytest.param("prompt", marks=pytest.mark.slow)])
@pytest.mark.parametrize("base", [pytest.param(b, marks=() if b in QUICK else pytest.mark.slow) for b in BASES])
@pytest.mark.parametrize("over", OVER)
def test_without_a_quota_or_a_penalty_they_keep_what_the_base_keeps(over: str, base: str, protect: str) -> None:
    sizes: dict[str, Any] = {"budget": D, "recent": RECENT, "protect": protect}
    if (over, base) == ("diverse", "vase"):
        pytest.skip("vase ranks by numbers too far apart for a mean and a standard deviation in float32")
    alone = replace(BASES[base], **sizes)
    assert held(replace(OVER[over](alone), **sizes)) == held(alone)


def test_the_base_gets_the_sizes_of_the_strategy_over_it() -> None:
    made = decoding.AMS(70, 40, "prompt", "budget", base=decoding.RKV(9, 8, "nothing", every=3, balance=0.3))
    assert made.base == decoding.RKV(70, 40, "prompt", "budget", every=3, balance=0.3)
    assert replace(made, budget=50).base.budget == 50
    assert made.queries == 32
    assert decoding.AMS(99, 60, base=decoding.MorphKV()).queries == 60
    both = decoding.AMS(base=decoding.AMS(base=decoding.LazyEviction()))
    assert both.channels == ("credit", "base.credit", "base.base.last", "base.base.gap")


@pytest.mark.parametrize("over", [decoding.AMS, decoding.Diverse])
def test_a_base_that_cannot_be_is_refused(over: type) -> None:
    with pytest.raises(SettingError, match=r"base=KeepAll: must be a strategy that evicts by a score, such as TOVA"):
        over(base=decoding.KeepAll())
    with pytest.raises(SettingError, match=r"base=Eviction: must be a strategy that evicts by a score"):
        over(base=Eviction())
    with pytest.raises(SettingError, match=r"base\.window=8: must be at most the slots that always stay, 5"):
        over(D, RECENT, base=decoding.SnapKVD())


def test_the_command_line_takes_any_base() -> None:
    made = composed(
        "decoding=ams", "budget.decode=300", "budget.recent=64", "decoding.base._target_=scope.decoding.RKV"
    )
    assert made.decoding == decoding.AMS(300, 64, base=decoding.RKV(300, 64))


def test_a_score_that_is_no_number_is_not_hidden() -> None:
    class Nan(decoding.Slide):
        def score(self, attention: Any) -> torch.Tensor:
            return torch.full(attention.positions.shape, torch.nan)

    for made in (decoding.AMS(D, RECENT, every=2, base=Nan()), decoding.Diverse(D, RECENT, every=2, base=Nan())):
        with pytest.raises(ScopeError, match=rf"{type(made).__name__}\.score: gave NaN in layer 0"):
            generate(tiny(), WORDS, random_prompts(20), prefill.SnapKV(C, 4), made, TOKENS)
