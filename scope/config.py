"""From a composed configuration to the objects of a run. The one place of the library that knows Hydra."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scope.errors import CombinationError, ConfigError, ImpossibleError, SettingError
from scope.run import Experiment
from scope.tracking import Tracker

NAME = re.compile(r"\w[\w.-]{0,99}")
GROUPS = ("model", "method", "decoding", "budget", "task", "fidelity", "tracking", "trace")
KEYS = {*GROUPS, "sampling", "name", "output", "seed", "attention", "batch_size"}


@dataclass(frozen=True)
class Job:
    """What one composed configuration asks for."""

    experiment: Experiment
    tracker: Tracker
    output: Path


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
    labels = {group: choices[group] for group in GROUPS if choices.get(group) and group not in ("tracking", "trace")}
    trace = _make(cfg, "trace") if cfg.get("trace") else None
    parts = {name: _make(cfg, name) for name in ("model", "method", "decoding", "task", "sampling", "tracking")}
    tracker = parts.pop("tracking")
    try:
        experiment = Experiment(
            **parts,
            labels=labels,
            trace=trace,
            batch_size=cfg.batch_size,
            granularity=cfg.fidelity.granularity,
            config={str(k): v for k, v in config.items()},
        )
    except SettingError as error:
        key = "fidelity.granularity" if error.field == "granularity" else error.field
        raise ConfigError(error.describe(key)) from error
    return Job(experiment, tracker, Path(cfg.output) / str(cfg.name))


def _make(cfg: Any, name: str) -> Any:
    """Instantiate one node; a refused value is reported under the key that a user would set."""
    from hydra.errors import InstantiationException
    from hydra.utils import instantiate

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
