"""Ways to run a decode step. Oracle: the step as the model's Python goes, one prompt at a time."""

import gc
import weakref
from typing import Any

import pytest
import torch
from helpers.quick import slow
from tiny_models import WORDS, generate, random_prompts, strategies, tiny
from torch.utils._python_dispatch import TorchDispatchMode

from scope import prefill
from scope.cache import CompressedCache, Layout, Policy
from scope.decoding import AccumulatedH2O, DecodingStrategy, KeepAll
from scope.generation import steps as engines
from scope.generation.engine import Engine, devices_of
from scope.generation.options import Options
from scope.generation.rows import Generated, pad_left
from scope.generation.steps import OFTEN, Stepper
from scope.generation.stream import stream
from scope.util.errors import ScopeError, SettingError
from scope.util.memory import rows_that_fit

TOKENS, LENGTHS = 40, (30, 9, 21)
DECODING = strategies(10, 4, TOKENS)


def texts(rows: list[Generated]) -> list[Any]:
    """All that a row has but its timings."""
    return [(row.tokens, row.text, row.finish, row.prefill_kept, row.slots_kept, row.trace) for row in rows]


def write(strategy: DecodingStrategy, **options: Any) -> list[Any]:
    return texts(generate(tiny(), WORDS, random_prompts(*LENGTHS), prefill.H2O(16, 4), strategy, TOKENS, **options))


@pytest.mark.parametrize("strategy", ["slide", "h2o", slow("discontinuous")])
def test_a_replayed_step_is_the_step(strategy: str) -> None:
    alone = [
        texts(generate(tiny(), WORDS, [prompt], prefill.H2O(16, 4), DECODING[strategy], TOKENS))[0]
        for prompt in random_prompts(*LENGTHS)
    ]
    assert write(DECODING[strategy], engine="graph", batch_size=2) == alone  # a row is refilled


def test_a_step_that_asks_the_host_is_refused_in_a_line(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny()
    monkeypatch.setattr(type(model.model.norm), "forward", lambda norm, states: states * float(states.sum() > 0))
    with pytest.raises(ScopeError, match="cannot be recorded, engine=eager runs it") as refused:
        generate(model, WORDS, random_prompts(9), prefill.Full(), DECODING["slide"], TOKENS, engine="graph")
    assert "\n" not in str(refused.value)


def test_a_graph_is_for_one_gpu() -> None:
    cpu, first, second = (torch.device(name) for name in ("cpu", "cuda:0", "cuda:1"))
    assert [Engine().on(where) for where in ([cpu], [first], [first, second], [cpu, first])] == [
        "eager",
        "graph",
        "eager",
        "eager",
    ]
    assert Engine("graph").on([cpu]) == "graph"
    assert Engine("compile").on([first, second]) == "compile"
    with pytest.raises(ScopeError, match="the model lies on cuda:0, cuda:1; auto, eager or compile run there"):
        Engine("graph").on([second, first])
    assert devices_of(tiny()) == {cpu}


@pytest.mark.slow
def test_a_compiled_step_is_the_step() -> None:
    assert write(DECODING["slide"], engine="compile") == write(DECODING["slide"])


@pytest.mark.parametrize("size", [1, 2, 3])
def test_sending_steps_off_ahead_changes_nothing(size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    prompts = random_prompts(30, 9, 21, 40, 12)
    policies = (prefill.H2O(16, 4), DECODING["slide"], TOKENS)
    policy = Policy(*policies[:2])
    free = generate(tiny(), WORDS, prompts, *policies)
    monkeypatch.setattr(tiny().generation_config, "eos_token_id", sorted({row.tokens[7] for row in free[::2]}))
    alone = [texts(generate(tiny(), WORDS, [prompt], *policies))[0] for prompt in prompts]
    assert len({len(tokens) for tokens, *_ in alone}) > 1
    for ahead in (False, True):
        made = dict(stream(tiny(), WORDS, prompts, policy, TOKENS, options=Options(batch_size=size, ahead=ahead)))
        assert texts([made[i] for i in range(len(prompts))]) == alone


class Watch(TorchDispatchMode):
    """Counts what asks the device for a value, and remembers the operations."""

    ASKS = ("aten._local_scalar_dense", "aten.nonzero", "aten.item", "aten.is_nonzero", "aten.equal")

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.names.append(str(function))
        return function(*args, **(kwargs or {}))

    @property
    def asked(self) -> list[str]:
        return [name for name in self.names if name.startswith(self.ASKS)]


@pytest.mark.parametrize("strategy", DECODING)
def test_a_step_never_asks_the_device_and_writes_where_it_wrote_before(strategy: str) -> None:
    model = tiny()
    cache = CompressedCache(model.config, prefill.H2O(16, 4), DECODING[strategy], layout=Layout(TOKENS, whole=True))
    ids, mask, positions = pad_left(random_prompts(*LENGTHS), 0, model.device)
    operations: dict[Any, list[str]] = {}
    with torch.inference_mode():
        model(ids, attention_mask=mask.long(), position_ids=positions, past_key_values=cache, logits_to_keep=1)
        where = [x.data_ptr() for i in range(2) for x in (cache._storage(i).keys, cache._storage(i).positions)]
        positions = positions[:, -1:].clone()
        token = torch.full_like(positions, 3)
        for _ in range(TOKENS - 1):
            kind = cache.begin()
            positions += 1
            with Watch() as watch:
                model(token, position_ids=positions, past_key_values=cache, use_cache=True)
            assert not watch.asked
            assert operations.setdefault(kind, watch.names) == watch.names
    assert len(operations) < TOKENS / 2
    assert where == [x.data_ptr() for i in range(2) for x in (cache._storage(i).keys, cache._storage(i).positions)]


def test_the_watch_sees_a_question() -> None:
    with Watch() as watch:
        bool(torch.ones(1).sum() > 0)
    assert watch.asked


def test_steps_are_recorded_once_they_have_come_often() -> None:
    model = tiny()
    cache = CompressedCache(model.config, prefill.H2O(16, 4), DECODING["slide"], layout=Layout(TOKENS, whole=True))
    (prompt,) = random_prompts(30)
    calls: list[int] = []
    with torch.inference_mode():
        model(torch.tensor([prompt.tokens]), past_key_values=cache, logits_to_keep=1)
        hook = model.register_forward_hook(lambda *_: calls.append(1))
        step = Stepper(model, cache, torch.tensor([[29]]), "graph")
        for t in range(30):
            step(torch.tensor([t % 7]))
        hook.remove()
    kinds = 3  # while the region fills, the first eviction, and those that know the freed slot
    assert len(calls) == 2 * (OFTEN + 1) + 1
    assert len(step._recorded) == kinds - 1


def test_what_cannot_be_is_refused() -> None:
    for wrong in ({"kind": "fast"}, {"batch_size": 0}, {"batch_size": "many"}, {"prefill_chunk": 0}):
        with pytest.raises(SettingError):
            Engine(**wrong)  # type: ignore[arg-type]
    with pytest.raises(ScopeError, match="one row takes"):
        rows_that_fit(2**60, 0, torch.device("cpu"))
    assert rows_that_fit(2**20, 2**20, torch.device("cpu")) >= 1


def test_a_refill_records_no_step_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is recorded depends on kinds of steps, not on which prompts happen to be in the batch."""
    made = []
    record = engines._traced

    def counted(step: engines.Step) -> tuple[torch.Tensor, engines.Step]:
        made.append(step)
        return record(step)

    monkeypatch.setattr(engines, "_traced", counted)
    prompts = random_prompts(*range(40, 16, -2))
    generate(tiny(), WORDS, prompts, prefill.Full(), DECODING["slide"], TOKENS, batch_size=3, engine="graph")
    assert 0 < len(made) < 6


def test_a_refill_needs_no_second_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[CompressedCache] = []

    class Watched(CompressedCache):
        def __init__(self, *args: Any, **options: Any) -> None:
            super().__init__(*args, **options)
            made.append(self)

    monkeypatch.setattr("scope.generation.stream.CompressedCache", Watched)
    generate(tiny(), WORDS, random_prompts(30, 30, 30, 30), prefill.Full(), KeepAll(), TOKENS, batch_size=2)
    first, *others = [cache.nbytes for cache in made]
    assert [round(first / size, 2) for size in others] == [round((30 + TOKENS) / 30, 2)]


def test_a_refills_cache_goes_once_its_prompts_are_in_their_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[weakref.ref[CompressedCache]] = []
    alive = []

    class Watched(CompressedCache):
        def __init__(self, *args: Any, **options: Any) -> None:
            alive.append(count())
            super().__init__(*args, **options)
            made.append(weakref.ref(self))

    def count() -> int:
        return sum(cache() is not None for cache in made)

    monkeypatch.setattr("scope.generation.stream.CompressedCache", Watched)
    policies = prefill.Full(), KeepAll(), TOKENS
    generate(
        *(tiny(), WORDS, random_prompts(*[30] * 6), *policies), batch_size=2, observe=lambda _: alive.append(count())
    )
    assert len(made) == 3
    assert alive[0] == 0
    assert set(alive[1:]) == {1}


def test_of_a_prompt_in_chunks_only_the_queries_that_are_asked_are_held() -> None:
    """Bytes of all tensors there are once all chunks but the last have come."""
    model = tiny()
    config = model.config

    def held(method: prefill.PrefillMethod, strategy: DecodingStrategy) -> int:
        gc.collect()
        cache = CompressedCache(config, method, strategy)
        ids, mask, positions = pad_left(random_prompts(40), 0, model.device)
        cache.expect(mask)
        for start in range(0, 32, 8):
            some = slice(start, start + 8)
            model(ids[:, some], position_ids=positions[:, some], past_key_values=cache, use_cache=True)
        storages = [x.untyped_storage() for x in gc.get_objects() if type(x) is torch.Tensor]
        return sum({storage.data_ptr(): storage.nbytes() for storage in storages}.values())

    slide = DECODING["slide"]
    all_of_them = held(prefill.H2O(16, 4, votes="released"), slide)
    of_one = config.num_hidden_layers * config.num_attention_heads * config.head_dim * 8  # float64
    for method, asked in ((prefill.SnapKV(16, 4), 4), (prefill.TOVA(16, 4), 1), (prefill.Full(), 1)):
        assert all_of_them - held(method, slide) == (40 - asked) * of_one
    assert held(prefill.Full(), AccumulatedH2O(10, 4)) == all_of_them
    votes = config.num_hidden_layers * config.num_key_value_heads * 40 * 4  # float32
    for method in (prefill.H2O(16, 4), prefill.PyramidInfer(16, 4, votes="mean")):
        assert all_of_them - held(method, slide) == 39 * of_one - votes


def test_rows_that_have_ended_do_not_make_the_cache_grow() -> None:
    sizes = []
    prompts = random_prompts(36, 36, 36)
    generate(
        *(tiny(), WORDS, prompts, prefill.Full(), KeepAll(), TOKENS),
        batch_size=2,
        observe=lambda cache: sizes.append(cache.nbytes),
    )
    assert len(sizes) > TOKENS  # the third was written beside a row that had ended
    assert len(set(sizes)) == 1
