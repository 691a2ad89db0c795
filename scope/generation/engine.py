"""Settings of the engine: how a decode step is run, the rows of a batch, and how their prompts are read."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from itertools import accumulate

import torch
from torch import nn

from scope.util.errors import ImpossibleError, SettingError, check_choice, check_count

KINDS = ("auto", "eager", "graph", "compile")
AUTO = "auto"
READ = 2048  # tokens: where more of them are read at a time, each takes no less of a processor's time


@dataclass(frozen=True)
class Engine:
    """How generations are computed. It changes speed and memory, not the answers.

    kind: how a decode step is run. `eager`: as the model's Python goes. `graph`: recorded once and replayed, on a GPU
    as a CUDA graph. `compile`: the recorded operators compiled by torch, which takes minutes at first. `auto`: graph on
    a GPU, else eager.
    batch_size: rows that are written at a time. A row that ends is replaced by the next prompt. `auto`: as many as fit
    in memory.
    prefill_rows: prompts that are read at a time. Rows that are not being read hold only what their budget leaves.
    `auto`: as many as have READ tokens in all, padding included, and at least one.
    prefill_chunk: tokens of a prompt that are fed at a time; None: all.

    Raises SettingError for a value that is not allowed.
    """

    kind: str = AUTO
    batch_size: int | str = 8
    prefill_rows: int | str = AUTO
    prefill_chunk: int | None = None

    def __post_init__(self) -> None:
        check_choice(self, "kind", KINDS)
        check_count_or_auto(self, "batch_size")
        check_count_or_auto(self, "prefill_rows")
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


def check_count_or_auto(settings: object, name: str) -> None:
    """Raises SettingError where the field is neither a whole number of at least 1 nor `auto`."""
    value = getattr(settings, name)
    if value == AUTO:
        return
    if isinstance(value, str):
        raise SettingError(settings, name, value, "a whole number of at least 1, or auto")
    check_count(settings, name, low=1)


def read_together(prefill_rows: int | str, lengths: Sequence[int]) -> int:
    """How many of the first of these prompts are read at a time. prefill_rows: as in `Engine`.

    lengths: tokens of each prompt, one or more.
    """
    if isinstance(prefill_rows, int):
        return min(prefill_rows, len(lengths))
    widths = accumulate(lengths, max)
    return max(1, sum(rows * width <= READ for rows, width in enumerate(widths, 1)))


def devices_of(model: nn.Module) -> set[torch.device]:
    """The devices on which the weights of a model lie."""
    return {weights.device for weights in model.parameters()}
