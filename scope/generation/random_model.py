"""Llamas with random weights and any shape, to measure speed and memory without a download."""

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import torch

from scope.generation.source import AUTO, EMBEDDED, ModelSource
from scope.util.errors import CombinationError, SettingError, check_choice, check_count

if TYPE_CHECKING:
    from transformers import LlamaConfig, PreTrainedModel

# Shapes by name. The small one is fast on two cores.
PRESETS: dict[str, dict[str, Any]] = {
    "small": {
        "hidden_size": 512,
        "intermediate_size": 1024,
        "num_hidden_layers": 4,
        "num_attention_heads": 8,
        "num_key_value_heads": 2,
        "vocab_size": 1024,
        "max_position_embeddings": 65536,
    },
    "llama3_8b": {
        "hidden_size": 4096,
        "intermediate_size": 14336,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "vocab_size": 128256,
        "max_position_embeddings": 131072,
        "rope_parameters": {"rope_type": "default", "rope_theta": 500000.0},
    },
}


@dataclass(frozen=True, kw_only=True)
class RandomModel(ModelSource):
    """A Llama with random weights and the tokenizer of the embedded model, to measure speed and memory offline.

    preset: a shape by name. The sizes after it have the names of transformers; those that are not None replace the
    preset's. seed: of the weights, which are the same on all devices of one type, such as all CPUs.
    Other fields are those of `ModelSource`.

    Raises SettingError or CombinationError for values that are not allowed.
    """

    recorded_as: ClassVar[str] = "scope.models.RandomModel"

    path: str = "random"
    preset: str = "small"
    hidden_size: int | None = None
    intermediate_size: int | None = None
    num_hidden_layers: int | None = None
    num_attention_heads: int | None = None
    num_key_value_heads: int | None = None
    vocab_size: int | None = None
    max_position_embeddings: int | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        check_choice(self, "preset", tuple(PRESETS))
        check_count(self, "seed")
        if self.seed >= 2**63:
            raise SettingError(self, "seed", self.seed, "a whole number below 2**63")
        for name in PRESETS["small"]:
            if getattr(self, name) is not None:
                check_count(self, name, low=1)
        sizes = self.sizes
        heads, groups = sizes["num_attention_heads"], sizes["num_key_value_heads"]
        if heads % groups:
            raise CombinationError(self, "num_key_value_heads", groups, f"a divisor of num_attention_heads={heads}")
        if sizes["hidden_size"] % (2 * heads):
            allowed = f"a multiple of 2 x num_attention_heads={heads}"
            raise CombinationError(self, "hidden_size", sizes["hidden_size"], allowed)

    @property
    def sizes(self) -> dict[str, Any]:
        """The shape, by the names of transformers."""
        given = {name: getattr(self, name) for name in PRESETS["small"] if getattr(self, name) is not None}
        return PRESETS[self.preset] | given

    @property
    def location(self) -> str:
        return str(EMBEDDED)  # the tokenizer is loaded from there

    def fingerprint(self) -> str:
        """A hash of the shape, the seed, the type of device and the tokenizer."""
        drawn = f"{sorted(self.sizes.items(), key=str)} {self.seed} {self.torch_device().type} {super().fingerprint()}"
        return hashlib.sha256(drawn.encode()).hexdigest()[:40]

    @property
    def same_everywhere(self) -> bool:
        return self.dtype != AUTO and self.device != AUTO

    def config(self) -> "LlamaConfig":
        from transformers import AutoConfig, LlamaConfig

        ends = AutoConfig.from_pretrained(EMBEDDED)
        special = {name: getattr(ends, name) for name in ("bos_token_id", "eos_token_id", "pad_token_id")}
        return LlamaConfig(**self.sizes, **special)

    def weights(self, attention: str) -> "PreTrainedModel":
        from transformers import LlamaForCausalLM

        device = self.torch_device()
        with torch.random.fork_rng([device] if device.type == "cuda" else []), device:
            torch.manual_seed(self.seed)
            model: PreTrainedModel = LlamaForCausalLM._from_config(  # type: ignore[no-untyped-call]
                self.config(), dtype=getattr(torch, self.resolved_dtype()), attn_implementation=attention
            )
        return model
