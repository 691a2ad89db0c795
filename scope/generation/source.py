"""Where a model comes from and how it runs: a hub id, a folder, or the embedded one."""

import importlib.util
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from transformers import PretrainedConfig, PreTrainedTokenizerBase
from transformers.utils import logging

from scope.cache.backends import BACKENDS, require_installed
from scope.generation import devices
from scope.generation.model_parts import ADAPTER, base_of, code_places, fingerprint
from scope.generation.places import Place, locate
from scope.generation.prompts import LAYOUTS, OVERLONG, TemplateInput
from scope.generation.source_checks import check_device, check_template, thinking_pair
from scope.models import gguf
from scope.scoring.thinking import THINK
from scope.util.errors import (
    ConfigError,
    ImpossibleError,
    ScopeError,
    SettingError,
    check_choice,
    check_count,
    check_flag,
)

if TYPE_CHECKING:
    from transformers import PreTrainedModel

EMBEDDED = Path(__file__).parents[1] / "embedded"
DTYPES = ("float32", "bfloat16", "float16")
AUTO = "auto"

MOST_THREADS = 1024


@dataclass(frozen=True)
class ModelSource:
    """Where a model comes from and how it runs.

    path: a hub id, a folder, a GGUF file, `embedded`, or a name of `scope.models.published`.
    revision: of a hub id: a branch, a tag or a commit; None: its main branch.
    dtype: of weights and cache: float32, bfloat16 or float16. `auto`: float32 on a CPU, else that of the checkpoint.
    attention: the backend of the prompt's attention: sdpa, eager or flash_attention_2. Decode steps run scope's own.
    device: a torch device, or `auto`: a GPU if there is one.
    device_map: how accelerate spreads the layers over devices, such as `auto` or `balanced`; device is then ignored.
    threads: of torch on the CPU; None: torch's own choice. One is best for a very small model.
    trust_remote_code: run code that comes with the model.
    safetensors_only: refuse weights in other formats, which are pickles and may run code.
    layout: how a prompt is framed (`prompts.render`).
    overlong: what happens to a prompt that does not fit the model's context: `refuse` it, or `cut` its middle.
    template: arguments of the chat template, by name.
    template_date: the day that the template takes for today, such as 2024-07-26; None: the day on which the run began.
    thinking: the marks before and after the part of an answer that is not scored (scope.scoring.thinking); None: the
    model has no such part.

    Raises SettingError or CombinationError for values that are not allowed.
    """

    recorded_as: ClassVar[str] = "scope.models.ModelSource"

    path: str = "embedded"
    revision: str | None = None
    dtype: str = "float32"
    attention: str = "sdpa"
    device: str = field(default=AUTO, metadata={"limit": True})
    device_map: str | None = field(default=None, metadata={"limit": True})
    threads: int | None = field(default=None, metadata={"limit": True})
    trust_remote_code: bool = field(default=False, metadata={"limit": True})
    safetensors_only: bool = field(default=True, metadata={"limit": True})
    layout: str = "auto"
    overlong: str = "refuse"
    template: Mapping[str, Any] = field(default_factory=dict, hash=False)
    template_date: str | None = None
    thinking: tuple[str, str] | None = THINK

    def __post_init__(self) -> None:
        if not isinstance(self.path, str) or not self.path or "\0" in self.path:
            raise SettingError(self, "path", self.path, "a hub id, a folder, a GGUF file, or embedded")
        if self.revision is not None and (not isinstance(self.revision, str) or not self.revision.strip()):
            allowed = "null, or a branch, a tag or a commit as text (in quotes where it is a number)"
            raise SettingError(self, "revision", self.revision, allowed)
        check_choice(self, "dtype", (AUTO, *DTYPES))
        check_choice(self, "attention", BACKENDS)
        check_choice(self, "layout", LAYOUTS)
        check_choice(self, "overlong", OVERLONG)
        check_flag(self, "trust_remote_code")
        check_flag(self, "safetensors_only")
        if self.threads is not None:
            check_count(self, "threads", low=1, high=MOST_THREADS)
        check_device(self, "device", (AUTO,))
        if self.device_map is not None:
            check_device(self, "device_map", devices.SPREADS)
        check_template(self, self.template, self.template_date, self.layout)
        object.__setattr__(self, "thinking", thinking_pair(self, self.thinking))

    def torch_device(self) -> torch.device:
        """The device on which the model runs; with a device_map, that of its first layers."""
        name = self.device if self.device_map is None else self.device_map
        return devices.automatic() if name in devices.SPREADS else devices.parse(name)

    def expected_devices(self) -> set[torch.device]:
        """The devices on which the weights will lie, as far as this is known before they are loaded."""
        if self.device_map in devices.EVEN and torch.cuda.device_count() > 1:
            return {torch.device("cuda", index) for index in range(torch.cuda.device_count())}
        return {self.torch_device()}

    @property
    def location(self) -> str:
        """The folder or hub id to load from."""
        return str(EMBEDDED) if self.path == "embedded" else self.path

    def place(self) -> Place:
        """Where its files are. Raises ScopeError if they cannot be found."""
        return locate(self.location, self.revision)

    def fingerprint(self) -> str:
        """Which weights, tokenizer and code these are: 40 hex digits, a commit or a hash of the files. Loads nothing.

        The base of an adapter, and code from other repositories, are part of it. Raises ScopeError as `load` does.
        """
        return fingerprint(self.place(), self.revision, self.trust_remote_code)

    def resolved_dtype(self) -> str:
        """The dtype that is used on this machine, one of DTYPES. Raises ScopeError as `load` does."""
        if self.dtype != AUTO:
            return self.dtype
        if self.torch_device().type == "cpu":
            return "float32"
        with named(self):
            config = self.config()
        stored = getattr(config, "dtype", None) or getattr(config.get_text_config(decoder=True), "dtype", None)
        name = str(stored or "float32").removeprefix("torch.")
        if name not in DTYPES:
            raise ConfigError(f"model.dtype=auto: the checkpoint is of {name}: give one of {', '.join(DTYPES)}")
        return name

    @property
    def same_everywhere(self) -> bool:
        """Whether runs of this model have the same identity on every machine."""
        return self.dtype != AUTO

    def require(self) -> None:
        """Raises ImpossibleError, with the key, for settings that this machine cannot follow. Loads nothing."""
        key, name = ("device", self.device) if self.device_map is None else ("device_map", self.device_map)
        if self.device_map is not None and not devices.has_accelerate():
            raise ImpossibleError(f"model.device_map={name}: needs accelerate: pip install -e '.[accelerate]'")
        if why := "" if name in devices.SPREADS else devices.lacking(self.torch_device()):
            raise ImpossibleError(f"model.{key}={name}: {why}")
        if self.attention == "flash_attention_2":
            require_installed(self.attention)
            if self.torch_device().type != "cuda":
                raise ImpossibleError(f"attention=flash_attention_2 needs a GPU; model.{key}={name} is none")
            if self.dtype == "float32":
                raise ImpossibleError("attention=flash_attention_2: takes model.dtype=bfloat16 or float16, not float32")

    def template_input(self, day: date) -> TemplateInput:
        """What the chat template gets beside the message. day: on which the run began."""
        return TemplateInput(self.template, date.fromisoformat(self.template_date) if self.template_date else day)

    def config(self) -> PretrainedConfig:
        """The configuration of the model, without its weights."""
        from transformers import AutoConfig

        place = self.place()
        folder = Path(place.name)
        whole = place.commit is not None or place.gguf is not None or (folder / "config.json").is_file()
        name = place.name if whole else base_of(folder)
        config: PretrainedConfig = AutoConfig.from_pretrained(name, **self._files(place))
        return config

    def tokenizer(self) -> PreTrainedTokenizerBase:
        """The tokenizer of the model, which pads on the left."""
        from transformers import AutoTokenizer

        place = self.place()
        tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(
            place.name, padding_side="left", **self._files(place)
        )
        return tokenizer

    def weights(self, attention: str) -> "PreTrainedModel":
        """The model with its weights, on its device. attention: transformers' `attn_implementation`."""
        from transformers import AutoModelForCausalLM

        place = self.place()
        if place.commit is None and (Path(place.name) / ADAPTER).is_file() and not importlib.util.find_spec("peft"):
            raise ScopeError("it holds an adapter, which needs peft: pip install peft")
        with _without_bars() if place.local or not sys.stderr.isatty() else nullcontext():
            model: PreTrainedModel = AutoModelForCausalLM.from_pretrained(
                place.name,
                dtype=getattr(torch, self.resolved_dtype()),
                attn_implementation=attention,
                device_map=self.device_map,
                use_safetensors=True if self.safetensors_only else None,
                **(gguf.unpacked() if place.gguf else {}),
                **self._files(place),
            )
        if self.device_map is None:
            model.to(self.torch_device())  # type: ignore[arg-type]  # transformers wraps torch's own signature
        return model

    def _files(self, place: Place) -> dict[str, Any]:
        """Arguments of transformers' `from_pretrained` that say where the files are."""
        foreign = code_places(place, self.trust_remote_code)
        commits = {other.commit for other in foreign if other.commit}
        if len(commits) > 1:  # transformers takes one revision for all code
            names = ", ".join(sorted(other.name for other in foreign))
            raise ConfigError(f"model.path={place.name}: its code comes from several repositories: {names}")
        return {
            **({"gguf_file": place.gguf} if place.gguf else {}),
            "revision": place.commit,
            "code_revision": next(iter(commits), None),
            "local_files_only": place.local,
            "trust_remote_code": self.trust_remote_code,
        }


@contextmanager
def _without_bars() -> Iterator[None]:
    """In this context transformers draws no progress bars, such as that of loading weights, which takes seconds."""
    drawn = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    try:
        yield
    finally:
        if drawn:
            logging.enable_progress_bar()  # type: ignore[no-untyped-call]


@contextmanager
def named(source: ModelSource) -> Iterator[None]:
    """Errors in this context are raised as one line with the model's key."""
    try:
        yield
    except ScopeError as error:
        if isinstance(error, ConfigError) or str(error).startswith("model."):
            raise  # it names the key already
        raise ScopeError(f"model.path={source.path}: cannot be loaded: {error}") from error
    except Exception as error:  # libraries raise many kinds of errors for a damaged file
        reason = " ".join(str(error).split())
        raise ScopeError(f"model.path={source.path}: cannot be loaded: {reason}") from error
