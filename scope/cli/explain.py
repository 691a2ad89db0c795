"""Turns an exception of a command into one line and an exit code. Only this file tells Hydra's errors apart."""

import re
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import yaml

from scope.util.errors import BugError, ConfigError, ScopeError, nearest, of_the_machine, one_line
from scope.util.secrets import redact

FAILED, REFUSED, BUG = 1, 2, 70  # exit codes: on the way; before anything ran; a fault of the project's own
HINT = "HYDRA_FULL_ERROR=1 shows the traceback"
EXTRAS = {"joblib": "launchers", "submitit": "launchers", "optuna": "launchers", "ray": "ray"}  # what brings a plugin
TOLD_BETTER = {  # what Hydra raises as a bare error, and what there is to say of it
    "Config group override": "a group takes the name of an option, not null; --help lists them",
    "Only one of --run": "-m, --cfg and --info exclude each other: drop -m to look at one configuration",
    "The --resolve flag": "--resolve: is for --cfg or --help",
    "Expecting one subcommand": "--shell-completion: must be followed by install=bash, uninstall=bash or query=bash",
    "COMP_LINE": "--shell-completion query=bash: is for a shell to call",
    "COMP_POINT": "--shell-completion query=bash: is for a shell to call",
}


def exit_code(error: Exception) -> int:
    """The exit code of a command that ended with this error. An error that is not the project's own is Hydra's
    answer to a request that cannot be."""
    if isinstance(error, BugError):
        return BUG
    if isinstance(error, OSError) and error.errno and error.filename is None:  # stdout or stderr could not be written
        return FAILED
    return FAILED if isinstance(error, ScopeError) and not isinstance(error, ConfigError) else REFUSED


def told(error: Exception, conf: Path, words: Sequence[str]) -> str:
    """The line to print for an error, without secrets. Arguments: see `explain`."""
    return f"error: {one_line(str(redact(explain(error, conf, words))))}"


@contextmanager
def accounted() -> Iterator[None]:
    """A context for the project's own code: any error within comes out as a ScopeError or a BugError.

    So any other exception of a command comes from composing its configuration. Errors of Hydra and OmegaConf, missing
    modules and broken pipes pass through.
    """
    from hydra.errors import HydraException
    from omegaconf.errors import OmegaConfBaseException

    try:
        yield
    except (ScopeError, BugError, BrokenPipeError, ModuleNotFoundError, HydraException, OmegaConfBaseException):
        raise
    except OSError as error:
        raise ScopeError(of_the_machine(error)) from error
    except Exception as error:
        raise BugError(f"this is a bug in SCOPE: {type(error).__name__}: {error}; {HINT}") from error


def explain(error: Exception, conf: Path, words: Sequence[str]) -> str:
    """What was refused, in one line: key, value, what is allowed, the nearest valid name.

    conf: the folder of the configuration; words: those of the command line.
    """
    from hydra.errors import ConfigCompositionException, HydraException
    from omegaconf.errors import OmegaConfBaseException

    message = " ".join(str(error).split())
    for found, instead in TOLD_BETTER.items():
        if found in message and not isinstance(error, ScopeError):
            return instead
    if said := _of_choice(error, message, words) or _of_file(error, message, words):
        return said
    if missing := re.search(r"provider=(\S+) in (\S+), path=(.*) is not available", message):
        return f"{missing[1]}: {missing[3]}: there is no such folder"
    if isinstance(error, OSError):
        return of_the_machine(error)
    if isinstance(error, ModuleNotFoundError):
        return f"{error.name}: is not installed: pip install -e . brings all that is needed"
    if isinstance(error, ConfigCompositionException):
        return _of_composition(error, message, conf, words)
    if isinstance(error, ScopeError | BugError | HydraException | OmegaConfBaseException | ValueError):
        return message
    return f"the configuration cannot be composed: {type(error).__name__}: {message}; {HINT}"


def _of_choice(error: Exception, message: str, words: Sequence[str]) -> str | None:
    """For a word that cannot be read, an option that does not exist, or a plugin that is not installed."""
    from hydra.errors import MissingConfigException, OverrideParseException

    if isinstance(error, MissingConfigException) and error.missing_cfg_file and error.options:
        group, name = _asked(error.missing_cfg_file, words)
        options = sorted(error.options)
        if group in ("hydra/launcher", "hydra/sweeper") and (needed := _needed(name)):
            return f"{group}={name}: {needed}"
        return f"{group}={name}: must be one of {', '.join(options)}{nearest(name, options, f'{group}=')}"
    if isinstance(error, OverrideParseException):
        return f"{error.override}: cannot be read; write key=value, or key=value,value with -m"
    if plugin := re.search(r"Unknown plugin class : 'hydra_plugins\.hydra_(\w+?)_(launcher|sweeper)\.", message):
        taken = f"hydra/{plugin[2]}"
        name = next((word.partition("=")[2] for word in words if word.startswith(f"{taken}=")), plugin[1])
        return f"{taken}={name}: {_needed(plugin[1]) or 'is not installed'}"
    return None


def _of_file(error: Exception, message: str, words: Sequence[str]) -> str | None:
    """For a configuration file, or a word of the command line, that Python cannot read."""
    from hydra.errors import HydraException

    file = reading(error)
    if isinstance(error, ValueError) and "integer string conversion" in message:
        word = file or next((word for word in words if re.search(r"\d{4300}", word)), "the configuration")
        return f"{word[:60]}: holds a number of more than 4,300 digits"
    if isinstance(error, RecursionError):
        return f"{file or 'the configuration'}: includes itself, or is nested too deep"
    if file and not isinstance(error, HydraException):
        return f"{file}: cannot be read: {message}"
    return None


def _of_composition(error: Exception, message: str, conf: Path, words: Sequence[str]) -> str:
    """For an override that does not fit the composed configuration."""
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


def reading(error: Exception) -> str | None:
    """The configuration file that Hydra was reading when this was raised; None where it was reading none."""
    for frame in reversed([frame for frame, _ in traceback.walk_tb(error.__traceback__)]):
        if frame.f_code.co_name in ("load_config", "_create_defaults_tree_impl"):
            path = frame.f_locals.get("config_path") or frame.f_locals.get("path")
            return f"{str(path).removesuffix('.yaml')}.yaml" if path else None
    return None


def _asked(missing: str, words: Sequence[str]) -> tuple[str, str]:
    """Hydra's `group/option`, of an option that does not exist, as (group, option); an option may hold a / itself."""
    for word in words:
        group, _, options = word.lstrip("+").partition("=")
        if found := [option for option in options.split(",") if f"{group}/{option}" == missing]:
            return group, found[0]
    group, _, name = missing.rpartition("/")
    return group, name


def _needed(plugin: str) -> str | None:
    """What to install for a launcher or a sweeper of that name."""
    extra = EXTRAS.get(plugin.partition("_")[0])
    return f"its plugin is not installed: pip install -e '.[{extra}]'" if extra else None


GROUP_OF = {"replay": "measure"}  # nodes that a group of another name fills


def _no_such(key: str, conf: Path, taken: Sequence[str]) -> str:
    """Why a key cannot be set, and which key was probably meant. taken: the options taken, as overrides."""
    known = keys(conf, taken)
    if key in known:
        return "another option taken here has no such key"
    node, _, name = key.rpartition(".")
    beside = [other.rpartition(".")[2] for other in known if other.rpartition(".")[0] == node]
    group = GROUP_OF.get(node, node)
    if not beside and node in known and (conf / group).is_dir():
        return _elsewhere(group, name, conf, taken)
    if not beside:  # look in the nearest node only: elsewhere, a key of like name means something else
        near = get_close_matches(node, {other.rpartition(".")[0] for other in known}, n=1)
        meant = nearest(key, [other for other in known if other.rpartition(".")[0] in near])
        return f"no such key{meant or '; --help lists them'}"
    meant = nearest(name, beside, f"{node}." if node else "")
    there = f"; the keys{f' of {node}' if node else ''} are {', '.join(beside)}"
    return f"no such key{meant or there}"


def _elsewhere(group: str, name: str, conf: Path, taken: Sequence[str]) -> str:
    """Says that the group's option has no settings, and which of its options have the one that was asked for."""
    option = _compose(conf, taken).hydra.runtime.choices[group]
    options = sorted((conf / group).glob("*.yaml"))
    having = [path.stem for path in options if name in (yaml.safe_load(path.read_bytes()) or ())]
    some = ", ".join(having[:3]) + (f" and {len(having) - 3} more" if len(having) > 3 else "")
    has = "has" if len(having) == 1 else "have"
    return f"{group}={option} has no settings" + (f"; {group}={some} {has} {name}" if having else "")


def options_taken(conf: Path, words: Sequence[str]) -> list[str]:
    """The option that the command line takes in each group, as overrides; the first one where it lists several."""
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
    """The composed configuration, with Hydra's own part."""
    from hydra import compose, initialize_config_dir
    from hydra.core.global_hydra import GlobalHydra

    GlobalHydra.instance().clear()
    with initialize_config_dir(str(conf), version_base="1.3"):
        return compose("config", list(options), return_hydra_config=True)
