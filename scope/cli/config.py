"""From a composed configuration to the objects of a run."""

import copy
import re
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scope import decoding, prefill
from scope.cli.trust import require_permission
from scope.decoding import DecodingStrategy
from scope.decoding.eviction import Eviction
from scope.generation.engine import Engine
from scope.generation.models import ModelSource
from scope.generation.sampling import Sampling
from scope.prefill import PrefillMethod
from scope.prefill.budget import Budget, Pyramid, Windowed
from scope.records import RecordKeeping
from scope.runs.experiment import Experiment
from scope.runs.instances import ALLOWED, instance
from scope.runs.replaying import Replaying
from scope.runs.traces import Trace
from scope.runs.tracking import Tracker
from scope.scoring import STANDARD
from scope.tasks import Task
from scope.util.errors import CombinationError, ConfigError, ImpossibleError, ScopeError, SettingError, shown
from scope.util.secrets import redact

NAME = re.compile(r"\w[\w.-]{0,99}")
GROUPS = ("model", "method", "decoding", "budget", "task", "fidelity", "engine", "tracking", "trace", "measure")
UNLABELLED = ("engine", "tracking", "trace", "measure")  # groups that are not part of a run's name
KEYS = {*GROUPS, "sampling", "name", "output", "seed", "attention", "limit", "plan", "steps_per_second"}
KEYS |= {"cache", "records", "rerun", "shard", "scoring", "replay", "compare"}
KEYS -= {"measure"}  # whose options set `replay`
OPTIONAL = {"cache", "trace", "scoring", "replay", "compare"}  # configurations of older runs do not have these
KINDS: Mapping[str, type] = {  # the class that each node's object must have
    "model": ModelSource,
    "method": PrefillMethod,
    "decoding": DecodingStrategy,
    "task": Task,
    "sampling": Sampling,
    "engine": Engine,
    "tracking": Tracker,
    "records": RecordKeeping,
    "trace": Trace,
    "replay": Replaying,
}
TYPED = {  # fields of a policy that the command line calls something else
    "granularity": "fidelity.granularity",
    "max_bytes": "budget.bytes",
    "max_slots": "budget.total",
    "precision": "cache.precision",
    "turns": "cache.turns",
    "tokens": "task.max_new_tokens",
    "prefill": "method",
}
CACHE = {"precision": "float", "turns": "protect"}  # what holds where a configuration does not say it
MAYBE = ("trace", "replay")  # nodes that may be empty
PARTS = tuple(name for name in KINDS if name not in MAYBE)
NO_USE = "note: {} changes nothing: none of the options taken uses it"
DEFAULT_BUDGET = "note: budget=tiny is the default: C = {}, D = {}; budget=... chooses another"
MANY = 2**62  # a number of slots, where a check is of another value
SHARED: Mapping[str, Mapping[str, Callable[[Any], object]]] = {  # the class that checks the value of a key
    "budget": {
        "prefill": Budget,
        "window": lambda value: Windowed(MANY, value),
        "decode": lambda value: Eviction(value, 1),
        "recent": lambda value: Eviction(MANY, value),
    },
    "fidelity": {
        "votes": lambda value: prefill.H2O(MANY, 1, votes=value),
        "short": lambda value: Pyramid(MANY, 1, short=value),
        "order": lambda value: Pyramid(MANY, 1, order=value),
        "pyramid": lambda value: Pyramid(MANY, 1, pyramid=value),
        "beside": lambda value: prefill.PyramidInfer(MANY, 1, beside=value),
        "boundary": lambda value: Eviction(MANY, 1, boundary=value),
        "growth": lambda value: decoding.Adaptive(MANY, 1, tokens=1, growth=value),
        "capped": lambda value: decoding.Adaptive(MANY, 1, tokens=1, capped=value),
        "delta": lambda value: decoding.Adaptive(MANY, 1, tokens=1, delta=value),
        "wait": lambda value: decoding.Discontinuous(MANY, 1, tokens=1, wait=value),
        "spread": lambda value: decoding.PyramidInfer(MANY, 1, spread=value),
    },
}


@dataclass(frozen=True)
class Job:
    """What one composed configuration asks for."""

    experiment: Experiment
    tracker: Tracker
    output: Path
    keeping: RecordKeeping
    assumed_speed: float | None = None  # decode steps per second: print the cost only, run nothing
    compare: bool = False  # a run alone: whether the full cache answers too


def build(cfg: Any, choices: Mapping[str, str], files: Sequence[Path] = ()) -> Job:
    """Make the objects of a run. Loads no model and writes nothing.

    cfg: an OmegaConf DictConfig. choices: the option taken in each group. files: those that it was composed from, as
    far as they are known; a refusal may name one.
    Raises ConfigError for a value that is wrong, ImpossibleError where values are fine alone but not together.
    """
    config = _resolved(cfg)
    _check_keys(config)
    _check_shared(config)
    recent = config["budget"].get("recent")
    if _bounded(config) and isinstance(recent, int):  # a share is refused, by Policy
        cfg = copy.deepcopy(cfg)
        cfg.budget.decode = recent  # the bound decides D: budget.decode has no effect, and must not change the identity
        config = _resolved(cfg)
    _check_names(config)
    _check_switches(config, files)
    parts = {name: _make(config, cfg, name) for name in PARTS}
    parts |= {name: _make(config, cfg, name) if config.get(name) else None for name in MAYBE}
    tracker, keeping = parts.pop("tracking"), parts.pop("records")
    labels = {group: choices[group] for group in GROUPS if choices.get(group) and group not in UNLABELLED}
    experiment = _experiment(config, parts, labels)
    output = Path(str(config["output"])) / str(config["name"])
    return Job(experiment, tracker, output, keeping, _assumed_speed(config), _yes_or_no(config, "compare"))


def _experiment(config: dict[str, Any], parts: Mapping[str, Any], labels: Mapping[str, str]) -> Experiment:
    """parts: the settings objects by name. Raises as `build` does."""
    try:
        return Experiment(
            **parts,
            labels=labels,
            limit=config["limit"],
            granularity=config["fidelity"].get("granularity"),
            max_bytes=config["budget"].get("bytes"),
            max_slots=config["budget"].get("total"),
            **_cache(config),
            scoring=_scoring(config),
            config=config,
        )
    except SettingError as error:
        key = TYPED.get(error.field, error.field)
        kind = ImpossibleError if isinstance(error, CombinationError) else ConfigError
        raise kind(error.describe(key)) from error


def _check_keys(config: Mapping[str, Any]) -> None:
    """Refuse a top-level key that does not exist or is missing, and a name or output that cannot be a folder."""
    if unknown := set(config) - KEYS:
        raise ConfigError(f"{min(unknown)}: no such key; the keys are {', '.join(sorted(KEYS))}")
    if missing := KEYS - OPTIONAL - set(config):
        raise ConfigError(f"{min(missing)}: must be given")
    if config["name"] is None or not NAME.fullmatch(str(config["name"])):
        raise ConfigError(f"name={shown(config['name'])}: must be a plain folder name of letters, digits and ._-")
    if not isinstance(config["output"], str | int) or config["output"] == "":
        raise ConfigError(f"output={shown(config['output'])}: must be a folder")


def _assumed_speed(config: Mapping[str, Any]) -> float | None:
    """Decode steps per second to plan with; None where the run is not only planned."""
    plan, speed = _yes_or_no(config, "plan"), config["steps_per_second"]
    if isinstance(speed, bool) or not isinstance(speed, int | float) or not 0 < speed <= sys.float_info.max:
        raise ConfigError(f"steps_per_second={shown(speed)}: must be a number above 0")
    return float(speed) if plan else None


def _yes_or_no(config: Mapping[str, Any], key: str) -> bool:
    value = config.get(key, False)
    if not isinstance(value, bool):
        raise ConfigError(f"{key}={shown(value)}: must be true or false")
    return value


def _resolved(cfg: Any) -> dict[str, Any]:
    """Plain data, without Hydra's own part. Raises ConfigError for a missing value or a broken reference."""
    from omegaconf.errors import MissingMandatoryValue, OmegaConfBaseException

    try:
        return {str(key): _plain(cfg[key]) for key in cfg if key != "hydra"}
    except MissingMandatoryValue as error:
        raise ConfigError(f"{error.full_key}: must be given") from error
    except OmegaConfBaseException as error:
        reason = str(error).splitlines()[0]
        raise ConfigError(f"{error.full_key}: {reason[0].lower()}{reason[1:]}") from error


def files_of(hydra: Any) -> list[Path]:
    """The files on this disk that a configuration was composed from. hydra: Hydra's part of the configuration."""
    folders = [Path(source.path) for source in hydra.runtime.config_sources if source.schema == "file"]
    names = [f"{group}/{option}" for group, option in hydra.runtime.choices.items() if option]
    places = [folder / f"{name}.yaml" for name in (*names, hydra.job.config_name) for folder in folders]
    return [place for place in places if place.is_file()]


def _cache(config: Mapping[str, Any]) -> dict[str, Any]:
    """Precision and turns of the cache, whose values `Policy` checks. Configurations of older runs have no turns."""
    cache = config.get("cache", {})
    if not isinstance(cache, dict) or not set(cache) <= set(CACHE):
        raise ConfigError(f"cache={shown(cache)}: must be set by its keys: cache.precision=int8 cache.turns=flow")
    return {**CACHE, **cache}


def _scoring(config: Mapping[str, Any]) -> Sequence[str]:
    """The names of the scorers."""
    names = config.get("scoring", STANDARD)
    if not isinstance(names, list | tuple):
        raise ConfigError(f"scoring={shown(names)}: must be a list, such as [{','.join(STANDARD)}]")
    return tuple(map(str, names))


def _check_names(config: Mapping[str, Any]) -> None:
    """Refuse a secret in the name of a folder or in a W&B setting: such a name cannot be masked."""
    tracking = config["tracking"] if isinstance(config["tracking"], dict) else {}
    places = {key: config[key] for key in ("name", "output")}
    places |= {f"tracking.{key}": value for key, value in tracking.items()}
    for key, value in places.items():
        if isinstance(value, str) and redact(value) != value:
            raise ConfigError(f"{key}: holds a secret, and would be read by everybody: take another name")


def _check_switches(node: Any, files: Sequence[Path], key: str = "") -> None:
    """Refuse, at any depth, a switch that only the user may turn on (see `scope.cli.trust`)."""
    below = enumerate(node) if isinstance(node, list) else node.items() if isinstance(node, dict) else ()
    for name, value in below:
        place = f"{key}.{name}" if key else str(name)
        require_permission(place, str(name), value, files)
        _check_switches(value, files, place)


def _bounded(config: Any) -> bool:
    """Whether a bound in bytes or slots decides D."""
    budget = config["budget"]
    return any(budget.get(key) is not None for key in ("bytes", "total")) and {"decode", "recent"} <= set(budget)


def _check_shared(config: Mapping[str, Any]) -> None:
    """Refuse values of `budget` and `fidelity` that are wrong, even if no chosen option uses them."""
    for node, owners in SHARED.items():
        if not isinstance(config[node], dict):
            raise ConfigError(f"{node}: must be an option of the group")
        for key, make in owners.items():
            if key in config[node]:
                try:
                    make(config[node][key])
                except SettingError as error:
                    raise ConfigError(error.describe(f"{node}.{key}")) from error


def unused(cfg: Any, words: Iterable[str]) -> list[str]:
    """The words that set a key of `budget` or `fidelity` which no chosen option uses. cfg: as composed."""
    from omegaconf import OmegaConf

    nodes = (cfg.get(key) for key in (*GROUPS, "sampling"))
    raw = [OmegaConf.to_container(node, resolve=False) for node in nodes if OmegaConf.is_config(node)]
    used = {"budget.bytes", "budget.total", "fidelity.granularity"}  # which `build` takes
    used |= {*re.findall(r"\$\{([\w.]+)\}", str(raw))}
    if _bounded(cfg):
        used.discard("budget.decode")
    return [word for word in words if re.match(r"(budget|fidelity)\.", word) and word.partition("=")[0] not in used]


def default_budget(cfg: Any, words: Iterable[str], choices: Mapping[str, str]) -> str | None:
    """A note that nobody has chosen the budget of a run of another model than the embedded one; else None.

    cfg: as composed. words: of the command line. choices: the option taken in each group.
    """
    from omegaconf import OmegaConf

    if choices.get("model") == "embedded" or choices.get("budget") != "tiny" or choices.get("experiment"):
        return None
    if any(re.match(r"[+~]*budget([.=@]|$)", word) for word in words):
        return None
    taken = str([OmegaConf.to_container(cfg[group], resolve=False) for group in ("method", "decoding")])
    if "${budget." not in taken:
        return None
    of_prompt = " of each prompt" if isinstance(cfg.budget.prefill, float) else ""
    return DEFAULT_BUDGET.format(f"{cfg.budget.prefill}{of_prompt}", cfg.budget.decode)


def _plain(node: Any) -> Any:
    from omegaconf import OmegaConf

    return OmegaConf.to_container(node, resolve=True, throw_on_missing=True) if OmegaConf.is_config(node) else node


def _make(config: Mapping[str, Any], cfg: Any, name: str) -> Any:
    """The settings object of one node; a refused value is reported under the key that a user would set.

    config: plain and resolved; cfg: as composed, which knows what a value was taken from.
    """
    node = config[name]
    if not isinstance(node, dict) or "_target_" not in node:
        raise ConfigError(f"{name}: must be an option of the group, or have a _target_, {ALLOWED}")
    try:
        return instance(node, name, KINDS[name])
    except SettingError as error:
        kind = ImpossibleError if isinstance(error, CombinationError) else ConfigError
        raise kind(error.describe(_key(cfg, name, error.field))) from error
    except ConfigError:
        raise
    except ScopeError as error:  # a package that these settings need is not installed
        raise ConfigError(f"{name}: {error}") from error
    except Exception as error:  # a value that the class did not expect
        raise ConfigError(f"{name}: {' '.join(f'{type(error).__name__}: {error}'.split())}") from error


def _key(cfg: Any, name: str, field: str) -> str:
    """The key to name in a message: `method.window`, or `budget.window` where the value is taken from there."""
    from omegaconf import OmegaConf

    raw = OmegaConf.to_container(cfg[name], resolve=False)
    value = raw.get(field) if isinstance(raw, dict) else None
    if isinstance(value, str) and value.startswith("${") and value.endswith("}") and ":" not in value:
        return value[2:-1]
    return f"{name}.{field}"
