"""Settings of the engine: how a decode step is run, the rows of a batch, and the chunks of a prompt."""

from collections.abc import Collection
from dataclasses import dataclass

import torch
from torch import nn

from scope.util.errors import ImpossibleError, SettingError, check_choice, check_count

KINDS = ("auto", "eager", "graph", "compile")
AUTO = "auto"


@dataclass(frozen=True)
class Engine:
    """How generations are computed. It changes speed and memory, not the answers.

    kind: how a decode step is run. `eager`: as the model's Python goes. `graph`: recorded once and replayed, on a GPU
    as a CUDA graph. `compile`: the recorded operators compiled by torch, which takes minutes at first. `auto`: graph on
    a GPU, else eager.
    batch_size: rows that are written at a time. A row that ends is replaced by the next prompt. `auto`: as many as fit
    in memory.
    prefill_chunk: tokens of a prompt that are fed at a time; None: all.

    Raises SettingError for a value that is not allowed.
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
        """The kind for a model with weights on these devices: eager, graph or compile.

        Raises ImpossibleError for `graph` on several GPUs.
        """
        several = len(devices) > 1
        if self.kind == AUTO:
            return "graph" if not several and all(device.type == "cuda" for device in devices) else "eager"
        if self.kind == "graph" and several:
            there = ", ".join(sorted(map(str, devices)))
            raise ImpossibleError(f"engine=graph: the model lies on {there}; auto, eager or compile run there")
        return self.kind


def devices_of(model: nn.Module) -> set[torch.device]:
    """The devices on which the weights of a model lie."""
    return {weights.device for weights in model.parameters()}
