"""From a composed configuration to the objects of a run. The one place of the library that knows Hydra."""

import importlib
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, is_dataclass
from pathlib import Path
from typing import Any

from scope.errors import CombinationError, ConfigError, ImpossibleError, SettingError
from scope.records import RecordKeeping
from scope.run import Experiment
from scope.tracking import Tracker

NAME = re.compile(r"\w[\w.-]{0,99}")
GROUPS = ("model", "method", "decoding", "budget", "task", "fidelity", "engine", "tracking", "trace")
UNLABELLED = ("engine", "tracking", "trace")  # what changes no answer is no name of a run
KEYS = {*GROUPS, "sampling", "name", "output", "seed", "attention", "limit", "plan", "steps_per_second"}
KEYS |= {"records", "rerun", "shard"}


@dataclass(frozen=True)
class Job:
    """What one composed configuration asks for."""

    experiment: Experiment
    tracker: Tracker
    output: Path
    keeping: RecordKeeping
    assumed_speed: float | None = None  # only say what it would cost, at so many decode steps a second


def build(cfg: Any, choices: Mapping[str, str]) -> Job:
    """cfg: an OmegaConf DictConfig; choices: the option taken in each group. Loads no model and writes nothing.

    Raises ConfigError, or ImpossibleError where each value alone is fine.
    """
    from omegaconf import OmegaConf
    from omegaconf.errors import MissingMandatoryValue, OmegaConfBaseException

    cfg = OmegaConf.masked_copy(cfg, [key for key in cfg if key != "hydra"])
    try:
        config = OmegaConf.to_container(cfg, resolve=True, throw_on_missing=True)
    except MissingMandatoryValue as error:
        raise ConfigError(f"{error.full_key}: must be given") from error
    except OmegaConfBaseException as error:
        reason = str(error).splitlines()[0]
        raise ConfigError(f"{error.full_key}: {reason[0].lower()}{reason[1:]}") from error
    assert isinstance(config, dict)
    if unknown := set(config) - KEYS:
        raise ConfigError(f"{min(unknown)}: no such key; the keys are {', '.join(sorted(KEYS))}")
    if not NAME.fullmatch(str(cfg.name)):
        raise ConfigError(f"name={cfg.name}: must be a plain folder name of letters, digits and ._-")
    labels = {group: choices[group] for group in GROUPS if choices.get(group) and group not in UNLABELLED}
    trace = _make(cfg, "trace") if cfg.get("trace") else None
    made = ("model", "method", "decoding", "task", "sampling", "engine", "tracking", "records")
    parts = {name: _make(cfg, name) for name in made}
    tracker, keeping = parts.pop("tracking"), parts.pop("records")
    try:
        experiment = Experiment(
            **parts,
            labels=labels,
            trace=trace,
            limit=cfg.limit,
            granularity=cfg.fidelity.granularity,
            config={str(k): v for k, v in config.items()},
        )
    except SettingError as error:
        key = "fidelity.granularity" if error.field == "granularity" else error.field
        raise ConfigError(error.describe(key)) from error
    if not isinstance(cfg.plan, bool):
        raise ConfigError(f"plan={cfg.plan}: must be true or false")
    speed = cfg.steps_per_second
    if isinstance(speed, bool) or not isinstance(speed, int | float) or speed <= 0:
        raise ConfigError(f"steps_per_second={speed}: must be a number above 0")
    return Job(experiment, tracker, Path(cfg.output) / str(cfg.name), keeping, float(speed) if cfg.plan else None)


def _check_targets(node: Any, key: str) -> None:
    """A configuration may come from anyone: it names settings classes of the project, and nothing else is called."""
    if isinstance(node, list):
        for i, item in enumerate(node):
            _check_targets(item, f"{key}.{i}")
    elif isinstance(node, dict):
        for name, value in node.items():
            if name != "_target_":
                _check_targets(value, f"{key}.{name}")
            elif not _is_ours(str(value)):
                allowed = "a settings class of scope; set SCOPE_ALLOW=package for one of yours"
                raise ConfigError(f"{key}._target_={value}: must be {allowed}")


def _is_ours(target: str) -> bool:
    """Whether it is a dataclass of scope or of a package that the user, not the configuration, allows."""
    packages = {"scope", *os.environ.get("SCOPE_ALLOW", "").split(",")} - {""}
    module, _, name = target.rpartition(".")
    if target.partition(".")[0] not in packages:
        return False
    try:
        found = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError):
        return False  # Hydra would walk on through attributes: scope.records.os.system
    return isinstance(found, type) and is_dataclass(found) and found.__module__.partition(".")[0] in packages


def _make(cfg: Any, name: str) -> Any:
    """Instantiate one node; a refused value is reported under the key that a user would set."""
    from hydra.errors import InstantiationException
    from hydra.utils import instantiate
    from omegaconf import OmegaConf

    _check_targets(OmegaConf.to_container(cfg[name], resolve=True), name)
    try:
        return instantiate(cfg[name], _convert_="all")
    except InstantiationException as error:
        cause = error.__cause__
        if isinstance(cause, SettingError):
            kind = ImpossibleError if isinstance(cause, CombinationError) else ConfigError
            raise kind(cause.describe(_key(cfg, name, cause.field))) from error
        reason = " ".join(str(cause or error).split())
        raise ConfigError(f"{name}: {reason}") from error


def _key(cfg: Any, name: str, field: str) -> str:
    """`method.window`, or the key it is taken from: `budget.window`."""
    from omegaconf import OmegaConf

    raw = OmegaConf.to_container(cfg[name], resolve=False)
    value = raw.get(field) if isinstance(raw, dict) else None
    if isinstance(value, str) and value.startswith("${") and value.endswith("}") and ":" not in value:
        return value[2:-1]
    return f"{name}.{field}"
