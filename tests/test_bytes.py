"""A cache that is given bytes instead of D: it fills them, never passes them, and says so in records and forecasts."""

from dataclasses import replace
from pathlib import Path

import pytest
from golden import composed
from helpers.library import experiment, go
from tiny_models import DIM, HEADS, LAYERS, WORDS, generate, random_prompts, tiny

from scope import decoding, prefill
from scope.cache import CompressedCache, Policy, sizes
from scope.cache.twin import Concatenated
from scope.decoding import DecodingStrategy
from scope.generation import models
from scope.policy.plan import View
from scope.prefill import PrefillMethod
from scope.runs.forecast import cache_bytes
from scope.util.errors import CombinationError, ConfigError, ImpossibleError, ScopeError, SettingError

PROMPT, TOKENS, SLOTS = 30, 60, 46  # slots a layer
SLOT = HEADS * 2 * DIM * 8  # bytes of a key and a value in one layer, float64
METHODS: dict[str, PrefillMethod] = {
    "full": prefill.Full(),
    "snapkv": prefill.SnapKV(16, 4),
    "pyramidkv": prefill.PyramidKV(16, 4),
}
POLICIES: dict[str, DecodingStrategy] = {
    "slide": decoding.Slide(8, 4),
    "h2o": decoding.H2O(8, 4),
    "pyramidinfer": decoding.PyramidInfer(8, 4),
    "raas": decoding.RaaS(8, 4),  # one channel
    "lazyeviction": decoding.LazyEviction(8, 4),  # two, and a period of 4
}


@pytest.mark.parametrize("name", POLICIES)
@pytest.mark.parametrize("method", METHODS)
def test_bytes_are_filled_and_never_passed(method: str, name: str) -> None:
    policy, allocated = POLICIES[name], []
    given = LAYERS * SLOTS * SLOT
    of_slot = SLOT + HEADS * 4 * len(policy.channels)
    (row,) = generate(
        tiny(),
        WORDS,
        random_prompts(PROMPT),
        METHODS[method],
        policy,
        TOKENS,
        max_bytes=given,
        observe=lambda cache: allocated.append(cache.nbytes),
    )
    assert row.cache_bytes <= given
    assert max(allocated) <= given
    rounding = 3 * LAYERS if "pyramid" in method + name else LAYERS  # slots
    assert row.cache_bytes > given - (rounding + 1) * of_slot
    assert row.full_cache_bytes == LAYERS * (PROMPT + TOKENS - 1) * SLOT


@pytest.mark.parametrize("name", ["slide", "pyramidinfer"])
def test_in_place_is_the_twin(name: str) -> None:
    written = [
        generate(tiny(), WORDS, random_prompts(PROMPT, 21), METHODS["pyramidkv"], POLICIES[name], TOKENS, **more)
        for more in (
            {"max_bytes": LAYERS * SLOTS * SLOT},
            {"max_bytes": LAYERS * SLOTS * SLOT, "storage": Concatenated},
        )
    ]
    assert [(row.tokens, row.trace) for row in written[0]] == [(row.tokens, row.trace) for row in written[1]]


def test_bytes_give_d_its_size() -> None:
    as_slots = generate(tiny(), WORDS, random_prompts(PROMPT), prefill.SnapKV(16, 4), decoding.Slide(29, 4), TOKENS)
    as_bytes = generate(
        tiny(),
        WORDS,
        random_prompts(PROMPT),
        prefill.SnapKV(16, 4),
        decoding.Slide(8, 4),
        TOKENS,
        max_bytes=LAYERS * SLOTS * SLOT,
    )
    assert (as_bytes[0].tokens, as_bytes[0].trace) == (as_slots[0].tokens, as_slots[0].trace)


BESIDE = prefill.PyramidInfer(16, 4, short="flat", beside=True)  # leaves C + window, at prompts below 2 (C - window)
LATE = decoding.Discontinuous(8, 4, tokens=TOKENS, boundary="budget", wait="full")  # a pyramid's layers are awaited
UNEVEN: dict[str, tuple[PrefillMethod, DecodingStrategy, tuple[int, ...]]] = {  # and slots a layer
    "adaptive": (METHODS["snapkv"], decoding.Adaptive(8, 4, tokens=TOKENS), (28, 46)),
    "adaptive-start": (METHODS["pyramidkv"], decoding.Adaptive(8, 4, tokens=TOKENS, growth="start"), (28, 46)),
    "discontinuous": (METHODS["snapkv"], decoding.Discontinuous(5, 4, tokens=TOKENS), (36, 46)),
    "discontinuous-full": (METHODS["pyramidkv"], replace(LATE, boundary="kept"), (40, 46)),
    "discontinuous-late": (METHODS["pyramidkv"], LATE, (58, 72)),
    "boundary": (METHODS["pyramidkv"], decoding.Slide(8, 4, boundary="budget"), (24, 28)),
    "boundary-h2o": (METHODS["pyramidkv"], decoding.H2O(8, 4, boundary="budget"), (24, 28)),
    "boundary-pyramid": (METHODS["pyramidkv"], decoding.PyramidInfer(8, 4, "prompt", "budget"), (24, 46)),
    "beside": (BESIDE, decoding.H2O(8, 4), (28, 46)),
    "beside-pyramid": (BESIDE, decoding.PyramidInfer(8, 4), (28, 46)),
}


@pytest.mark.parametrize("name", UNEVEN)
def test_bytes_are_never_passed_where_layers_or_prompts_differ(name: str) -> None:
    method, policy, rooms = UNEVEN[name]
    prompts = random_prompts(12, 16, 18, 30)
    for room in rooms:
        given, model = LAYERS * room * SLOT, tiny()
        rows = generate(model, WORDS, prompts, method, policy, TOKENS, max_bytes=given)
        for row, prompt in zip(rows, prompts, strict=True):
            length = len(prompt.tokens)
            told = sizes.cache_bytes(model.config, Policy(method, policy, max_bytes=given), "float64", length, TOKENS)
            assert row.cache_bytes <= told <= given
            if not isinstance(policy, decoding.Adaptive):  # which may end before it is at its most
                assert row.cache_bytes == told
                assert told > given - 3 * LAYERS * SLOT or length < 16  # C counts, of which a short prompt leaves some


@pytest.mark.parametrize("make", [decoding.Adaptive, decoding.Discontinuous])
@pytest.mark.parametrize("as_given", [16, 20, 29])
@pytest.mark.slow
def test_bytes_are_the_d_that_takes_them(make: type[decoding.Adaptive], as_given: int) -> None:
    """The interval is that D's, whatever D the strategy was given beside."""
    method, prompts = prefill.SnapKV(16, 4), random_prompts(PROMPT)
    wanted = make(as_given, 4, tokens=TOKENS)
    (as_slots,) = generate(tiny(), WORDS, prompts, method, wanted, TOKENS)
    bytes_of_it = LAYERS * (16 + as_given + wanted.period) * SLOT
    for own in (5, 8, as_given, 200):
        policy = replace(wanted, budget=own)
        (as_bytes,) = generate(tiny(), WORDS, prompts, method, policy, TOKENS, max_bytes=bytes_of_it)
        assert (as_bytes.tokens, as_bytes.trace) == (as_slots.tokens, as_slots.trace)


def in_slots(method: PrefillMethod, prompt: int) -> list[View]:
    """Each layer's view as the prefill leaves it."""
    asked = [View(layer, LAYERS, prompt, stored=prompt) for layer in range(LAYERS)]
    left = tuple(plan.slots if plan else prompt for plan in map(method.plan, asked))
    return [replace(v, budget=method.slots(prompt), capacity=method.capacity(v), prefilled=left) for v in asked]


def peaks(policy: DecodingStrategy, views: list[View]) -> list[int]:
    """The most that each layer ever holds, step by step."""
    stored = [view.kept for view in views]
    most = stored
    for t in range(TOKENS - 1):
        stored = [n + 1 for n in stored]
        most = [max(pair) for pair in zip(most, stored, strict=True)]
        plans = [policy.plan(view.at(t, n)) for view, n in zip(views, stored, strict=True)]
        stored = [plan.slots if plan else n for plan, n in zip(plans, stored, strict=True)]
    return most


@pytest.mark.parametrize("prompt", [12, 16, 18, 30])
@pytest.mark.parametrize("name", UNEVEN)
def test_no_larger_d_has_room(name: str, prompt: int) -> None:
    method, policy, rooms = UNEVEN[name]
    views = in_slots(method, prompt)
    assert [view.of(at.layer) for view in views for at in views] == LAYERS * views
    for room in (*rooms, rooms[-1] + 7):
        bound = [replace(view, max_slots=room) for view in views]
        assert sum(peaks(policy, bound)) <= LAYERS * room
        sizes_of = {d: sum(replace(policy, budget=d).most(view) for view in views) for d in range(4, room + 1)}
        largest = max(d for d, slots in sizes_of.items() if slots <= LAYERS * room)
        if policy != LATE:  # whose layers wait for others: a little more for D can be much more
            assert peaks(policy, bound) == peaks(replace(policy, budget=largest), views)


@pytest.mark.parametrize("growth", ["recent", "start"])
@pytest.mark.parametrize("size", [5, 8, 16, 40])  # at 40 the interval is 1: by growth alone, it would never be full
def test_a_layer_that_waits_for_others_has_a_most(size: int, growth: str) -> None:
    policy = replace(LATE, budget=size, growth=growth)
    for prompt in (12, 18, 30):
        views = in_slots(METHODS["pyramidkv"], prompt)
        assert all(n <= policy.most(view) for n, view in zip(peaks(policy, views), views, strict=True))


def test_bytes_that_cannot_be_are_refused_by_name() -> None:
    with pytest.raises(ConfigError, match=r"^budget\.bytes=0: must be a whole number of at least 1$"):
        composed("budget.bytes=0")
    with pytest.raises(ImpossibleError, match=r"^budget\.bytes=9000: must be null where nothing is evicted"):
        composed("decoding=none", "budget.bytes=9000")
    with pytest.raises(SettingError, match="max_bytes=-1"):
        CompressedCache(tiny().config, decoding=decoding.Slide(8, 4), max_bytes=-1)
    with pytest.raises(CombinationError):
        CompressedCache(tiny().config, max_bytes=9000)
    for strategy in ("adaptive", "discontinuous"):
        with pytest.raises(ImpossibleError, match=r"^budget\.bytes=9000: must be null where .*\(capped=false\)$"):
            composed(f"decoding={strategy}", "fidelity=released", "budget.bytes=9000")
    free = decoding.Adaptive(8, 4, tokens=TOKENS, capped=False)
    with pytest.raises(CombinationError, match="max_bytes=9000"):
        CompressedCache(tiny().config, decoding=free, max_bytes=9000)


@pytest.mark.parametrize(
    ("method", "strategy", "prompts"),
    [
        (METHODS["pyramidkv"], decoding.Slide(8, 4, boundary="budget"), (30,)),
        (prefill.Full(), decoding.Slide(8, 4), (30,)),
        (prefill.Full(), decoding.Slide(8, 4), (9, 30, 17)),
        (prefill.Full(), decoding.Distinct(8, 4), (30,)),
    ],
)
def test_too_few_bytes_name_the_fewest_that_do(
    method: prefill.PrefillMethod, strategy: decoding.DecodingStrategy, prompts: tuple[int, ...]
) -> None:
    def written(most: int) -> object:
        return generate(tiny(), WORDS, random_prompts(*prompts), method, strategy, 9, max_bytes=most)

    with pytest.raises(
        ScopeError, match=r"^max_bytes=\d+: too small for a prompt of 30 tokens: needs at least \d+$"
    ) as it:
        written(9 * SLOT)
    least = int(str(it.value).rsplit(" ", 1)[1])
    assert written(least)
    with pytest.raises(ScopeError, match=rf"needs at least {least}$"):
        written(least - 1)


def test_a_run_carries_them_and_is_another_run(tmp_path: Path) -> None:
    given = 3 * 90 * 2 * 2 * 32 * 4  # layers, slots, heads, keys and values, width, bytes
    bound, free = experiment(max_bytes=given), experiment()
    assert bound.identity() != free.identity()
    assert "max_bytes" not in str(free.settings())
    _, lines = go(bound, tmp_path)
    config, _ = models.load_shape(bound.model)
    for line in lines:
        assert line["slots_kept"] == [min(89, 40 + line["generated_tokens"] - 1)] * 3
        assert line["cache_bytes"] <= given
        assert cache_bytes(bound, config, line["prompt_tokens"]) <= given
