"""The kernels' twins against naive loops, how the kernels are launched, and, where triton is installed, the kernels
themselves: under its interpreter on the CPU, compiled for several GPUs, and on CUDA (kernels_agree.py)."""

import math
import os
import subprocess
import sys
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

import scope.kernels
from scope.kernels import runs_on
from scope.kernels.decode import (
    Cached,
    Eligible,
    Token,
    Workspace,
    attend,
    attend_twin,
    free,
    free_twin,
    write,
    write_twin,
)
from scope.kernels.votes import votes, votes_twin

ROOT = Path(__file__).parents[1]
needs_triton = pytest.mark.skipif(find_spec("triton") is None, reason="triton is not installed: the extra `kernels`")

BATCH, HEADS, GROUP, SLOTS, DIM = 3, 2, 3, 13, 4


def slots(seed: int = 0) -> dict[str, Tensor]:
    lots = torch.Generator().manual_seed(seed)
    ordinals = torch.rand(BATCH, HEADS, SLOTS, generator=lots).argsort(-1).int() + 4
    ordinals[torch.rand(ordinals.shape, generator=lots) < 0.3] = -1
    ordinals[2, 1] = -1  # a head that has nothing
    keys, values = torch.randn(2, BATCH, HEADS, SLOTS, DIM, generator=lots, dtype=torch.float64)
    return {
        "query": torch.randn(BATCH, HEADS * GROUP, DIM, generator=lots, dtype=torch.float64),
        "keys": keys,
        "values": values,
        "ordinals": ordinals,
        "positions": torch.where(ordinals < 0, -1, ordinals + 10),
    }


def counts(*values: list[int]) -> Eligible:
    return Eligible(*(torch.tensor(x, dtype=torch.int32) for x in values))


def oldest_of_the_least(scores: Tensor, ordinals: Tensor, eligible: Eligible, row: int, head: int) -> int:
    first, tail, surplus, newest = (int(count[row]) for count in eligible)
    best = -1
    for s in range(scores.shape[-1]):
        order = int(ordinals[row, head, s])
        if not (surplus and order >= 0 and first <= order <= newest - tail):
            continue
        this = (float(scores[row, head, s]), order)
        if best < 0 or this < (float(scores[row, head, best]), int(ordinals[row, head, best])):
            best = s
    return best


@pytest.mark.parametrize("windowed", [False, True])
def test_the_twins_step_is_that_of_a_loop(windowed: bool) -> None:
    at = slots()
    minimum = torch.tensor([16, 0, 20]) if windowed else None
    positions, query = at["positions"], at.pop("query")
    found = attend_twin(query, Cached(**at), 0.7, minimum=minimum)
    for b in range(BATCH):
        for h in range(HEADS):
            received = [0.0] * SLOTS
            for q in range(h * GROUP, (h + 1) * GROUP):
                weights = {}
                for s in range(SLOTS):
                    if at["ordinals"][b, h, s] < 0 or (minimum is not None and positions[b, h, s] < minimum[b]):
                        continue
                    weights[s] = math.exp(0.7 * float(query[b, q] @ at["keys"][b, h, s]))
                output = torch.zeros(DIM, dtype=torch.float64)
                for s, weight in weights.items():
                    output += weight / sum(weights.values()) * at["values"][b, h, s]
                    received[s] += weight / sum(weights.values()) / GROUP
                torch.testing.assert_close(found.output[b, q], output)
            assert found.received is not None
            assert found.received[b, h].tolist() == pytest.approx(received)


@pytest.mark.parametrize("seed", range(5))
def test_the_twin_frees_the_oldest_of_the_least(seed: int) -> None:
    at = slots(seed)
    scores = torch.randint(3, at["ordinals"].shape, generator=torch.Generator().manual_seed(seed)).float()  # many ties
    eligible = counts([0, 8, 0], [0, 4, 0], [1, 1, 0], [16, 16, 16])
    freed = free_twin(scores, at["ordinals"], eligible)
    assert freed.tolist() == [
        [oldest_of_the_least(scores, at["ordinals"], eligible, b, h) for h in range(HEADS)] for b in range(BATCH)
    ]
    assert freed[2].tolist() == [-1, -1]


def test_the_twin_empties_the_freed_slot_and_no_other() -> None:
    at = slots()
    expected = {name: at[name].clone() for name in ("ordinals", "positions")}
    scores = torch.rand(BATCH, HEADS, SLOTS)
    freed = free_twin(
        scores, at["ordinals"], counts([0, 0, 40], [0] * 3, [1] * 3, [16] * 3), positions=at["positions"], empties=True
    )
    for b in range(2):
        for h in range(HEADS):
            for marks in expected.values():
                marks[b, h, freed[b, h]] = -1
    assert torch.equal(at["ordinals"], expected["ordinals"])
    assert torch.equal(at["positions"], expected["positions"])


def test_the_twin_writes_a_token_where_it_is_told() -> None:
    at = slots()
    expected = {name: tensor.clone() for name, tensor in at.items()}
    where = torch.tensor([[0, 12], [-1, 5], [-1, -1]])
    key, value = torch.randn(2, BATCH, HEADS, DIM, dtype=torch.float64)
    ordinal, position = torch.tensor([20, 21, 22], dtype=torch.int32), torch.tensor([30, 31, 32])
    cached = Cached(*(at[name] for name in Cached._fields))
    write_twin(cached, where, Token(key, value, ordinal, position))
    for b, h, s in ((0, 0, 0), (0, 1, 12), (1, 1, 5)):
        expected["keys"][b, h, s], expected["values"][b, h, s] = key[b, h], value[b, h]
        expected["ordinals"][b, h, s], expected["positions"][b, h, s] = ordinal[b], position[b]
    assert all(torch.equal(at[name], expected[name]) for name in at)


@pytest.mark.parametrize("sliding_window", [None, 3])
def test_the_twins_votes_are_those_of_a_loop(sliding_window: int | None) -> None:
    begin = (0, 5, 10)
    lots = torch.Generator().manual_seed(2)
    queries = torch.randn(BATCH, HEADS * GROUP, 11, DIM, generator=lots)
    keys = torch.randn(BATCH, HEADS, 11, DIM, generator=lots)
    found = votes_twin(queries, keys, 0.7, begin=torch.tensor(begin), sliding_window=sliding_window)
    for b in range(BATCH):
        for h in range(HEADS):
            total = [0.0] * 11
            for query_head in range(h * GROUP, (h + 1) * GROUP):
                for q in range(begin[b], 11):
                    first = begin[b] if sliding_window is None else max(begin[b], q - sliding_window + 1)
                    dots = [0.7 * float(queries[b, query_head, q] @ keys[b, h, k]) for k in range(first, q + 1)]
                    for k, dot in enumerate(dots, first):
                        total[k] += math.exp(dot) / sum(map(math.exp, dots)) / GROUP
            assert found[b, h].tolist() == pytest.approx(total, abs=1e-5)


class Operations(TorchDispatchMode):
    """The names of operations that torch runs."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.names.append(function.name())
        return function(*args, **(kwargs or {}))


class Recorded:
    """A kernel that is only asked for."""

    def __init__(self) -> None:
        self.grids: list[tuple[int, ...]] = []

    def __getitem__(self, grid: tuple[int, ...]) -> Any:
        self.grids.append(grid)
        return lambda *args, **kwargs: None


@pytest.mark.parametrize("width", [513, 20000])
def test_a_step_with_a_workspace_runs_no_operation_of_torch_but_views(
    width: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    kernels = {name: Recorded() for name in ("split", "finish", "free", "write")}
    monkeypatch.setattr(scope.kernels, "decode_triton", SimpleNamespace(**kernels), raising=False)
    marks = torch.zeros(2, 2, 2, width).int()
    cached = Cached(*torch.zeros(2, 2, 2, width, 16).half(), *marks)
    query, freed, token = torch.zeros(2, 8, 16).half(), torch.zeros(2, 2).long(), torch.zeros(2, 2, 16).half()
    clock = torch.zeros(2).int()
    workspace = Workspace(2, 8, 2, width, 16, torch.float16, query.device)
    with Operations() as operations:
        write(cached, freed, Token(token, token, clock, clock))
        found = attend(query, cached, 0.25, workspace=workspace)
        eligible = Eligible(clock, clock, clock, clock)
        free(found.received, marks[0], eligible, positions=marks[1], empties=True, out=freed)
    views = ("aten::slice", "aten::select", "aten::unbind", "aten::detach", "aten::alias")
    assert [name for name in operations.names if not name.startswith(views)] == []
    assert {name: len(kernel.grids) for name, kernel in kernels.items() if kernel.grids} == dict.fromkeys(kernels, 1)


def test_a_workspace_has_what_a_step_needs_and_no_more() -> None:
    workspace = Workspace(4, 32, 8, 2561, 128, torch.bfloat16, torch.device("cpu"))
    cache = 2 * 4 * 8 * 2561 * 128 * 2
    assert 4 * 32 * 2561 * 4 < workspace.nbytes < cache / 10


def test_what_the_kernels_cannot_take_is_refused_in_a_line() -> None:
    query, keys = torch.zeros(1, 4, 16), torch.zeros(1, 2, 8, 16)
    marks, clock = torch.zeros(1, 2, 8).int(), torch.zeros(1).int()
    small = Workspace(1, 4, 2, 4, 16, torch.float32, query.device)

    def of(keys: Tensor, values: Tensor) -> Cached:
        return Cached(keys, values, marks, marks)

    token, wide = Token(keys[:, :, 0], keys[:, :, 0], clock, clock), torch.zeros(1, 2, 8, 300)
    for message, call in {
        "query heads: 3": lambda: attend(query[:, :3], of(keys, keys), 1.0),
        "head dim: 300": lambda: attend(torch.zeros(1, 4, 300), of(wide, keys), 1.0),
        "dtype: torch.float64": lambda: attend(query.double(), of(keys.double(), keys.double()), 1.0),
        "dtypes: torch.float32, torch.float16": lambda: attend(query, of(keys.half(), keys.half()), 1.0),
        "values: ": lambda: attend(query, of(keys, keys[:, :, :7]), 1.0),
        "keys: strides": lambda: attend(query, of(keys.mT.contiguous().mT, keys), 1.0),
        "workspace: made for": lambda: attend(query, of(keys, keys), 1.0, workspace=small),
        "at: strides": lambda: write(of(keys, keys), torch.zeros(1, 4).long()[:, ::2], token),
        "scores: strides": lambda: free(torch.zeros(1, 2, 16)[..., ::2], marks, Eligible(clock, clock, clock, clock)),
        "keys: 8 columns, must be the 9 of the queries": lambda: votes(torch.zeros(1, 4, 9, 16), keys, 1.0),
    }.items():
        with pytest.raises(ValueError, match=message):
            call()


def test_kernels_run_on_cuda_alone() -> None:
    assert not runs_on(torch.device("cpu"))
    assert runs_on(torch.device("cuda")) == (find_spec("triton") is not None)


def in_a_process_of_its_own(*command: str, **environment: str) -> None:
    kept = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    done = subprocess.run(
        [sys.executable, *command],
        cwd=ROOT,
        env=kept | {"OMP_NUM_THREADS": "1"} | environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr


@needs_triton
@pytest.mark.slow
@pytest.mark.skipif(
    find_spec("triton") is not None and tuple(map(int, version("triton").split(".")[:2])) < (3, 7),
    reason="the interpreter of triton 3.6 does not run with numpy 2.4",
)
def test_kernels_agree_with_their_twins_under_the_interpreter() -> None:
    in_a_process_of_its_own(
        "-m", "pytest", "-q", "-p", "no:cacheprovider", "tests/kernels_agree.py", TRITON_INTERPRET="1"
    )


@needs_triton
@pytest.mark.slow
def test_kernels_compile_for_gpus_that_are_not_here(tmp_path: Path) -> None:
    in_a_process_of_its_own("tests/kernels_compile.py", "90", TRITON_CACHE_DIR=str(tmp_path), PYTHONPATH=str(ROOT))


@needs_triton
@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_kernels_agree_with_their_twins_on_cuda() -> None:
    in_a_process_of_its_own("-m", "pytest", "-q", "-p", "no:cacheprovider", "tests/kernels_agree.py")
