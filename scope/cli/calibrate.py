"""Make statistics of a model's queries and attention, and keep them in the user's cache folder.

python -m scope.calibrate model=smollm2                     # over texts of Python's own help
python -m scope.calibrate model=embedded task=arithmetic    # over the prompts of a task
"""

from collections.abc import Sequence
from datetime import date

from rich.console import Console

from scope.cli.door import answered, composed
from scope.runs.experiment import Experiment
from scope.util.errors import before_it_runs, counted
from scope.util.progress import Progress

TEXTS = 8  # of task=text: the last windows, since its own default takes the first 24
EVERY_WINDOW = 10_000


def calibrate_model(overrides: Sequence[str]) -> None:
    """Make the statistics that these overrides describe. Raises ScopeError for anything that a user can fix."""
    from scope.cli.explain import accounted

    chosen = any(word.startswith("task=") for word in overrides)
    words = overrides if chosen else ["task=text", f"task.prompts={EVERY_WINDOW}", *overrides]
    job, _ = composed(words)
    with accounted():
        _write(job.experiment, None if chosen else TEXTS)


def _write(experiment: Experiment, last: int | None) -> None:
    """last: how many of the task's last samples are read; None: all."""
    from scope.calibrate import calibrate, keep  # here, since it loads torch
    from scope.generation import models

    source = experiment.model
    with before_it_runs():
        samples = list(experiment.samples)[-(last or 0) :]
        config, tokenizer = models.load_shape(source)
        room = experiment.prompt_room(config)
        texts = [experiment.encoded(tokenizer, sample, room, date.today()).tokens for sample in samples]
        loaded = models.load(source)
    tokens = sum(map(len, texts))
    console = Console(stderr=True)
    with Progress("calibrate", 1, tokens, console) as bar:
        found = calibrate(loaded.model, texts, bar.step)
    path = keep(source, found)
    read = f"{counted(len(texts), 'text')}, {counted(tokens, 'token')}"
    print(f"{read}; SHA-256 of the query statistics: {found.queries.sha256}")
    print(f"entropy of the attention in each layer, in nats: {', '.join(map(str, found.entropies.nats))}")
    print(f"written: {path}")


def main(arguments: Sequence[str]) -> int:
    """-> the exit code, as of `answered`."""
    if {"-h", "--help"} & set(arguments):
        print(__doc__)
        return 0
    return answered(lambda: calibrate_model(arguments), arguments)
