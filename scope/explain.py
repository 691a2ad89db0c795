"""What Hydra refused, in one line."""

import re
from collections.abc import Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import yaml

from scope.errors import nearest


def explain(error: Exception, conf: Path, words: Sequence[str]) -> str:
    """What was refused: key, value, what is allowed, the nearest valid name.

    conf: the folder of the configuration; words: of the command line.
    """
    from hydra.errors import ConfigCompositionException, MissingConfigException, OverrideParseException

    message = " ".join(str(error).split())
    if isinstance(error, MissingConfigException) and error.missing_cfg_file and error.options:
        group, _, name = error.missing_cfg_file.rpartition("/")
        options = sorted(error.options)
        return f"{group}={name}: must be one of {', '.join(options)}{nearest(name, options, f'{group}=')}"
    if isinstance(error, OverrideParseException):
        return f"{error.override}: cannot be read; write key=value, or key=value,value with -m"
    if isinstance(error, ConfigCompositionException):
        if refused := re.match(r"Could not override '([^']+)'", message):
            key = refused[1].lstrip("+~")
            if (conf / key).is_dir():
                return f"{key}: takes the name of an option, not a value; --help lists them"
            return f"{key}: {_no_such(key, conf, options_taken(conf, words))}"
        if several := re.match(r"Ambiguous value for argument '([^']+)'", message):
            return f"{several[1]}: several values are a sweep: add -m"
        if foreign := re.search(r"Key '(\w+)' not in 'ScopeSweeperConf'", message):
            return f"hydra.sweeper.{foreign[1]}: is for a sweeper that searches: add hydra/sweeper=optuna"
        return " ".join(f"{message} {error.__cause__ or ''}".split())
    return message


def _no_such(key: str, conf: Path, taken: Sequence[str]) -> str:
    """taken: options, as overrides."""
    known = keys(conf, taken)
    if key in known:
        return "another option taken here has no such key"
    node, _, name = key.rpartition(".")
    beside = [other.rpartition(".")[2] for other in known if other.rpartition(".")[0] == node]
    if not beside and node in known and (conf / node).is_dir():
        return _elsewhere(node, name, conf, taken)
    if not beside:  # of the nearest node: another one's key means something else, whatever its name
        near = get_close_matches(node, {other.rpartition(".")[0] for other in known}, n=1)
        meant = nearest(key, [other for other in known if other.rpartition(".")[0] in near])
        return f"no such key{meant or '; --help lists them'}"
    meant = nearest(name, beside, f"{node}." if node else "")
    there = f"; the keys{f' of {node}' if node else ''} are {', '.join(beside)}"
    return f"no such key{meant or there}"


def _elsewhere(group: str, name: str, conf: Path, taken: Sequence[str]) -> str:
    """That the option taken of a group has no settings, and which options have this one."""
    option = _compose(conf, taken).hydra.runtime.choices[group]
    options = sorted((conf / group).glob("*.yaml"))
    having = [path.stem for path in options if name in (yaml.safe_load(path.read_bytes()) or ())]
    some = ", ".join(having[:3]) + (f" and {len(having) - 3} more" if len(having) > 3 else "")
    has = "has" if len(having) == 1 else "have"
    return f"{group}={option} has no settings" + (f"; {group}={some} {has} {name}" if having else "")


def options_taken(conf: Path, words: Sequence[str]) -> list[str]:
    """What the command line takes in each group, as overrides; of several options the first."""
    taken = [word for word in words if word.startswith("hydra.searchpath=")]
    for word in words:
        group, _, options = word.partition("=")
        if group and re.match(r"[\w.-]+(,|$)", options) and (conf / group).is_dir():
            taken.append(f"{group}={options.split(',')[0]}")
    return taken


def keys(conf: Path, options: Sequence[str] = ()) -> list[str]:
    """Every key of the configuration that these options compose, dotted."""
    from omegaconf import OmegaConf

    composed = OmegaConf.to_container(_compose(conf, options), resolve=False)
    assert isinstance(composed, dict)
    del composed["hydra"]

    def walk(node: Any, path: str) -> list[str]:
        if not isinstance(node, dict):
            return []
        below = [(f"{path}{key}", value) for key, value in node.items() if key != "_target_"]
        return [key for key, _ in below] + [key for name, value in below for key in walk(value, f"{name}.")]

    return walk(composed, "")


def _compose(conf: Path, options: Sequence[str]) -> Any:
    """-> the configuration, Hydra's own part too."""
    from hydra import compose, initialize_config_dir
    from hydra.core.global_hydra import GlobalHydra

    GlobalHydra.instance().clear()
    with initialize_config_dir(str(conf), version_base="1.3"):
        return compose("config", list(options), return_hydra_config=True)
