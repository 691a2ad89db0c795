"""From lm-eval's `--model_args` to what a run of ours is, composed and checked as `main.py` does."""

import logging
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

from scope.cli.door import CONF, composed
from scope.cli.explain import explain
from scope.cli.trust import permitted
from scope.runs.experiment import Experiment
from scope.util.errors import BugError, ConfigError, ScopeError, SettingError, check_count, nearest

_logger = logging.getLogger("lm_eval.scope")  # below lm-eval's own, whose handler and level it shares

MODEL = "pretrained"
OWN = ("max_gen_toks", "window", "max_length", "max_batch_size")  # keys that no configuration of ours has
OF_HF = {  # lm-eval's usual names, of its options and of the arguments of its model `hf`
    "dtype": "model.dtype",
    "revision": "model.revision",
    "trust_remote_code": "model.trust_remote_code",
    "device": "model.device",
    "batch_size": "engine.batch_size",
}
ANY_DEVICE = "cuda:0"  # lm-eval's default, also where there is no GPU; its model `hf` then takes the CPU, and so do we
GROUPS = ("model", "method", "decoding", "budget", "fidelity", "engine", "cache")
SINGLE = ("attention", "seed", "sampling.processors")
DECIDED = {  # by lm-eval: option of ours -> what of lm-eval's takes its place
    "model": MODEL,
    "model.path": MODEL,
    "model.layout": "--apply_chat_template",
    "model.overlong": "max_length, past which a prompt loses its beginning, as with the model hf",
    "model.thinking": "a filter of the task",
    "sampling": "--gen_kwargs",
    "task": "--tasks, and max_gen_toks for T",
    "limit": "--limit",
    "output": "--output_path",
}


@dataclass(frozen=True)
class Settings:
    """What lm-eval was told of the model.

    words: overrides of our configuration. max_gen_toks: T of a request that does not say how much it generates, and of
    the policies where a text is forced. window: the part of a rolling text that is read as a prompt, as a count of
    tokens or a share below 1. max_length: tokens of prompt and text together; None: the model's context.
    max_batch_size: of the batch size `auto`, the most rows; None: no bound.

    Raises SettingError for a value that is not allowed.
    """

    words: tuple[str, ...]
    max_gen_toks: int = 256
    window: int | float = 0.5
    max_length: int | None = None
    max_batch_size: int | None = None

    def __post_init__(self) -> None:
        check_count(self, "max_gen_toks", low=1)
        share = isinstance(self.window, float) and 0 < self.window < 1
        if not share and (type(self.window) is not int or self.window < 0):
            raise SettingError(
                self, "window", self.window, "a number of tokens (0 or more), or a share (above 0, below 1)"
            )
        for name in ("max_length", "max_batch_size"):
            if getattr(self, name) is not None:
                check_count(self, name, low=1)

    @classmethod
    def of(cls, arguments: Mapping[str, Any], options: Mapping[str, Any]) -> "Settings":
        """arguments: of `--model_args`. options: what lm-eval's own options set, by the names of its model `hf`.

        Raises ConfigError for a key that does not exist, or that something of lm-eval's decides.
        """
        given = {key: value for key, value in options.items() if value is not None}
        if given.get("device") == ANY_DEVICE:
            del given["device"]
        given |= arguments
        if "batch_size" in given:
            given["batch_size"] = str(given["batch_size"]).partition(":")[0]  # auto:4 is auto, and asked for once
        if not given.get(MODEL):
            raise ConfigError(f"{MODEL}: must be given: a folder, a hub id, a GGUF file, or a name of conf/model")
        words = [*_model(str(given.pop(MODEL))), "sampling.processors=model"]
        own = {key: given.pop(key) for key in OWN if key in given}
        words += [f"{_key(key)}={_value(key, value)}" for key, value in given.items()]
        try:
            settings = cls(tuple(words), **own)
        except SettingError as error:
            raise ConfigError(error.describe(error.field)) from error
        for note in _composed(settings.words, settings.max_gen_toks)[1]:
            _logger.warning(note)
        return settings

    def experiment(self, most: int | None = None) -> Experiment:
        """The run that these settings ask for. most: T; None: `max_gen_toks`. Raises ConfigError for what cannot be."""
        return _composed(self.words, most or self.max_gen_toks)[0]


@cache
def _composed(words: tuple[str, ...], most: int) -> tuple[Experiment, tuple[str, ...]]:
    """-> the run, and what a user should know of its settings. most: T."""
    from scope.cli.config import NO_USE, default_budget, unused

    try:
        with permitted(words):
            job, cfg = composed([*words, f"task.max_new_tokens={most}"])
    except (ScopeError, BugError):
        raise
    except Exception as error:  # Hydra's many
        raise ConfigError(explain(error, CONF, words)) from error
    notes = [NO_USE.format(word) for word in unused(cfg, words)]
    notes += filter(None, [default_budget(cfg, words, cfg.hydra.runtime.choices)])
    return job.experiment, tuple(notes)


def _model(name: str) -> list[str]:
    """The overrides that choose a model: an option of conf/model, or anything that `model.path` takes."""
    if (CONF / "model" / f"{name}.yaml").is_file():
        return [f"model={name}"]
    quoted = re.sub(r"(\\*)'", r"\1\1\\'", name)  # in Hydra's quotes, a backslash counts only in front of a quote
    return ["model=hf", f"model.path='{quoted}'"]


def _key(key: str) -> str:
    """The key of our configuration. Raises ConfigError where there is none that may be set here."""
    if key in OF_HF:
        return OF_HF[key]
    if key in DECIDED:
        raise ConfigError(f"{key}: is not set here: lm-eval has {DECIDED[key]}")
    if key.partition(".")[0] in GROUPS or key in SINGLE:
        return key
    known = [*GROUPS, *SINGLE, *OF_HF, MODEL, *OWN]
    raise ConfigError(f"{key}: no such key{nearest(key, known) or '; the keys are ' + ', '.join(known)}")


def _value(key: str, value: object) -> str:
    """A value as the command line takes it. lm-eval has made numbers, flags, lists and None of some texts."""
    if value is not None:
        return str(value)
    return "null" if "." in key else "none"  # decoding=none is an option
