"""Where a model comes from and how it runs: a hub id, a folder, or the embedded one."""

import importlib.util
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path
from typing import Any, ClassVar

import torch
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from scope.cache.seam import BACKENDS, implementation
from scope.generation import devices
from scope.generation.model_parts import ADAPTER, base_of, code_places, fingerprint
from scope.generation.places import Place, locate
from scope.generation.prompts import LAYOUTS, OVERLONG, TemplateInput
from scope.generation.source_checks import check_device, check_template, thinking_pair
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

EMBEDDED = Path(__file__).parents[1] / "embedded"
DTYPES = ("float32", "bfloat16", "float16")
AUTO = "auto"

MOST_THREADS = 1024


@dataclass(frozen=True)
class ModelSource:
    """Where a model comes from and how it runs.

    path: a hub id, a folder, or `embedded`. revision: of a hub id; what is loaded is the commit that it names. dtype:
    `auto` is float32 on a CPU and the checkpoint's own on a GPU. attention: the backend of the prompt's attention;
    decode steps run scope's own. device: a torch device, or `auto` (a GPU where there is one). device_map: accelerate's
    way of spreading the layers, such as `auto` or `balanced`; device then does not count. threads: of torch on the CPU,
    None as torch has it; one is best for a very small model, whose steps are too short to share. layout: how a prompt
    is framed (`prompts.render`); overlong: a prompt that does not fit the model's context is refused, or cut in its
    middle. template: arguments of the chat template. template_date: the day that it takes for today, as 2024-07-26;
    None is the day on which the run is begun. thinking: what opens and what closes the part of an answer that is
    thought aloud and not scored (scope.scoring.thinking); None is a model that does not think. trust_remote_code:
    whether to run code that comes with the model. safetensors_only: refuse weights in other formats, which are pickles.
    Raises SettingError or CombinationError for values that cannot be.
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
            raise SettingError(self, "path", self.path, "a hub id, a folder, or embedded")
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
        """Where it runs; with a device_map, where its first layers do."""
        asked = self.device if self.device_map is None else self.device_map
        return devices.automatic() if asked in devices.SPREADS else devices.parse(asked)

    def expected_devices(self) -> set[torch.device]:
        """Where its weights will lie, as far as that is known before they are loaded."""
        if self.device_map in devices.EVEN and torch.cuda.device_count() > 1:
            return {torch.device("cuda", index) for index in range(torch.cuda.device_count())}
        return {self.torch_device()}

    @property
    def location(self) -> str:
        return str(EMBEDDED) if self.path == "embedded" else self.path

    def place(self) -> Place:
        """Where its files are. Raises ScopeError where they are nowhere to be had."""
        return locate(self.location, self.revision)

    def fingerprint(self) -> str:
        """Which weights, tokenizer and code these are, without loading them: a commit, or a hash of a folder's files.

        An adapter's base and code that comes from another repository count. Raises ScopeError as `load` does.
        """
        return fingerprint(self.place(), self.revision, self.trust_remote_code)

    def resolved_dtype(self) -> str:
        """One of DTYPES: what `auto` comes to here. Raises ScopeError as `load` does."""
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
        """Whether the identity of its runs is the same on every machine."""
        return self.dtype != AUTO

    def require(self) -> None:
        """Raises ImpossibleError, naming the key, for what this machine cannot do, whatever the model is."""
        key, asked = ("device", self.device) if self.device_map is None else ("device_map", self.device_map)
        if self.device_map is not None and not devices.has_accelerate():
            raise ImpossibleError(f"model.device_map={asked}: needs accelerate: pip install 'scope-kv[accelerate]'")
        if why := "" if asked in devices.SPREADS else devices.lacking(self.torch_device()):
            raise ImpossibleError(f"model.{key}={asked}: {why}")
        if self.attention == "flash_attention_2":
            implementation(self.attention)
            if self.torch_device().type != "cuda":
                raise ImpossibleError(f"attention=flash_attention_2 needs a GPU; model.{key}={asked} is none")
            if self.dtype == "float32":
                raise ImpossibleError("attention=flash_attention_2: takes model.dtype=bfloat16 or float16, not float32")

    def template_input(self, day: date) -> TemplateInput:
        """What its chat template is given, for a run that was begun on that day."""
        return TemplateInput(self.template, date.fromisoformat(self.template_date) if self.template_date else day)

    def config(self) -> PretrainedConfig:
        """Its configuration, without its weights."""
        place = self.place()
        folder = Path(place.name)
        name = base_of(folder) if place.commit is None and not (folder / "config.json").is_file() else place.name
        config: PretrainedConfig = AutoConfig.from_pretrained(name, **self._files(place))
        return config

    def tokenizer(self) -> PreTrainedTokenizerBase:
        place = self.place()
        tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(
            place.name, padding_side="left", **self._files(place)
        )
        return tokenizer

    def weights(self, attention: str) -> PreTrainedModel:
        """The model on its device; `attention` is an implementation's name."""
        place = self.place()
        if place.commit is None and (Path(place.name) / ADAPTER).is_file() and not importlib.util.find_spec("peft"):
            raise ScopeError("it holds an adapter, which needs peft: pip install peft")
        model: PreTrainedModel = AutoModelForCausalLM.from_pretrained(
            place.name,
            dtype=getattr(torch, self.resolved_dtype()),
            attn_implementation=attention,
            device_map=self.device_map,
            use_safetensors=True if self.safetensors_only else None,
            **self._files(place),
        )
        if self.device_map is None:
            model.to(self.torch_device())  # type: ignore[arg-type]  # transformers wraps torch's own signature
        return model

    def _files(self, place: Place) -> dict[str, Any]:
        """How transformers is to get the files."""
        foreign = code_places(place, self.trust_remote_code)
        commits = {other.commit for other in foreign if other.commit}
        if len(commits) > 1:  # transformers takes one revision for all code
            names = ", ".join(sorted(other.name for other in foreign))
            raise ConfigError(f"model.path={place.name}: its code comes from several repositories: {names}")
        return {
            "revision": place.commit,
            "code_revision": next(iter(commits), None),
            "local_files_only": place.local,
            "trust_remote_code": self.trust_remote_code,
        }


@contextmanager
def named(source: ModelSource) -> Iterator[None]:
    """What goes wrong within is reported under the model's key."""
    try:
        yield
    except ScopeError as error:
        if isinstance(error, ConfigError) or str(error).startswith("model."):
            raise  # it names its key
        raise ScopeError(f"model.path={source.path}: cannot be loaded: {error}") from error
    except Exception as error:  # what a spoilt file does to the libraries below is theirs to name
        reason = " ".join(str(error).split())
        raise ScopeError(f"model.path={source.path}: cannot be loaded: {reason}") from error
