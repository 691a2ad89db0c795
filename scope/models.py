"""Models: a hub id, a folder, or the embedded one, loaded with scope's attention, so that caches can be compressed."""

import hashlib
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import huggingface_hub
import torch
from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    LlamaConfig,
    LlamaForCausalLM,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from scope.attention import BACKENDS, implementation
from scope.errors import CombinationError, ScopeError, SettingError, check_choice, check_count, check_flag
from scope.prompts import LAYOUTS, OVERLONG

EMBEDDED = Path(__file__).with_name("embedded")
DTYPES = ("float32", "bfloat16", "float16")
FILES = ("*.json", "*.safetensors", "*.bin", "*.model", "*.txt", "*.jinja")  # that change an answer
_HUB_ID = re.compile(r"\w[\w.-]*(/\w[\w.-]*)?")
_END = 1 << 20  # bytes of each end of a weight file that its fingerprint reads


@dataclass(frozen=True)
class ModelSource:
    """Where a model comes from and how it runs.

    path: a hub id, a folder, or `embedded`. revision: of a hub id. attention: the backend of the prompt's attention;
    decode steps run scope's own. device: a torch device, or `auto` (a GPU where there is one). device_map: accelerate's
    way of spreading the layers, such as `auto` or `balanced`; device then does not count. threads: of torch on the CPU,
    None as torch has it; one is best for a very small model, whose steps are too short to share. layout: how a prompt
    is framed (scope.prompts.render); overlong: a prompt that does not fit the model's context is refused, or cut in its
    middle. thinking: what opens and what closes the part of an answer that is thought aloud and not scored
    (scope.scoring.thinking), None where the model has none. trust_remote_code: whether to run code that comes with the
    model. safetensors_only: refuse weights in other formats, which are pickles.
    Raises SettingError for values that cannot be.
    """

    path: str = "embedded"
    revision: str | None = None
    dtype: str = "float32"
    attention: str = "sdpa"
    device: str = field(default="auto", metadata={"limit": True})
    device_map: str | None = field(default=None, metadata={"limit": True})
    threads: int | None = field(default=None, metadata={"limit": True})
    trust_remote_code: bool = field(default=False, metadata={"limit": True})
    safetensors_only: bool = field(default=True, metadata={"limit": True})
    layout: str = "auto"
    overlong: str = "refuse"
    thinking: tuple[str, str] | None = ("<think>", "</think>")

    def __post_init__(self) -> None:
        if not isinstance(self.path, str) or not self.path:
            raise SettingError(self, "path", self.path, "a hub id, a folder, or embedded")
        check_choice(self, "dtype", DTYPES)
        check_choice(self, "attention", BACKENDS)
        check_choice(self, "layout", LAYOUTS)
        check_choice(self, "overlong", OVERLONG)
        if self.thinking is not None:
            markers = tuple(self.thinking) if isinstance(self.thinking, list | tuple) else ()
            if len(set(markers)) != 2 or len(markers) != 2 or not all(isinstance(m, str) and m for m in markers):
                raise SettingError(
                    self, "thinking", self.thinking, "null, or what opens and what closes a thinking part"
                )
            object.__setattr__(self, "thinking", markers)
        check_flag(self, "trust_remote_code")
        check_flag(self, "safetensors_only")
        if self.threads is not None:
            check_count(self, "threads", low=1)
        try:
            self.torch_device()
        except RuntimeError as error:
            raise SettingError(self, "device", self.device, "auto or a torch device such as cpu or cuda:0") from error

    def torch_device(self) -> torch.device:
        if self.device == "auto":
            return torch.device("cuda" if torch.cuda.is_available() else "cpu")
        return torch.device(self.device)

    @property
    def location(self) -> str:
        return str(EMBEDDED) if self.path == "embedded" else self.path

    def fingerprint(self) -> str:
        """What weights these are, without loading them: a hash of a folder's files, or the revision of a hub id."""
        folder = Path(self.location)
        if not folder.is_dir():
            return self.revision or "main"
        digest = hashlib.sha256()
        for file in sorted(file for pattern in FILES for file in folder.glob(pattern)):
            size = file.stat().st_size
            digest.update(f"{file.name} {size} ".encode())
            with file.open("rb") as stream:
                digest.update(stream.read(_END))
                if size > 2 * _END:
                    stream.seek(-_END, 2)
                digest.update(stream.read())
        return digest.hexdigest()[:16]

    def config(self, local: bool) -> PretrainedConfig:
        """Its configuration; `local`: from this disk only."""
        config: PretrainedConfig = AutoConfig.from_pretrained(
            self.location, revision=self.revision, local_files_only=local, trust_remote_code=self.trust_remote_code
        )
        return config

    def weights(self, attention: str, local: bool) -> PreTrainedModel:
        """The model on its device; `attention` is an implementation's name; `local`: from this disk only."""
        model: PreTrainedModel = AutoModelForCausalLM.from_pretrained(
            self.location,
            dtype=getattr(torch, self.dtype),
            attn_implementation=attention,
            device_map=self.device_map,
            revision=self.revision,
            local_files_only=local,
            trust_remote_code=self.trust_remote_code,
            use_safetensors=True if self.safetensors_only else None,
        )
        if self.device_map is None:
            model.to(self.torch_device())  # type: ignore[arg-type]  # transformers wraps torch's own signature
        return model


# Shapes of Llamas that need no download. The small one fits two cores.
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
    """A Llama of a given shape with random weights and the embedded model's tokenizer: for speed and memory, offline.

    preset: a shape by name; the sizes that follow, by transformers' names, are taken instead of its own where they are
    given; seed: of the weights, which are the same on every device of a kind. Raises SettingError for what cannot be.
    """

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
        given = {name: getattr(self, name) for name in PRESETS["small"] if getattr(self, name) is not None}
        return PRESETS[self.preset] | given

    @property
    def location(self) -> str:
        return str(EMBEDDED)  # of the tokenizer

    def fingerprint(self) -> str:
        drawn = f"{sorted(self.sizes.items(), key=str)} {self.seed}"
        return hashlib.sha256(drawn.encode()).hexdigest()[:16]

    def config(self, local: bool = True) -> LlamaConfig:
        ends = AutoConfig.from_pretrained(EMBEDDED)
        special = {name: getattr(ends, name) for name in ("bos_token_id", "eos_token_id", "pad_token_id")}
        return LlamaConfig(**self.sizes, **special)

    def weights(self, attention: str, local: bool = True) -> PreTrainedModel:
        device = self.torch_device()
        with torch.random.fork_rng([device] if device.type == "cuda" else []), device:
            torch.manual_seed(self.seed)
            model: PreTrainedModel = LlamaForCausalLM._from_config(  # type: ignore[no-untyped-call]
                self.config(), dtype=getattr(torch, self.dtype), attn_implementation=attention
            )
        return model


@dataclass(frozen=True)
class Loaded:
    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase


@lru_cache(maxsize=1)
def load(source: ModelSource) -> Loaded:
    """The model, ready to generate; the last one stays loaded, since the runs of a sweep mostly share it.

    Raises ScopeError for a place that holds no model, one that cannot be reached, or a backend that is not installed.
    """
    name = implementation(source.attention)
    if source.threads:
        torch.set_num_threads(source.threads)
    local = _only_local(source)
    with _named(source):
        tokenizer = _tokenizer(source, local)
        model = source.weights(name, local)
    return Loaded(model.eval(), tokenizer)  # type: ignore[no-untyped-call]


@lru_cache(maxsize=8)
def load_shape(source: ModelSource) -> tuple[PretrainedConfig, PreTrainedTokenizerBase]:
    """The model's configuration and tokenizer, without its weights. Raises ScopeError as `load` does."""
    local = _only_local(source)
    with _named(source):
        return source.config(local), _tokenizer(source, local)


def context(config: PretrainedConfig) -> int | None:
    """Tokens that the model was made for, None where its configuration does not say."""
    return getattr(config.get_text_config(decoder=True), "max_position_embeddings", None)


def _tokenizer(source: ModelSource, local: bool) -> PreTrainedTokenizerBase:
    tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(
        source.location,
        padding_side="left",
        revision=source.revision,
        local_files_only=local,
        trust_remote_code=source.trust_remote_code,
    )
    return tokenizer


@contextmanager
def _named(source: ModelSource) -> Iterator[None]:
    """What goes wrong within is reported under the model's key."""
    try:
        yield
    except Exception as error:  # what a spoilt file does to the libraries below is theirs to name
        reason = " ".join(str(error).split())
        raise ScopeError(f"model.path={source.path}: cannot be loaded: {reason}") from error


def _only_local(source: ModelSource) -> bool:
    """Whether the files have to come from this disk; asks the hub before transformers does, which would keep trying.

    Raises ScopeError for a folder without a model, and for an id that does not exist, is gated or cannot be reached.
    """
    refused = f"model.path={source.path}:"
    folder = Path(source.location)
    if folder.exists():
        if not (folder / "config.json").is_file():
            raise ScopeError(f"{refused} holds no model (there is no config.json in it)")
        return True
    if not _HUB_ID.fullmatch(source.path):
        raise ScopeError(f"{refused} there is no such folder, and it is not the id of a model on the hub")
    cached = isinstance(
        huggingface_hub.try_to_load_from_cache(source.path, "config.json", revision=source.revision), str
    )
    try:
        huggingface_hub.HfApi().auth_check(source.path)
    except GatedRepoError as error:
        if not cached:
            advice = "ask for access on its page, then `hf auth login` or HF_TOKEN"
            raise ScopeError(f"{refused} is gated: {advice}") from error
    except RepositoryNotFoundError as error:
        raise ScopeError(f"{refused} is not on the hub (or private: `hf auth login` or HF_TOKEN)") from error
    except Exception as error:  # the client's transport raises errors of its own
        if not cached:
            advice = f"where there is a network: hf download {source.path}"
            raise ScopeError(f"{refused} the hub cannot be reached and it is not in the cache; {advice}") from error
    else:
        return False
    return True
