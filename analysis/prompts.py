"""The prompts of a run, built again from its config.yaml: records hold only their names.

This is the one part of the analysis that needs torch, and only where prompts are asked for. It loads no model. A prompt
is shown only if its expected answers are those of the records.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from scope.util.errors import ScopeError


def prompts_of(folder: Path, answered: Mapping[str, Mapping[str, Any]]) -> tuple[dict[str, str], str]:
    """The text of each recorded prompt by its name, and a reason why the others have none.

    folder: a run's, with its config.yaml. answered: its records by the name of the sample.
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
    """The task of a run's config.yaml. Raises ScopeError where it cannot be built."""
    from omegaconf import DictConfig, OmegaConf
    from omegaconf.errors import OmegaConfBaseException
    from yaml import YAMLError

    from scope.runs.instances import instance
    from scope.tasks import Task

    try:
        config = OmegaConf.load(path)
    except (YAMLError, ValueError, RecursionError) as error:  # not UTF-8, endless numbers, endless brackets
        raise ScopeError(f"{path}: is not YAML") from error
    if not isinstance(config, DictConfig) or not isinstance(config.get("task"), DictConfig):
        raise ScopeError(f"{path}: is not the configuration of a run")
    try:
        return instance(OmegaConf.to_container(config.task, resolve=True, throw_on_missing=True), "task", Task)
    except OmegaConfBaseException as error:  # a key that every configuration has is missing
        raise ScopeError(f"{path}: is not the configuration of a run: {str(error).splitlines()[0]}") from error
