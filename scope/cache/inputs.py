"""The inputs of each layer's attention, recorded for prefill methods that need them (`layer_inputs = True`)."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from scope.policy.attention import LayerInputs

if TYPE_CHECKING:
    from transformers import PreTrainedModel

NOTED = "scope_inputs"  # attribute of the attention module, from its call until `taken`


@contextmanager
def layer_inputs(model: "PreTrainedModel") -> Iterator[None]:
    """In this context each attention of the model records its module, hidden states and position embeddings.

    Only prompts are recorded, not decode steps; the chunks of a prompt are joined. Meanwhile each attention module has
    the model's rotary embedding as `rotary_emb`, as it had in older versions of transformers.
    """
    rotary = getattr(model.base_model, "rotary_emb", None)
    attentions = [module for module in model.modules() if hasattr(module, "layer_idx") and hasattr(module, "is_causal")]
    hooks = [module.register_forward_pre_hook(_note, with_kwargs=True) for module in attentions]
    for module in attentions:
        module.__dict__["rotary_emb"] = rotary  # not as a submodule, so state_dict stays the same
    try:
        yield
    finally:
        for hook, module in zip(hooks, attentions, strict=True):
            hook.remove()
            del module.__dict__["rotary_emb"]
            taken(module)


def taken(module: nn.Module) -> LayerInputs | None:
    """The recorded inputs of this attention, which are removed from it; None where nothing was recorded."""
    noted: LayerInputs | None = module.__dict__.pop(NOTED, None)
    return noted


def _note(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    hidden: Tensor = kwargs["hidden_states"] if "hidden_states" in kwargs else args[0]
    if hidden.shape[1] == 1:
        return
    cos, sin = kwargs["position_embeddings"]
    if earlier := module.__dict__.get(NOTED):
        hidden = torch.cat([earlier.hidden_states, hidden], 1)
        cos, sin = (torch.cat(pair, 1) for pair in zip(earlier.position_embeddings, (cos, sin), strict=True))
    module.__dict__[NOTED] = LayerInputs(module, hidden, (cos, sin))
