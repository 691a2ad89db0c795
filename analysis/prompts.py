"""The prompts of a run, made again: records hold their names only.

The one part of the analysis that needs the library and torch, and only where it is asked for. It loads no model. What
is made is held against the records: prompts whose expected answers are other than the recorded ones are not shown.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from scope.util.errors import ScopeError


def prompts_of(folder: Path, answered: Mapping[str, Mapping[str, Any]]) -> tuple[dict[str, str], str]:
    """-> the text of each recorded prompt by its name, and why those that are not there are not.

    folder: of a run, with its config.yaml. answered: its records by sample.
    """
    path = folder / "config.yaml"
    try:
        task = _task(path)
        samples = {sample.name: sample for sample in task.samples()}
    except (ScopeError, OSError) as error:
        return {}, f"cannot be made again: {' '.join(str(error).split())}"
    found, changed = {}, 0
    for name, line in answered.items():
        sample = samples.get(line.get("prompt", name))
        if sample is None:
            continue
        expected = [question.expected for question in sample.questions]
        if expected == [question["expected"] for question in line["questions"]]:
            found[sample.name] = sample.prompt
        else:
            changed += 1
    reason = "config.yaml makes no prompt of this name"
    return found, f"config.yaml now makes other prompts ({changed} differ)" if changed else reason


def _task(path: Path) -> Any:
    """The task that a run's config.yaml asks for. ScopeError: one that cannot be built."""
    from omegaconf import DictConfig, OmegaConf
    from omegaconf.errors import OmegaConfBaseException
    from yaml import YAMLError

    from scope.runs.instances import instance
    from scope.tasks import Task

    try:
        config = OmegaConf.load(path)
    except (YAMLError, ValueError, RecursionError) as error:  # not UTF-8, numbers without end, brackets without end
        raise ScopeError(f"{path}: is not YAML") from error
    if not isinstance(config, DictConfig) or not isinstance(config.get("task"), DictConfig):
        raise ScopeError(f"{path}: is not the configuration of a run")
    try:
        return instance(OmegaConf.to_container(config.task, resolve=True, throw_on_missing=True), "task", Task)
    except OmegaConfBaseException as error:  # a key is missing that every configuration has
        raise ScopeError(f"{path}: is not the configuration of a run: {str(error).splitlines()[0]}") from error
