"""The kernels against their twins in float64. Run by test_kernels.py in a process of its own: on the CPU under Triton's
interpreter (TRITON_INTERPRET=1, set before triton is imported), else on CUDA, with larger shapes too."""

import os
from itertools import pairwise

import pytest
import torch
from tiny_models import SCOPE, WORDS, generate, random_prompts, strategies, tiny
from torch import Tensor

from scope import kernels, prefill
from scope.cache.fused import FusedSlots, Storages
from scope.cache.slots import Slots
from scope.cache.storage import Kept
from scope.kernels import decode
from scope.kernels.votes import votes, votes_twin

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
DEVICE = torch.device("cpu" if INTERPRETED else "cuda")
on_cuda = pytest.mark.skipif(INTERPRETED, reason="needs a CUDA device")

OUTPUT_WITHIN = {torch.float32: 5e-6, torch.float16: 2e-3, torch.bfloat16: 2e-2}
SHAPES = [  # B, Hq, H, S, D, dtype, padding between rows of the buffers
    (2, 8, 2, 50, 16, torch.float32, 0),
    (1, 3, 3, 130, 80, torch.float16, 7),
    (3, 16, 1, 33, 96, torch.bfloat16, 5),
    (2, 2, 1, 300, 8, torch.float32, 1),
    (1, 4, 2, 1, 64, torch.bfloat16, 0),
]
LARGE = [
    (1, 32, 8, 2561, 128, torch.bfloat16, 0),
    (32, 32, 8, 2561, 128, torch.bfloat16, 15),
    (2, 8, 2, 20001, 256, torch.float16, 0),
    (3, 12, 12, 777, 64, torch.float32, 3),
]
if not INTERPRETED:
    SHAPES += LARGE


class Step:
    """Made-up slots: some empty, their tokens' ordinals in no order, positions twice the ordinals."""

    def __init__(
        self, batch: int, query_heads: int, heads: int, slots: int, dim: int, dtype: torch.dtype, padding: int = 0
    ) -> None:
        lots = torch.Generator().manual_seed(slots + dim)

        def normal(*shape: int) -> Tensor:
            return torch.randn(shape, generator=lots).to(DEVICE, dtype)

        self.query = normal(batch, query_heads, dim)
        self.keys = normal(batch, heads, slots + padding, dim)[:, :, :slots]
        self.values = normal(batch, heads, slots + padding, dim)[:, :, :slots]
        order = torch.rand(batch, heads, slots + 9, generator=lots).argsort(-1)
        order = torch.where(torch.rand(order.shape, generator=lots) < 0.3, -1, order).int()
        self.ordinals = order.to(DEVICE)[:, :, :slots]
        self.positions = torch.where(self.ordinals < 0, -1, 2 * self.ordinals)
        self.scaling = dim**-0.5
        rows = torch.arange(batch)
        self.eligible = decode.Eligible(
            *(x.int().to(DEVICE) for x in (rows, rows // 2, rows * 0 + 1, slots + 8 - rows))
        )
        self.minimum = (slots // 4 + rows).int().to(DEVICE)

    @property
    def cached(self) -> decode.Cached:
        return decode.Cached(self.keys, self.values, self.ordinals, self.positions)

    def attend(self, **settings: object) -> decode.Attended:
        return decode.attend(self.query, self.cached, self.scaling, **settings)

    def twin(self, **settings: object) -> decode.Attended:
        exact = self.cached._replace(keys=self.keys.double(), values=self.values.double())
        return decode.attend_twin(self.query.double(), exact, self.scaling, **settings)


def assert_agree(found: decode.Attended, expected: decode.Attended, dtype: torch.dtype) -> None:
    assert found.output.dtype == dtype
    torch.testing.assert_close(found.output.double(), expected.output, atol=OUTPUT_WITHIN[dtype], rtol=0)
    assert (found.received is None) == (expected.received is None)
    if found.received is not None:
        assert found.received.dtype == torch.float32
        torch.testing.assert_close(found.received.double(), expected.received, atol=2e-6, rtol=1e-4)


@pytest.mark.parametrize("windowed", [False, True])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_attention_and_what_each_slot_received(shape: tuple, windowed: bool) -> None:
    step = Step(*shape)
    settings = {"minimum": step.minimum} if windowed else {}
    found = step.attend(**settings)
    assert_agree(found, step.twin(**settings), shape[5])
    hidden = step.ordinals < 0
    if windowed:
        hidden |= step.positions < step.minimum[:, None, None]
    assert not found.received[hidden].any()


@pytest.mark.parametrize("parts", [False, True])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_the_slot_that_received_least_is_freed(shape: tuple, parts: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if parts:
        monkeypatch.setattr(decode, "ALONE", 0)
        monkeypatch.setattr(decode, "FINISHED", 32)
    step = Step(*shape)
    received = step.attend().received
    freed = decode.free(received, step.ordinals, step.eligible)
    assert torch.equal(freed, decode.free_twin(received, step.ordinals, step.eligible))
    assert torch.equal(freed, decode.free_twin(step.twin().received, step.ordinals, step.eligible))


def test_without_scores_there_is_only_the_output() -> None:
    step = Step(*SHAPES[0])
    assert_agree(step.attend(scored=False), step.twin(scored=False), torch.float32)


def test_a_row_that_sees_nothing_gets_zeros() -> None:
    step = Step(*SHAPES[0])
    step.ordinals[1] = -1
    found = step.attend()
    assert not found.output[1].any()
    assert not found.received[1].any()
    assert decode.free(found.received, step.ordinals, step.eligible)[1].tolist() == [-1, -1]
    assert_agree(found, step.twin(), torch.float32)


def test_splits_of_very_different_logits_are_joined_without_overflow() -> None:
    step = Step(*SHAPES[3])
    step.keys *= torch.where(torch.arange(300, device=DEVICE) < 150, 1.0, 200.0)[:, None]
    found, expected = step.attend(), step.twin()
    torch.testing.assert_close(found.output.double(), expected.output, atol=1e-3, rtol=0)
    torch.testing.assert_close(found.received.double(), expected.received, atol=1e-3, rtol=0)


@pytest.mark.parametrize("parts", [False, True])
@pytest.mark.parametrize("factor", [0.0, 1e4], ids=["all equal", "all but one underflow"])
def test_of_equals_the_oldest_goes(factor: float, parts: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if parts:
        monkeypatch.setattr(decode, "ALONE", 0)
    monkeypatch.setattr(decode, "FINISHED", 32)  # the equals lie in several blocks
    step = Step(*SHAPES[3])
    step.keys *= factor
    found = step.attend()
    freed = decode.free(found.received, step.ordinals, step.eligible)
    head, tail, _, newest = step.eligible
    for row in range(2):
        order, got = step.ordinals[row, 0], found.received[row, 0]
        may = (order >= head[row]) & (order <= newest[row] - tail[row])
        oldest = order[may & (got == got[may].min())].min()
        assert int((got[may] == got[may].min()).sum()) > 100
        assert order[freed[row, 0]] == oldest


def test_only_the_freed_slot_is_emptied() -> None:
    step = Step(2, 4, 2, 70, 16, torch.float32)
    step.eligible.surplus[1] = 0
    before, placed = step.ordinals.clone(), step.positions.clone()
    freed = decode.free(step.attend().received, step.ordinals, step.eligible, positions=step.positions, empties=True)
    assert freed[0].min() >= 0
    assert freed[1].tolist() == [-1, -1]
    for head in range(2):
        before[0, head, freed[0, head]] = placed[0, head, freed[0, head]] = -1
    assert torch.equal(step.ordinals, before)
    assert torch.equal(step.positions, placed)


def test_a_workspace_serves_fewer_slots_than_it_has() -> None:
    step = Step(2, 6, 2, 37, 24, torch.float16)
    workspace = decode.Workspace(2, 6, 2, 300, 24, torch.float16, DEVICE)
    for buffer in vars(workspace).values():
        if isinstance(buffer, Tensor) and buffer.is_floating_point():
            buffer.fill_(torch.nan)  # nothing may be read that was not written
    found = step.attend(workspace=workspace)
    assert_agree(found, step.twin(), torch.float16)
    assert found.output.data_ptr() == workspace.output.data_ptr()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_a_token_is_written_where_it_is_told(dtype: torch.dtype) -> None:
    step = Step(3, 4, 2, 20, 24, dtype, padding=3)
    at = torch.tensor([[3, 19], [-1, 0], [-1, -1]], device=DEVICE)
    key, value = torch.randn(2, 3, 5, 2, 24).to(DEVICE, dtype)[:, :, 1].unbind()  # strided, as a model's are
    ordinal, position = torch.tensor([31, 32, 33]).int().to(DEVICE), torch.tensor([71, 72, 73], device=DEVICE)
    token, expected = decode.Token(key, value, ordinal, position), decode.Cached(*(x.clone() for x in step.cached))
    decode.write_twin(expected, at, token)
    decode.write(step.cached, at, token)
    for found, wanted in zip(step.cached, expected, strict=True):
        assert torch.equal(found, wanted)
    assert step.ordinals[0, 1, 19] == 31


def test_many_steps_leave_the_same_cache_as_the_twins() -> None:
    lots = torch.Generator().manual_seed(1)
    mine, twin = Step(2, 4, 2, 24, 16, torch.float32), Step(2, 4, 2, 24, 16, torch.float32)
    for step in (mine, twin):
        step.ordinals.copy_(torch.arange(24).int())
        step.positions.copy_(step.ordinals + 5)
    workspace = decode.Workspace(2, 4, 2, 24, 16, torch.float32, DEVICE)
    clock = torch.full((2,), 23, dtype=torch.int32, device=DEVICE)
    counts = [torch.tensor(x).int().to(DEVICE) for x in ([6, 9], [8, 3], [1, 1])]
    freed, twins = torch.full((2, 2, 2), 23, device=DEVICE)
    for _ in range(8):
        key, value, query = (torch.randn(2, n, 16, generator=lots).to(DEVICE) for n in (2, 2, 4))
        clock += 1
        for step, put, at in ((mine, decode.write, freed), (twin, decode.write_twin, twins)):
            step.query = query
            put(step.cached, at, decode.Token(key, value, clock, clock + 5))
        found, expected = mine.attend(workspace=workspace), twin.twin()
        assert_agree(found, expected, torch.float32)
        eligible = decode.Eligible(*counts, clock)
        decode.free(found.received, mine.ordinals, eligible, positions=mine.positions, empties=True, out=freed)
        decode.free_twin(expected.received, twin.ordinals, eligible, positions=twin.positions, empties=True, out=twins)
        assert torch.equal(freed, twins)
        assert torch.equal(mine.ordinals, twin.ordinals)
        assert torch.equal(mine.positions, twin.positions)
    assert len({int(x) for x in freed.flatten()}) > 1


PROMPTS = [  # B, Hq, H, P, D, dtype, begin
    (2, 4, 2, 37, 16, torch.float32, [0, 9]),
    (3, 3, 1, 70, 80, torch.bfloat16, [0, 69, 33]),
    (2, 2, 2, 150, 256, torch.float16, [3, 140]),
]
if not INTERPRETED:
    PROMPTS += [
        (2, 32, 8, 2049, 128, torch.bfloat16, [0, 1000]),
        (1, 16, 1, 1000, 64, torch.float16, [17]),
        (1, 4, 2, 515, 128, torch.float32, [0]),
    ]


@pytest.mark.parametrize("sliding_window", [None, 1, 20])
@pytest.mark.parametrize("shape", PROMPTS, ids=str)
def test_votes_of_a_prompts_queries(shape: tuple, sliding_window: int | None) -> None:
    batch, query_heads, heads, length, dim, dtype, begin = shape
    lots = torch.Generator().manual_seed(length)
    queries, keys = (  # [B, P, H, D] in memory, as a model's are
        torch.randn(batch, length, n, dim, generator=lots).to(DEVICE, dtype).transpose(1, 2)
        for n in (query_heads, heads)
    )
    settings = {"begin": torch.tensor(begin, device=DEVICE), "sliding_window": sliding_window}
    found = votes(queries, keys, 2 * dim**-0.5, **settings)
    assert found.dtype == torch.float32
    exact = votes_twin(queries.double(), keys.double(), 2 * dim**-0.5, **settings)
    torch.testing.assert_close(found, exact, atol=1e-5, rtol=1e-4)
    given = [length - b for b in begin]
    torch.testing.assert_close(found.sum(-1), torch.tensor(given).float()[:, None].expand(-1, heads).to(DEVICE))


@on_cuda
def test_a_step_is_a_graph_without_synchronisation_or_allocation() -> None:
    shape = (4, 32, 8, 1025, 128, torch.bfloat16)
    captured, eager = Step(*shape), Step(*shape)
    workspace = decode.Workspace(*shape, DEVICE)
    key = torch.randn(4, 8, 128, device=DEVICE).bfloat16()
    freed, put = torch.zeros(2, 4, 8, dtype=torch.int64, device=DEVICE)  # of the eager step, of the captured one

    def run(step: Step, workspace: decode.Workspace, freed: Tensor) -> decode.Attended:
        clock = step.eligible.newest
        clock += 1
        decode.write(step.cached, freed, decode.Token(key, key, clock, clock))
        found = step.attend(workspace=workspace)
        decode.free(found.received, step.ordinals, step.eligible, positions=step.positions, empties=True, out=freed)
        return found

    start = Step(*shape)

    def reset() -> None:
        for name in ("keys", "values", "ordinals", "positions"):
            getattr(captured, name).copy_(getattr(start, name))
        captured.eligible.newest.copy_(start.eligible.newest)
        put.zero_()

    run(captured, workspace, put)  # compiles
    torch.cuda.synchronize()
    reset()
    before = torch.cuda.memory_stats()["allocation.all.allocated"]
    torch.cuda.set_sync_debug_mode("error")
    try:
        run(captured, workspace, put)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert torch.cuda.memory_stats()["allocation.all.allocated"] == before
    reset()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        result = run(captured, workspace, put)
    reset()
    for _ in range(20):
        graph.replay()
        expected = run(eager, decode.Workspace(*shape, DEVICE), freed)
        assert torch.equal(result.output, expected.output)
        assert torch.equal(put, freed)
        assert torch.equal(captured.ordinals, eager.ordinals)


@on_cuda
def test_results_repeat() -> None:
    step = Step(*LARGE[0])
    results = [step.attend().output for _ in range(5)]
    assert all(torch.equal(a, b) for a, b in pairwise(results))


@pytest.mark.parametrize("family", ["llama", "mistral_sliding"])
@pytest.mark.parametrize("name", ["slide", "h2o", "discontinuous", "none"])
def test_a_generation_on_fused_slots_is_one_on_slots(name: str, family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ragged rows, one of them refilled; methods that score by votes too."""
    model = tiny(family, SCOPE, torch.float32).to(DEVICE)  # of float64 the kernels take nothing
    monkeypatch.setattr(kernels, "runs_on", lambda device: False)
    policies = (prefill.H2O(16, 4), strategies(10, 4, 20)[name], 20)
    plain = generate(model, WORDS, random_prompts(30, 9, 21), *policies, batch_size=2)
    made: list[type] = []

    def fused(kept: Kept, room: int, whole: bool) -> Slots:
        storage = storages(kept, room, whole)
        made.append(type(storage))
        return storage

    monkeypatch.setattr(kernels, "runs_on", lambda device: True)
    for engine in ("eager",) if INTERPRETED else ("eager", "graph"):
        storages = Storages()
        quick = generate(model, WORDS, random_prompts(30, 9, 21), *policies, batch_size=2, storage=fused, engine=engine)
        assert [(row.tokens, row.trace) for row in quick] == [(row.tokens, row.trace) for row in plain]
    assert set(made) == {FusedSlots}
