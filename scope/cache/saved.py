"""A cache in a file: the state of its rows and layers, and what tells whether a model can go on with it.

Tensors are those of a safetensors file. All else is JSON in its metadata: numbers, and objects of the classes below by
name and fields. No code comes out of a file.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

import scope
import scope.decoding
import scope.prefill
from scope.cache.account import Account
from scope.cache.by_head import ByHead
from scope.cache.fused import FusedSlots
from scope.cache.policy import Policy
from scope.cache.precision import Rounding, Roundings
from scope.cache.quantised import Quantised
from scope.cache.ring import Ring
from scope.cache.slots import Move, Slots
from scope.cache.states import Plain
from scope.cache.twin import Concatenated
from scope.policy.plan import Plan, View
from scope.records.identity import describe, name_of
from scope.util.errors import ScopeError, of_the_machine, shown
from scope.util.files import write_whole

if TYPE_CHECKING:
    from transformers import PreTrainedModel

STATES = (Account, ByHead, Concatenated, Move, Plain, Plan, Quantised, Ring, Rounding, Slots, View)
KINDS = {kind.__name__: kind for kind in STATES}
POLICIES = {
    name_of(room.__dict__[name]): room.__dict__[name]
    for room in (scope.prefill, scope.decoding)
    for name in room.__all__
}
PLAIN = (bool, int, float, str, type(None))
SAMPLED = 64  # numbers of each weight that its fingerprint reads
# Keys of a model's configuration that change no key, value or answer, or that say where the model was.
ASIDE = ("_name_or_path", "architectures", "dtype", "torch_dtype", "transformers_version", "use_cache")


@dataclass(frozen=True)
class Saved:
    """What a file holds: the state of a cache, with its tensors, and what it was saved with."""

    path: Path
    facts: Mapping[str, Any]  # `scope`, the version; `policy`, `config`, `weights`, `dtype`
    state: Any  # as `packed` gives it
    tensors: Mapping[str, Tensor]

    def require(self, model: "PreTrainedModel") -> None:
        """Raise ScopeError where this version, or this model, cannot go on with the cache."""
        expected = facts_of(model)
        configs = self.facts["config"], expected["config"]
        for key in sorted(configs[0].keys() & configs[1].keys()):
            self._require(f"config.{key}", configs[0][key], configs[1][key])
        for key in ("dtype", "weights"):
            self._require(key, self.facts[key], expected[key])

    def policy(self, given: Policy | None) -> Policy:
        """The policy of the cache. given: the caller's, which must be the same; None: it is made anew.

        Raises ScopeError for another one, and if none is given where one cannot be made: with a class that is not
        scope's own, or with statistics of a model.
        """
        described = self.facts["policy"]
        if given is not None:
            own = _as_read(describe(given))
            for key in sorted({*described, *own}):
                self._require(f"policy.{key}", described.get(key), own.get(key))
            return given
        parts = {key: self._made(value) if isinstance(value, dict) else value for key, value in described.items()}
        del parts["type"]
        return Policy(**parts)

    def unpacked(self, value: Any, device: torch.device) -> Any:
        """What `packed` was given, with tensors on this device."""
        if not isinstance(value, dict):
            return value
        ((kind, inside),) = value.items()
        if kind == "tensor":
            return self.tensors[inside].to(device)
        if kind == "dtype":
            return getattr(torch, inside)
        if kind == "dict":
            return {key: self.unpacked(each, device) for key, each in inside}
        each = [self.unpacked(one, device) for one in inside]
        if kind in ("list", "tuple"):
            return each if kind == "list" else tuple(each)
        if kind == "Roundings":
            return Roundings(*each)
        made = object.__new__(KINDS[kind])
        made.__dict__.update(each)  # not by an attribute, which a frozen class refuses
        return made

    def _made(self, described: Mapping[str, Any]) -> Any:
        """A method or a strategy from what describes it."""
        fields = dict(described)
        name = fields.pop("type")
        if name not in POLICIES or any(isinstance(value, dict) and "type" in value for value in fields.values()):
            raise ScopeError(f"{self.path}: policy={shown(name)}: must be given, as load(file, model, policy=...)")
        return POLICIES[name](**fields)

    def _require(self, key: str, value: object, expected: object) -> None:
        if value != expected:
            raise ScopeError(f"{self.path}: {key}={shown(value)}: must be {shown(expected)} to go on here")


def write(path: Path, facts: Mapping[str, Any], state: Any, tensors: Mapping[str, Tensor]) -> None:
    """Write a cache into a file, completely or not at all. Raises ScopeError for a file that cannot be written."""
    texts = {"facts": json.dumps(facts, sort_keys=True), "state": json.dumps(state)}
    try:
        write_whole(path, save({**tensors}, texts | {"sha256": _digest(texts, tensors)}))
    except OSError as error:
        raise ScopeError(of_the_machine(error)) from error


def read(path: Path) -> Saved:
    """Read a file that `write` made. Raises ScopeError for another file, a damaged one, and one of another version."""
    try:
        with safe_open(path, "pt") as stored:
            texts, tensors = dict(stored.metadata() or {}), {name: stored.get_tensor(name) for name in [*stored.keys()]}
    except OSError as error:
        raise ScopeError(f"{path}: cannot be read: {error.strerror or error}") from error
    except SafetensorError as error:
        raise ScopeError(f"{path}: is no cache that was saved, or is damaged: {error}") from error
    if {*texts} != {"facts", "state", "sha256"}:
        raise ScopeError(f"{path}: is no cache that was saved")
    if texts.pop("sha256") != _digest(texts, tensors):
        raise ScopeError(f"{path}: is damaged: its contents and their hash differ")
    saved = Saved(path, json.loads(texts["facts"]), json.loads(texts["state"]), tensors)
    saved._require("scope", saved.facts["scope"], scope.__version__)
    return saved


def facts_of(model: "PreTrainedModel", policy: Policy | None = None) -> dict[str, Any]:
    """What a cache of this model, and of this policy, is saved with and checked by, as JSON gives it back.

    Of each weight a few numbers are read, so that even a large model takes little time: a model that was trained
    further has others.
    """
    config = model.config.get_text_config(decoder=True).to_dict()
    digest = hashlib.sha256()
    for name, weight in model.named_parameters():
        numbers = weight.detach().flatten()
        numbers = numbers[:: max(1, len(numbers) // SAMPLED)].double().cpu()
        digest.update(f"{name} {list(weight.shape)}".encode() + numbers.numpy().tobytes())
    facts = {
        "scope": scope.__version__,
        "config": {key: value for key, value in config.items() if key not in ASIDE},
        "weights": digest.hexdigest()[:40],
        "dtype": str(model.dtype).partition(".")[2],
        "policy": None if policy is None else describe(policy),
    }
    read_back: dict[str, Any] = _as_read(facts)
    return read_back


def packed(value: Any, tensors: dict[str, Tensor]) -> Any:
    """A state as JSON, with its tensors put into `tensors`. Raises ScopeError for a storage that is not scope's own."""
    if isinstance(value, PLAIN):
        return value
    if isinstance(value, Tensor):
        name = f"{len(tensors)}"
        tensors[name] = value.detach().clone(memory_format=torch.contiguous_format)
        return {"tensor": name}
    if isinstance(value, torch.dtype):
        return {"dtype": str(value).partition(".")[2]}
    if isinstance(value, Mapping):
        return {"dict": [[key, packed(each, tensors)] for key, each in value.items()]}
    if isinstance(value, list | tuple):
        return {type(value).__name__: [packed(each, tensors) for each in value]}
    name = Slots.__name__ if isinstance(value, FusedSlots) else type(value).__name__
    if KINDS.get(name) not in type(value).__mro__:
        raise ScopeError(f"{name}: a cache with it cannot be saved: must be one of {', '.join(KINDS)}")
    fields = {key: each for key, each in vars(value).items() if key != "_storages"}  # of FusedSlots: scratch memory
    return {name: [packed([key, each], tensors) for key, each in fields.items()]}


def devices_of(model: "PreTrainedModel", layers: int) -> Sequence[torch.device]:
    """Where each layer of a model lies."""
    places: dict[int, torch.device] = {}
    for module in model.modules():
        layer, weight = vars(module).get("layer_idx"), next(module.parameters(), None)
        if layer is not None and weight is not None:
            places[layer] = weight.device
    return [places.get(layer, model.device) for layer in range(layers)]


def _as_read(value: Any) -> Any:
    return json.loads(json.dumps(value, default=str))


def _digest(texts: Mapping[str, str], tensors: Mapping[str, Tensor]) -> str:
    """A hash of all that a file holds."""
    digest = hashlib.sha256(json.dumps([texts["facts"], texts["state"]]).encode())
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}".encode())
        digest.update(tensor.contiguous().flatten().view(torch.uint8).cpu().numpy().data)
    return digest.hexdigest()
