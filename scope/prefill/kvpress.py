"""kvpress: the score of any single-pass press of NVIDIA's package kvpress (github.com/NVIDIA/kvpress)."""

import inspect
from collections.abc import Mapping
from dataclasses import dataclass, field
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

INSTALL = "pip install --no-deps kvpress==0.5.5 cachetools fire termcolor"  # kvpress's pins exclude our transformers
# a press that overrides one of these does more than score
OWN_WAY = ("__call__", "forward_hook", "compress", "post_init_from_model")
READS_WEIGHTS = ("ObservedAttentionPress",)  # the other presses compute the attention weights from the hidden states


@dataclass(frozen=True)
class KVPress(Budget):
    """Keep the C slots in each head that a press scores highest. Only the press decides if some slots always stay.

    press: name of the press's class. args: the press's settings. The compression ratio is not one of them: it follows
    from the budget. seed: for presses that draw at random.
    Each row is scored alone, without its padding. Only the `score` of a press is called. Importing kvpress changes
    transformers' attention functions; `load` undoes this.
    Raises ScopeError if the package is missing, or if the press fails on the model.
    Raises SettingError for an unknown press, for an unknown setting, and for a press that does more than score: one
    that merges, masks, reads the prompt a second time, or loads weights of its own.
    """

    press: str = field(kw_only=True)
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
        """The press's score of one row, [H, n]; the row's n tokens start at column `first`."""
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
        ratio = 1 - (self.slots(length) + 0.5) / length  # kvpress keeps int((1 - ratio) * length) slots
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
    """Whether `kind` is a scorer press that overrides nothing of the package's base class but the score."""
    base = package.ScorerPress
    if not isinstance(kind, type) or not issubclass(kind, base) or kind is base:
        return False
    return all(getattr(kind, name) is getattr(base, name) for name in OWN_WAY)


def _missing() -> str:
    """The end of an error message: which package to install first. Empty if kvpress is installed."""
    try:
        load()
    except ScopeError as error:
        return f"; and {error}"
    return ""


def load() -> ModuleType:
    """Import kvpress and return the module. Importing it wraps transformers' attention functions; this is undone here.

    Raises ScopeError if kvpress, or a package that it imports, is not installed.
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
                ALL_ATTENTION_FUNCTIONS.pop(name)  # removes the wrapper, which hides the registered function
                if ALL_ATTENTION_FUNCTIONS.get(name) is not function:
                    ALL_ATTENTION_FUNCTIONS[name] = function
    package: ModuleType = kvpress
    return package
