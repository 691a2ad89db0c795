"""What a decode step costs once the cache is full: every operation that torch runs is watched."""

from typing import Any

import torch
from tiny_models import random_prompts, tiny
from torch.utils._python_dispatch import TorchDispatchMode

from scope import decoding, prefill
from scope.cache import CompressedCache, Layout
from scope.cache.slots import Slots
from scope.cache.storage import StorageFactory
from scope.cache.twin import Concatenated

C, D = 192, 64  # large beside the model's own activations, so that a copy of the cache stands out


class Watch(TorchDispatchMode):
    """The names of operations, and the bytes of the largest new tensor."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []
        self.largest = 0

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = {x.untyped_storage().data_ptr() for x in args if isinstance(x, torch.Tensor)}
        out = function(*args, **(kwargs or {}))
        self.names.append(str(function))
        for x in out if isinstance(out, tuple | list) else [out]:
            if isinstance(x, torch.Tensor) and x.untyped_storage().data_ptr() not in given:
                self.largest = max(self.largest, x.nbytes)
        return out


@torch.inference_mode()
def steps(storage: StorageFactory) -> tuple[list[Watch], int]:
    """Watches of four steps of a full cache, and the bytes of one layer's keys."""
    cache = CompressedCache(tiny().config, prefill.H2O(C, 8), decoding.Slide(D, 32), layout=Layout(200, storage))
    (prompt,) = random_prompts(300)
    tiny()(torch.tensor([prompt.tokens]), past_key_values=cache, use_cache=True, logits_to_keep=1)
    watches = []
    for t in range(D + 8):
        token, position = torch.tensor([[5 + t % 7]]), torch.tensor([[300 + t]])
        with Watch() as watch:
            tiny()(token, position_ids=position, past_key_values=cache, use_cache=True)
        watches.append(watch)
    return watches[-4:], cache._storage(0).keys.nbytes


def test_a_step_does_not_copy_the_cache_and_runs_the_same_operations() -> None:
    watches, keys = steps(Slots)
    assert max(watch.largest for watch in watches) < keys / 2
    assert all(watch.names == watches[0].names for watch in watches)


def test_the_watch_sees_a_copy() -> None:
    watches, keys = steps(Concatenated)
    assert min(watch.largest for watch in watches) >= keys
