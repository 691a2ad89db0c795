"""The settings of an engine: how steps are run, and how many rows and prompt tokens go together."""

from collections.abc import Collection
from dataclasses import dataclass

import torch
from torch import nn

from scope.util.errors import ImpossibleError, SettingError, check_choice, check_count

KINDS = ("auto", "eager", "graph", "compile")
AUTO = "auto"


@dataclass(frozen=True)
class Engine:
    """How generations are computed: changes the speed and the memory, not the answers.

    kind: `eager`; `graph`, recorded operators (on a GPU a CUDA graph, which costs the host one call a step); `compile`,
    the same compiled by torch (minutes at first); `auto` is graph on a GPU and eager elsewhere. batch_size: rows
    written at a time, of which one that ends makes room for the next prompt; `auto` is as many as fit in memory.
    prefill_chunk: tokens of a prompt that are fed at a time; None is all. Raises SettingError for what cannot be.
    """

    kind: str = AUTO
    batch_size: int | str = 8
    prefill_chunk: int | None = None

    def __post_init__(self) -> None:
        check_choice(self, "kind", KINDS)
        if self.batch_size != AUTO:
            if isinstance(self.batch_size, str):
                raise SettingError(self, "batch_size", self.batch_size, "a whole number of at least 1, or auto")
            check_count(self, "batch_size", low=1)
        if self.prefill_chunk is not None:
            check_count(self, "prefill_chunk", low=1)

    def on(self, devices: Collection[torch.device]) -> str:
        """The kind that is meant for a model whose weights lie there: eager, graph or compile.

        Raises ImpossibleError where that is a graph over several GPUs, each of which would need one of its own.
        """
        several = len(devices) > 1
        if self.kind == AUTO:
            return "graph" if not several and all(device.type == "cuda" for device in devices) else "eager"
        if self.kind == "graph" and several:
            there = ", ".join(sorted(map(str, devices)))
            raise ImpossibleError(f"engine=graph: the model lies on {there}; auto, eager or compile run there")
        return self.kind


def devices_of(model: nn.Module) -> set[torch.device]:
    """Where its weights lie."""
    return {weights.device for weights in model.parameters()}
