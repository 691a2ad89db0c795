"""How decode steps are run: as the model's Python goes, or recorded once for each kind of step and then replayed.

A step of a compressed cache never looks at the host once it has begun (scope.cache.slots), so what is recorded of one
holds for every other that `CompressedCache.begin` calls equal: new tokens, positions and counts are read from where
they lie on the device. A kind of step is recorded when it has come often enough to be worth it.
"""

from collections import Counter
from collections.abc import Callable, Hashable

import torch
from torch import Tensor
from torch.fx import GraphModule
from torch.fx.experimental.proxy_tensor import make_fx
from transformers import PreTrainedModel

from scope.cache import CompressedCache
from scope.util.errors import ScopeError
from scope.util.memory import out_of_memory

THIN = 8  # rows of a batch up to which compiled code multiplies by the weights faster than a library's matrix product
OFTEN = 3  # steps of a kind that run as they come before it is recorded; also what warms a device up for it

Step = Callable[[], Tensor]  # -> logits [B, V]
Recorder = Callable[[Step], tuple[Tensor, Step]]  # runs a step -> its logits, and what repeats it


class Stepper:
    """Feeds one token after the other to a model and its cache."""

    def __init__(self, model: PreTrainedModel, cache: CompressedCache, positions: Tensor, kind: str) -> None:
        """positions [B, 1]: of each row's last token so far."""
        self._model, self._cache = model, cache
        self._record = _recorder(kind, model.device)
        self._tokens = torch.zeros_like(positions)
        self._positions = positions.clone()
        self._come: Counter[Hashable] = Counter()
        self._recorded: dict[Hashable, Step] = {}

    def __call__(self, tokens: Tensor) -> Tensor:
        """tokens [B] -> logits [B, V], which the next call may overwrite."""
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
                return self._recorded[step_key]()  # which is compiled now, the first time
            logits, self._recorded[step_key] = self._record(self._forward)
        except RuntimeError as error:  # as of experts that ask the host which of them are needed, or without a compiler
            if out_of_memory(error):
                raise
            reason = str(error).splitlines()[0]
            raise ScopeError(f"this model's step cannot be recorded, engine=eager runs it: {reason}") from error
        return logits

    def place(self, rows: Tensor, positions: Tensor) -> None:
        """These rows of the batch have become others, whose last tokens are at positions [n, 1]."""
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
    """The operators that a step ran, without the Python that chose them."""
    made: list[Tensor] = []

    def run() -> Tensor:
        made.append(step())
        return made[0]

    recorded = make_fx(run)()
    return made[0].clone(), recorded


def _compiled(step: Step) -> tuple[Tensor, Step]:
    logits, recorded = _traced(step)
    for node in recorded.graph.nodes:
        if node.target is torch.ops.aten.mm.default and not logits.is_cuda and len(node.meta["val"]) <= THIN:
            node.target = _product
    recorded.recompile()
    return logits, torch.compile(recorded, fullgraph=True, dynamic=False)


def _product(rows: Tensor, weights: Tensor) -> Tensor:
    """rows [B, E] @ weights [E, F], so written that the compiler reads the weights once and as fast as memory gives
    them, where a processor's library does not: some 2.4 times as fast for one row, and no faster for more than THIN."""
    return torch.stack([(weights.t() * row).sum(-1) for row in rows])


class _CudaGraphs:
    """CUDA graphs that share their memory, since only one runs at a time."""

    def __init__(self) -> None:
        self._pool = torch.cuda.graph_pool_handle()

    def __call__(self, step: Step) -> tuple[Tensor, Step]:
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=self._pool):  # nothing runs yet
            logits = step()

        def replay() -> Tensor:
            graph.replay()
            return logits

        return replay(), replay
