"""Models: a hub id, a folder, or the embedded one, loaded with scope's attention, so that caches can be compressed."""

import hashlib
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

import huggingface_hub
import torch
from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from scope.attention import BACKENDS, implementation
from scope.errors import ScopeError, SettingError, check_choice, check_count, check_flag
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
    middle. trust_remote_code: whether to run code that comes with the model. safetensors_only: refuse weights in other
    formats, which are pickles.
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

    def __post_init__(self) -> None:
        check_choice(self, "dtype", DTYPES)
        check_choice(self, "attention", BACKENDS)
        check_choice(self, "layout", LAYOUTS)
        check_choice(self, "overlong", OVERLONG)
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
        model = AutoModelForCausalLM.from_pretrained(
            source.location,
            dtype=getattr(torch, source.dtype),
            attn_implementation=name,
            device_map=source.device_map,
            revision=source.revision,
            local_files_only=local,
            trust_remote_code=source.trust_remote_code,
            use_safetensors=True if source.safetensors_only else None,
        )
    if source.device_map is None:
        model.to(source.torch_device())  # type: ignore[arg-type]  # transformers wraps torch's own signature
    return Loaded(model.eval(), tokenizer)  # type: ignore[no-untyped-call]


@lru_cache(maxsize=8)
def load_shape(source: ModelSource) -> tuple[PretrainedConfig, PreTrainedTokenizerBase]:
    """The model's configuration and tokenizer, without its weights. Raises ScopeError as `load` does."""
    local = _only_local(source)
    with _named(source):
        config = AutoConfig.from_pretrained(
            source.location,
            revision=source.revision,
            local_files_only=local,
            trust_remote_code=source.trust_remote_code,
        )
        return config, _tokenizer(source, local)


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
