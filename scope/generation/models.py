"""Load models with scope's attention, so that their caches can be compressed."""

from dataclasses import dataclass, field
from functools import lru_cache
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from transformers import PretrainedConfig, PreTrainedTokenizerBase

from scope.cache.backends import implementation
from scope.generation.random_model import RandomModel
from scope.generation.read import Reads
from scope.generation.source import EMBEDDED, ModelSource, named
from scope.util.importing import uncollected

if TYPE_CHECKING:
    from transformers import PreTrainedModel

__all__ = ["EMBEDDED", "Loaded", "ModelSource", "RandomModel", "bytes_read", "context", "load", "load_shape"]


@dataclass(frozen=True)
class Loaded:
    """A model with its tokenizer.

    references: what it says with its full cache, as of `Reference.hidden`, by the tokens of a prompt and of its
    continuation. reads: what it made of the prompts alone, and its logits. Replays fill both, so that the runs of a
    sweep make each only once.
    """

    model: "PreTrainedModel"
    tokenizer: PreTrainedTokenizerBase
    references: dict[tuple[tuple[int, ...], tuple[int, ...]], Tensor] = field(
        default_factory=dict, compare=False, repr=False
    )
    reads: Reads = field(default_factory=Reads, compare=False, repr=False)


@lru_cache(maxsize=1)
def load(source: ModelSource) -> Loaded:
    """Load a model with its tokenizer. The last one stays in memory, since the runs of a sweep mostly share it.

    Raises ScopeError for a path without a model, a hub that cannot be reached, a damaged file, or a device or backend
    that this machine does not have.
    """
    source.require()
    name = implementation(source.attention)
    if source.threads:
        torch.set_num_threads(source.threads)
    source.place()  # outside of `named`: its errors name their key
    with named(source):
        tokenizer = source.tokenizer()
        model = source.weights(name)
    return Loaded(model.eval(), tokenizer)  # type: ignore[no-untyped-call]


@lru_cache(maxsize=8)
def load_shape(source: ModelSource) -> tuple[PretrainedConfig, PreTrainedTokenizerBase]:
    """Load the configuration and the tokenizer of a model, without its weights. Raises ScopeError as `load` does."""
    source.place()
    with named(source):
        return source.config(), source.tokenizer()


def bytes_read(config: PretrainedConfig, dtype: str) -> int:
    """Bytes of weights that a decode step reads, counted from the model's shape. No weights are loaded.

    dtype: of the weights, as "bfloat16". All weights count but an embedding that is not the output layer too: a step
    reads few rows of it. A model with experts counts as if all of them were asked.
    """
    from transformers import AutoModelForCausalLM

    with uncollected(), torch.device("meta"):
        model: PreTrainedModel = AutoModelForCausalLM.from_config(config)  # type: ignore[no-untyped-call]
    held = {id(weight): weight.numel() for weight in model.parameters()}
    embedding, head = model.get_input_embeddings(), model.get_output_embeddings()  # type: ignore[no-untyped-call]
    if head is None or embedding.weight is not head.weight:
        del held[id(embedding.weight)]
    return sum(held.values()) * int(getattr(torch, dtype).itemsize)


def context(config: PretrainedConfig) -> int | None:
    """The length of the model's context in tokens; None if its configuration does not say."""
    return getattr(config.get_text_config(decoder=True), "max_position_embeddings", None)
