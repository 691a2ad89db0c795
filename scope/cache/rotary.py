"""The rotary embedding of a model's layers, from its configuration."""

from typing import Any

import torch
from transformers import PretrainedConfig
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from scope.policy.rotary import Rotary
from scope.util.errors import ScopeError

# Models that turn every layer, and pair coordinate f with f + F. Others pair neighbours, or leave layers unturned, and
# no configuration says so. `experiments.families` turns the keys of each of these back.
MODELS = (
    *("gemma", "gemma3_text", "gemma3n_text", "glm4_moe", "gpt_neox", "granite", "llama", "minimax_m2", "ministral"),
    *("mistral", "mixtral", "nemotron", "olmo2", "olmo3", "olmoe", "phi", "phi3", "phimoe", "qwen2", "qwen3"),
    *("qwen3_moe", "seed_oss", "stablelm", "starcoder2"),
)
TYPES = ("default", "linear", "llama3", "yarn")  # whose frequencies do not depend on the length of the text


def rotary_of(config: PretrainedConfig, layer: int, asking: str) -> Rotary:
    """The rotary embedding of one layer. asking: who needs it, for the message.

    Raises ScopeError for a model, or a type of rotary embedding, that is not among those above.
    """
    text = config.get_text_config(decoder=True)
    if text.model_type not in MODELS:
        raise ScopeError(f"{asking}: knows the rotary embedding of {', '.join(MODELS)}, not of {text.model_type}")
    layer_type, parameters = None, text.rope_parameters
    if "rope_type" not in parameters:  # one for each type of layer
        layer_type = text.layer_types[layer]
        parameters = parameters[layer_type]
    if parameters["rope_type"] not in TYPES:
        given = f"not {parameters['rope_type']}, whose frequencies depend on the length of the text"
        raise ScopeError(f"{asking}: takes a rope_type of {', '.join(TYPES)}, {given}")
    return Rotary(_frequencies(text, parameters, layer_type))


def _frequencies(text: PretrainedConfig, parameters: dict[str, Any], layer_type: str | None) -> torch.Tensor:
    if parameters["rope_type"] != "default":
        frequencies: torch.Tensor = ROPE_INIT_FUNCTIONS[parameters["rope_type"]](text, layer_type=layer_type)[0]
        return frequencies
    width = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
    width = int(width * parameters.get("partial_rotary_factor", 1.0))
    base: float = parameters["rope_theta"]
    return base ** -(torch.arange(0, width, 2).float() / width)
