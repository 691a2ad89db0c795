"""Slots that are stored in fewer bits. Oracles: the twin, which rounds one number at a time; bytes counted by hand; the
full cache; single prompts. Replays of rounded slots are in `test_replay.py`."""

from collections.abc import Callable
from fractions import Fraction
from typing import Any

import pytest
import torch
from helpers.quick import every
from tiny_models import DIM, HEADS, LAYERS, WORDS, Trace, generate, random_prompts, tiny
from torch import Tensor

from scope import decoding, prefill
from scope.cache import Policy, sizes
from scope.cache.precision import INT4, INT8, ROUNDINGS, Rounding
from scope.cache.quantised import Quantised, states_of
from scope.cache.slots import Slots
from scope.cache.storage import StorageFactory
from scope.cache.twin import Concatenated
from scope.decoding import DecodingStrategy
from scope.generation.replay import replay
from scope.prefill import PrefillMethod
from scope.util.errors import ScopeError, SettingError

TOKENS, LENGTHS = 24, (30, 9, 21)
ROUNDED = [name for name in ROUNDINGS if name != "float"]
BYTES = {  # of a key with its value in float64, or with 4 bytes for scale and offset beside the codes of each
    "float": 2 * 8 * DIM,
    "int8": 2 * (DIM + 4),
    "k8v4": DIM + 4 + DIM // 2 + 4,
    "int4": 2 * (DIM // 2 + 4),
}
PAIRS: dict[str, tuple[PrefillMethod, DecodingStrategy]] = {
    "full-none": (prefill.Full(), decoding.KeepAll()),
    "h2o-slide": (prefill.H2O(16, 4), decoding.Slide(10, 4)),
    "snapkv-discontinuous": (prefill.SnapKV(16, 4), decoding.Discontinuous(10, 4, tokens=TOKENS)),
    "snapkv-keydiff": (prefill.SnapKV(16, 4), decoding.KeyDiff(10, 4)),
    "snapkv-raas": (prefill.SnapKV(16, 4), decoding.RaaS(10, 4)),
}


def written(
    precision: str, pair: str, storage: StorageFactory, family: str = "llama", **more: Any
) -> tuple[list[tuple[int, ...]], Trace]:
    trace, prompts = Trace(), random_prompts(*LENGTHS)
    more |= {"storage": storage, "precision": precision, "observe": trace}
    rows = generate(tiny(family), WORDS, prompts, *PAIRS[pair], TOKENS, **more)
    return [row.tokens for row in rows], trace


@pytest.mark.parametrize("precision", ROUNDED)
@pytest.mark.parametrize("pair", every(2, PAIRS))
def test_in_place_is_the_twin(pair: str, precision: str) -> None:
    fast, plain = written(precision, pair, Slots), written(precision, pair, Concatenated)
    assert fast[0] == plain[0]
    assert fast[1].steps == plain[1].steps


@pytest.mark.parametrize("granularity", ["kv_head", "query_head"])
def test_in_place_is_the_twin_where_layers_have_sliding_windows(granularity: str) -> None:
    """And with the prompt in chunks, in rows that are filled again."""
    more: dict[str, Any] = {"family": "gemma3", "granularity": granularity, "prefill_chunk": 7, "batch_size": 2}
    fast, plain = (written("int4", "snapkv-keydiff", storage, **more) for storage in (Slots, Concatenated))
    assert fast[0] == plain[0]
    assert fast[1].steps == plain[1].steps


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("scope.cache.quantised.BLOCK_BYTES", 3 * 2 * DIM * 4 * 5)


def test_rounding_changes_answers_and_tells_the_precisions_apart() -> None:
    """So that the tests beside this one can fail."""
    tokens = [written(precision, "h2o-slide", Slots)[0] for precision in ROUNDINGS]
    assert len({str(some) for some in tokens}) > 2


@pytest.mark.parametrize("precision", ROUNDINGS)
def test_bytes_are_counted_by_hand_held_and_predicted(precision: str) -> None:
    model, (method, strategy) = tiny(), PAIRS["h2o-slide"]
    held: list[int] = []
    (row,) = generate(
        model,
        WORDS,
        random_prompts(30),
        method,
        strategy,
        TOKENS,
        precision=precision,
        storage=Slots,
        observe=lambda cache: held.append(cache.nbytes),
    )
    wanted = LAYERS * HEADS * (16 + 10 + 1) * BYTES[precision]
    told = sizes.cache_bytes(model.config, Policy(method, strategy, precision=precision), "float64", 30, TOKENS)
    assert set(held) == {row.cache_bytes} == {told} == {wanted}
    assert row.full_cache_bytes == LAYERS * HEADS * (30 + TOKENS - 1) * BYTES["float"]


@pytest.mark.parametrize("precision", ROUNDED)
def test_a_bound_in_bytes_buys_more_slots(precision: str) -> None:
    room = LAYERS * HEADS * (16 + 8) * BYTES["float"]
    (row,) = generate(
        tiny(), WORDS, random_prompts(40), *PAIRS["h2o-slide"], 90, precision=precision, max_bytes=room, storage=Slots
    )
    slots = Fraction(room, LAYERS * HEADS * BYTES[precision])
    assert row.cache_bytes <= room
    assert row.slots_kept == (min(int(slots) - 1, 16 + 89),) * LAYERS


def grouped_by_hand(states: Tensor, group: int, levels: int) -> tuple[Tensor, Tensor]:
    """states [n] -> the smallest number of each one's group, and the step from one level to the next."""
    parts = [states[start : start + group].tolist() for start in range(0, len(states), group)]
    low = [min(part) for part in parts for _ in part]
    step = [(max(part) - min(part)) / levels for part in parts for _ in part]
    return torch.tensor(low), torch.tensor(step)


@pytest.mark.parametrize(("rounding", "group", "levels"), [(INT8, 64, 255), (INT4, 32, 15)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_an_error_is_at_most_half_a_step(rounding: Rounding, group: int, levels: int, dtype: torch.dtype) -> None:
    lots = torch.Generator().manual_seed(3)
    given = (3 * torch.randn(2, 3, 5, 64, generator=lots) + 1).to(dtype)
    given[0, 0, 0] = 2.5  # all numbers equal
    given[0, 0, 1, 7] = 90.0  # one far from the others
    made = states_of(given, 8, rounding)
    read = made.read(5)
    for before, after in zip(given.view(-1, 64).float(), read.view(-1, 64).float(), strict=True):
        low, step = grouped_by_hand(before, group, levels)
        half = 2**-11  # of float16, in which scale and offset are stored
        rest = half * (low.abs() + levels * step) + torch.finfo(dtype).eps * before.abs()
        assert ((after - before).abs() <= step / 2 + rest).all()
    assert not made.read(8)[:, :, 5:].any()
    assert torch.equal(made.rounded(given), read)


def test_attention_is_that_over_what_is_read_and_no_block_is_left_out() -> None:
    lots = torch.Generator().manual_seed(4)
    states, queries = torch.randn(2, 2, 11, DIM, generator=lots), torch.randn(2, 2, 3, DIM, generator=lots)
    weights = torch.rand(2, 2, 3, 11, generator=lots)
    for rounding in (INT8, INT4):
        made = states_of(states, 20, rounding)
        torch.testing.assert_close(made.products(queries, 0.3, 11), 0.3 * queries @ made.read(11).mT)
        torch.testing.assert_close(made.mixed(weights), weights @ made.read(11))


def test_more_bits_are_nearer_to_the_full_cache() -> None:
    prompts, forced = ([prompt.tokens for prompt in random_prompts(44, 31, seed=seed)] for seed in (1, 2))
    found = {}
    for precision in ROUNDINGS:
        rows = replay(tiny(), prompts, forced, Policy(precision=precision))
        found[precision] = sum(row.mean_kl for row in rows) / len(rows)
    assert abs(found["float"]) < 1e-12
    assert 0 < found["int8"] < found["k8v4"] < found["int4"]
    assert 50 * found["int8"] < found["int4"]  # a step is 17 times smaller, and KL grows with its square


@pytest.mark.parametrize("pair", ["full-none", "snapkv-keydiff"])
def test_a_row_of_a_batch_is_what_it_is_alone(pair: str) -> None:
    together, _ = written("int4", pair, Slots)
    for row, prompt in zip(together, random_prompts(*LENGTHS), strict=True):
        (alone,) = generate(tiny(), WORDS, [prompt], *PAIRS[pair], TOKENS, precision="int4", storage=Slots)
        assert alone.tokens == row


@pytest.mark.parametrize(("strategy", "reads"), [(decoding.H2O(10, 4), False), (decoding.KeyDiff(10, 4), True)])
def test_a_layer_is_read_whole_only_for_a_score_that_looks_at_keys(
    strategy: DecodingStrategy, reads: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    read, seen = Quantised.read, []

    def noted(self: Quantised, slots: int) -> Tensor:
        seen.append(slots)
        return read(self, slots)

    monkeypatch.setattr(Quantised, "read", noted)
    generate(tiny(), WORDS, random_prompts(30), prefill.Full(), strategy, TOKENS, precision="int8", storage=Slots)
    steps = TOKENS - 1 - 10  # those that evict
    assert len(seen) == (LAYERS * steps if reads else 0)


@pytest.mark.parametrize(
    ("wrong", "error", "said"),
    [
        (
            lambda: Policy(precision="int3"),
            SettingError,
            "Policy.precision=int3: must be one of float, int8, k8v4, int4",
        ),
        (lambda: INT4.bytes(15), ScopeError, "the head dim must be even; it is 15"),
    ],
)
def test_what_cannot_be_is_refused(wrong: Callable[[], object], error: type[Exception], said: str) -> None:
    with pytest.raises(error, match=said):
        wrong()
