"""Replay is token-by-token decoding, only faster: the same slots in every layer and step, the same numbers per token.

The oracles: a loop that feeds one token after the other through the public API, and a stock model without any cache.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pydoc_data.topics import topics
from typing import Any

import pytest
import torch
from helpers.quick import every
from helpers.replays import CONTINUATIONS, PROMPTS, RECENT, SNAPKV, D, Seen, T, by_hand, check, every_strategy
from tiny_models import LAYERS, SLIDING_WINDOW, random_prompts, tiny
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer, Gemma3TextConfig, GraniteConfig, PreTrainedModel

import scope
from scope import decoding, prefill
from scope.cache import CompressedCache, Layout, Policy
from scope.cache.ahead import BYTES, STEPS, steps_together
from scope.cache.slots import Slots
from scope.cache.storage import StorageFactory
from scope.cache.twin import Concatenated
from scope.calibrate import calibrate
from scope.decoding import TriAttention
from scope.generation.read import Reads, read
from scope.generation.replay import Reference, ReplayOptions, reference, replay
from scope.models.published import PUBLISHED
from scope.prefill import PrefillMethod
from scope.util.errors import ScopeError, SettingError

METHODS: dict[str, PrefillMethod] = {
    "full": prefill.Full(),
    "snapkv": SNAPKV,
    "h2o": prefill.H2O(20, 4),
    "distinct": prefill.Distinct(20, 4),
    "pyramidkv": prefill.PyramidKV(20, 4, beta=4),
    "streamingllm": prefill.StreamingLLM(20, 4),
    "share": prefill.SnapKV(0.5, 4),
}


@pytest.mark.parametrize("family", ["llama", "qwen3", "gemma3"])
@pytest.mark.parametrize("name", every(3, every_strategy()))
def test_every_strategy_replays_as_it_decodes(family: str, name: str) -> None:
    check(family, Policy(SNAPKV, every_strategy()[name]))


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("strategy", every(2, ["KeepAll", "H2O", "AccumulatedH2O", "MorphKV"]))
def test_after_every_prefill_method(method: str, strategy: str) -> None:
    check("qwen3", Policy(METHODS[method], every_strategy()[strategy]))


@pytest.mark.parametrize("strategy", ["KeepAll", "Slide", "LazyEviction", "RKV"])
@pytest.mark.parametrize("granularity", ["kv_head", "query_head"])
@pytest.mark.parametrize("storage", [Slots, Concatenated])
def test_in_every_storage_and_granularity(strategy: str, granularity: str, storage: StorageFactory) -> None:
    check("llama", Policy(SNAPKV, every_strategy()[strategy], granularity), storage=storage)


@pytest.mark.parametrize("strategy", ["KeepAll", "Slide", "Distinct", "RaaS", "MorphKV"])
@pytest.mark.parametrize("precision", ["int8", "int4"])
def test_in_every_precision(strategy: str, precision: str) -> None:
    check("llama", Policy(SNAPKV, every_strategy()[strategy], precision=precision))


@pytest.mark.parametrize("strategy", ["Slide", "H2O", "RaaS"])
def test_with_the_prompts_in_chunks_and_in_several_batches(strategy: str) -> None:
    policy = Policy(prefill.H2O(20, 4), every_strategy()[strategy])
    check("gemma3", policy, prefill_chunk=5)
    check("gemma3", policy, batch_size=2, prefill_chunk=9)
    check("llama", policy, batch_size=1)


@pytest.mark.parametrize("family", ["llama", "gemma3"])
def test_with_bytes_as_the_bound(family: str) -> None:
    slot = 2 * 2 * 16 * 8  # two heads, keys and values, of 16 float64
    check(family, Policy(SNAPKV, decoding.Slide(1000, RECENT), max_bytes=LAYERS * 34 * slot))
    check(family, Policy(SNAPKV, decoding.Adaptive(1000, RECENT, tokens=T), max_bytes=LAYERS * 34 * slot))


@pytest.mark.parametrize("boundary", ["kept", "budget"])
@pytest.mark.parametrize("strategy", ["Slide", "H2O", "Discontinuous"])
def test_with_the_boundary_of_the_released_code(strategy: str, boundary: str) -> None:
    kind = getattr(decoding, strategy)
    more = {"tokens": T} if strategy == "Discontinuous" else {}
    check("llama", Policy(prefill.PyramidKV(16, 4), kind(D, RECENT, boundary=boundary, **more)))


def test_of_one_prompt_past_several_windows() -> None:
    (prompt,), (forced,) = random_prompts(2 * SLIDING_WINDOW), random_prompts(3 * SLIDING_WINDOW, seed=3)
    for family in ("gemma3", "mistral_sliding"):
        check(family, Policy(prefill.Full(), decoding.H2O(D, RECENT)), [prompt.tokens], [forced.tokens])


@pytest.mark.parametrize("strategy", ["KeepAll", "H2O", "RKV"])
def test_past_the_steps_whose_products_are_made_together(strategy: str) -> None:
    forced = [prompt.tokens for prompt in random_prompts(2 * STEPS + 5, STEPS + 1, seed=4)]
    check("llama", Policy(SNAPKV, every_strategy()[strategy]), PROMPTS[:2], forced)


def test_the_products_of_steps_that_are_taken_together_are_bounded() -> None:
    for slots in (100, 10_000, 10_000_000):
        steps = steps_together(torch.empty(1, 1, 1, 1).expand(6, 9, 300, 64), slots)
        assert steps == 1 or 4 * 6 * 9 * slots * steps <= BYTES
        assert 1 <= steps <= STEPS


def test_prompts_and_continuations_of_a_single_token() -> None:
    check("llama", Policy(decoding=decoding.Slide(2, 1)), [[5], [6, 7], [8]], [[9], [10, 11, 12, 13], [14, 15]])
    (row,) = replay(tiny(), [[5, 6]], [[7]], Policy())
    assert len(row.kl) == 1
    assert row.mean_kl != row.mean_kl  # no step was taken, so there is nothing to average
    assert row.agreement != row.agreement


@pytest.mark.parametrize("family", ["llama", "qwen3", "gemma3"])
def test_where_nothing_is_evicted_nothing_diverges(family: str) -> None:
    for row in replay(tiny(family), PROMPTS, CONTINUATIONS, Policy()):
        assert float(row.kl.abs().max()) < 1e-12
        assert row.agreement == 1
        torch.testing.assert_close(row.log_likelihood, row.full_log_likelihood)


def test_averages_leave_out_the_first_token_alone() -> None:
    for row in replay(tiny(), PROMPTS, CONTINUATIONS, Policy(SNAPKV, decoding.Slide(D, RECENT))):
        later = row.kl.tolist()[1:]
        assert row.mean_kl == pytest.approx(sum(later) / len(later))
        assert row.mean_kl > 1e-4
        assert row.agreement == pytest.approx(sum(row.agrees.tolist()[1:]) / len(later))


def test_a_reference_serves_several_policies_and_no_other_tokens_or_model() -> None:
    made = reference(tiny(), PROMPTS, CONTINUATIONS)
    for policy in (Policy(SNAPKV), Policy(decoding=decoding.Slide(D, RECENT))):
        shared = replay(tiny(), PROMPTS, CONTINUATIONS, policy, against=made)
        for one, other in zip(shared, replay(tiny(), PROMPTS, CONTINUATIONS, policy), strict=True):
            assert one.kl.tolist() == other.kl.tolist()
    with pytest.raises(ScopeError, match="other prompts or continuations"):
        replay(tiny(), PROMPTS, CONTINUATIONS[::-1], Policy(), against=made)
    with pytest.raises(ScopeError, match="another model"):
        replay(tiny("qwen3"), PROMPTS, CONTINUATIONS, Policy(), against=made)


@contextmanager
def lengths_fed(family: str) -> Iterator[list[int]]:
    """The number of tokens of each call of the model."""
    fed: list[int] = []

    def note(_: Any, args: Any, named: Any) -> None:
        fed.append(named["input_ids"].shape[1])

    hook = tiny(family).register_forward_pre_hook(note, with_kwargs=True)
    try:
        yield fed
    finally:
        hook.remove()


@pytest.mark.parametrize("family", ["llama", "gemma3"])
@pytest.mark.parametrize("granularity", ["kv_head", "query_head"])
def test_prompts_are_read_once_for_all_policies_of_a_reference(family: str, granularity: str) -> None:
    made, alone = reference(tiny(family), PROMPTS, CONTINUATIONS), ReplayOptions(batch_size=2)
    rows: dict[str, list[Any]] = {"shared": [], "own": []}
    with lengths_fed(family) as fed:
        for name in ("H2O", "MorphKV", "Slide"):
            policy = Policy(SNAPKV, every_strategy()[name], granularity)
            rows["shared"] += replay(tiny(family), PROMPTS, CONTINUATIONS, policy, alone, made)
        assert sorted(n for n in fed if n in map(len, PROMPTS)) == sorted([max(map(len, PROMPTS[:2])), len(PROMPTS[2])])
    for name in ("H2O", "MorphKV", "Slide"):
        policy = Policy(SNAPKV, every_strategy()[name], granularity)
        rows["own"] += replay(tiny(family), PROMPTS, CONTINUATIONS, policy, alone)
    for shared, own in zip(rows["shared"], rows["own"], strict=True):
        assert shared.kl.tolist() == own.kl.tolist()
        assert (shared.trace, shared.cache_bytes) == (own.trace, own.cache_bytes)


def test_the_full_cache_says_once_what_follows() -> None:
    made, given = reference(tiny(), PROMPTS, CONTINUATIONS), []
    hook = tiny().get_output_embeddings().register_forward_pre_hook(lambda _, args: given.append(args[0].shape[-2]))
    for policy, full in ((Policy(SNAPKV), 1), (Policy(decoding=decoding.Slide(D, RECENT)), 0)):
        given.clear()
        replay(tiny(), PROMPTS, CONTINUATIONS, policy, against=made)
        own = sum(len(row) - 1 for row in CONTINUATIONS)
        first = full  # of all rows together, after the prompts are read
        assert sum(given) == own + full * (own + len(CONTINUATIONS)) + first
    hook.remove()


def test_prompts_that_memory_cannot_keep_are_read_again(monkeypatch: pytest.MonkeyPatch) -> None:
    slot, longest = 2 * 2 * 16 * 8, max(map(len, PROMPTS))  # of keys and values; as many bytes of queries
    needed = 3 * longest * LAYERS * 2 * slot
    for free, times in ((4 * needed, 1), (4 * needed - 4, 2)):
        monkeypatch.setattr("scope.generation.read.free_memory", lambda _, free=free: free)
        made = reference(tiny(), PROMPTS, CONTINUATIONS)
        with lengths_fed("llama") as fed:
            one, two = (replay(tiny(), PROMPTS, CONTINUATIONS, Policy(SNAPKV), against=made) for _ in range(2))
        assert fed.count(longest) == times
        assert [row.kl.tolist() for row in one] == [row.kl.tolist() for row in two]


def test_what_is_kept_of_one_batch_leaves_less_for_the_next(monkeypatch: pytest.MonkeyPatch) -> None:
    prompts = [prompt.tokens for prompt in random_prompts(40, 40)]
    needed = 40 * LAYERS * 2 * (2 * 2 * 16 * 8)  # of one of them
    monkeypatch.setattr("scope.generation.read.free_memory", lambda _: 4 * needed)
    made, alone = reference(tiny(), prompts, CONTINUATIONS[:2]), ReplayOptions(batch_size=1)
    with lengths_fed("llama") as fed:
        for _ in range(2):
            replay(tiny(), prompts, CONTINUATIONS[:2], Policy(SNAPKV), alone, made)
    assert fed.count(40) == 3  # the first once, and the second twice


def test_what_was_read_is_dropped_where_something_else_is_begun() -> None:
    reads, prompts = Reads(), tuple(map(tuple, PROMPTS))
    reads.begin("one")
    first = reads.of(tiny(), prompts)
    reads.begin("one")
    assert reads.of(tiny(), prompts) is first
    reads.begin("other")
    assert reads.of(tiny(), prompts) is not first


def test_a_cache_with_prompts_takes_no_others() -> None:
    layers = read(tiny(), [tuple(row) for row in PROMPTS]).layers
    cache = CompressedCache(tiny().config, SNAPKV)
    cache.take(layers)
    with pytest.raises(ScopeError, match="takes one prompt"):
        cache.take(layers)


def test_memory_of_a_reference_does_not_grow_with_the_vocabulary() -> None:
    made = reference(tiny(), PROMPTS, CONTINUATIONS)
    width = tiny().config.hidden_size
    assert [tuple(hidden.shape) for hidden in made.hidden] == [(len(row), width) for row in CONTINUATIONS]
    held = sum(hidden.untyped_storage().nbytes() for hidden in made.hidden)
    assert held == 8 * width * sum(map(len, CONTINUATIONS))  # not the whole prompt's, of which these are a part


def test_progress_counts_the_layers_of_all_batches() -> None:
    told: list[tuple[int, int]] = []
    options = ReplayOptions(batch_size=2, progress=lambda *counts: told.append(counts))
    replay(tiny(), PROMPTS, CONTINUATIONS, Policy(), options)
    assert told == [(n, 2 * LAYERS) for n in range(1, 2 * LAYERS + 1)]


def test_no_prompts_no_rows() -> None:
    assert replay(tiny(), [], [], Policy()) == []


@pytest.mark.parametrize(
    ("prompts", "continuations", "message"),
    [
        ([[1, 2]], [], "there are 0 of them for 1 prompts"),
        ([[1, 2]], [[]], r"continuations\[0\]: has no token"),
        ([[1, 2], []], [[1], [1]], r"prompts\[1\]: has no token"),
        ([[1, 97]], [[1]], r"prompts\[0\]: has a token that is none of the model's 97"),
        ([[1, 2]], [[-1]], r"continuations\[0\]: has a token that is none"),
        ([[1, 2]], ["text"], r"continuations\[0\]: must be tokens"),
        ([1, 2], [[1]], r"prompts\[0\]: must be tokens"),
        ([[1, 2.5]], [[1]], r"prompts\[0\]: must be tokens"),
    ],
)
def test_what_are_no_tokens_is_refused_in_a_line(prompts: Any, continuations: Any, message: str) -> None:
    with pytest.raises(ScopeError, match=message):
        replay(tiny(), prompts, continuations, Policy())


@pytest.mark.parametrize("name", ["batch_size", "prefill_chunk", "block"])
def test_counts_are_at_least_one(name: str) -> None:
    with pytest.raises(SettingError, match=name):
        ReplayOptions(**{name: 0})


def test_a_model_that_caps_or_scales_its_logits_is_refused() -> None:
    sizes: dict[str, Any] = {
        "vocab_size": 50, "hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 2,
        "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 16,
    }  # fmt: skip
    for config in (GraniteConfig(**sizes, logits_scaling=3.0), Gemma3TextConfig(**sizes, final_logit_softcapping=0.1)):
        model = AutoModelForCausalLM.from_config(config).eval()
        with pytest.raises(ScopeError, match="scales or caps"):
            reference(model, [[1, 2, 3]], [[4, 5]])


@dataclass
class Real:
    """A real model with two prompts and their continuations, and what the full cache says of them."""

    model: PreTrainedModel
    prompts: list[list[int]]
    forced: list[list[int]]
    full: Reference


@pytest.fixture(scope="module")
def real() -> Real:
    """SmolLM2, where its folder was made."""
    source = PUBLISHED["smollm2"]
    if not source.made:
        pytest.skip("not fetched: python -m scope.models get smollm2")
    model = AutoModelForCausalLM.from_pretrained(source.folder, dtype=torch.float64, local_files_only=True).eval()
    text = " ".join(topics[key] for key in sorted(topics))[:10_000]
    tokens = AutoTokenizer.from_pretrained(source.folder, local_files_only=True)(text).input_ids
    prompts, forced = [tokens[:80], tokens[1000:1060]], [tokens[80:98], tokens[1060:1074]]
    return Real(model, prompts, forced, reference(model, prompts, forced))


@pytest.mark.slow
@pytest.mark.parametrize("name", every_strategy())
def test_a_real_model_replays_as_it_decodes(name: str, real: Real) -> None:
    strategy, seen = every_strategy()[name], Seen()
    if isinstance(strategy, TriAttention):
        strategy = replace(strategy, statistics=calibrate(real.model, real.prompts).queries)
    policy = Policy(prefill.SnapKV(0.5, 8), strategy)
    rows = replay(real.model, real.prompts, real.forced, policy, ReplayOptions(watch=seen), real.full)
    plain = by_hand(real.model, policy, real.prompts, real.forced, Layout(18))
    for b, (row, of_row) in enumerate(zip(rows, real.forced, strict=True)):
        n = len(of_row)
        assert seen.of_row(b, n - 1) == plain.seen.of_row(b, n - 1)
        own = plain.logits[b, :n].log_softmax(-1).gather(-1, torch.tensor(of_row)[:, None])[:, 0]
        torch.testing.assert_close(row.log_likelihood, own, atol=1e-6, rtol=0)
        assert row.mean_kl > 1e-3


@pytest.mark.slow
def test_where_nothing_is_evicted_a_real_model_diverges_nowhere(real: Real) -> None:
    for row in replay(real.model, real.prompts, real.forced, Policy(), against=real.full):
        assert float(row.kl.abs().max()) < 1e-5
        assert row.agreement == 1


# The cache


def cache_after(prompt: Sequence[int], policy: Policy) -> CompressedCache:
    cache = CompressedCache.of(tiny().config, policy)
    tiny()(torch.tensor([list(prompt)]), past_key_values=cache)
    return cache


def step(cache: CompressedCache, tokens: Sequence[int], **more: Any) -> Tensor:
    logits: Tensor = tiny()(torch.tensor([list(tokens)]), past_key_values=cache, **more).logits[0]
    return logits


@torch.inference_mode()
def test_forced_calls_and_single_steps_mix() -> None:
    policy, tokens = Policy(SNAPKV, decoding.AccumulatedH2O(D, RECENT)), CONTINUATIONS[0]
    plain, mixed = cache_after(PROMPTS[0], policy), cache_after(PROMPTS[0], policy)
    expected = torch.cat([step(plain, [token]) for token in tokens])
    got = []
    for start, stop, forced in ((0, 3, True), (3, 4, False), (4, 5, True), (5, 20, True), (20, 21, False)):
        if forced:
            mixed.force(stop - start)
        got.append(step(mixed, tokens[start:stop]))
    torch.testing.assert_close(torch.cat(got), expected[:21])
    assert mixed.get_seq_length() == len(PROMPTS[0]) + 21


@torch.inference_mode()
def test_several_tokens_right_after_the_prompt_are_refused_where_no_one_said_that_they_come() -> None:
    policy = Policy(SNAPKV, decoding.Slide(D, RECENT))
    cache = cache_after(PROMPTS[0], policy)
    with pytest.raises(ScopeError, match="chunks"):
        step(cache, [5, 6, 7])
    cache.force(2)
    with pytest.raises(ScopeError, match="chunks"):
        step(cache, [5, 6, 7])
    step(cache, [5, 6])


@torch.inference_mode()
def test_force_needs_a_prompt_a_count_and_tokens_that_follow_each_other() -> None:
    policy = Policy(SNAPKV, decoding.Slide(D, RECENT))
    with pytest.raises(ScopeError, match="prompts go through the cache first"):
        CompressedCache.of(tiny().config, policy).force(3)
    for wrong in (0, -1, True, 2.0, "3"):
        with pytest.raises(ScopeError, match="tokens="):
            cache_after(PROMPTS[0], policy).force(wrong)  # type: ignore[arg-type]
    cache = cache_after(PROMPTS[0], policy)
    cache.force(2)
    with pytest.raises(ScopeError, match="attention_mask"):
        step(cache, [5, 6], attention_mask=torch.ones(1, len(PROMPTS[0]) + 2))
    cache = cache_after(PROMPTS[0], policy)
    cache.force(2)
    with pytest.raises(ScopeError, match="position_ids"):
        step(cache, [5, 6], position_ids=torch.tensor([[50, 52]]))


def test_it_can_be_had_from_scope() -> None:
    assert (scope.replay, scope.reference, scope.Reference) == (replay, reference, Reference)
