"""The entry point: Hydra composes the configuration, scope runs it. `python main.py --help` says what can be chosen."""

import os
import shlex
import signal
import sys
import warnings
from dataclasses import replace
from pathlib import Path

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from scope.errors import ConfigError, ScopeError
from scope.explain import explain
from scope.importing import uncollected
from scope.secrets import redact

CONF = Path(__file__).resolve().with_name("conf")
TRACEBACKS = os.environ.get("HYDRA_FULL_ERROR") == "1"  # Hydra's own switch, as the user left it

TOLD_BETTER = {  # what Hydra raises as a bare ValueError, and what there is to say of it
    "Config group override": "a group takes the name of an option, not null; --help lists them",
    "Only one of --run": "-m, --cfg and --info exclude each other: drop -m to look at one configuration",
}


@hydra.main(version_base="1.3", config_path=str(CONF), config_name="config")
def main(cfg: DictConfig) -> str | list[float]:
    with uncollected():  # not for --help, nor for every TAB of shell completion
        from rich.console import Console
        from transformers.utils import logging

        from analysis import tables
        from scope import records
        from scope.config import NO_USE, build, unused
        from scope.forecast import show_plan
        from scope.run import SamplesFailedError, run
        from scope.summary import summary
        from scope.sweep import setting_of

    if not sys.stderr.isatty():
        logging.disable_progress_bar()
    hydra_cfg = HydraConfig.get()
    alone = hydra_cfg.mode != RunMode.MULTIRUN
    console = Console()
    try:
        if alone and hydra_cfg.sweeper.get("params"):
            raise ConfigError(f"experiment={hydra_cfg.runtime.choices.get('experiment')}: is a sweep: add -m")
        for word in hydra_cfg.overrides.hydra if alone else ():
            if word.startswith(("hydra/launcher=", "hydra/sweeper=")) and not word.endswith("=scope"):
                raise ConfigError(f"{word}: is for a sweep: add -m")
        job = build(cfg, hydra_cfg.runtime.choices)
        for word in unused(cfg, hydra_cfg.overrides.task) if alone else ():
            console.print(NO_USE.format(word), highlight=False, soft_wrap=True, markup=False)
        if not alone:
            setting = setting_of(hydra_cfg.overrides.task, hydra_cfg.job.config.override_dirname.exclude_keys)
            job = replace(job, experiment=replace(job.experiment, setting=setting))
        if job.assumed_speed:
            show_plan([job.experiment], job.assumed_speed, console)
            return ""
        folder = run(job.experiment, job.tracker, job.output, console, job.keeping)
    except ScopeError as error:
        if alone and isinstance(error, SamplesFailedError) and job.keeping.shard is None:
            tables.show(tables.build([error.folder]), console)
        if alone and not TRACEBACKS:
            raise SystemExit(refuse(error)) from error  # to any other exception Hydra adds a line of its own
        raise
    if alone:
        if job.keeping.shard is None:
            tables.show(tables.build([folder]), console)
        console.print(f"written: {folder}", soft_wrap=True, highlight=False)
    if direction := hydra_cfg.sweeper.get("direction"):  # a sweeper that searches wants to know how good this was
        found = summary(list(records.read_run(folder).answered.values()))
        one = isinstance(direction, str) or len(direction) == 1
        return found["accuracy"] if one else [found["accuracy"], found["cache_share"]]
    return str(folder)


def refuse(error: Exception) -> int:
    """Say in one line what is wrong; -> the exit code: 2 for a request that cannot be, 1 for a failure on the way."""
    print("error:", " ".join(redact(explain(error, CONF, sys.argv[1:])).split()), file=sys.stderr)
    return 2 if isinstance(error, ConfigError | HydraException | OmegaConfBaseException) else 1


def cli() -> int:
    """-> the exit code: 0 done, 1 something failed on the way, 2 refused before anything ran."""
    os.environ["HYDRA_FULL_ERROR"] = "1"  # so that errors reach us instead of being printed by Hydra
    # our launcher presets bear the names of the plugins' own, so that these are the names to type
    warnings.filterwarnings("ignore", message=r"\s*'hydra/launcher/\w+' is validated against ConfigStore schema")
    workers = [str(CONF.parent), *filter(None, [os.environ.get("PYTHONPATH")])]
    os.environ["PYTHONPATH"] = os.pathsep.join(workers)  # so that a launcher's processes import this very checkout
    sys.argv[1:] = sorted(sys.argv[1:], key=lambda word: word not in ("-m", "--multirun"))  # Hydra wants them in front
    try:
        main()
        return 0
    except KeyboardInterrupt as stop:
        print(f"\nstopped; this goes on where it was: python main.py {shlex.join(sys.argv[1:])}", file=sys.stderr)
        return 128 + getattr(stop, "signal", signal.SIGINT)  # as the shell counts what a signal ended
    except BrokenPipeError:  # whoever read our output has left
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except OSError as error:
        if TRACEBACKS:
            raise
        return refuse(error)
    except (ScopeError, HydraException, OmegaConfBaseException) as error:
        if TRACEBACKS:
            raise
        return refuse(error)
    except ValueError as error:
        mended = [instead for told, instead in TOLD_BETTER.items() if told in str(error)]
        if TRACEBACKS or not mended:
            raise
        return refuse(ConfigError(mended[0]))


if __name__ == "__main__":
    sys.exit(cli())
