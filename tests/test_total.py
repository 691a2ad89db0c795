"""A cache that is given slots in all instead of D: no row ever holds more, one more of D would, and runs say so."""

import re
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
from golden import composed
from helpers.library import experiment, go
from helpers.quick import every
from tiny_models import DIM, HEADS, LAYERS, SLIDING_WINDOW, WORDS, Trace, random_prompts, tiny
from torch import Tensor

from scope import decoding, prefill
from scope.cache import CompressedCache, Policy, sizes, with_most_slots
from scope.decoding import DecodingStrategy
from scope.decoding.eviction import Eviction
from scope.generation import models
from scope.generation.options import Hooks, Options
from scope.generation.rows import Generated, Prompt
from scope.generation.stream import generate
from scope.policy.attention import Attention
from scope.prefill import PrefillMethod
from scope.runs.forced import of_the_full_cache
from scope.runs.forecast import cache_bytes, require_fit
from scope.util.errors import CombinationError, ConfigError, ImpossibleError, ScopeError, SettingError

TOKENS = 60
LENGTHS = (30, 9, 21)  # one batch, padded on the left
PROMPTS = random_prompts(*LENGTHS)
SNAPKV, PYRAMIDKV = prefill.SnapKV(16, 4), prefill.PyramidKV(16, 4)
EACH_STEP: dict[str, tuple[PrefillMethod, DecodingStrategy]] = {  # an eviction in every step
    "slide": (SNAPKV, decoding.Slide(8, 4)),
    "slide-pyramid": (PYRAMIDKV, decoding.Slide(8, 4)),
    "distinct": (SNAPKV, decoding.Distinct(8, 4)),
    "distinct-unprotected": (prefill.Full(), decoding.Distinct(8, 4, protect="nothing")),
    "h2o-unprotected": (SNAPKV, decoding.H2O(8, 4)),
    "h2o-pyramid": (PYRAMIDKV, decoding.H2O(8, 4)),
    "pyramidinfer": (PYRAMIDKV, decoding.PyramidInfer(8, 4)),
    "raas": (SNAPKV, decoding.RaaS(8, 4)),  # with a channel, which a bound on slots does not count
}
OTHERS: dict[str, tuple[PrefillMethod, DecodingStrategy]] = {
    "adaptive": (SNAPKV, decoding.Adaptive(8, 4, tokens=TOKENS)),
    "discontinuous": (SNAPKV, decoding.Discontinuous(5, 4, tokens=TOKENS)),
    "lazyeviction": (PYRAMIDKV, decoding.LazyEviction(8, 4)),
    "boundary": (PYRAMIDKV, decoding.PyramidInfer(8, 4, "prompt", "budget")),
}
SLOT = LAYERS * HEADS * 2 * DIM * 8  # bytes
TOTALS = {"llama": 36, "gemma3": 27}  # a window holds 17 slots at most, in two of the three layers


def ran(family: str, policy: Policy, *prompts: Prompt) -> tuple[list[Generated], list[list[int]]]:
    """What a batch wrote, and for each row the most slots that each layer held, counted from the positions."""
    trace = Trace()
    rows = generate(tiny(family), WORDS, prompts, policy, TOKENS, options=Options(hooks=Hooks(observe=trace)))
    held = []
    for row in range(len(prompts)):
        left = [[max(map(len, heads)) for heads in step] for step in trace.of_row(row, TOKENS - 1)]
        steps = [left[0], *([n + 1 for n in layers] for layers in left[:-1])]  # a step adds one, attends, then evicts
        held.append([max(layer) for layer in zip(*steps, strict=True)])
    return rows, held


@pytest.mark.parametrize("family", TOTALS)
@pytest.mark.parametrize("name", every(2, EACH_STEP | OTHERS))
def test_no_row_ever_holds_more(name: str, family: str) -> None:
    method, strategy = (EACH_STEP | OTHERS)[name]
    total = TOTALS[family] + 20 * (name == "boundary")  # whose first slots lie behind a short prompt
    policy = Policy(method, strategy, max_slots=total)
    of_slot = HEADS * (2 * DIM * 8 + 4 * len(strategy.channels))
    for row, peak, prompt in zip(*ran(family, policy, *PROMPTS), LENGTHS, strict=True):
        assert sum(peak) <= LAYERS * total
        assert row.cache_bytes == sum(peak) * of_slot
        told = sizes.cache_bytes(tiny(family).config, policy, "float64", prompt, TOKENS)
        assert row.cache_bytes <= told <= LAYERS * total * of_slot


@pytest.mark.parametrize("family", TOTALS)
@pytest.mark.parametrize("name", every(4, EACH_STEP))
@pytest.mark.slow
def test_one_more_of_d_would_pass_it(name: str, family: str) -> None:
    """What a row of the batch holds is what it holds alone with the D of `with_most_slots`, and no larger D fits."""
    free, total = Policy(*EACH_STEP[name]), TOTALS[family]
    rows, held = ran(family, replace(free, max_slots=total), *PROMPTS)
    for place, prompt in enumerate(PROMPTS):
        fitted = with_most_slots(free, tiny(family).config, LENGTHS[place], total)
        assert isinstance(fitted.decoding, Eviction)
        (row,), (peak,) = ran(family, fitted, prompt)
        assert (row.trace, peak) == (rows[place].trace, held[place])
        larger = replace(fitted.decoding, budget=fitted.decoding.budget + 1)
        _, (more,) = ran(family, replace(fitted, decoding=larger), prompt)
        assert sum(more) > LAYERS * total


@pytest.mark.parametrize("family", ["llama", "gemma3"])
def test_equal_totals_are_equal_slots_whatever_the_prompt_and_the_strategy(family: str) -> None:
    """Bytes are not: a strategy that remembers more of each slot would hold fewer."""
    total = TOTALS[family]
    for name in ("slide", "distinct", "h2o-unprotected", "raas"):
        _, held = ran(family, Policy(*EACH_STEP[name], max_slots=total), *PROMPTS)
        assert [sum(peak) for peak in held] == len(PROMPTS) * [LAYERS * total], name


@pytest.mark.parametrize(
    ("family", "share", "reach"),
    [("llama", 0.5, None), ("llama", 0.6, None), ("gemma3", 0.7, SLIDING_WINDOW - 1), ("llama", 0.999, None)],
)
def test_a_share_is_the_count_by_hand(family: str, share: float, reach: int | None) -> None:
    free = Policy(*EACH_STEP["slide"])
    rows, held = ran(family, replace(free, max_slots=share, tokens=TOKENS), *PROMPTS)
    for place, prompt in enumerate(LENGTHS):
        tokens = prompt + TOKENS - 1  # the last token is never stored
        full = [min(tokens, reach or tokens), tokens, min(tokens, reach or tokens)]
        count = int(Fraction(str(share)) * sum(full) / LAYERS)
        counted, peaks = ran(family, replace(free, max_slots=count), *PROMPTS)
        assert (rows[place].tokens, rows[place].trace) == (counted[place].tokens, counted[place].trace)
        assert held[place] == peaks[place]
        assert sum(held[place]) <= LAYERS * count


def test_a_share_counts_as_the_decimal_that_is_written() -> None:
    """As a float, 0.29 of 100 is a little less than 29."""
    assert int(0.29 * 100) == 28
    policy = Policy(*EACH_STEP["slide"], max_slots=0.29, tokens=TOKENS)
    _, (peak,) = ran("llama", policy, *random_prompts(41))
    assert peak == LAYERS * [29]


def test_a_cache_is_made_from_the_whole_policy() -> None:
    policy = Policy(*EACH_STEP["slide"], granularity="query_head", max_slots=0.5, tokens=TOKENS)
    cache = CompressedCache.of(tiny().config, policy)
    assert cache.policy == policy
    assert repr(cache).startswith(
        "<CompressedCache SnapKV(budget=16, window=4) + Slide(budget=8, recent=4), max_slots=0.5\n"
    )


def test_tokens_change_nothing_beside_a_count() -> None:
    counted = Policy(*EACH_STEP["slide"], max_slots=40)
    rows, same = (ran("llama", policy, *PROMPTS)[0] for policy in (counted, replace(counted, tokens=7)))
    assert [row.trace for row in rows] == [row.trace for row in same]
    assert Policy(*EACH_STEP["slide"], tokens=7).bound is None


@dataclass(frozen=True)
class Eldest(Eviction):
    """Of the slots that may go, the newest goes. The score asks how many slots are recent."""

    def score(self, attention: Attention) -> Tensor:
        return -attention.positions.float().masked_fill(~self.evictable(attention), 0.0)


@pytest.mark.parametrize(
    ("strategy", "bound"),
    [
        (Eldest(recent=0.3), {"max_bytes": 40 * LAYERS * HEADS * 2 * DIM * 8}),
        (decoding.Slide(recent=0.5), {"max_slots": 0.5}),
        (decoding.LazyEviction(recent=0.3, protect="prompt"), {"max_slots": 40}),
    ],
)
def test_recent_may_be_a_share_of_what_the_bound_leaves(strategy: Eviction, bound: dict[str, Any]) -> None:
    """Rows of one batch, and rows that come later, are what each is alone with its own D and count of recent slots."""
    policy, (config, config_of) = Policy(SNAPKV, strategy, tokens=TOKENS, **bound), (tiny().config, sizes.windows_of)
    later = (*PROMPTS, *random_prompts(26, 17, seed=4))
    together = generate(tiny(), WORDS, later, policy, TOKENS, options=Options(batch_size=3))
    found = set()
    for prompt, row in zip(later, together, strict=True):
        of_slot = [sizes.slot_bytes_of(config, policy, "float64")] * LAYERS
        view = sizes.after_prefill(policy, len(prompt.tokens), config_of(config), of_slot)[0]
        own = strategy.within(view)
        fixed = Policy(SNAPKV, replace(own, recent=own.newest))
        (alone,) = generate(tiny(), WORDS, [prompt], fixed, TOKENS)
        assert (row.tokens, row.trace) == (alone.tokens, alone.trace)
        found.add(own.budget)
    assert len(found) > 1


@pytest.mark.parametrize("value", [0, -1, 0.0, 1.0, 1.5, True, "half", float("nan")])
def test_neither_a_count_nor_a_share_is_refused(value: Any) -> None:
    with pytest.raises(SettingError, match=r"max_slots=.*a number of slots \(1 or more\), or a share of the full"):
        Policy(*EACH_STEP["slide"], max_slots=value, tokens=9)


def test_combinations_that_cannot_be_are_refused() -> None:
    method, strategy = EACH_STEP["slide"]
    with pytest.raises(CombinationError, match="max_slots=40: must be null where the bytes are bounded"):
        Policy(method, strategy, max_bytes=9000, max_slots=40)
    with pytest.raises(CombinationError, match=r"max_slots=0\.5: must be a number of slots where `tokens`, T, is not"):
        Policy(method, strategy, max_slots=0.5)
    with pytest.raises(SettingError, match=r"tokens=0: must be a whole number of at least 1"):
        Policy(method, strategy, max_slots=0.5, tokens=0)
    with pytest.raises(CombinationError, match="max_slots=40: must be null where `recent` is a share of D and says"):
        Policy(method, decoding.MorphKV(8, 0.5), max_slots=40)
    for grows in (decoding.KeepAll(), decoding.Adaptive(8, 4, tokens=TOKENS, capped=False)):
        with pytest.raises(CombinationError, match="max_slots=40: must be null where nothing is evicted"):
            Policy(method, grows, max_slots=40)


@pytest.mark.parametrize("name", EACH_STEP | OTHERS)
def test_too_few_slots_name_the_fewest_that_do(name: str) -> None:
    free = Policy(*(EACH_STEP | OTHERS)[name])

    def written(most: int) -> object:
        return generate(tiny(), WORDS, PROMPTS, replace(free, max_slots=most), 9)

    with pytest.raises(ScopeError, match=r"^max_slots=2: too small for a prompt of \d+ tokens: needs") as it:
        written(2)
    least = int(re.findall(r"needs at least (\d+) slots$", str(it.value))[0])
    assert written(least)
    with pytest.raises(ScopeError, match=rf"needs at least {least} slots$"):
        written(least - 1)


def test_too_small_a_share_names_the_smallest_that_does_for_every_prompt() -> None:
    """Of two prompts that keep equally many slots, the shorter one needs the larger share."""
    what = experiment(max_slots=0.01)  # SnapKV(40, 8), Slide(32, 16), T = 100
    config, _ = models.load_shape(what.model)
    said = r"^budget\.total=0\.01: must be at least 0\.4072 for a prompt of 41 tokens: what stays of it, and D "
    with pytest.raises(ImpossibleError, match=said):  # 40 + 16 + 1 slots, of 41 + 99
        require_fit(what, config, [60, 41])
    require_fit(replace(what, max_slots=0.4072), config, [60, 41])
    with pytest.raises(ImpossibleError, match=r"total=0\.4071: must be at least 0\.4072 for a prompt of 41"):
        require_fit(replace(what, max_slots=0.4071), config, [60, 41])


def test_where_no_share_is_enough_a_count_is_named() -> None:
    what = experiment(method=prefill.Full(), max_slots=0.9)
    what = replace(what, task=replace(what.task, max_new_tokens=9))
    config, _ = models.load_shape(what.model)
    with pytest.raises(ImpossibleError, match=r"total=0\.9: must be at least 108 slots for a prompt of 91 tokens"):
        require_fit(what, config, [60, 91])
    require_fit(replace(what, max_slots=108), config, [60, 91])


def test_the_command_line_refuses_it_by_name() -> None:
    with pytest.raises(ConfigError, match=r"^budget\.total=1\.5: must be a number of slots \(1 or more\), or a share"):
        composed("budget.total=1.5")
    with pytest.raises(ImpossibleError, match=r"^budget\.total=90: must be null where nothing is evicted"):
        composed("decoding=none", "budget.total=90")
    with pytest.raises(ImpossibleError, match=r"^budget\.total=90: must be null where the bytes are bounded$"):
        composed("budget.total=90", "budget.bytes=9000")
    with pytest.raises(ImpossibleError, match=r"^budget\.total=0\.5: must be null where `recent` is a share of D and"):
        composed("budget.total=0.5", "budget.recent=0.5", "decoding=morphkv")


def test_a_share_is_of_the_tasks_own_length() -> None:
    found = composed("budget.total=0.5", "task.max_new_tokens=77").policy
    assert (found.max_slots, found.tokens) == (0.5, 77)


@pytest.mark.parametrize("total", [70, 0.4])
def test_a_run_carries_it_and_is_another_run(total: float, tmp_path: Path) -> None:
    bound, free = experiment(max_slots=total), experiment()
    assert bound.identity() != free.identity()
    assert bound.settings()["cache"] == {"granularity": "kv_head", "max_slots": total}
    assert "max_slots" not in str(free.settings())
    assert of_the_full_cache(bound).policy.bound is None
    _, lines = go(bound, tmp_path)
    config, _ = models.load_shape(bound.model)
    for line in lines:
        most = int(total if total > 1 else Fraction(str(total)) * (line["prompt_tokens"] + 99))
        assert line["slots_kept"] == [min(most - 1, 40 + line["generated_tokens"] - 1)] * 3
        assert line["cache_bytes"] <= cache_bytes(bound, config, line["prompt_tokens"])
        assert cache_bytes(bound, config, line["prompt_tokens"]) == 3 * most * 2 * 2 * 32 * 4
