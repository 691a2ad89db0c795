"""Models: a hub id, a folder, or the embedded one, loaded with scope's attention, so that caches can be compressed."""

import hashlib
import importlib.util
import json
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import date
from functools import lru_cache
from pathlib import Path
from typing import Any, ClassVar

import huggingface_hub
import torch
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

from scope.cache.seam import BACKENDS, implementation
from scope.generation import devices
from scope.generation.contents import hash_folder
from scope.generation.places import Place, locate
from scope.generation.prompts import LAYOUTS, OVERLONG, RESERVED, TEMPLATED, TemplateInput
from scope.scoring.thinking import THINK
from scope.util.errors import (
    CombinationError,
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
MOST_BASES = 8  # adapters upon adapters
ADAPTER = "adapter_config.json"


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
    thought aloud and not scored (scope.scoring.thinking); None means no markers. trust_remote_code:
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
        _check_device(self, "device", (AUTO,))
        if self.device_map is not None:
            _check_device(self, "device_map", devices.SPREADS)
        _check_template(self)
        _check_thinking(self)

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
        return _fingerprint(self.place(), self.revision, self.trust_remote_code)

    def resolved_dtype(self) -> str:
        """One of DTYPES: what `auto` comes to here. Raises ScopeError as `load` does."""
        if self.dtype != AUTO:
            return self.dtype
        if self.torch_device().type == "cpu":
            return "float32"
        with _named(self):
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
        name = _base_of(folder) if place.commit is None and not (folder / "config.json").is_file() else place.name
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
        foreign = _foreign_code(place, self.trust_remote_code)
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


def _check_device(source: ModelSource, name: str, words: tuple[str, ...]) -> None:
    given = getattr(source, name)
    try:
        if given not in words:
            devices.parse(given)
    except (RuntimeError, TypeError, AttributeError) as error:
        null = "null, " if name == "device_map" else ""
        raise SettingError(
            source, name, given, f"{null}{', '.join(words)} or a torch device such as cpu or cuda:0"
        ) from error


def _check_template(source: ModelSource) -> None:
    if not isinstance(source.template, Mapping):
        raise SettingError(source, "template", source.template, "arguments of the chat template, as name: value")
    for name, value in source.template.items():
        if not isinstance(name, str) or not name.isidentifier() or name in RESERVED:
            allowed = "an argument of the chat template" + (", and scope itself gives this one" * (name in RESERVED))
            raise SettingError(source, f"template.{name}", value, allowed)
        if not all(map(_is_plain, value if isinstance(value, list | tuple) else [value])):
            raise SettingError(source, f"template.{name}", value, "text, a number, true, false, null, or a list")
    if source.template_date is not None and not _is_date(source.template_date):
        raise SettingError(source, "template_date", source.template_date, "null or a day such as 2024-07-26")
    given = {f"template.{name}": value for name, value in source.template.items()}
    given |= {"template_date": source.template_date} if source.template_date else {}
    for name, value in given.items():
        if source.layout not in TEMPLATED:
            allowed = f"left out with model.layout={source.layout}, which uses no chat template"
            raise CombinationError(source, name, value, allowed)


def _is_plain(value: object) -> bool:
    return value is None or isinstance(value, str | bool | int) or (isinstance(value, float) and math.isfinite(value))


def _is_date(value: object) -> bool:
    try:
        return isinstance(value, str) and date.fromisoformat(value).isoformat() == value
    except ValueError:
        return False


def _check_thinking(source: ModelSource) -> None:
    given = source.thinking
    if given is None:
        return
    pair = tuple(given) if isinstance(given, list | tuple) else ()
    if len(pair) != 2 or not all(isinstance(mark, str) and mark.strip() for mark in pair) or pair[0] == pair[1]:
        allowed = "null or two texts, what a model writes before and after its thinking, such as [<think>,</think>]"
        raise SettingError(source, "thinking", given, allowed)
    object.__setattr__(source, "thinking", pair)  # YAML knows no tuples


def _fingerprint(place: Place, revision: str | None, trusted: bool, depth: int = 0) -> str:
    if place.commit is not None:
        parts = [place.commit]
    else:
        parts = [hash_folder(Path(place.name))]
        if base := _base_of(Path(place.name)):
            if depth == MOST_BASES:
                raise ScopeError(f"model.path={place.name}: its adapters stand on each other without an end")
            parts.append(_fingerprint(locate(base, None), None, trusted, depth + 1))
    parts += [other.commit or hash_folder(Path(other.name)) for other in _foreign_code(place, trusted)]
    return parts[0][:40] if len(parts) == 1 else hashlib.sha256(" ".join(parts).encode()).hexdigest()[:40]


def _base_of(folder: Path) -> str:
    """The model that an adapter in a folder is for; empty where the folder is a whole model."""
    if (folder / "config.json").is_file() or not (folder / ADAPTER).is_file():
        return ""
    base = _json(folder / ADAPTER).get("base_model_name_or_path")
    if not isinstance(base, str) or not base:
        raise ScopeError(f"model.path={folder}: its {ADAPTER} names no base model")
    return base


def _foreign_code(place: Place, trusted: bool) -> list[Place]:
    """Other repositories that a model's configuration takes code from, where code is trusted at all."""
    names: set[str] = set()
    for file in ("config.json", "tokenizer_config.json") if trusted else ():
        path: Path | str = Path(place.name) / file
        if place.commit is not None:
            try:
                path = huggingface_hub.hf_hub_download(
                    place.name, file, revision=place.commit, local_files_only=place.local
                )
            except Exception:  # a file that is not there, or cannot be had: loading says so, where it is needed
                continue
        classes = _json(Path(path)).get("auto_map")
        listed = classes.values() if isinstance(classes, dict) else ()
        flat = [c for value in listed for c in (value if isinstance(value, list) else [value])]
        names |= {c.partition("--")[0] for c in flat if isinstance(c, str) and "--" in c}
    return [Place(name) if Path(name).is_dir() else locate(name, None) for name in sorted(names - {place.name})]


def _json(path: Path) -> dict[str, Any]:
    """What a file holds; nothing where it cannot be read, which loading says."""
    try:
        found = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


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
        given = {name: getattr(self, name) for name in PRESETS["small"] if getattr(self, name) is not None}
        return PRESETS[self.preset] | given

    @property
    def location(self) -> str:
        return str(EMBEDDED)  # of the tokenizer

    def fingerprint(self) -> str:
        """Of what the weights are drawn from, the kind of device among it, and of the tokenizer's folder."""
        drawn = f"{sorted(self.sizes.items(), key=str)} {self.seed} {self.torch_device().type} {super().fingerprint()}"
        return hashlib.sha256(drawn.encode()).hexdigest()[:40]

    @property
    def same_everywhere(self) -> bool:
        return self.dtype != AUTO and self.device != AUTO

    def config(self) -> LlamaConfig:
        ends = AutoConfig.from_pretrained(EMBEDDED)
        special = {name: getattr(ends, name) for name in ("bos_token_id", "eos_token_id", "pad_token_id")}
        return LlamaConfig(**self.sizes, **special)

    def weights(self, attention: str) -> PreTrainedModel:
        device = self.torch_device()
        with torch.random.fork_rng([device] if device.type == "cuda" else []), device:
            torch.manual_seed(self.seed)
            model: PreTrainedModel = LlamaForCausalLM._from_config(  # type: ignore[no-untyped-call]
                self.config(), dtype=getattr(torch, self.resolved_dtype()), attn_implementation=attention
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
    source.require()
    name = implementation(source.attention)
    if source.threads:
        torch.set_num_threads(source.threads)
    source.place()  # what it refuses is one line as it is
    with _named(source):
        tokenizer = source.tokenizer()
        model = source.weights(name)
    return Loaded(model.eval(), tokenizer)  # type: ignore[no-untyped-call]


@lru_cache(maxsize=8)
def load_shape(source: ModelSource) -> tuple[PretrainedConfig, PreTrainedTokenizerBase]:
    """The model's configuration and tokenizer, without its weights. Raises ScopeError as `load` does."""
    source.place()
    with _named(source):
        return source.config(), source.tokenizer()


def context(config: PretrainedConfig) -> int | None:
    """Tokens that the model was made for, None where its configuration does not say."""
    return getattr(config.get_text_config(decoder=True), "max_position_embeddings", None)


@contextmanager
def _named(source: ModelSource) -> Iterator[None]:
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
