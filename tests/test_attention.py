"""The seam's functions as others find them in transformers' tables: with transformers' own parameters, in its order, so
that whoever wraps them, before scope is imported or after, may pass arguments by position. Oracles: the signatures of
transformers' functions; a stock model's text; kvpress's way to wrap, spelt out."""

import copy
import inspect
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_models import DIM, HEADS, tiny
from torch import Tensor
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS, eager_mask, flash_attention_mask, sdpa_mask
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from scope.cache import CompressedCache
from scope.cache.backends import NAMES
from scope.decoding import Slide
from scope.prefill import SnapKV

ROOT = Path(__file__).parents[1]
IDS = torch.randint(3, 90, (2, 30), generator=torch.Generator().manual_seed(0))
MASKS = {"sdpa": sdpa_mask, "eager": eager_mask, "flash_attention_2": flash_attention_mask}


def as_kvpress_wraps(function: Callable[..., Any]) -> Callable[..., Any]:
    def wrapper(
        module: torch.nn.Module, query: Tensor, key: Tensor, value: Tensor, mask: Tensor, dropout: float, **more: Any
    ) -> Any:
        return function(module, query, key, value, mask, dropout, **more)

    return wrapper


@pytest.fixture
def wrapped() -> Iterator[None]:
    before = dict(ALL_ATTENTION_FUNCTIONS._local_mapping)
    for name, function in list(ALL_ATTENTION_FUNCTIONS.items()):
        ALL_ATTENTION_FUNCTIONS[name] = as_kvpress_wraps(function)
    yield
    ALL_ATTENTION_FUNCTIONS._local_mapping = before


def written(attention: str, compress: bool) -> list[list[int]]:
    model = copy.deepcopy(tiny("llama", attention))
    pair = (SnapKV(12, 4), Slide(6, 3)) if compress else ()
    cache = CompressedCache(model.config, *pair)
    out = model.generate(
        IDS, attention_mask=torch.ones_like(IDS), past_key_values=cache, max_new_tokens=12, do_sample=False
    )
    rows: list[list[int]] = out.tolist()
    return rows


@pytest.mark.parametrize("backend", NAMES)
def test_attention_has_the_parameters_of_transformers_in_their_order(backend: str) -> None:
    ours = list(inspect.signature(ALL_ATTENTION_FUNCTIONS[NAMES[backend]]).parameters)
    theirs = ALL_ATTENTION_FUNCTIONS["sdpa" if backend == "eager" else backend]
    assert ours == list(inspect.signature(theirs).parameters)
    assert ours[5:7] == ["dropout", "scaling"]


@pytest.mark.parametrize("backend", NAMES)
def test_masks_have_the_parameters_of_transformers_in_their_order(backend: str) -> None:
    ours = inspect.signature(ALL_MASK_ATTENTION_FUNCTIONS[NAMES[backend]])
    assert ours == inspect.signature(MASKS[backend])
    assert (list(ours.parameters)[2], list(ours.parameters)[6]) == ("kv_length", "attention_mask")


@pytest.mark.parametrize("backend", NAMES)
def test_a_compressed_caches_step_is_given_the_callers_mask(backend: str) -> None:
    """However the arguments are given; a cache that masks its own steps says so by no keys at all."""
    function, mask = ALL_MASK_ATTENTION_FUNCTIONS[NAMES[backend]], torch.ones(2, 5, dtype=torch.bool)
    assert function(2, 1, 0, 0, 0, None, mask) is mask
    assert function(batch_size=2, q_length=1, kv_length=0, attention_mask=mask) is mask
    assert function(2, 1, kv_length=0) is None


@pytest.mark.parametrize("backend", ["sdpa", "eager"])
def test_masks_given_by_position_are_transformers_own(backend: str) -> None:
    flat = torch.tensor([[False, True, True, True], [True, True, True, True]])
    given = (2, 4, 4, 0, 0, lambda batch, head, q, k: k <= q, flat)
    more = (torch.float64, False, False, "cpu") if backend == "eager" else (None, False, False)
    assert torch.equal(ALL_MASK_ATTENTION_FUNCTIONS[NAMES[backend]](*given, *more), MASKS[backend](*given, *more))


@pytest.mark.parametrize("backend", ["sdpa", "eager"])
def test_what_is_given_by_position_means_what_it_means_there(backend: str) -> None:
    """Dropout sixth, scaling seventh: a scaling taken for a dropout would drop half of what is attended to."""
    module = tiny("llama", "sdpa").model.layers[0].self_attn
    lots = torch.Generator().manual_seed(0)
    query = torch.randn(1, 2 * HEADS, 5, DIM, generator=lots, dtype=torch.float64)
    key, value = torch.randn(2, 1, HEADS, 5, DIM, generator=lots, dtype=torch.float64)
    mask = torch.zeros(1, 1, 5, 5, dtype=torch.float64).masked_fill(
        ~torch.ones(5, 5, dtype=torch.bool).tril(), -torch.inf
    )
    expected = torch.empty(1, 5, 2 * HEADS, DIM, dtype=torch.float64)
    for head in range(2 * HEADS):
        weights = (query[0, head] @ key[0, head // 2].T * 0.5 + mask[0, 0]).softmax(-1)
        expected[0, :, head] = weights @ value[0, head // 2]
    function = ALL_ATTENTION_FUNCTIONS[NAMES[backend]]
    for found in (
        function(module, query, key, value, mask, 0.0, 0.5)[0],
        function(module, query, key, value, mask, 0.0, scaling=0.5)[0],
        function(module, query, key, value, mask, scaling=0.5, dropout=0.0)[0],
        function(module, query, key, value, mask, 0.0, 0.5, *(() if backend == "eager" else (False, None)))[0],
    ):
        torch.testing.assert_close(found, expected)


def test_flashs_window_may_be_given_by_position(monkeypatch: pytest.MonkeyPatch) -> None:
    """Eighth, where sdpa has something else. Flash attention itself is not at hand."""
    seen: list[dict[str, Any]] = []
    theirs = inspect.signature(ALL_ATTENTION_FUNCTIONS["flash_attention_2"])

    def flash(*given: Any, **more: Any) -> tuple[None, None]:
        seen.append(theirs.bind(*given, **more).arguments)
        return None, None

    monkeypatch.setitem(ALL_ATTENTION_FUNCTIONS._local_mapping, "flash_attention_2", flash)
    module = tiny("llama", "sdpa").model.layers[0].self_attn
    states = torch.zeros(1, 2, 5, DIM)
    ALL_ATTENTION_FUNCTIONS["scope_fa2"](module, states, states, states, None, 0.25, 0.5, 7, None, True)
    (got,) = seen
    assert (got["dropout"], got["scaling"], got["sliding_window"], got["is_causal"]) == (0.25, 0.5, 7, True)


@pytest.mark.parametrize("compress", [False, True])
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_a_wrapper_that_comes_later_changes_nothing(
    attention: str, compress: bool, request: pytest.FixtureRequest
) -> None:
    expected = written(attention, compress)
    request.getfixturevalue("wrapped")
    assert written(attention, compress) == expected
    if not compress:
        stock = copy.deepcopy(tiny("llama", attention))
        plain = stock.generate(IDS, attention_mask=torch.ones_like(IDS), max_new_tokens=12, do_sample=False)
        assert plain.tolist() == expected


ORDERS = """
import json, sys
sys.path[:0] = [{stand_in!r}, "tests"]
{imports}
import test_attention
print(json.dumps([test_attention.written(name, compress) for name in ("sdpa", "eager") for compress in (False, True)]))
"""
STAND_IN = """
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

def wrap(function):
    def wrapper(module, query, key, value, attention_mask, dropout, **kwargs):
        return function(module, query, key, value, attention_mask, dropout, **kwargs)
    return wrapper

for name, function in ALL_ATTENTION_FUNCTIONS.items():
    ALL_ATTENTION_FUNCTIONS[name] = wrap(function)
"""


@pytest.mark.slow
def test_it_does_not_matter_who_is_imported_first(tmp_path: Path) -> None:
    (tmp_path / "wraps.py").write_text(STAND_IN)
    expected = [written(name, compress) for name in ("sdpa", "eager") for compress in (False, True)]
    for imports in ("import wraps, scope.cache.seam", "import scope.cache.seam, wraps"):
        code = ORDERS.format(stand_in=str(tmp_path), imports=imports)
        settings = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
        done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=settings, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        assert json.loads(done.stdout.splitlines()[-1]) == expected
