"""Checks the part of a configuration under `hydra:`, whose keys can make Hydra call any function.

The user may type any of these keys. A configuration file may set only the few that say what a sweep runs.
"""

import os
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from scope.util.errors import ConfigError

VARIABLE = "SCOPE_TRUST_HYDRA"
FREE = (  # what a file may set: what a sweep runs, and what Hydra itself fills in
    *(f"sweeper.{key}" for key in ("params", "pairs", "max_batch_size", "direction", "n_trials", "n_jobs")),
    *(f"sweeper.{key}" for key in ("study_name", "max_failure_rate", "sampler.seed")),
    *("mode", "searchpath", "overrides", "runtime", "help", "hydra_help"),
    *(f"job.{key}" for key in ("name", "override_dirname", "id", "num", "config_name", "config")),
)


def check_command(words: Sequence[str], conf: Path, name: str) -> None:
    """Refuse a command if a configuration file sets a `hydra` key that it may not set. Runs nothing.

    words: of the command line. conf, name: the program's folder of configurations and the one it uses.
    Raises ConfigError. A configuration that cannot be composed is left to Hydra, which says why.
    """
    from hydra._internal.utils import create_automatic_config_search_path, get_args_parser
    from hydra.core.config_search_path import SearchPathQuery
    from hydra.types import RunMode

    from scope.cli.composing import RememberingLoader

    if os.environ.get(VARIABLE) == "1":
        return
    given = get_args_parser().parse_args(list(words))
    if given.help or given.hydra_help or given.cfg or given.info or given.shell_completion:
        return  # these compose and print

    @cache
    def loader(folder: str) -> RememberingLoader:
        path = create_automatic_config_search_path(None, None, folder)
        if given.config_dir:
            own = f"file://{Path(given.config_dir).absolute()}"
            path.prepend("command-line", own, SearchPathQuery(provider="schema"))
        return RememberingLoader(path)

    def compose(folder: str, name: str, overrides: list[str]) -> Any:
        made = loader(folder).load_configuration(name, overrides, RunMode.MULTIRUN, validate_sweep_overrides=False)
        return made.hydra

    try:
        found = compose(given.config_path or str(conf), given.config_name or name, given.overrides)
    except Exception:  # Hydra will meet the same error and report it
        return
    typed = [word for word in given.overrides if _name(word).startswith(("hydra.", "hydra/"))]
    typed = [word for word in typed if _name(word) == "hydra.searchpath" or not _is_free(_name(word)[len("hydra.") :])]
    try:
        expected = compose(str(conf), name, typed)
    except Exception:  # such as a setting of a launcher that a file has chosen
        expected = compose(str(conf), name, [word for word in typed if "/" in _name(word)])
    require_same(found, expected)


def require_same(found: Any, expected: Any) -> None:
    """Compare two `hydra` parts. Raises ConfigError if they differ in a key that files may not set."""
    if os.environ.get(VARIABLE) == "1":
        return
    for group in sorted(found.runtime.choices):
        option, usual = (part.runtime.choices.get(group) for part in (found, expected))
        if group.startswith("hydra/") and option != usual:
            _refuse(f"{group}={option}")
    theirs, ours = _flat(found), _flat(expected)
    for key in theirs:
        if key.startswith("sweeper.params.") and _name(key.removeprefix("sweeper.params.")).startswith("hydra"):
            _refuse(f"hydra.{key}={theirs[key]}")
    for key in sorted({*theirs, *ours}):
        if not _is_free(key) and theirs.get(key) != ours.get(key):
            _refuse(f"hydra.{key}={theirs.get(key)}")
    for place in found.searchpath:  # Hydra imports such a package
        if str(place).startswith("pkg:") and place not in expected.searchpath:
            _refuse(f"hydra.searchpath=[{place}]")


def _refuse(setting: str) -> None:
    raise ConfigError(
        f"{setting}: a configuration file asks for this, and it can run code; type it if you want it, "
        f"or set {VARIABLE}=1 if you trust all files of the configuration"
    )


def _name(word: str) -> str:
    """The key that an override sets."""
    return word.lstrip("+~").partition("=")[0]


def _is_free(key: str) -> bool:
    return any(key == free or key.startswith(f"{free}.") for free in FREE)


def _flat(node: Any) -> dict[str, Any]:
    """Dotted key -> value; an empty mapping has no entry."""
    from omegaconf import OmegaConf

    def walk(node: Any, path: str) -> dict[str, Any]:
        if not isinstance(node, Mapping):
            return {path: node}
        return {
            key: value
            for name, below in node.items()
            for key, value in walk(below, f"{path}.{name}".lstrip(".")).items()
        }

    return walk(OmegaConf.to_container(node, resolve=False), "")
