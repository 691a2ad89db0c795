"""kvpress: any single-pass scorer of NVIDIA's package of that name, by its `score` (github.com/NVIDIA/kvpress)."""

import inspect
from collections.abc import Mapping
from dataclasses import dataclass
from types import ModuleType
from typing import Any, ClassVar

import torch
from torch import Tensor

from scope.policy import scores
from scope.policy.attention import Attention
from scope.policy.plan import Plan, View
from scope.prefill.budget import Budget
from scope.util.errors import ScopeError, SettingError, check_count
from scope.util.memory import out_of_memory

INSTALL = "pip install --no-deps kvpress==0.5.5 cachetools fire termcolor"  # its own pins exclude our transformers
OWN_WAY = ("__call__", "forward_hook", "compress", "post_init_from_model")  # more than a score, where overridden
READS_WEIGHTS = ("ObservedAttentionPress",)  # the others make them from the hidden states themselves


@dataclass(frozen=True)
class KVPress(Budget):
    """Keep the slots that a press scores highest, C of them in each head; what has to stay is the press's own say.

    press: the class's name; args: its settings but for the compression ratio, which follows from the budget. `seed` is
    for presses that draw. Each row is scored alone, without its padding. Nothing of kvpress but `score` is run, and
    what importing it does to transformers' attention functions is undone.
    Raises ScopeError where the package is missing or a press fails at a model, SettingError for presses that do more
    than score (merge, mask, go through the prompt again, load weights of their own) and for settings a press does not
    have.
    """

    press: str
    args: Mapping[str, Any] | None = None
    seed: int = 0

    layer_inputs: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        check_count(self, "seed")
        if not isinstance(self.press, str):
            raise SettingError(
                self, "press", self.press, f"the name of a press, such as ExpectedAttentionPress{_missing()}"
            )
        package = load()
        kind = getattr(package, self.press, None)
        if not scores_only(package, kind):
            working = [name for name in package.__all__ if scores_only(package, getattr(package, name))]
            raise SettingError(self, "press", self.press, f"a press that only scores: {', '.join(sorted(working))}")
        taken = inspect.signature(getattr(package, self.press)).parameters
        known = [name for name in taken if name != "compression_ratio" and not name.startswith("_")]
        if not isinstance(self.args, Mapping | None):
            raise SettingError(self, "args", self.args, f"a mapping of settings: {', '.join(known) or 'none'}")
        for name in self.args or {}:
            if name not in known:
                raise SettingError(self, "args", self.args, f"settings of {self.press}: {', '.join(known) or 'none'}")

    def plan(self, view: View) -> Plan | None:
        slots = self.slots(view.prompt)
        return None if view.prompt <= slots else Plan(head=0, best=slots, tail=0)

    def score(self, attention: Attention) -> Tensor:
        result = torch.zeros_like(attention.positions, dtype=torch.float32)
        columns = attention.queries.shape[2]
        for row, length in enumerate((attention.query_positions >= 0).sum(-1).tolist()):
            if length > self.slots(length):
                result[row, :, columns - length :] = self._score_row(attention, row, columns - length)
        return result

    def _score_row(self, attention: Attention, row: int, first: int) -> Tensor:
        """-> [H, n]: what the press says of one row, whose tokens start at column `first`."""
        if attention.inputs is None:
            raise ScopeError(
                f"{self.press} needs what layers are given: run the model within scope.cache.inputs.layer_inputs"
            )
        module: Any = attention.inputs.module
        hidden = attention.inputs.hidden_states[row : row + 1, first:]
        cosines = tuple(x[row if len(x) > 1 else 0][None, first:] for x in attention.inputs.position_embeddings)
        copies = attention.keys.shape[1] // module.config.num_key_value_heads
        keys, values = (x[row : row + 1, ::copies, first:] for x in (attention.keys, attention.values))
        weights = None
        if self.press in READS_WEIGHTS:
            weights = scores.probabilities(attention, first, hidden.shape[1] + first)[row : row + 1, :, :, first:]
        length = hidden.shape[1]
        ratio = 1 - (self.slots(length) + 0.5) / length  # of which kvpress keeps int((1 - ratio) * length)
        press = getattr(load(), self.press)(compression_ratio=ratio, **(self.args or {}))
        with torch.random.fork_rng([keys.device] if keys.is_cuda else []):
            torch.manual_seed(self.seed * 1000 + attention.layer)
            try:
                found: Tensor = press.score(module, hidden, keys, values, weights, {"position_embeddings": cosines})
            except AssertionError as error:
                raise ScopeError(f"{self.press} on a prompt of {length} tokens: {error}") from error
            except Exception as error:
                if out_of_memory(error):
                    raise
                reason = " ".join(f"{type(error).__name__}: {error}".split())
                raise ScopeError(f"{self.press} cannot serve {type(module).__name__}: {reason}") from error
        return found[0].float().repeat_interleave(copies, 0)


def scores_only(package: ModuleType, kind: object) -> bool:
    """Whether this is a scorer that leaves everything but the score as the package's base class has it."""
    base = package.ScorerPress
    if not isinstance(kind, type) or not issubclass(kind, base) or kind is base:
        return False
    return all(getattr(kind, name) is getattr(base, name) for name in OWN_WAY)


def _missing() -> str:
    """The end of a message: what has to be installed first, if anything has to."""
    try:
        load()
    except ScopeError as error:
        return f"; and {error}"
    return ""


def load() -> ModuleType:
    """The package. It wraps transformers' attention functions when imported; that is undone.

    Raises ScopeError where it, or what it imports, is not installed.
    """
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

    before = dict(ALL_ATTENTION_FUNCTIONS.items())
    try:
        import kvpress
    except ModuleNotFoundError as error:
        raise ScopeError(f"{error.name} is not installed: {INSTALL}") from error
    finally:
        for name, function in before.items():
            if ALL_ATTENTION_FUNCTIONS[name] is not function:
                ALL_ATTENTION_FUNCTIONS.pop(name)  # the wrapper hides what was registered
                if ALL_ATTENTION_FUNCTIONS.get(name) is not function:
                    ALL_ATTENTION_FUNCTIONS[name] = function
    package: ModuleType = kvpress
    return package
