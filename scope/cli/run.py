"""The command that runs an experiment or a sweep: `python main.py` in a checkout, `scope-run` where it is installed.

Hydra composes the configuration, scope runs it. `--help` says what can be chosen.
"""

import logging
import os
import re
import signal
import sys
import warnings

import hydra
from hydra._internal.utils import get_args_parser
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from scope.cli.door import CONF, ROOT, program
from scope.cli.explain import FAILED, REFUSED, accounted, exit_code, told
from scope.cli.hydra_part import check_command
from scope.cli.trust import permitted
from scope.util.errors import BugError, ConfigError, ScopeError, print_anything
from scope.util.importing import uncollected
from scope.util.secrets import command_line

FLAG = re.compile(r"-m$|--multirun$|--[\w-]+=")  # of Hydra's, in one word
TRACEBACKS = os.environ.get("HYDRA_FULL_ERROR") == "1"  # Hydra's own switch, as the user set it


@hydra.main(version_base="1.3", config_path=str(CONF), config_name="config")
def main(cfg: DictConfig) -> str | float | list[float]:
    """One job, which Hydra has composed. -> what `scope.cli.job` says."""
    with uncollected():  # imported here: --help and shell completion do without
        from transformers.utils import logging

        from scope.cli.job import alone, of_a_sweep

    if not sys.stderr.isatty():
        logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    hydra_cfg = HydraConfig.get()
    several = hydra_cfg.mode == RunMode.MULTIRUN
    try:
        with accounted():
            return of_a_sweep(cfg, hydra_cfg) if several else alone(cfg, hydra_cfg)
    except (ScopeError, BugError, OmegaConfBaseException) as error:
        if several or TRACEBACKS:
            raise
        raise SystemExit(refuse(error)) from error  # Hydra prints a line of its own for any other exception


def refuse(error: Exception) -> int:
    """Print in one line what is wrong. -> the exit code."""
    print(told(error, CONF, sys.argv[1:]), file=sys.stderr)
    return exit_code(error)


def cli() -> int:
    """-> the exit code: 0 done, 1 something failed while running, 2 refused before anything ran, 70 a bug."""
    os.environ["HYDRA_FULL_ERROR"] = "1"  # so that errors reach us instead of being printed by Hydra
    # our launcher presets have the names of the plugins' own, so that users type the usual names
    warnings.filterwarnings("ignore", message=r"\s*'hydra/launcher/\w+' is validated against ConfigStore schema")
    warnings.filterwarnings("error", message="provider=hydra.searchpath")  # a folder that does not exist
    if CONF.parent == ROOT:  # so that a launcher's processes import this checkout
        os.environ["PYTHONPATH"] = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    sys.argv[1:] = sorted(sys.argv[1:], key=lambda word: not FLAG.match(word))  # Hydra wants them in front
    # No bars of tqdm beside our own, such as those of GGUF files. Downloads from the hub ask for theirs.
    os.environ.setdefault("TQDM_DISABLE", "1")  # tqdm reads it when it is first imported
    print_anything()
    if TRACEBACKS:
        show_failures()
    looking = False
    try:
        looking = check_flags()
        check_command(sys.argv[1:], CONF, "config")
        with permitted(sys.argv[1:]):
            main()
        return flushed()
    except SystemExit as stop:
        if stop.code == 1 and looking:  # Hydra has said that there is no such --package
            return REFUSED
        return flushed() or int(stop.code or 0)
    except KeyboardInterrupt as stop:
        again = command_line([*program(), *sys.argv[1:]])
        print(f"\nstopped; this goes on where it was: {again}", file=sys.stderr)
        return 128 + getattr(stop, "signal", signal.SIGINT)  # the shell's exit code for a signal
    except BrokenPipeError:  # whoever read our output has left
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FAILED
    except Exception as error:
        if TRACEBACKS:
            raise
        return refuse(error)


def flushed() -> int:
    """Flush stdout: only this finds a full disk behind it. -> the exit code."""
    try:
        sys.stdout.flush()
    except OSError as error:
        if not isinstance(error, BrokenPipeError):
            print(f"error: standard output: {error.strerror}", file=sys.stderr)
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # otherwise Python reports it once more at exit
        return FAILED
    return 0


def show_failures() -> None:
    """Have the traceback of a failed sample printed, which a run notes and then goes on."""
    failures = logging.getLogger("scope.runs.batches")
    failures.setLevel(logging.DEBUG)
    failures.addHandler(logging.StreamHandler())


def check_flags() -> bool:
    """Refuse flags that have no effect here. -> whether a configuration is only to be printed."""
    given = get_args_parser().parse_args(sys.argv[1:])
    if given.package is not None and not given.cfg:
        raise ConfigError(f"--package={given.package}: is for --cfg")
    if given.experimental_rerun is not None:
        raise ConfigError("--experimental-rerun: no run leaves what it needs; the same command goes on where it was")
    return given.cfg is not None
