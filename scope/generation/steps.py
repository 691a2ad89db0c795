"""How a decode step is run: as the model's Python goes, or recorded once for each step key and then replayed.

A step of a compressed cache never waits for the host once it has begun (scope.cache.slots). So a recording can be
replayed for every step with the same key (`CompressedCache.begin`): tokens, positions and counts are read from their
places on the device. A step is recorded after its key has come OFTEN times.
"""

from collections import Counter
from collections.abc import Callable, Hashable
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.fx import GraphModule
from torch.fx.experimental.proxy_tensor import make_fx

from scope.cache import CompressedCache
from scope.util.errors import ScopeError
from scope.util.memory import out_of_memory

if TYPE_CHECKING:
    from transformers import PreTrainedModel

THIN = 8  # up to so many rows, compiled code multiplies by the weights faster than the matrix product of a library
OFTEN = 3  # steps with one key that run eagerly before one is recorded; they also warm up a GPU

Step = Callable[[], Tensor]  # -> logits [B, V]
Recorder = Callable[[Step], tuple[Tensor, Step]]  # runs a step -> its logits, and a function that replays it


class Stepper:
    """Runs decode steps: feeds each row's newest token to the model and its cache."""

    def __init__(self, model: "PreTrainedModel", cache: CompressedCache, positions: Tensor, kind: str) -> None:
        """positions [B, 1]: of each row's last token. kind: eager, graph or compile."""
        self._model, self._cache = model, cache
        self._record = _recorder(kind, model.device)
        self._tokens = torch.zeros_like(positions)
        self._positions = positions.clone()
        self._come: Counter[Hashable] = Counter()
        self._recorded: dict[Hashable, Step] = {}

    def __call__(self, tokens: Tensor) -> Tensor:
        """Run a step: tokens [B] -> logits [B, V], which the next call may overwrite.

        Raises ScopeError for a step that cannot be recorded.
        """
        self._tokens.copy_(tokens[:, None])
        step_key = self._cache.begin()
        if self._record is None or step_key is None:
            return self._forward()
        if step_key not in self._recorded:
            self._come[step_key] += 1
            if self._come[step_key] <= OFTEN:
                return self._forward()
        try:
            if step_key in self._recorded:
                return self._recorded[step_key]()  # `compile` compiles it here, the first time
            logits, self._recorded[step_key] = self._record(self._forward)
        except RuntimeError as error:  # such as: experts that are chosen on the host, or no compiler
            if out_of_memory(error):
                raise
            reason = str(error).splitlines()[0]
            raise ScopeError(f"this model's step cannot be recorded, engine=eager runs it: {reason}") from error
        return logits

    def place(self, rows: Tensor, positions: Tensor) -> None:
        """These rows of the batch were replaced. positions [n, 1]: of the last tokens of the new ones."""
        self._positions[rows] = positions

    def _forward(self) -> Tensor:
        self._positions.add_(1)
        logits: Tensor = self._model(
            input_ids=self._tokens,
            position_ids=self._positions,
            past_key_values=self._cache,
            use_cache=True,
            logits_to_keep=1,
        ).logits
        return logits[:, -1]


def _recorder(kind: str, device: torch.device) -> Recorder | None:
    if kind == "eager":
        return None
    if kind == "compile":
        return _compiled
    return _CudaGraphs() if device.type == "cuda" else _traced


def _traced(step: Step) -> tuple[Tensor, GraphModule]:
    """Run a step and record its operators."""
    made: list[Tensor] = []

    def run() -> Tensor:
        made.append(step())
        return made[0]

    recorded = make_fx(run)()
    return made[0].clone(), recorded


def _compiled(step: Step) -> tuple[Tensor, Step]:
    """Run a step, record its operators, and have torch compile them."""
    logits, recorded = _traced(step)
    for node in recorded.graph.nodes:
        if node.target is torch.ops.aten.mm.default and not logits.is_cuda and len(node.meta["val"]) <= THIN:
            node.target = _product
    recorded.recompile()
    return logits, torch.compile(recorded, fullgraph=True, dynamic=False)


def _product(rows: Tensor, weights: Tensor) -> Tensor:
    """rows [B, E] @ weights [E, F], in a form for which the compiler reads the weights only once.

    It is then as fast as memory: on a CPU 2.4 times as fast as the library's product for one row, and not faster for
    more than THIN rows.
    """
    return torch.stack([(weights.t() * row).sum(-1) for row in rows])


class _CudaGraphs:
    """Records CUDA graphs. They share memory, since only one runs at a time."""

    def __init__(self) -> None:
        self._pool = torch.cuda.graph_pool_handle()

    def __call__(self, step: Step) -> tuple[Tensor, Step]:
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=self._pool):  # this records the step without running it
            logits = step()

        def replay() -> Tensor:
            graph.replay()
            return logits

        return replay(), replay
