"""Copying a cache, so that each copy goes on by itself."""

import copy
from collections.abc import Sequence
from typing import Any, TypeVar

from torch import Tensor
from torch.overrides import TorchFunctionMode

T = TypeVar("T")


def copied(whole: T, memo: dict[int, Any], shared: Sequence[object]) -> T:
    """What `copy.deepcopy` gives of an object, whose class calls this in `__deepcopy__`.

    memo: as `__deepcopy__` gets it. shared: what the copy is to share with the original.
    """
    memo |= {id(each): each for each in shared}
    made = object.__new__(type(whole))
    memo[id(whole)] = made
    with _Detached():
        made.__dict__ |= copy.deepcopy(whole.__dict__, memo)
    return made


class _Detached(TorchFunctionMode):
    """A deep copy of a tensor leaves its gradient's history behind.

    torch refuses to copy a tensor that has one, and a plain forward gives every stored key one.
    """

    def __torch_function__(self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None) -> Any:
        if func is not Tensor.__deepcopy__:
            return func(*args, **(kwargs or {}))
        tensor, memo = args
        return memo.setdefault(id(tensor), tensor.detach().clone())
