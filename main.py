"""The entry point: Hydra composes the configuration, scope runs it. `python main.py --help` says what can be chosen."""

import difflib
import os
import re
import sys
from pathlib import Path
from typing import Any

import hydra
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import ConfigCompositionException, HydraException, MissingConfigException, OverrideParseException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from scope.errors import ConfigError, ScopeError

CONF = Path(__file__).resolve().with_name("conf")
TRACEBACKS = os.environ.get("HYDRA_FULL_ERROR") == "1"  # Hydra's own switch, as the user left it


@hydra.main(version_base="1.3", config_path=str(CONF), config_name="config")
def main(cfg: DictConfig) -> str:
    # torch and transformers take seconds to import: not for --help, nor for every TAB of shell completion
    from rich.console import Console
    from transformers.utils import logging

    from analysis import tables
    from scope.config import build
    from scope.run import run

    if not sys.stderr.isatty():
        logging.disable_progress_bar()
    hydra_cfg = HydraConfig.get()
    alone = hydra_cfg.mode != RunMode.MULTIRUN
    console = Console()
    try:
        if alone and hydra_cfg.sweeper.get("params"):
            raise ConfigError(f"experiment={hydra_cfg.runtime.choices.get('experiment')}: is a sweep: add -m")
        job = build(cfg, hydra_cfg.runtime.choices)
        folder = run(job.experiment, job.tracker, job.output, console, job.keeping)
    except ScopeError as error:
        if alone and not TRACEBACKS:
            raise SystemExit(refuse(error)) from error  # to any other exception Hydra adds a line of its own
        raise
    if alone:
        tables.show(tables.build([folder]), console)
        console.print(f"written: {folder}", soft_wrap=True, highlight=False)
    return str(folder)


def refuse(error: Exception) -> int:
    """Say in one line what is wrong; -> the exit code: 2 for a request that cannot be, 1 for a failure on the way."""
    print(f"error: {explain(error)}", file=sys.stderr)
    return 2 if isinstance(error, ConfigError | HydraException | OmegaConfBaseException) else 1


def explain(error: Exception) -> str:
    """What was refused: key, value, what is allowed, the nearest valid name."""
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
            known = keys()
            if key in known:
                return f"{key}: the option taken here has no such key"
            return f"{key}: no such key{nearest(key, known, '')}"
        if several := re.match(r"Ambiguous value for argument '([^']+)'", message):
            return f"{several[1]}: several values are a sweep: add -m"
        return " ".join(f"{message} {error.__cause__ or ''}".split())
    return message


def nearest(name: str, valid: list[str], prefix: str) -> str:
    close = difflib.get_close_matches(name, valid, n=1, cutoff=0.6)
    return f"; did you mean {prefix}{close[0]}?" if close else ""


def keys() -> list[str]:
    """Every key of the default configuration, dotted."""
    GlobalHydra.instance().clear()
    with hydra.initialize_config_dir(str(CONF), version_base="1.3"):
        composed = OmegaConf.to_container(hydra.compose("config"), resolve=False)

    def walk(node: Any, path: str) -> list[str]:
        if not isinstance(node, dict):
            return []
        below = [(f"{path}{key}", value) for key, value in node.items() if key != "_target_"]
        return [key for key, _ in below] + [key for name, value in below for key in walk(value, f"{name}.")]

    return walk(composed, "")


def cli() -> int:
    """-> the exit code: 0 done, 1 something failed on the way, 2 refused before anything ran."""
    os.environ["HYDRA_FULL_ERROR"] = "1"  # so that errors reach us instead of being printed by Hydra
    sys.argv[1:] = sorted(sys.argv[1:], key=lambda word: word not in ("-m", "--multirun"))  # Hydra wants them in front
    try:
        main()
        return 0
    except KeyboardInterrupt:
        print("\nstopped; the same command goes on where it was", file=sys.stderr)
        return 130
    except (ScopeError, HydraException, OmegaConfBaseException) as error:
        if TRACEBACKS:
            raise
        return refuse(error)
    except ValueError as error:
        if TRACEBACKS or "Config group override" not in str(error):  # Hydra's answer to group=null
            raise
        return refuse(ConfigError("a group takes the name of an option, not null; --help lists them"))


if __name__ == "__main__":
    sys.exit(cli())
