"""Models, loaded with scope's attention, so that their caches can be compressed."""

from dataclasses import dataclass
from functools import lru_cache

import torch
from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

from scope.cache.seam import implementation
from scope.generation.random_model import RandomModel
from scope.generation.source import EMBEDDED, ModelSource, named

__all__ = ["EMBEDDED", "Loaded", "ModelSource", "RandomModel", "context", "load", "load_shape"]


@dataclass(frozen=True)
class Loaded:
    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase


@lru_cache(maxsize=1)
def load(source: ModelSource) -> Loaded:
    """The model, ready to generate; the last one stays loaded, since the runs of a sweep mostly share it.

    Raises ScopeError for a place that holds no model, one that cannot be reached, or a backend that is not installed.
    """
    source.require()
    name = implementation(source.attention)
    if source.threads:
        torch.set_num_threads(source.threads)
    source.place()  # what it refuses is one line as it is
    with named(source):
        tokenizer = source.tokenizer()
        model = source.weights(name)
    return Loaded(model.eval(), tokenizer)  # type: ignore[no-untyped-call]


@lru_cache(maxsize=8)
def load_shape(source: ModelSource) -> tuple[PretrainedConfig, PreTrainedTokenizerBase]:
    """The model's configuration and tokenizer, without its weights. Raises ScopeError as `load` does."""
    source.place()
    with named(source):
        return source.config(), source.tokenizer()


def context(config: PretrainedConfig) -> int | None:
    """Tokens that the model was made for, None where its configuration does not say."""
    return getattr(config.get_text_config(decoder=True), "max_position_embeddings", None)
