"""Write a task's set of prompts to a file and describe it.

python -m scope.tasks build task=gsm8k_4k model=llama3.1_8b budget=4k_512
"""

from collections.abc import Sequence
from datetime import date
from pathlib import Path
from statistics import median
from typing import Any

from scope.cli.door import answered, composed
from scope.generation.prompts import encode, render
from scope.records.folder import unused
from scope.runs.experiment import Experiment
from scope.runs.forecast import notes, unknown_words
from scope.tasks import Sample
from scope.tasks.sets import as_lines, write_set
from scope.util.errors import ConfigError, ImpossibleError, before_it_runs, counted, nearest
from scope.util.visible import visible

USAGE = "python -m scope.tasks build task=gsm8k_4k model=llama3.1_8b budget=4k_512"


def build(overrides: Sequence[str]) -> None:
    """Write the set that these overrides describe. Raises ScopeError for anything that a user can fix."""
    from scope.cli.explain import accounted

    job, cfg = composed(overrides)
    with accounted():
        _write(job.experiment, cfg)


def _write(experiment: Experiment, cfg: Any) -> None:
    """Write the set of the experiment's task, and print how the model's tokenizer sees it. cfg: as composed."""
    from scope.generation import models

    source, choices = experiment.model, cfg.hydra.runtime.choices
    with before_it_runs():
        samples = experiment.task.samples()
    path = Path(cfg.output) / "sets" / f"{choices['task']}.jsonl"
    replaced = _set_aside(path, samples)
    write_set(path, samples)
    asked = sum(len(sample.questions) for sample in samples)
    print(f"{counted(len(samples), 'prompt')}, {counted(asked, 'question')}")
    print(f"written: {path}" + (f"; the other set that was there is now {replaced}" if replaced else ""))
    shape = models.load_shape(source)
    try:
        room = experiment.prompt_room(shape[0])
    except ImpossibleError as error:  # no run can use it with this model; the set is written all the same
        room = models.context(shape[0])
        print(error)
    given = source.template_input(date.today())
    encoded = [encode(shape[1], sample, source.layout, room, "cut", given) for sample in samples]
    whole = [len(prompt.tokens) + prompt.cut for prompt in encoded]
    print(f"tokens of {choices['model']}: {min(whole)} to {max(whole)}, median {median(whole):g}")
    budget = getattr(experiment.method, "budget", None)
    if isinstance(budget, int):  # of a share, every prompt is longer
        longer = sum(length > budget for length in whole) / len(whole)
        print(f"longer than the prefill budget of {choices['method']} ({budget}): {longer:.0%}")
    if cut := sum(prompt.cut > 0 for prompt in encoded):
        print(f"longer than what the task allows or the model's context leaves beside T: {cut}")
    print(f"the first prompt, as {choices['model']} gets it:\n")
    print(visible(render(shape[1], samples[0], source.layout, given), keep="\n\t"))
    said = [*notes(experiment, shape[1]), *unknown_words(experiment, shape[1], encoded)]
    print("\n".join(["", *said] if said else []), end="\n" * bool(said))


def _set_aside(path: Path, samples: Sequence[Sample]) -> Path | None:
    """Rename another set that has the file's name; it may be the source of a run. -> its new name."""
    if not path.exists() or path.read_bytes() == as_lines(samples).encode():
        return None
    aside = unused(path)
    path.rename(aside)
    return aside


def main(arguments: Sequence[str]) -> int:
    """-> the exit code, as of `answered`."""
    if {"-h", "--help"} & set(arguments):
        print(__doc__)
        return 0

    def act() -> None:
        if list(arguments[:1]) != ["build"]:
            given = f"{arguments[0]}: must be build{nearest(arguments[0], ['build'])}" if arguments else "nothing to do"
            raise ConfigError(f"{given}; as in: {USAGE}")
        build(arguments[1:])

    return answered(act, arguments)
