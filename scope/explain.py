"""What Hydra refused, in one line."""

import re
from pathlib import Path
from typing import Any

from scope.errors import nearest


def explain(error: Exception, conf: Path) -> str:
    """What was refused: key, value, what is allowed, the nearest valid name. conf: the folder of the configuration."""
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
            known = keys(conf)
            if key in known:
                return f"{key}: the option taken here has no such key"
            return f"{key}: no such key{nearest(key, known)}"
        if several := re.match(r"Ambiguous value for argument '([^']+)'", message):
            return f"{several[1]}: several values are a sweep: add -m"
        return " ".join(f"{message} {error.__cause__ or ''}".split())
    return message


def keys(conf: Path) -> list[str]:
    """Every key of the default configuration, dotted."""
    from hydra import compose, initialize_config_dir
    from hydra.core.global_hydra import GlobalHydra
    from omegaconf import OmegaConf

    GlobalHydra.instance().clear()
    with initialize_config_dir(str(conf), version_base="1.3"):
        composed = OmegaConf.to_container(compose("config"), resolve=False)

    def walk(node: Any, path: str) -> list[str]:
        if not isinstance(node, dict):
            return []
        below = [(f"{path}{key}", value) for key, value in node.items() if key != "_target_"]
        return [key for key, _ in below] + [key for name, value in below for key in walk(value, f"{name}.")]

    return walk(composed, "")
